"""Polls: what was asked, who chose what last, and the totals on the card (spec/inbound.md section 11).

The totals are counted here from the votes; what the channel says of them only tells the options of an unknown poll.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine.ids import uuid7
from leadengine.sealing import seal
from leadengine.sql import dumps, insert_rows, loads, unnest
from tickets.services.effects import change_message

Key = tuple[UUID, str]  # (session, external id)
CONTACT = "contact"  # the voter of a direct chat, whatever address an event names


@dataclass(frozen=True, slots=True)
class Asked:
    """A poll as its message shows it. `secret`: what opens its votes on the wire; stored sealed."""

    key: Key
    question: str
    options: tuple[str, ...]
    selectable: int | None = None
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote. `poll` is the identity of the message that asks; `options` empty: withdrawn.

    `question` and `known_options` are what the vote tells of a poll that is not here.
    """

    key: Key
    poll: Key
    voter: str
    options: tuple[str, ...]
    at: datetime
    question: str = ""
    known_options: tuple[str, ...] = ()


@dataclass(slots=True)
class _Card:
    """A poll row with its votes, and the message that shows it, when it is here."""

    id: UUID
    question: str
    options: list[str]
    selectable: int | None
    message_id: UUID | None
    metadata: dict[str, Any] | None
    votes: dict[str, tuple[datetime, str, list[str]]]

    def takes(self, vote: Vote) -> bool:
        """Whether this is the voter's newest vote; of one instant the higher id counts, in whatever order they come."""
        known = self.votes.get(vote.voter)
        if known is not None and known[:2] >= (vote.at, vote.key[1]):
            return False
        self.votes[vote.voter] = (vote.at, vote.key[1], list(vote.options))
        return True

    def totals(self) -> list[dict[str, Any]]:
        """[{text, votes}] in the order of the options."""
        counts = Counter(option for _, _, chosen in self.votes.values() for option in dict.fromkeys(chosen))
        return [{"text": text, "votes": counts[text]} for text in dict.fromkeys([*self.options, *counts])]

    def shown(self) -> dict[str, Any]:
        """What the message's metadata holds as `poll`."""
        known = {"question": self.question, "options": self.options, "selectable": self.selectable}
        voters = sum(1 for _, _, chosen in self.votes.values() if chosen)
        return {**{name: value for name, value in known.items() if value}, "totals": self.totals(), "voters": voters}


def remember_polls(*, tenant_id: UUID, asked: Sequence[Asked]) -> None:
    """Keep polls whose messages came; votes that came before their message are counted on its card now."""
    if not asked:
        return
    with connection.cursor() as cursor:
        insert_rows(
            cursor,
            "tickets_poll",
            {
                "id": "uuid", "tenant_id": "uuid", "session_id": "uuid", "external_id": "text", "question": "text",
                "options": "jsonb", "selectable": "smallint", "secret": "text",
            },
            [
                (
                    uuid7(), tenant_id, *poll.key, poll.question, dumps(list(poll.options)), poll.selectable,
                    seal(poll.secret) if poll.secret else "",
                )
                for poll in {one.key: one for one in asked}.values()
            ],
            """ON CONFLICT (session_id, external_id) DO UPDATE SET
                   question = coalesce(nullif(excluded.question, ''), tickets_poll.question),
                   options = CASE WHEN excluded.options = '[]' THEN tickets_poll.options ELSE excluded.options END,
                   selectable = coalesce(excluded.selectable, tickets_poll.selectable),
                   secret = CASE WHEN tickets_poll.secret = '' THEN excluded.secret ELSE tickets_poll.secret END""",
        )  # fmt: skip
    for card in _load(tenant_id, [poll.key for poll in asked]).values():
        if card.votes:
            _show(tenant_id, card)


def record_votes(*, tenant_id: UUID, votes: Sequence[Vote]) -> list[bool]:
    """Let each vote count if it is its voter's newest; result i says whether votes[i] changed its poll.

    A poll that is not here is made from what the vote tells of it.
    """
    if not votes:
        return []
    _make_missing(tenant_id, votes)
    cards = _load(tenant_id, [vote.poll for vote in votes])
    changed = [cards[vote.poll].takes(vote) for vote in votes]
    touched = {vote.poll: cards[vote.poll] for vote, counts in zip(votes, changed, strict=True) if counts}
    _save(tenant_id, touched)
    for card in touched.values():
        _show(tenant_id, card)
    return changed


