"""Celery tasks of the outbox and the timelines: they take ids, call one service and decide on retry."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery import Task
from celery.signals import worker_shutting_down
from django.utils import timezone

from leadengine.celery import app
from leadengine.wake import awake, wake
from tickets.services import outbox
from tickets.services.timeline_nights import reconcile_nightly

NEAR_SECONDS = 60  # what waits longer is found by the sweeper


@app.task(name="tickets.send_due", bind=True, service="send what is due")
def send_due(self: Task[Any, Any], /, session_id: str, **_: Any) -> None:
    """Send what is due on a session. Coalesced: the flag goes first, whoever commits from then on wakes it again."""
    awake(outbox.sender_key(session_id))
    due = outbox.send_due(session_id=UUID(session_id))
    seconds = (due - timezone.now()).total_seconds() if due else NEAR_SECONDS
    if due is not None and seconds < NEAR_SECONDS:
        later: Any = self.s().set(countdown=max(0.0, seconds))
        wake(later, key=f"{outbox.sender_key(session_id)}:{due:%H%M%S%f}", session_id=session_id)


@app.task(name="tickets.sweep_outbox", service="sweep the outbox")
def sweep_outbox(**_: Any) -> int:
    """End what lost its worker or waited too long, and wake sessions with due messages."""
    return outbox.sweep_outbox(now=timezone.now())


@app.task(name="tickets.release_scheduled", service="release scheduled messages")
def release_scheduled(**_: Any) -> int:
    """Queue the messages whose time has come; how many."""
    return outbox.release_scheduled(now=timezone.now())


@app.task(name="tickets.reconcile_timelines", service="check timelines")
def reconcile_timelines(**_: Any) -> int:
    """Check the timelines of the tenants whose night it is; how many tenants."""
    return len(reconcile_nightly(now=timezone.now()))


@worker_shutting_down.connect
def _stop_claiming(**_: Any) -> None:
    """SIGTERM: what is in flight is finished, the rest stays QUEUED."""
    outbox.stopping.set()
