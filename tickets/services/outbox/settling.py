"""Settling a try: one transaction for row, attempt, counters and events (spec/outbound.md sections 7 and 10)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from leadengine import metrics
from leadengine.accounts.scopes import tenant_scope
from leadengine.ids import uuid7
from leadengine.sql import dumps
from leads.services import add_identities, note_answers
from tickets.services.announce import announce_ticket
from tickets.services.keys import lock_keys
from tickets.services.outbox.announcing import announce_change
from tickets.services.outbox.claiming import Claim
from tickets.services.outbox.merging import absorb_echo
from tickets.services.outbox.recipients import load_recipients
from tickets.services.outbox.verdicts import Verdict, judge
from tickets.services.outbox.waking import wake_sender
from tickets.services.shapes import preview_of
from tickets.services.state import lock_tickets, save_tickets
from tickets.services.timeline import recount, recount_stale
from tickets.transports import OperatorNeeded, RateLimited, SendFailure, Sent, Transport

OK = "OK"
_BEHIND = """ARRAY(SELECT DISTINCT q.session_id FROM tickets_message q
    WHERE q.ticket_id = m.ticket_id AND q.status = 'QUEUED' AND q.session_id <> m.session_id)"""


@dataclass(frozen=True, slots=True)
class Try:
    """How one call ended. `asked` is false where it ended in our own house, and says nothing of the channel."""

    result: Sent | SendFailure
    finished_at: datetime
    latency_ms: int
    asked: bool = True

    @property
    def code(self) -> str:
        return self.result.code if isinstance(self.result, SendFailure) else OK


@dataclass(frozen=True, slots=True)
class _Row:
    status: str
    text: str
    accepted_at: datetime
    has_echo: bool  # another row has the id that the answer brought


def settle(*, transport: Transport, claim: Claim, tried: Try) -> None:
    """Write what became of a claimed row. A row that something else settled meanwhile is left as it is."""
    with tenant_scope(claim.place.tenant_id):
        metrics.count(metrics.outbound_attempts.labels(code=tried.code))
        external_id = getattr(tried.result, "external_id", None)
        if external_id is not None:
            lock_keys([(claim.order.line.id, external_id)])
        row = _lock(claim, external_id)
        if row is None:
            _save_attempt(claim, tried, "LATE")
            return
        verdict = judge(
            result=tried.result, before=row.status, attempts=claim.number, accepted_at=row.accepted_at,
            now=tried.finished_at,
        )  # fmt: skip
        if verdict.counted:
            _save_attempt(claim, tried, verdict.status)
        if verdict.status == "UNCONFIRMED" and row.status == "UNCONFIRMED":
            return
        if isinstance(tried.result, RateLimited):
            metrics.count(metrics.outbound_rate_limited.labels(where="broker"))
        if isinstance(tried.result, OperatorNeeded):
            line = claim.order.line
            transport.held(tenant_id=line.tenant_id, session_id=line.id, now=tried.finished_at)
        if verdict.status == "SENT":
            _settle_sent(transport, claim, tried, row)
        else:
            _settle_not_sent(claim, tried, verdict, row)
        _count(claim, tried, verdict, row)


def _lock(claim: Claim, external_id: str | None) -> _Row | None:
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT m.status, m.content || m.caption, coalesce(m.received_at, m.created_at), EXISTS (
                   SELECT 1 FROM tickets_message e
                   WHERE e.session_id = m.session_id AND e.external_id = %s AND e.id <> m.id)
               FROM tickets_message m
               WHERE m.id = %s AND m.claim_token = %s AND m.status IN ('SENDING', 'UNCONFIRMED') FOR UPDATE OF m""",
            [external_id, claim.order.message_id, claim.order.attempt_id],
        )
        row = cursor.fetchone()
    return _Row(*row) if row else None


def _settle_sent(transport: Transport, claim: Claim, tried: Try, row: _Row) -> None:
    """The row left: it gets its id and counts. An echo row that has the id already becomes one with it."""
    assert isinstance(tried.result, Sent)  # noqa: S101 - narrows the type
    external_id, place, line = tried.result.external_id, claim.place, claim.order.line
    # Whole seconds, as the broker's own times: what a customer answers in the same second then comes after it.
    changes: dict[str, Any] = {"status": "SENT", "sent_at": tried.finished_at.replace(microsecond=0), "error": None}
    tickets = [place.ticket_id]
    if external_id is not None:
        changes["external_id"] = external_id
        if row.has_echo:
            echo = absorb_echo(claim=claim, external_id=external_id, asked=row.text, now=tried.finished_at)
            changes |= echo.changes
            tickets.append(echo.ticket_id)
    _update(claim, changes, tried.finished_at)
    states = lock_tickets(tenant_id=line.tenant_id, ids=tickets)
    state = states[place.ticket_id]
    unanswered = state.first_response_seconds is None
    if row.has_echo:
        recount(tenant_id=line.tenant_id, states=list(states.values()))
    else:
        state.count_message(
            message_id=place.message_id,
            inbound=False,
            sent=changes["sent_at"],
            preview=preview_of(claim.type, row.text),
            newest=place.position == state.last_position,
        )
        recount_stale(tenant_id=line.tenant_id, states=[state])
    save_tickets(tenant_id=line.tenant_id, states=list(states.values()))
    for one in states.values():
        announce_ticket(tenant_id=line.tenant_id, state=one, changed=["timeline"], now=tried.finished_at)
    if unanswered and (seconds := state.first_response_seconds) is not None:
        transaction.on_commit(lambda: metrics.first_response_seconds.observe(seconds))
    # The ticket's contact, for the one that the message was claimed for may have been merged meanwhile.
    if tried.result.learned and not _keeps_to_one_of_several(claim, state.contact_id):
        add_identities(tenant_id=line.tenant_id, pairs=dict.fromkeys(tried.result.learned, state.contact_id))
    note_answers(tenant_id=line.tenant_id, answers=[(state.contact_id, changes["sent_at"])])
    if external_id is not None:
        transport.bound(
            tenant_id=line.tenant_id, session_id=line.id, external_id=external_id, now=tried.finished_at
        )  # fmt: skip
    if "unansweredCount" in state.timeline_delta():
        transport.ticket_changed(tenant_id=line.tenant_id, ticket_id=place.ticket_id, now=tried.finished_at)


