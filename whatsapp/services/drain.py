"""The drain: raw events become messages, set-based, once, in order (spec/inbound.md section 9).

A batch is up to 200 due events of one tenant, claimed in the transaction that ends them, so a killed worker frees
them at once. A failing batch is rolled back and halved until the poison stands alone; it is retried later and ends at
the dead-letter desk, and nobody else waits for it.
"""

from __future__ import annotations

import json
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from leadengine import metrics
from leadengine.accounts.scopes import service_scope, tenant_scope
from whatsapp.adapters import get_adapter
from whatsapp.services.batch import Claim, Work, process_batch
from whatsapp.services.ledger import find_earlier, save_items

log = structlog.get_logger(__name__)

BATCH = 200
BACKOFF = (5, 30, 120, 600, 3600)  # seconds before each retry of a poison item; then the desk
_LOCK = 0x1EAD  # advisory lock class of the drainers
_LONGEST_HEADLINE, _LONGEST_ERROR = 300, 8000  # characters kept of what went wrong

_TENANTS = """
WITH RECURSIVE due AS (
    (SELECT tenant_id FROM whatsapp_webhookevent WHERE status = 'PENDING' ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT e.tenant_id FROM whatsapp_webhookevent e
            WHERE e.status = 'PENDING' AND e.tenant_id > due.tenant_id ORDER BY e.tenant_id LIMIT 1)
    FROM due WHERE due.tenant_id IS NOT NULL
)
SELECT d.tenant_id FROM due d WHERE d.tenant_id IS NOT NULL AND EXISTS (
    SELECT 1 FROM whatsapp_webhookevent e
    WHERE e.tenant_id = d.tenant_id AND e.status = 'PENDING' AND e.due_at <= %s)
UNION
SELECT tenant_id FROM whatsapp_webhookitem WHERE fate IN ('pending', 'parked') AND due_at <= %s
"""
_EVENTS = """
SELECT id, session_id, body, received_at, attempts, processed_at IS NOT NULL FROM whatsapp_webhookevent
WHERE tenant_id = %s AND status = 'PENDING' AND due_at <= %s {only} ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""
_ITEMS = """
SELECT i.id, i.index, i.attempts, i.expires_at, i.reason, e.id, e.session_id, e.body, e.received_at
FROM whatsapp_webhookitem i JOIN whatsapp_webhookevent e ON e.id = i.event_id
WHERE i.tenant_id = %s AND i.fate IN ('pending', 'parked') AND i.due_at <= %s {only}
ORDER BY i.id LIMIT %s FOR UPDATE OF i SKIP LOCKED
"""


@dataclass(frozen=True, slots=True)
class _Desk:
    """One of the two kinds of waiting work: how to claim it, and what to do with a poison one."""

    claim: Callable[[UUID, datetime, Sequence[UUID] | None], list[Claim]]
    give_up: Callable[[UUID, Claim, datetime, str], None]


def drain_inbox() -> int:
    """Process everything that is due, tenant by tenant, until nothing is left; returns how many events and items."""
    total = 0
    while True:
        now = timezone.now()
        with service_scope("find tenants with due events"), connection.cursor() as cursor:
            cursor.execute(_TENANTS, [now, now])
            tenants = [row[0] for row in cursor.fetchall()]
        done = sum(_drain_tenant(tenant_id) for tenant_id in tenants)
        total += done
        if not done:
            return total


def _drain_tenant(tenant_id: UUID) -> int:
    done = 0
    for desk in (_EVENT_DESK, _ITEM_DESK):
        while count := _try_batch(desk, tenant_id, None):
            done += count
            if count < BATCH:
                break
    return done


def _try_batch(desk: _Desk, tenant_id: UUID, only: Sequence[UUID] | None) -> int:
    """One transaction; on an error halve it until the poison stands alone. Returns how many were taken."""
    claims: list[Claim] = []
    try:
        with tenant_scope(tenant_id):
            if not _is_drainer():
                return 0
            now = timezone.now()
            claims = desk.claim(tenant_id, now, only)
            for claim in claims:
                if claim.error:
                    desk.give_up(tenant_id, claim, now, claim.error)
            readable = [claim for claim in claims if not claim.error]
            if readable:
                process_batch(tenant_id=tenant_id, claims=readable, now=now)
                metrics.count(metrics.drain_batches.labels(result="ok"))
    except Exception as error:
        if _is_away(error):
            raise  # nobody's fault, no attempt is used up
        told = _told(error)
        if len(claims) <= 1:
            log.exception("webhook_poison", ids=[str(claim.id) for claim in claims])
            for claim in claims:
                with tenant_scope(tenant_id):
                    desk.give_up(tenant_id, claim, timezone.now(), told)
            metrics.drain_batches.labels(result="failed").inc()
            return len(claims)
        metrics.drain_batches.labels(result="bisected").inc()
        middle = len(claims) // 2
        for half in (claims[:middle], claims[middle:]):
            _try_batch(desk, tenant_id, [claim.id for claim in half])
    return len(claims)


def _is_away(error: Exception) -> bool:
    """Whether the database is away or busy. A row beyond PostgreSQL's limits (class 54) is the event's own fault."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    return not str(getattr(error.__cause__, "sqlstate", None) or "").startswith("54")


