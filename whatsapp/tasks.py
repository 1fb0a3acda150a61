"""Celery tasks of the channel: they take ids, call one service and decide on retry."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery.signals import worker_ready, worker_shutting_down
from django.utils import timezone

from leadengine.celery import app, publish
from leadengine.wake import awake, wake
from whatsapp.services import gap_fill, media
from whatsapp.services.drain import drain_inbox
from whatsapp.services.retention import erase_old_webhooks as erase
from whatsapp.services.silence import watch_silence as watch


@app.task(name="whatsapp.drain", service="drain the inbox")
def drain(**_: Any) -> int:
    """Process the raw inbox until nothing is due. Coalesced: the flag goes first, whoever commits then wakes again."""
    awake("inbound")
    return drain_inbox()


@app.task(name="whatsapp.fetch_media", service="fetch files of messages")
def fetch_media(**_: Any) -> int:
    """Fetch every file of a message that is due. Coalesced, as above."""
    awake(media.KEY)
    return media.fetch_due()


@worker_shutting_down.connect
def _stop_fetching(**_: Any) -> None:
    """SIGTERM: what is on its way is put back, for whoever comes next."""
    media.stopping.set()


@app.task(name="whatsapp.erase_old_webhooks", service="retention of webhooks")
def erase_old_webhooks(**_: Any) -> None:
    """Erase webhook bodies and delete ledger lines past their time."""
    erase(now=timezone.now())


@app.task(name="whatsapp.fill_gaps", service="find event lists to read")
def fill_gaps(*, everything: bool = False, **_: Any) -> int:
    """Start a reading of each event list that is due, each in a task of its own."""
    awake("gaps")
    now = timezone.now()
    if everything:
        gap_fill.request_gap_fills(now=now)
    due = gap_fill.find_due(now=now)
    return sum(wake(fill_gap, key=f"gap:{session_id}", session_id=str(session_id)) for session_id in due)


@app.task(name="whatsapp.fill_gap", service="read an event list")
def fill_gap(session_id: str, **_: Any) -> None:
    """Read one session's event list. Coalesced, as above; many are read at once, so when one ends the next begins."""
    awake(f"gap:{session_id}")
    if gap_fill.fill_gap(session_id=UUID(session_id)):
        wake(drain, key="inbound")
    wake(fill_gaps, key="gaps")


@app.task(name="whatsapp.watch_silence", service="watch for silent lines")
def watch_silence(**_: Any) -> int:
    """Flag lines that have gone silent."""
    return watch(now=timezone.now())


@worker_ready.connect
def _ask_what_was_missed(**_: Any) -> None:
    """A worker starts: nobody may have read the lists for a while."""
    publish(fill_gaps, everything=True)
