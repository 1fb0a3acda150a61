"""What happens to messages that exist: acks, reactions, edits, revokes, and copies that fill what was empty."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.db import connection
from django.utils import timezone

from leadengine import metrics
from leadengine.ids import uuid7
from leadengine.sql import dumps, loads, unnest
from leads.services import note_activity
from tickets.services.announce import announce_message, announce_ticket
from tickets.services.shapes import iso
from tickets.services.state import lock_tickets, save_tickets
from tickets.services.timeline import recount, refresh_preview

Key = tuple[UUID, str]
AckFate = Literal["applied", "noop", "regression", "not_found"]
# PENDING < SENT < FAILED < DELIVERED < READ < PLAYED; acks only go up (spec/inbound.md section 13).
_RANK = {"SCHEDULED": 1, "QUEUED": 1, "SENDING": 1, "UNCONFIRMED": 1, "SENT": 2, "FAILED": 3, "DELIVERED": 4, "READ": 5}
_ACK_RANK = {0: 3, 1: 1, 2: 2, 3: 4, 4: 5, 5: 6}
_PLAYED = 6
_ACK_STATUS = {0: "FAILED", 2: "SENT", 3: "DELIVERED", 4: "READ", 5: "READ"}
LEFT = {"SENT", "DELIVERED", "READ"}
OURSELVES = "me"
_EMOJI = 32
_CAPTIONED = ("IMAGE", "VIDEO", "AUDIO", "DOCUMENT", "STICKER")
_CONTENT = {"content", "caption", "metadata", "media", "poll"}  # what nobody is told of a message that was deleted
_SAID = {"type", "content", "caption", "revoked_at"}  # what a preview is made of


@dataclass(frozen=True, slots=True)
class Ack:
    """A step of a message of ours: status 0 error, 1 pending, 2 sent, 3 delivered, 4 read, 5 played."""

    key: Key
    status: int
    at: datetime
    error_code: str | None = None


def change_message(
    *,
    tenant_id: UUID,
    message_id: UUID,
    changes: dict[str, Any],
    media_changed: bool = False,
    told: dict[str, Any] | None = None,
) -> int:
    """Set columns of a message, raise its version, tell message.updated; returns the new version.

    `told` is what the event says in place of the columns. Of a message that its author deleted it tells no content.
    """
    sets = "".join(f"{name} = %s, " for name in changes)
    values = [dumps(value) if isinstance(value, dict) else value for value in changes.values()]
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE tickets_message SET {sets} version = version + 1 WHERE id = %s AND tenant_id = %s "  # noqa: S608
            "RETURNING ticket_id, position, version, revoked_at IS NOT NULL",
            [*values, message_id, tenant_id],
        )
        ticket_id, position, version, revoked = cursor.fetchone()
    if not _SAID.isdisjoint(changes):
        refresh_preview(tenant_id=tenant_id, ticket_id=ticket_id, message_id=message_id)
    shown = {_WIRE.get(name, name): _plain(value) for name, value in changes.items()} if told is None else told
    if media_changed:
        shown["media"] = True
    if revoked:
        shown = {name: value for name, value in shown.items() if name not in _CONTENT}
    announce_message(
        tenant_id=tenant_id, message_id=message_id, ticket_id=ticket_id, position=position, version=version,
        changes=shown, now=timezone.now(),
    )  # fmt: skip
    return int(version)


def apply_acks(*, tenant_id: UUID, acks: Sequence[Ack]) -> list[AckFate]:
    """Move messages of ours up by their acks, whatever their order; result i belongs to acks[i].

    An ack proves that an UNCONFIRMED message left; an error takes a message out of the counters.
    """
    if not acks:
        return []
    source, arrays = unnest({"session_id": "uuid", "external_id": "text"}, sorted({ack.key for ack in acks}))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT m.session_id, m.external_id, m.id, m.ticket_id, m.position, m.version, m.status,
                    m.delivered_at, m.read_at, m.played_at, m.failed_at, m.error
                FROM {source} AS w (session_id, external_id)
                JOIN tickets_message m ON m.session_id = w.session_id AND m.external_id = w.external_id
                WHERE m.tenant_id = %s AND m.direction = 'OUTBOUND' ORDER BY m.id FOR UPDATE OF m""",  # noqa: S608
            [*arrays, tenant_id],
        )
        found = [[*row[:11], loads(row[11])] for row in cursor.fetchall()]
    rows = {(row[0], row[1]): _Row(*row[2:]) for row in found}
    fates: list[AckFate] = [rows[ack.key].take(ack) if ack.key in rows else "not_found" for ack in acks]
    changed = [row for row in rows.values() if row.changes]
    _save_acks(tenant_id, changed)
    _recount_changed(tenant_id, [row for row in changed if (row.before in LEFT) != (row.status in LEFT)])
    now = timezone.now()
    for row in changed:
        if row.before == "UNCONFIRMED":
            metrics.count(metrics.outbound_settled.labels(by="ack"))
        announce_message(
            tenant_id=tenant_id, message_id=row.id, ticket_id=row.ticket_id, position=row.position,
            version=row.version, changes=row.changes, now=now,
        )  # fmt: skip
    return fates