def _is_drainer() -> bool:
    """One drainer at a time: two that skip each other's locks could reorder a conversation."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, 0)", [_LOCK])
        return bool(cursor.fetchone()[0])


def _claim_events(tenant_id: UUID, now: datetime, only: Sequence[UUID] | None) -> list[Claim]:
    rows = _fetch(_EVENTS, "AND id = ANY(%s)", [tenant_id, now], only)
    claims = []
    for event_id, session_id, body, received_at, attempts, _ in rows:
        items, error = _read(body, received_at)
        works = [Work(event_id, session_id, received_at, index, item) for index, item in enumerate(items)]
        claims.append(Claim(event_id, event_id, works, attempts, is_event=True, error=error))
    again = {row[0] for row in rows if row[5]}
    find_earlier(tenant_id=tenant_id, claims=[claim for claim in claims if claim.id in again and not claim.error])
    return claims


def _claim_items(tenant_id: UUID, now: datetime, only: Sequence[UUID] | None) -> list[Claim]:
    rows = _fetch(_ITEMS, "AND i.id = ANY(%s)", [tenant_id, now], only)
    claims = []
    for item_id, index, attempts, expires_at, reason, event_id, session_id, body, received_at in rows:
        items, error = _read(body, received_at)
        expired = expires_at is not None and expires_at <= now
        works = [
            Work(
                event_id, session_id, received_at, index, item, row_id=item_id, waited_for=reason, expired=expired,
                attempts=attempts,
            )
            for item in items[index : index + 1]
        ]  # fmt: skip
        error = error if works else error or "LookupError: the body holds no such item any more"
        claims.append(Claim(item_id, event_id, works, attempts, is_event=False, error=error))
    return claims


def _fetch(sql: str, only_sql: str, parameters: list[Any], only: Sequence[UUID] | None) -> list[Any]:
    if only is not None:
        parameters = [*parameters, list(only)]
    with connection.cursor() as cursor:
        cursor.execute(sql.format(only=only_sql if only is not None else ""), [*parameters, BATCH])
        rows: list[Any] = cursor.fetchall()
    return rows


def _read(body: Any, received_at: datetime) -> tuple[list[Any], str]:
    """The items of a stored body, or none and why: one that cannot be read must not hold up the others."""
    try:
        return _normalize(body, received_at), ""
    except Exception as error:
        log.exception("webhook_unreadable")
        return [], _told(error)


def _told(error: Exception) -> str:
    """What happened, on the first line, and the end of its traceback below."""
    first = str(error).strip().partition("\n")[0][:_LONGEST_HEADLINE]
    return f"{type(error).__name__}: {first}\n\n{traceback.format_exc().strip()[-_LONGEST_ERROR:]}"


def _normalize(body: Any, received_at: datetime) -> list[Any]:
    entry = json.loads(zlib.decompress(bytes(body)).decode("utf-8-sig"))
    return get_adapter().parse(entry, received_at=received_at)


def _give_up_event(tenant_id: UUID, claim: Claim, now: datetime, error: str) -> None:
    """A poison event: from now on each of its items waits for itself, so that the good ones go on at once."""
    if not claim.works:
        _postpone_event(tenant_id, claim, now, error)
        return
    works = [work for work in claim.works if not work.ended_well_before]
    due = now + timedelta(seconds=BACKOFF[0]) if len(works) == 1 else now
    for work in works:
        work.fate, work.reason, work.error, work.due_at = "pending", "processing_error", error, due
        work.attempts = 1 if len(works) == 1 else 0
    save_items(tenant_id=tenant_id, works=works, now=now)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE whatsapp_webhookevent SET status = 'PROCESSED', processed_at = %s, error = %s WHERE id = %s",
            [now, error, claim.event_id],
        )


def _postpone_event(tenant_id: UUID, claim: Claim, now: datetime, error: str) -> None:
    """An event of which not even the items are known: it is tried again as a whole, as often as an item."""
    failed = claim.attempts >= len(BACKOFF)
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE whatsapp_webhookevent SET attempts = attempts + 1, status = %s, reason = 'processing_error',
                   error = %s, due_at = %s, processed_at = %s WHERE id = %s AND tenant_id = %s""",
            [
                "FAILED" if failed else "PENDING", error,
                now if failed else now + timedelta(seconds=BACKOFF[claim.attempts]), now if failed else None,
                claim.event_id, tenant_id,
            ],
        )  # fmt: skip
    if failed:
        _count_failure()


def _give_up_item(tenant_id: UUID, claim: Claim, now: datetime, error: str) -> None:
    """Retry a poison item after 5 s, 30 s, 2 min, 10 min, 1 h; then it fails, and its event with it."""
    failed = claim.attempts >= len(BACKOFF)
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE whatsapp_webhookitem SET attempts = attempts + 1, fate = %s, reason = 'processing_error',
                   error = %s, due_at = %s WHERE id = %s AND tenant_id = %s""",
            [
                "failed" if failed else "pending", error,
                None if failed else now + timedelta(seconds=BACKOFF[claim.attempts]), claim.id, tenant_id,
            ],
        )  # fmt: skip
        if failed:
            cursor.execute(
                "UPDATE whatsapp_webhookevent SET status = 'FAILED', reason = 'processing_error', error = %s "
                "WHERE id = %s",
                [error, claim.event_id],
            )
            _count_failure()


def _count_failure() -> None:
    labels = {"result": "failed", "reason": "processing_error", "payload_type": "none"}
    metrics.count(metrics.webhook_events.labels(**labels))


_EVENT_DESK = _Desk(_claim_events, _give_up_event)
_ITEM_DESK = _Desk(_claim_items, _give_up_item)