def _keeps_to_one_of_several(claim: Claim, contact_id: UUID) -> bool:
    """Whether the message was for one phone of a contact with others, which its address would stand for, too."""
    to = claim.order.payload.get("to")
    if to is None:
        return False
    tenant_id = claim.place.tenant_id
    return load_recipients(tenant_id=tenant_id, ids=[contact_id])[contact_id].has_other_phone(to)


def _settle_not_sent(claim: Claim, tried: Try, verdict: Verdict, row: _Row) -> None:
    changes: dict[str, Any] = {"status": verdict.status, "error": verdict.error}
    if verdict.status == "QUEUED":
        changes |= {
            "wait_reason": verdict.wait_reason, "not_before": verdict.not_before, "sent_at": row.accepted_at,
        }  # fmt: skip
    elif verdict.status == "FAILED":
        changes["failed_at"] = tried.finished_at
        if external_id := getattr(tried.result, "external_id", None):
            changes["external_id"] = external_id
    _update(claim, changes, tried.finished_at, attempts=claim.number - (not verdict.counted))


def _update(claim: Claim, changes: dict[str, Any], now: datetime, attempts: int | None = None) -> None:
    """Set columns of the locked row and tell message.updated.

    Its sender asks again by itself; what stands behind it in the ticket may leave through another session.
    """
    columns = {**changes, "attempts": claim.number if attempts is None else attempts}
    sets = ", ".join(f"{name} = metadata || %s::jsonb" if name == "metadata" else f"{name} = %s" for name in columns)
    values = [dumps(value) if isinstance(value, dict) else value for value in columns.values()]
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE tickets_message m SET {sets}, version = version + 1 WHERE id = %s RETURNING version, {_BEHIND}",  # noqa: S608
            [*values, claim.order.message_id],
        )
        version, behind = cursor.fetchone()
    announce_change(place=claim.place, version=version, changes=changes, now=now)
    if changes["status"] != "QUEUED":
        for session_id in behind:
            wake_sender(session_id)


def _save_attempt(claim: Claim, tried: Try, outcome: str) -> None:
    """Keep the try. The sweeper may have written it as lost: the truth, come late, replaces that."""
    save_attempt(
        tenant_id=claim.place.tenant_id, message_id=claim.order.message_id, number=claim.number,
        claim_token=claim.order.attempt_id, claimed_at=claim.claimed_at, finished_at=tried.finished_at,
        outcome=outcome, code=tried.code, status=tried.result.status, answer=tried.result.answer,
        latency_ms=tried.latency_ms,
    )  # fmt: skip


def save_attempt(
    *,
    tenant_id: UUID,
    message_id: UUID,
    number: int,
    claim_token: UUID,
    claimed_at: datetime,
    finished_at: datetime,
    outcome: str,
    code: str,
    status: int | None = None,
    answer: str = "",
    latency_ms: int | None = None,
) -> None:
    """Write an OutboundAttempt; the last word on one claim stays."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO tickets_outboundattempt (id, tenant_id, message_id, number, claim_token, claimed_at,
                   finished_at, outcome, code, broker_status, broker_answer, latency_ms)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
               ON CONFLICT (message_id, claim_token) DO UPDATE SET finished_at = excluded.finished_at,
                   outcome = excluded.outcome, code = excluded.code, broker_status = excluded.broker_status,
                   broker_answer = excluded.broker_answer, latency_ms = excluded.latency_ms""",
            [
                uuid7(), tenant_id, message_id, number, claim_token, claimed_at, finished_at, outcome, code, status,
                answer.replace("\0", ""), latency_ms,
            ],
        )  # fmt: skip


def _count(claim: Claim, tried: Try, verdict: Verdict, row: _Row) -> None:
    if verdict.status == "QUEUED":
        return
    kind, name = claim.type.lower(), claim.order.line.name
    metrics.count(metrics.outbound.labels(origin=claim.source.lower(), type=kind, status=verdict.status.lower()))
    if verdict.status == "SENT":
        metrics.count(metrics.messages_sent.labels(instance_name=name, type=kind))
        seconds = max(0.0, (tried.finished_at - row.accepted_at).total_seconds())
        transaction.on_commit(lambda: metrics.outbound_latency_seconds.labels(type=kind).observe(seconds))
        if row.status == "UNCONFIRMED":
            metrics.count(metrics.outbound_settled.labels(by="answer"))
    elif verdict.status == "FAILED":
        reason = (verdict.error or {}).get("code", "")
        metrics.count(metrics.messages_failed.labels(instance_name=name, type=kind, reason=reason))
