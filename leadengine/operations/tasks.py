"""Celery tasks of operations: the nightly backup, its proof and its clearing away."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_ready
from django.conf import settings
from django.utils import timezone

from leadengine.celery import app
from leadengine.operations.backups import create_backup, latest_backup, prune_backups, verify_backup
from leadengine.operations.snapshots import note_configuration


@app.task(name="operations.back_up", service="a backup reads every tenant")
def back_up(**_: Any) -> None:
    """Make the daily backup."""
    create_backup(kind="daily")


@app.task(name="operations.verify_backup", service="a backup holds every tenant")
def verify_latest_backup(**_: Any) -> None:
    """Prove that the newest backup can be restored."""
    verify_backup(latest_backup())


@app.task(name="operations.prune_backups", service="backups belong to no tenant")
def prune_old_backups(**_: Any) -> None:
    """Delete what is older than BACKUP_KEEP_DAYS."""
    prune_backups(keep_days=settings.BACKUP_KEEP_DAYS, now=timezone.now())


@worker_ready.connect
def _note_settings(**_: Any) -> None:
    """A setting of the environment changes by a restart."""
    note_configuration("start of a worker")
