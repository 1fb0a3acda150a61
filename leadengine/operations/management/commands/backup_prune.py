"""Clears old backups away (spec/operations.md section 8)."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.utils import timezone

from leadengine.operations.backups import prune_backups
from leadengine.operations.management.reporting import ReportCommand


class Command(ReportCommand):
    help = (
        "Delete backups of every kind that are older than so many days; never the newest verified one, never a file "
        "of another name. Example: manage.py backup_prune --keep-days 7"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--keep-days", type=int, default=settings.BACKUP_KEEP_DAYS)

    def work(self, options: dict[str, Any]) -> Any:
        return prune_backups(keep_days=options["keep_days"], now=timezone.now())

    def tell(self, done: Any) -> str:
        return "\n".join(f"deleted {name}" for name in done["deleted"]) or "Nothing was old enough."
