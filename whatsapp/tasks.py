"""Celery tasks of the channel: they take ids, call one service and decide on retry."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery.signals import worker_ready, worker_shutting_down
from django.utils import timezone

from leadengine.celery import app, publish
from leadengine.wake import awake, wake
from whatsapp.services import gap_fill, journal, lines, media, uploads_life
from whatsapp.services.drain import drain_inbox
from whatsapp.services.retention import erase_old_webhooks as erase
from whatsapp.services.sessions import keeping, listening, observing, qr, recovery, syncing
from whatsapp.services.sessions.changing import Origin
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
    listening.stopping.set()


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


@app.task(name="whatsapp.sync_sessions", service="bring sessions and broker together")
def sync_sessions(*, everything: bool = False, **_: Any) -> int:
    """Look at the sessions that may have changed, and do what is wished of them."""
    return syncing.sync_sessions(now=timezone.now(), everything=everything)


@app.task(name="whatsapp.sync_session", service="bring one session and the broker together")
def sync_session(session_id: str, *, source: str = "sse", contradicted: bool = False, **_: Any) -> None:
    """Look at one session now. Coalesced."""
    awake(listening.key_of(session_id))
    syncing.sync_session(session_id=UUID(session_id), origin=Origin(source), contradicted=contradicted)


@app.task(name="whatsapp.refresh_qr", service="renew QR codes that are looked at")
def refresh_qr(**_: Any) -> int:
    """Renew the QR codes that somebody looks at."""
    return qr.refresh_qr(now=timezone.now())


@app.task(name="whatsapp.recover_sessions", service="bring sessions back after a start")
def recover_sessions(*, trigger: str = "start", force: bool = False, **_: Any) -> None:
    """Bring back what was connected; at most once a minute, whoever asks."""
    recovery.recover_sessions(trigger=trigger, force=force)


@app.task(name="whatsapp.announce_sessions", service="late news of sessions")
def announce_sessions(**_: Any) -> int:
    """Tell what came too soon after another event of the same session."""
    return lines.announce_late(now=timezone.now())


@app.task(name="whatsapp.drain_journal", service="replay facts that could not be saved")
def drain_journal(**_: Any) -> None:
    """Replay the journal of this machine."""
    journal.replay_journal(appliers=observing.APPLIERS, now=timezone.now())


@app.task(name="whatsapp.keep_sessions", service="idle and deleted sessions")
def keep_sessions(**_: Any) -> None:
    """Flag sessions without traffic, scrub those that were deleted long ago."""
    keeping.flag_idle_sessions(now=timezone.now())
    keeping.scrub_deleted_sessions(now=timezone.now())


@app.task(name="whatsapp.expire_uploads", service="clean up uploads")
def expire_uploads(**_: Any) -> None:
    """End uploads that nothing needs, and delete their bytes."""
    uploads_life.expire_uploads(now=timezone.now())


@worker_ready.connect
def _after_a_start(**_: Any) -> None:
    """A worker starts: nobody may have read the lists or looked at the connections for a while."""
    publish(fill_gaps, everything=True)
    publish(drain_journal)
    publish(recover_sessions)
    publish(expire_uploads)
