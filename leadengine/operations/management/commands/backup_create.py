"""Makes a backup (spec/operations.md section 8)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from leadengine.operations.backups import create_backup
from leadengine.operations.backups.creating import PARTS
from leadengine.operations.backups.files import WHOLE
from leadengine.operations.management.reporting import ReportCommand


class Command(ReportCommand):
    help = (
        "Dump the database into BACKUP_DIR with a manifest, count the rows of the dump, and record it. "
        "Example: manage.py backup_create --kind pre_upgrade"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--kind", choices=["daily", "pre_upgrade", "manual"], default="manual")
        parser.add_argument("--only", choices=sorted(PARTS), help="only the rows of these tables")
        parser.add_argument("--without-messages", action="store_true", help="leave out messages and webhook bodies")

    def work(self, options: dict[str, Any]) -> Any:
        backup = create_backup(
            kind=options["kind"], part=options["only"] or WHOLE, without_messages=options["without_messages"]
        )
        names = ("kind", "part", "withoutMessages", "createdAt", "encrypted", "bytes", "sha256")
        rows = sum(backup.manifest["tables"].values())
        return {"file": str(backup.path), **{name: backup.manifest[name] for name in names}, "rows": rows}

    def tell(self, done: Any) -> str:
        return f"{done['file']}: {done['rows']} rows, {done['bytes']} bytes"