def find_ranks(*, tenant_id: UUID, keys: Sequence[Key]) -> dict[Key, int]:
    """How far messages that are here have come, by the ranks of acks; no ack moves a customer's."""
    if not keys:
        return {}
    source, arrays = unnest({"session_id": "uuid", "external_id": "text"}, keys)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT m.session_id, m.external_id, m.direction, m.status, m.played_at IS NOT NULL
                FROM {source} AS w (session_id, external_id)
                JOIN tickets_message m ON m.session_id = w.session_id AND m.external_id = w.external_id
                WHERE m.tenant_id = %s""",  # noqa: S608
            [*arrays, tenant_id],
        )
        return {
            (row[0], row[1]): _PLAYED if row[4] or row[2] == "INBOUND" else _RANK.get(row[3], 0)
            for row in cursor.fetchall()
        }


def rank_of_ack(status: int) -> int:
    """The rank of an ack (see `Ack.status`) among states of a message."""
    return _ACK_RANK[status]


def set_reaction(
    *, tenant_id: UUID, key: Key, actor: str, emoji: str, at: datetime, aliases: Sequence[str] = ()
) -> UUID | None:
    """Set, change or (empty emoji) remove one person's reaction; the message's id, None when it is not here.

    `aliases` are other names of the same actor: one who is known by LID and by phone has one reaction.
    """
    target = _find(tenant_id, key)
    if target is None:
        return None
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE tickets_messagereaction r SET actor = %s WHERE r.id = (
                   SELECT a.id FROM tickets_messagereaction a WHERE a.message_id = %s AND a.actor = ANY(%s)
                   ORDER BY a.at DESC LIMIT 1)
               AND NOT EXISTS (SELECT 1 FROM tickets_messagereaction b WHERE b.message_id = %s AND b.actor = %s)""",
            [actor, target, list(aliases), target, actor],
        )
        # An empty emoji stays as a row, so that an older reaction that comes late cannot undo its removal.
        cursor.execute(
            """INSERT INTO tickets_messagereaction (id, tenant_id, message_id, actor, emoji, at)
               VALUES (%s, %s, %s, %s, %s, %s)
               ON CONFLICT (message_id, actor) DO UPDATE SET emoji = excluded.emoji, at = excluded.at
               WHERE tickets_messagereaction.at < excluded.at
                   OR (tickets_messagereaction.at = excluded.at AND tickets_messagereaction.emoji <> excluded.emoji)""",
            [uuid7(), tenant_id, target, actor, emoji[:_EMOJI], at],
        )
        if not cursor.rowcount:
            return target
        cursor.execute("SELECT contact_id FROM tickets_message WHERE id = %s", [target])
        contact_id = cursor.fetchone()[0]
    change_message(tenant_id=tenant_id, message_id=target, changes={}, told={"reactions": True})
    if actor != OURSELVES:
        note_activity(tenant_id=tenant_id, contact_ids=[contact_id], now=at)
    metrics.count(metrics.message_effects.labels(effect="reaction_set" if emoji else "reaction_removed"))
    return target


def edit_message(
    *, tenant_id: UUID, key: Key, actor: str, text: str, at: datetime, aliases: Sequence[str] = ()
) -> UUID | None:
    """Give a message its new text and keep the old one as a revision; only by its author. None: not here.

    An edit that comes after a newer one is a revision itself.
    """
    target = _find(tenant_id, key)
    if target is None:
        return None
    if not _author_is(target, {actor, *aliases}):
        return target
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT type = ANY(%s), content || caption, edited_at FROM tickets_message WHERE id = %s",
            [list(_CAPTIONED), target],
        )
        captioned, old, edited_at = cursor.fetchone()
        late = edited_at is not None and at < edited_at
        earlier, until = (text, edited_at) if late else (old, at)
        cursor.execute(
            """INSERT INTO tickets_messagerevision (id, tenant_id, message_id, content, at)
               SELECT %s, %s, %s, %s, %s WHERE %s <> %s AND NOT EXISTS (
                   SELECT 1 FROM tickets_messagerevision r
                   WHERE r.message_id = %s AND r.content = %s AND r.at >= %s)""",
            [uuid7(), tenant_id, target, earlier, until, old, text, target, earlier, at],
        )
    if old != text and not late:
        column = "caption" if captioned else "content"
        change_message(tenant_id=tenant_id, message_id=target, changes={column: text, "edited_at": at})
        metrics.count(metrics.message_effects.labels(effect="edit"))
    return target


def revoke_message(*, tenant_id: UUID, key: Key, actor: str, at: datetime, aliases: Sequence[str] = ()) -> UUID | None:
    """Mark a message as deleted by its author; its text stays for the audit. None: not here."""
    target = _find(tenant_id, key)
    if target is None:
        return None
    if _author_is(target, {actor, *aliases}):
        with connection.cursor() as cursor:
            cursor.execute("SELECT revoked_at FROM tickets_message WHERE id = %s", [target])
            already = cursor.fetchone()[0]
        if already is None:
            change_message(tenant_id=tenant_id, message_id=target, changes={"revoked_at": at})
            metrics.count(metrics.message_effects.labels(effect="revoke"))
    return target


