"""Claiming what is due: QUEUED becomes SENDING, in order, one per conversation (spec/outbound.md sections 1 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from leadengine.accounts.scopes import tenant_scope
from leadengine.sql import loads
from tickets.services.outbox.accepting import line_of_session
from tickets.services.outbox.announcing import Place, announce_change
from tickets.services.outbox.holding import DUE, MOST, hold_due, wake_session
from tickets.services.outbox.pacing import ask_to_send
from tickets.services.outbox.recipients import Recipient, load_recipients
from tickets.services.outbox.refusals import InstanceRequired
from tickets.services.outbox.scheduling import too_late
from tickets.services.outbox.waking import move_queued
from tickets.transports import Line, SendOrder, get_transport

CHANNEL = "WHATSAPP"
LEASE_SPARE = timedelta(seconds=30)  # beside the calls themselves: names are looked up, the outcome is written
_LOCK = 0x0B0C5  # class of the advisory locks of claimers

# What a line has in flight, and what it refused for a while (offline, too fast): such a row holds back the whole line,
# so that one message asks again and not all of them.
_STATE = """
SELECT count(*) FILTER (WHERE status = 'SENDING'), (array_agg(wait_reason ORDER BY not_before DESC)
    FILTER (WHERE status = 'QUEUED'))[1], max(not_before) FILTER (WHERE status = 'QUEUED'),
    max(claimed_at) FILTER (WHERE status = 'QUEUED' AND wait_reason = 'SESSION_OFFLINE')
FROM tickets_message WHERE session_id = %(session)s AND tenant_id = %(tenant)s AND (status = 'SENDING'
    OR (status = 'QUEUED' AND not_before > %(now)s AND (wait_reason = 'SESSION_OFFLINE'
        OR (wait_reason = 'PACING' AND error ->> 'code' = 'RATE_LIMITED'))))
"""
# The limit and the array keep the planner from reading the whole table: it knows how few rows there will be.
_FIND = f"SELECT m.id, m.wait_reason FROM tickets_message m WHERE m.id = ANY(ARRAY({DUE})) ORDER BY m.id"  # noqa: S608
# `sent_at` is the time of the try from now on: an echo finds its row by it, however long the row had waited.
_CLAIM = """
UPDATE tickets_message m SET status = 'SENDING', claim_token = gen_random_uuid(), claimed_at = %(now)s,
    sent_at = %(now)s, lease_until = %(lease)s, attempts = attempts + 1, wait_reason = NULL, not_before = NULL,
    error = NULL, version = m.version + 1
FROM tickets_ticket t
WHERE t.id = m.ticket_id AND m.id = ANY(%(ids)s)
RETURNING m.id, m.ticket_id, m.position, m.version, m.claim_token, m.attempts, m.contact_id, m.payload,
    m.external_reference, m.source, m.type, m.metadata -> 'client', t.queue_id, t.assignee_id,
    (SELECT f.source FROM tickets_messagemedia f WHERE f.message_id = m.id)
"""
_PACED = """
SELECT not_before FROM tickets_message WHERE session_id = %(session)s AND tenant_id = %(tenant)s
    AND status = 'QUEUED' AND not_before > %(now)s AND not_before <= %(end)s AND wait_reason = 'PACING'
ORDER BY not_before LIMIT %(turns)s
"""
_NEXT = """
SELECT min(not_before) FROM tickets_message
WHERE session_id = %(session)s AND tenant_id = %(tenant)s AND status = 'QUEUED' AND not_before > %(now)s
"""
_OFFLINE = "SESSION_OFFLINE"
_SPARE = 0.02  # seconds: a turn is counted from when it was asked for, which is a little after `now`
_SAME_TURN = timedelta(milliseconds=250)  # two looks at one turn differ by as much, for they take a time themselves


@dataclass(frozen=True, slots=True)
class Claim:
    """One row in flight: whoever holds its token may settle it. A `probe` decides whether the line's circuit closes."""

    order: SendOrder
    place: Place
    contact_id: UUID
    number: int
    claimed_at: datetime
    source: str
    type: str
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """What one look at a line gave. `due` is when the next of those that wait for a time may leave. `alone`: whether
    Redis was away; None where there was nothing to ask it.
    """

    claims: list[Claim]
    due: datetime | None = None
    alone: bool | None = None


def take_turn(*, line: Line, now: datetime) -> Turn:
    """Claim the due rows of a line, as many as may leave now over all workers, and commit.

    The line is read again, for a sender may be busy for hours. What waits on one that was replaced, or comes back to
    it, moves to the last that replaced it. The cap of what is in flight, the pace and the breaker narrow the number;
    the rest is told what it waits for.
    """
    with tenant_scope(line.tenant_id), connection.cursor() as cursor:
        # One claimer at a time per line: two that overlook each other could exceed its cap, or pass each other. Redis
        # is asked inside, for one who was granted a turn must not find that another has told its rows to wait.
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK, str(line.id)])
        fresh = _read_line(line.id, now)
        if fresh is None:
            return Turn([])
        line = fresh
        where: dict[str, Any] = {"session": line.id, "tenant": line.tenant_id, "now": now}
        cursor.execute(_STATE, where)
        flying, reason, until, asked_at = cursor.fetchone()
        if reason == _OFFLINE and _is_back(line, asked_at):
            wake_session(session_id=line.id, now=now)
            cursor.execute(_STATE, where)
            flying, reason, until, _ = cursor.fetchone()
        free = settings.OUTBOUND_CONCURRENCY_PER_SESSION - flying
        claims: list[Claim] = []
        alone: bool | None = None
        if reason is not None:
            hold_due(line=line, reason=reason, untils=[until] * MOST, now=now)
        elif free > 0:
            claims, alone = _claim_some(cursor, line, where, free, flying)
        cursor.execute(_NEXT, where)
        return Turn(claims, cursor.fetchone()[0] if free > 0 else None, alone)


