"""What a person keeps of a ticket for themselves and the team: how far they read, what they began to write, notes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import connection

from leadengine.accounts.models import User
from leadengine.errors import NotFound, ValidationFailed
from leadengine.ids import uuid7
from tickets.models import Draft, Note, ReadMarker, Ticket
from tickets.policy import load_viewer, visible_tickets
from tickets.services.announce import announce_ticket
from tickets.services.lifecycle.states import NotAllowed, lock_ticket
from tickets.services.state import save_tickets

LONGEST_NOTE = 4000
LONGEST_DRAFT = 65_536

# Each is one statement with one snapshot, so that a message that comes meanwhile is neither counted nor seen.
# Newer messages are counted instead of seen ones, because they are few.
_READ = """
INSERT INTO tickets_readmarker AS r (id, tenant_id, user_id, ticket_id, updated_at, last_position, inbound_seen)
SELECT %s, t.tenant_id, %s, t.id, %s, least(%s, t.last_position), t.inbound_count - (
    SELECT count(*) FROM tickets_message m WHERE m.ticket_id = t.id AND m.position > %s AND m.direction = 'INBOUND')
FROM tickets_ticket t WHERE t.id = %s
ON CONFLICT (user_id, ticket_id) DO UPDATE SET last_position = greatest(r.last_position, excluded.last_position),
    inbound_seen = greatest(r.inbound_seen, excluded.inbound_seen)
"""
_UNREAD = """
INSERT INTO tickets_readmarker AS r (id, tenant_id, user_id, ticket_id, updated_at, last_position, inbound_seen)
SELECT %s, t.tenant_id, %s, t.id, %s, coalesce((
    SELECT m.position - 1 FROM tickets_message m WHERE m.ticket_id = t.id AND m.direction = 'INBOUND'
    ORDER BY m.position DESC LIMIT 1), 0), greatest(t.inbound_count - 1, 0)
FROM tickets_ticket t WHERE t.id = %s
ON CONFLICT (user_id, ticket_id) DO UPDATE SET last_position = excluded.last_position,
    inbound_seen = excluded.inbound_seen
"""


def mark_read(*, actor: User, ticket_id: UUID, position: int, now: datetime) -> ReadMarker:
    """Move the actor's marker forward to a position they have seen, never back. Raises: NotFound, NotAllowed."""
    ticket = _find_own(actor, ticket_id)
    with connection.cursor() as cursor:
        cursor.execute(_READ, [uuid7(), actor.pk, now, position, position, ticket.pk])
    return ReadMarker.objects.get(user=actor, ticket=ticket)


def mark_unread(*, actor: User, ticket_id: UUID, now: datetime) -> ReadMarker:
    """Set the actor's marker back before the last inbound message. Raises: NotFound, NotAllowed."""
    ticket = _find_own(actor, ticket_id)
    with connection.cursor() as cursor:
        cursor.execute(_UNREAD, [uuid7(), actor.pk, now, ticket.pk])
    return ReadMarker.objects.get(user=actor, ticket=ticket)


def save_draft(
    *,
    actor: User,
    ticket_id: UUID,
    kind: str,
    body: str,
    reply_to_id: UUID | None = None,
    upload_ids: Sequence[UUID] = (),
) -> Draft | None:
    """Keep what the actor began to write in a ticket; without text and files there is none.

    Raises: NotFound, NotAllowed, ValidationFailed.
    """
    ticket = _find_own(actor, ticket_id)
    if kind not in Draft.Kind.values:
        raise ValidationFailed([{"field": "kind", "message": "REPLY ou NOTE."}])
    if len(body) > LONGEST_DRAFT:
        raise ValidationFailed([{"field": "body", "message": f"No máximo {LONGEST_DRAFT} caracteres."}])
    if not body.strip() and not upload_ids:
        delete_draft(actor=actor, ticket_id=ticket_id)
        return None
    draft, _ = Draft.objects.update_or_create(
        user=actor,
        ticket=ticket,
        defaults={
            "tenant_id": ticket.tenant_id,
            "kind": kind,
            "body": body,
            "reply_to_id": reply_to_id,
            "upload_ids": [str(upload) for upload in upload_ids],
        },
    )
    draft.refresh_from_db()
    return draft


def delete_draft(*, actor: User, ticket_id: UUID) -> None:
    """Forget what the actor began to write. Raises: NotFound, NotAllowed."""
    Draft.objects.filter(user=actor, ticket=_find_own(actor, ticket_id)).delete()


def add_note(
    *, actor: User, ticket_id: UUID, body: str, visibility: str = "TEAM", note_id: UUID | None = None, now: datetime
) -> Note:
    """Add a note to a ticket in any state, in the sequence that it shares with the events; a draft of one goes.

    `note_id` is made by the client, once per note: a repetition after a lost answer gives the note that is there.

    Raises: NotFound, ValidationFailed (body 1..4000 characters, visibility).
    """
    body = body.strip()
    if not 1 <= len(body) <= LONGEST_NOTE:
        raise ValidationFailed([{"field": "body", "message": f"De 1 a {LONGEST_NOTE} caracteres."}])
    if visibility not in Note.Visibility.values:
        raise ValidationFailed([{"field": "visibility", "message": "TEAM ou PRIVATE."}])
    tenant_id, state = lock_ticket(actor, ticket_id)
    if note_id is not None:
        there: Note | None = Note.objects.filter(pk=note_id, author=actor, ticket_id=state.id).first()
        if there is not None:
            return there
    state.last_event_seq += 1
    note: Note = Note.objects.create(
        id=note_id or uuid7(), tenant_id=tenant_id, ticket_id=state.id, seq=state.last_event_seq, author=actor,
        body=body, visibility=visibility, created_at=now,
    )  # fmt: skip
    Draft.objects.filter(user=actor, ticket_id=state.id, kind=Draft.Kind.NOTE).delete()
    save_tickets(tenant_id=tenant_id, states=[state])
    # The event says that there is something; what a private note says, only its readers get by HTTP.
    announce_ticket(tenant_id=tenant_id, state=state, changed=["notes"], now=now)
    return note


def _find_own(actor: User, ticket_id: UUID) -> Ticket:
    """A ticket that the actor may see; who belongs to no tenant has no desk."""
    if actor.tenant_id is None:
        raise NotAllowed
    ticket = visible_tickets(load_viewer(actor)).filter(pk=ticket_id).first()
    if ticket is None:
        raise NotFound("Atendimento não encontrado.")
    return ticket