def link_answer(*, tenant_id: UUID, key: Key, message_id: UUID) -> UUID | None:
    """Link a message to the one that it quotes, unless it is linked already. None: that one is not here."""
    target = _find(tenant_id, key)
    if target is None:
        return None
    with connection.cursor() as cursor:
        rule = "SELECT 1 FROM tickets_message WHERE id = %s AND tenant_id = %s AND reply_to_id IS NULL FOR UPDATE"
        cursor.execute(rule, [message_id, tenant_id])
        loose = cursor.fetchone() is not None
    if loose:
        change_message(tenant_id=tenant_id, message_id=message_id, changes={"reply_to_id": target})
    return target


# --- Steps -------------------------------------------------------------------------------------------------------

_WIRE = {"revoked_at": "revokedAt", "edited_at": "editedAt", "reply_to_id": "replyToId", "external_id": "externalId"}


@dataclass(slots=True)
class _Row:
    id: UUID
    ticket_id: UUID
    position: int
    version: int
    status: str
    delivered_at: datetime | None
    read_at: datetime | None
    played_at: datetime | None
    failed_at: datetime | None
    error: Any
    before: str = ""
    changes: dict[str, Any] = field(default_factory=dict)

    def take(self, ack: Ack) -> AckFate:
        """Apply one ack in memory."""
        rank = 6 if self.played_at else _RANK.get(self.status, 0)
        new = _ACK_RANK[ack.status]
        if new <= rank:
            return "noop" if new == rank else "regression"
        if not self.changes:
            self.before = self.status
            self.version += 1
        self.status = self.changes["status"] = _ACK_STATUS[ack.status]
        if ack.status == 0:
            self.failed_at = ack.at
            self.error = {"code": ack.error_code or "REJECTED", "message": "O WhatsApp recusou.", "retryable": False}
            self.changes |= {"failedAt": iso(ack.at), "error": self.error}
            return "applied"
        self.error = self.failed_at = None
        if ack.status >= 3 and self.delivered_at is None:
            self.delivered_at = ack.at
            self.changes["deliveredAt"] = iso(ack.at)
        if ack.status >= 4 and self.read_at is None:
            self.read_at = ack.at
            self.changes["readAt"] = iso(ack.at)
        if ack.status == 5:
            self.played_at = ack.at
            self.changes["playedAt"] = iso(ack.at)
        return "applied"


def _save_acks(tenant_id: UUID, rows: Sequence[_Row]) -> None:
    if not rows:
        return
    source, arrays = unnest(
        {
            "id": "uuid", "version": "bigint", "status": "text", "delivered_at": "timestamptz",
            "read_at": "timestamptz", "played_at": "timestamptz", "failed_at": "timestamptz", "error": "jsonb",
        },
        [
            (
                row.id, row.version, row.status, row.delivered_at, row.read_at, row.played_at, row.failed_at,
                dumps(row.error),
            )
            for row in rows
        ],
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(
            f"""UPDATE tickets_message m SET status = u.status, version = u.version, delivered_at = u.delivered_at,
                    read_at = u.read_at, played_at = u.played_at, failed_at = u.failed_at, error = u.error,
                    wait_reason = NULL, not_before = NULL
                FROM {source} AS u (id, version, status, delivered_at, read_at, played_at, failed_at, error)
                WHERE m.id = u.id AND m.tenant_id = %s""",  # noqa: S608
            [*arrays, tenant_id],
        )


def _recount_changed(tenant_id: UUID, rows: Sequence[_Row]) -> None:
    """An ack settled or failed messages: their tickets count again from what is stored."""
    if not rows:
        return
    states = list(lock_tickets(tenant_id=tenant_id, ids=[row.ticket_id for row in rows]).values())
    recount(tenant_id=tenant_id, states=states)
    save_tickets(tenant_id=tenant_id, states=states)
    for state in states:
        announce_ticket(tenant_id=tenant_id, state=state, changed=["timeline"], now=timezone.now())


def _find(tenant_id: UUID, key: Key) -> UUID | None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM tickets_message WHERE tenant_id = %s AND session_id = %s AND external_id = %s FOR UPDATE",
            [tenant_id, *key],
        )
        row = cursor.fetchone()
    return row[0] if row else None


def _author_is(message_id: UUID, actors: Collection[str]) -> bool:
    """Whether one of these names (`me`, or an address) wrote the message: its direction, and in groups its sender."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT direction, sender FROM tickets_message WHERE id = %s", [message_id])
        direction, sender = cursor.fetchone()
    if (OURSELVES in actors) != (direction == "OUTBOUND"):
        return False
    if OURSELVES in actors or not sender:
        return True
    sender = loads(sender)
    return not {sender.get("jid"), sender.get("phone"), sender.get("actor")}.isdisjoint(actors)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    return str(value) if isinstance(value, UUID) else value
