"""Celery tasks of webhooks: they call one service."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_shutting_down
from django.utils import timezone

from leadengine.celery import app
from leadengine.wake import awake
from leadengine.webhooks.services import delivering, recording, retention


@app.task(name=recording.TASK, service="deliver webhooks")
def deliver_due(**_: Any) -> int:
    """Deliver all that is due. Coalesced: the flag goes first, whoever commits from then on wakes it again."""
    awake(recording.KEY)
    return delivering.deliver_due()


@app.task(name="webhooks.erase_old_deliveries", service="retention of webhooks")
def erase_old_deliveries(**_: Any) -> int:
    """Delete events and their deliveries past their time."""
    return retention.erase_old_deliveries(now=timezone.now())


@worker_shutting_down.connect
def _stop_claiming(**_: Any) -> None:
    """SIGTERM: what is on its way is finished, the rest waits for whoever comes next."""
    delivering.stopping.set()
