"""Our own messages coming back from the channel: which of our rows is it? (spec/inbound.md section 12)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from django.db import connection

from leadengine import metrics
from leadengine.sql import dumps, loads, unnest
from leads.services import find_contacts
from tickets.services.announce import announce_message, announce_ticket
from tickets.services.effects import change_message
from tickets.services.shapes import iso
from tickets.services.state import lock_tickets, save_tickets
from tickets.services.timeline import recount

Key = tuple[UUID, str]
MATCH_WINDOW = timedelta(minutes=15)
OLDEST = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Echo:
    """A message of ours as the channel shows it; `identities` are those of the contact it went to."""

    key: Key
    identities: tuple[tuple[str, str], ...]
    type: str
    text: str
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class EchoOutcome:
    """settled: a row of ours got its id. known: nothing changed. in_flight: look again. unmatched: from the phone."""

    fate: Literal["settled", "known", "in_flight", "unmatched"]
    message_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Sent:
    """A row that has the id of an echo."""

    id: UUID
    type: str
    content: str
    source: str


@dataclass(slots=True)
class _Candidate:
    id: UUID
    ticket_id: UUID
    position: int
    type: str
    text: str
    status: str
    sent_at: datetime
    taken: bool = False


def settle_echoes(*, tenant_id: UUID, echoes: Sequence[Echo], now: datetime) -> list[EchoOutcome]:
    """Match each echo to a row of ours, in order: by id; a send in flight; by content; else it is from the phone.

    Result i belongs to echoes[i]. A row that is settled becomes SENT, gets its id and counts as left.
    """
    if not echoes:
        return []
    rows_by_id = _find_by_id(tenant_id, [echo.key for echo in echoes])
    known = {key: row.id for key, row in rows_by_id.items()}
    open_echoes = [echo for echo in echoes if echo.key not in known]
    contacts = find_contacts(tenant_id=tenant_id, people=[echo.identities for echo in open_echoes])
    place = {echo.key: contact for echo, contact in zip(open_echoes, contacts, strict=True)}
    # An echo may come long after its message, when the broker was away: what counts is when that was sent.
    since = max(min((echo.sent_at for echo in open_echoes), default=now) - MATCH_WINDOW, now - OLDEST)
    candidates = _find_candidates(
        tenant_id, {(contact, key[0]) for key, contact in place.items() if contact is not None}, since
    )
    outcomes: list[EchoOutcome] = []
    for echo in echoes:
        if echo.key in known:
            row = rows_by_id.pop(echo.key, None)
            altered = row is not None and _take_text(tenant_id, row, echo)
            outcomes.append(EchoOutcome("settled" if altered else "known", known[echo.key]))
            continue
        contact = place[echo.key]
        rows = candidates.get((contact, echo.key[0]), []) if contact else []
        if any(row.status == "SENDING" for row in rows):
            outcomes.append(EchoOutcome("in_flight"))
            continue
        match = next((row for row in rows if not row.taken and _is_same(row, echo)), None)
        if match is None:
            outcomes.append(EchoOutcome("unmatched"))
            continue
        match.taken = True
        _bind(tenant_id, match, echo, now)
        known[echo.key] = match.id
        outcomes.append(EchoOutcome("settled", match.id))
    return outcomes


def _find_by_id(tenant_id: UUID, keys: Sequence[Key]) -> dict[Key, _Sent]:
    source, arrays = unnest({"session_id": "uuid", "external_id": "text"}, list(dict.fromkeys(keys)))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT m.session_id, m.external_id, m.id, m.type, m.content, m.source
                FROM {source} AS w (session_id, external_id)
                JOIN tickets_message m ON m.session_id = w.session_id AND m.external_id = w.external_id
                WHERE m.tenant_id = %s""",  # noqa: S608
            [*arrays, tenant_id],
        )
        return {(row[0], row[1]): _Sent(*row[2:]) for row in cursor.fetchall()}


def _take_text(tenant_id: UUID, row: _Sent, echo: Echo) -> bool:
    """A broker may alter a text (this one expands braces): show what left, and keep what was asked."""
    ours = row.source != "PHONE" and row.type == echo.type == "TEXT"
    if not ours or not echo.text.strip() or row.content.strip() == echo.text.strip():
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT metadata FROM tickets_message WHERE id = %s FOR UPDATE", [row.id])
        metadata = loads(cursor.fetchone()[0])
    metadata.setdefault("requestedText", row.content)
    change_message(tenant_id=tenant_id, message_id=row.id, changes={"content": echo.text, "metadata": metadata})
    return True


def _find_candidates(
    tenant_id: UUID, pairs: set[tuple[UUID, UUID]], since: datetime
) -> dict[tuple[UUID, UUID], list[_Candidate]]:
    """Rows of these (contact, session) whose fate is open, oldest first, locked."""
    if not pairs:
        return {}
    source, arrays = unnest({"contact_id": "uuid", "session_id": "uuid"}, sorted(pairs))
    found: dict[tuple[UUID, UUID], list[_Candidate]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT m.contact_id, m.session_id, m.id, m.ticket_id, m.position, m.type, m.content || m.caption,
                    m.status, m.sent_at
                FROM {source} AS w (contact_id, session_id)
                JOIN tickets_message m ON m.contact_id = w.contact_id AND m.session_id = w.session_id
                WHERE m.tenant_id = %s AND m.external_id IS NULL AND m.sent_at > %s
                    AND m.status IN ('SENDING', 'UNCONFIRMED', 'SENT')
                ORDER BY m.sent_at, m.position FOR UPDATE OF m""",  # noqa: S608
            [*arrays, tenant_id, since],
        )
        for row in cursor.fetchall():
            found.setdefault((row[0], row[1]), []).append(_Candidate(*row[2:]))
    return found


def _is_same(row: _Candidate, echo: Echo) -> bool:
    return (
        row.status in {"UNCONFIRMED", "SENT"}
        and row.type == echo.type
        and row.text.strip() == echo.text.strip()
        and echo.sent_at - MATCH_WINDOW <= row.sent_at
    )


def _bind(tenant_id: UUID, row: _Candidate, echo: Echo, now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE tickets_message SET external_id = %s, status = 'SENT', version = version + 1, sent_at = %s,
                   wait_reason = NULL, not_before = NULL, error = NULL, metadata = metadata || %s::jsonb
               WHERE id = %s RETURNING version""",
            [echo.key[1], echo.sent_at, dumps({"settledBy": "echo"}), row.id],
        )
        version = cursor.fetchone()[0]
    # It counts from now on, or counts at another time than before.
    state = lock_tickets(tenant_id=tenant_id, ids=[row.ticket_id])[row.ticket_id]
    recount(tenant_id=tenant_id, states=[state])
    save_tickets(tenant_id=tenant_id, states=[state])
    announce_ticket(tenant_id=tenant_id, state=state, changed=["timeline"], now=now)
    metrics.count(metrics.outbound_settled.labels(by="echo"))
    announce_message(
        tenant_id=tenant_id, message_id=row.id, ticket_id=row.ticket_id, position=row.position, version=version,
        changes={"status": "SENT", "externalId": echo.key[1], "sentAt": iso(echo.sent_at), "error": None}, now=now,
    )  # fmt: skip