def _read_line(session_id: UUID, now: datetime) -> Line | None:
    """The line as it is now; None when it is gone, or was replaced: then its rows have moved on."""
    line = get_transport(CHANNEL).line(session_id)
    if line is None or line.replaced_by is None:
        return line
    try:
        newer = line_of_session(session_id=session_id)
    except InstanceRequired:  # what replaced it is gone, too
        return None
    if newer.id == session_id:
        return line
    move_queued(old_id=session_id, new_id=newer.id, now=now)
    return None


def _is_back(line: Line, asked_at: datetime | None) -> bool:
    """Whether a line connected after all calls began that were answered with its being offline: none says so now."""
    return line.connected and line.connected_at is not None and (asked_at is None or asked_at < line.connected_at)


def _claim_some(
    cursor: Any, line: Line, where: dict[str, Any], free: int, flying: int
) -> tuple[list[Claim], bool | None]:
    """Claim up to `free` due rows, as many as pace and breaker grant; whether Redis was away when it was asked."""
    now = where["now"]
    cursor.execute(_FIND, {**where, "late": too_late(now), "most": free})
    ids = _one_if_offline(line, cursor.fetchall(), flying)
    if not ids:
        return [], None
    grant = ask_to_send(line=line, wanted=len(ids), now=now)
    claims = _claim_rows(cursor, line, ids[: grant.granted], grant.probe, now) if grant.granted else []
    if grant.granted < len(ids):
        untils = [grant.until] * MOST if grant.until is not None else []
        if grant.until is None:
            turns = [now + timedelta(seconds=wait + _SPARE) for wait in grant.waits]
            cursor.execute(_PACED, {**where, "end": turns[-1] + _SAME_TURN, "turns": len(turns)})
            untils = _queue_up(turns, [row[0] for row in cursor.fetchall()])
        hold_due(line=line, reason=grant.reason, untils=untils, now=now)
    return claims, grant.alone


def _queue_up(turns: Sequence[datetime], told: Sequence[datetime]) -> list[datetime]:
    """When each of the rows that are due may leave: at the turns that nobody takes who was told a time already.

    Who finds none within the horizon is told its end, and asks again then.
    """
    free: list[datetime] = []
    before = 0  # of those who were told, how many have their turn by now
    for turn in turns:
        if before < len(told) and told[before] <= turn + _SAME_TURN:
            before += 1
        else:
            free.append(turn)
    return free + [turns[-1]] * (MOST - len(free))


def _one_if_offline(line: Line, rows: list[tuple[UUID, str | None]], flying: int) -> list[UUID]:
    """The ids of due rows; of a line that is offline, and was when it was last asked, one row asks again."""
    if not line.connected and any(reason == _OFFLINE for _, reason in rows):
        rows = rows[: 1 - min(flying, 1)]
    return [message_id for message_id, _ in rows]


def _claim_rows(cursor: Any, line: Line, ids: list[UUID], probe: bool, now: datetime) -> list[Claim]:
    calls = settings.WHATSAPP_BROKER_TIMEOUT_MS + settings.WHATSAPP_BROKER_SEND_TIMEOUT_MS  # for an address, to send
    lease = now + timedelta(milliseconds=calls) + LEASE_SPARE
    cursor.execute(_CLAIM, {"ids": ids, "now": now, "lease": lease})
    rows = sorted(cursor.fetchall())
    people = load_recipients(tenant_id=line.tenant_id, ids=[row[6] for row in rows])
    claims = [_claim(line, row, people[row[6]], probe, now) for row in rows]
    for claim, row in zip(claims, rows, strict=True):
        changes = {"status": "SENDING", "sent_at": now, "wait_reason": None, "not_before": None, "error": None}
        announce_change(place=claim.place, version=row[3], changes=changes, now=now)
    if probe:
        get_transport(CHANNEL).circuit_changed(tenant_id=line.tenant_id, session_id=line.id, now=now)
    return claims


def _claim(line: Line, row: Any, person: Recipient, probe: bool, now: datetime) -> Claim:
    (
        message_id, ticket_id, position, _, token, number, contact_id, payload, reference, source, kind, client,
        queue_id, assignee_id, file,
    ) = row  # fmt: skip
    stored: Mapping[str, Any] = loads(payload) or {}  # a row that no door made fails alone, not its whole line
    order = SendOrder(
        message_id=message_id,
        attempt_id=token,
        line=line,
        identities=(person.at(stored["to"]) if "to" in stored else person).identities,
        is_group=person.is_group,
        payload={**stored, "metadata": loads(client)},
        file=loads(file),
        reference=reference or str(message_id),
    )
    place = Place(line.tenant_id, ticket_id, queue_id, assignee_id, message_id, position)
    return Claim(order, place, contact_id, number, now, source, kind, probe)
