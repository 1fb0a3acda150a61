"""Proves that a backup can be restored (spec/operations.md section 8)."""

from __future__ import annotations

from typing import Any

from leadengine.operations.backups import verify_backup
from leadengine.operations.management.reporting import FileCommand


class Command(FileCommand):
    help = (
        "Restore a backup into a scratch database, compare rows, row level security, policies, rights and a row with "
        "its manifest, drop the scratch database, and note the result. Example: manage.py backup_verify --latest"
    )

    def work(self, options: dict[str, Any]) -> Any:
        return verify_backup(self.backup(options))

    def tell(self, done: Any) -> str:
        return f"{done['file']} is good: {done['tables']} tables, {done['rows']} rows, {done['seconds']} s"
