"""How long the raw inbox is kept: bodies for weeks, ledger lines for a year (spec/inbound.md section 15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection

from leadengine.accounts.scopes import service_scope

log = structlog.get_logger(__name__)

UNRESOLVED = timedelta(days=90)  # bodies of events that still wait for a person
LINES = timedelta(days=400)
BATCH = 1000

# What waits for nobody any more. A pending event, or one with an item that still waits, keeps its body at any age.
_OLD_BODIES = """
SELECT id FROM whatsapp_webhookevent e
WHERE body IS NOT NULL AND status <> 'PENDING' AND received_at < %(resolved)s
    AND (status IN ('PROCESSED', 'REJECTED') OR received_at < %(unresolved)s)
    AND NOT EXISTS (SELECT 1 FROM whatsapp_webhookitem i WHERE i.event_id = e.id AND i.fate IN ('pending', 'parked'))
"""
_OLD_LINES = """
SELECT id FROM whatsapp_webhookevent e
WHERE id < %(first_id)s AND received_at < %(lines)s AND status <> 'PENDING'
    AND NOT EXISTS (SELECT 1 FROM whatsapp_webhookitem i WHERE i.event_id = e.id AND i.fate IN ('pending', 'parked'))
"""
_CHOSEN = "WITH old AS ({old} ORDER BY id LIMIT %(batch)s FOR UPDATE SKIP LOCKED) "
_ERASE = "UPDATE whatsapp_webhookevent e SET body = NULL, original_body = NULL FROM old WHERE e.id = old.id"
_DELETE = "DELETE FROM whatsapp_webhookevent e USING old WHERE e.id = old.id"


@dataclass(frozen=True, slots=True)
class Erased:
    """Bodies that were erased, and ledger lines (events with their items) that were deleted."""

    bodies: int
    lines: int


def erase_old_webhooks(*, now: datetime, step: Callable[[int], None] = lambda _: None) -> Erased:
    """Erase bodies and delete ledger lines past their time, a thousand a transaction; safe to stop and start again.

    `step` is called with the number of rows of each batch.
    """
    bodies = _repeat(_CHOSEN.format(old=_OLD_BODIES) + _ERASE, now, step)
    lines = _repeat(_CHOSEN.format(old=_OLD_LINES) + _DELETE, now, step)
    if bodies or lines:
        log.info("webhooks_erased", bodies=bodies, lines=lines)
    return Erased(bodies, lines)


def count_old_webhooks(*, now: datetime) -> Erased:
    """What `erase_old_webhooks` would do now; changes nothing."""
    with service_scope("webhook retention"), connection.cursor() as cursor:
        counts = []
        for old in (_OLD_BODIES, _OLD_LINES):
            cursor.execute(f"SELECT count(*) FROM ({old}) old", _bounds(now))  # noqa: S608
            counts.append(int(cursor.fetchone()[0]))
    return Erased(*counts)


def _repeat(sql: str, now: datetime, step: Callable[[int], None]) -> int:
    total = 0
    while True:
        with service_scope("webhook retention"), connection.cursor() as cursor:
            cursor.execute(sql, _bounds(now))
            done = int(cursor.rowcount)
        total += done
        step(done)
        if done < BATCH:
            return total


def _bounds(now: datetime) -> dict[str, Any]:
    kept = timedelta(days=settings.WHATSAPP_WEBHOOK_RAW_RETENTION_DAYS)
    milliseconds = int((now - LINES).timestamp() * 1000)
    return {
        "resolved": now - kept,
        "unresolved": now - max(kept, UNRESOLVED),
        "lines": now - LINES,
        "first_id": UUID(
            int=(milliseconds + 60_000) << 80
        ),  # ids are made a little after the clock of the door was read
        "batch": BATCH,
    }
