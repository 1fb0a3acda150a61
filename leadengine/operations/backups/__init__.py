"""Backups: made, verified, restored, cleared away (spec/operations.md section 8).

Facts that shaped this: pg_dump as the owner of tables under FORCE ROW LEVEL SECURITY stops with an error; with row
security switched on it ends well with empty tables; a pipe hides a dump that failed, psql without ON_ERROR_STOP a
restore that did. So the role of DATABASE_BACKUP_URL reads, no shell is used, and rows are counted on both sides.
"""

from leadengine.operations.backups.creating import create_backup
from leadengine.operations.backups.files import Backup, BackupFailed, find_backup, latest_backup
from leadengine.operations.backups.keeping import has_fresh_backup, prune_backups
from leadengine.operations.backups.restoring import restore_backup
from leadengine.operations.backups.verifying import verify_backup

__all__ = [
    "Backup",
    "BackupFailed",
    "create_backup",
    "find_backup",
    "has_fresh_backup",
    "latest_backup",
    "prune_backups",
    "restore_backup",
    "verify_backup",
]
