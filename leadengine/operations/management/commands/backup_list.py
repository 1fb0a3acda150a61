"""Lists the backups (spec/operations.md section 8)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from leadengine.operations.management.reporting import ReportCommand
from leadengine.operations.models import BackupRecord


class Command(ReportCommand):
    help = "List the backups, the newest first, with what stands in them. Example: manage.py backup_list"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--deleted", action="store_true", help="also those that were cleared away")

    def work(self, options: dict[str, Any]) -> Any:
        rows = BackupRecord.objects.order_by("-created_at").defer("manifest")
        return [
            {
                "file": row.path, "kind": row.kind, "part": row.part, "withoutMessages": row.without_messages,
                "createdAt": row.created_at.isoformat(), "bytes": row.bytes, "encrypted": row.encrypted,
                "verifiedAt": row.verified_at and row.verified_at.isoformat(), "verifyError": row.verify_error,
                "deletedAt": row.deleted_at and row.deleted_at.isoformat(),
            }
            for row in (rows if options["deleted"] else rows.filter(deleted_at=None))
        ]  # fmt: skip

    def tell(self, done: Any) -> str:
        lines = [
            f"{row['createdAt'][:19]}  {row['kind']:<11} {row['part']:<9} {row['bytes']:>12}  "
            f"{'verified' if row['verifiedAt'] else row['verifyError'] or 'not verified':<12}  {row['file']}"
            for row in done
        ]
        return "\n".join(lines) or "There is no backup yet: manage.py backup_create"
