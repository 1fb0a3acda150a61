"""Which backups stay, and whether there is a fresh one."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from django.utils import timezone

from leadengine.operations.backups.files import abandoned, all_backups, manifest_of, older_than
from leadengine.operations.models import BackupRecord

log = structlog.get_logger(__name__)

FRESH = timedelta(minutes=15)
_UNFINISHED = timedelta(days=1)  # no dump takes longer
_FORGOTTEN = timedelta(days=365)  # records of files that are gone (spec/operations.md section 12)


def prune_backups(*, keep_days: int, now: datetime) -> dict[str, Any]:
    """Delete backups of every kind that are older than `keep_days`; returns the names under `deleted` and `kept`.

    The newest verified backup of everything stays whatever its age, the newest one at all when none is verified.
    Files that bear other names are left alone.
    """
    kept = _last_resort()
    deleted = []
    for path in older_than(now - timedelta(days=keep_days)):
        if path in kept:
            continue
        path.unlink()
        manifest_of(path).unlink(missing_ok=True)
        deleted.append(path.name)
    for bench in abandoned(now - _UNFINISHED):
        shutil.rmtree(bench, ignore_errors=True)
    for row in BackupRecord.objects.filter(deleted_at=None).only("path"):
        if not Path(row.path).exists():
            BackupRecord.objects.filter(pk=row.pk).update(deleted_at=now)
    BackupRecord.objects.filter(deleted_at__lt=now - _FORGOTTEN).delete()
    log.info("backups_pruned", deleted=len(deleted))
    return {"deleted": sorted(deleted), "kept": sorted(path.name for path in kept)}


def has_fresh_backup() -> bool:
    """Whether everything was backed up within 15 minutes. Asks the files: the table of records may be yet to come."""
    moment = timezone.now() - FRESH
    return any(backup.created_at > moment and backup.is_complete for backup in all_backups())


def _last_resort() -> set[Path]:
    whole = [backup for backup in all_backups() if backup.is_complete]
    verified = set(BackupRecord.objects.filter(verified_at__isnull=False).values_list("path", flat=True))
    good = [backup for backup in whole if str(backup.path) in verified] or whole
    return {backup.path for backup in good[:1]}