# --- Steps -------------------------------------------------------------------------------------------------------


def _make_missing(tenant_id: UUID, votes: Sequence[Vote]) -> None:
    """Polls of ours are known by their message, others by what the vote tells."""
    told: dict[Key, Vote] = {}
    for vote in votes:
        told.setdefault(vote.poll, vote)
    source, arrays = unnest(
        {"id": "uuid", "session_id": "uuid", "external_id": "text", "question": "text", "options": "jsonb"},
        [
            (uuid7(), *key, vote.question, dumps(list(dict.fromkeys([*vote.known_options, *vote.options]))))
            for key, vote in sorted(told.items())
        ],
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"""INSERT INTO tickets_poll (id, tenant_id, session_id, external_id, question, options, selectable)
                SELECT w.id, %s, w.session_id, w.external_id,
                    coalesce(m.metadata -> 'poll' ->> 'question', nullif(m.content, ''), w.question),
                    coalesce(m.metadata -> 'poll' -> 'options', w.options),
                    (m.metadata -> 'poll' ->> 'selectable')::smallint
                FROM {source} AS w (id, session_id, external_id, question, options)
                LEFT JOIN tickets_message m ON m.session_id = w.session_id AND m.external_id = w.external_id
                    AND m.type = 'POLL' AND m.tenant_id = %s
                ON CONFLICT (session_id, external_id) DO NOTHING""",  # noqa: S608
            [tenant_id, *arrays, tenant_id],
        )


def _load(tenant_id: UUID, keys: Sequence[Key]) -> dict[Key, _Card]:
    source, arrays = unnest({"session_id": "uuid", "external_id": "text"}, sorted(set(keys)))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT p.session_id, p.external_id, p.id, p.question, p.options, p.selectable, m.id, m.metadata
                FROM {source} AS w (session_id, external_id)
                JOIN tickets_poll p ON p.session_id = w.session_id AND p.external_id = w.external_id
                LEFT JOIN tickets_message m ON m.session_id = p.session_id AND m.external_id = p.external_id
                    AND m.type = 'POLL'
                WHERE p.tenant_id = %s ORDER BY p.id FOR UPDATE OF p""",  # noqa: S608
            [*arrays, tenant_id],
        )
        cards = {
            (row[0], row[1]): _Card(row[2], row[3], loads(row[4]), row[5], row[6], loads(row[7]), {})
            for row in cursor.fetchall()
        }
        cursor.execute(
            "SELECT poll_id, voter, at, external_id, options FROM tickets_pollvote WHERE poll_id = ANY(%s)",
            [[card.id for card in cards.values()]],
        )
        of_poll = {card.id: card for card in cards.values()}
        for poll_id, voter, at, external_id, options in cursor.fetchall():
            of_poll[poll_id].votes[voter] = (at, external_id, loads(options))
    return cards


def _save(tenant_id: UUID, cards: Mapping[Key, _Card]) -> None:
    with connection.cursor() as cursor:
        insert_rows(
            cursor,
            "tickets_pollvote",
            {
                "id": "uuid", "tenant_id": "uuid", "poll_id": "uuid", "voter": "text", "options": "jsonb",
                "at": "timestamptz", "external_id": "text",
            },
            [
                (uuid7(), tenant_id, card.id, voter, dumps(options), at, external_id)
                for card in cards.values()
                for voter, (at, external_id, options) in sorted(card.votes.items())
            ],
            """ON CONFLICT (poll_id, voter) DO UPDATE SET options = excluded.options, at = excluded.at,
                   external_id = excluded.external_id
               WHERE (tickets_pollvote.at, tickets_pollvote.external_id) < (excluded.at, excluded.external_id)""",
        )  # fmt: skip


def _show(tenant_id: UUID, card: _Card) -> None:
    """Bring the card of the message up to date: message.updated carries the poll."""
    if card.message_id is None or card.metadata is None:
        return
    shown = card.shown()
    if card.metadata.get("poll") != shown:
        metadata = {**card.metadata, "poll": shown}
        change_message(
            tenant_id=tenant_id, message_id=card.message_id, changes={"metadata": metadata}, told={"poll": shown}
        )
