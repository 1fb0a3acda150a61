"""Puts sessions, queues and tenants back to an earlier configuration (spec/operations.md section 8)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from leadengine.operations.management.reporting import ReportCommand
from leadengine.operations.snapshots import restore_snapshot


class Command(ReportCommand):
    help = (
        "Put the settings of sessions, queues and tenants back to a version, and list the settings of the environment "
        "that differ: those are changed by hand. Example: manage.py config_restore 3"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("version", type=int, metavar="V")

    def work(self, options: dict[str, Any]) -> Any:
        return restore_snapshot(version=options["version"], now=timezone.now())

    def tell(self, done: Any) -> str:
        lines = [f"restored {one['path']}" for one in done["restored"]]
        lines += [f"left {one['path']}: {one['reason']}" for one in done["skipped"]]
        lines += [f"set by hand {one['path'].split('.', 1)[1]}: {one['after']!r}" for one in done["byHand"]]
        return "\n".join([*lines, f"This is version {done['version']}."])
