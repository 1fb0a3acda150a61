"""Which of the events that a broker lists we do not have: by their identity, never by their time."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.db import connection

from leadengine.sql import loads
from tickets.services.effects import find_ranks, rank_of_ack
from whatsapp.adapters import Listed, get_adapter
from whatsapp.schemas import Item, StatusUpdate

# To be stored; had already, or nothing in it; to be looked at in the next round and not acknowledged before.
Verdict = Literal["new", "known", "nothing", "later"]
_MESSAGES = {"message", "vote", "echo"}
_TELLING = {"reaction", "edit", "revoke", "ignored"}
_BEFORE_ALL = UUID(int=0)
_MOST_WAITING = 2000  # events of the inbox that are read for their identities; more is a backlog to be waited for

_WAITING = """
SELECT id, body, received_at FROM whatsapp_webhookevent
WHERE tenant_id = %s AND status = 'PENDING' AND session_id = %s AND id > %s ORDER BY id LIMIT %s
"""
_HERE = """
SELECT external_id FROM tickets_message WHERE tenant_id = %(tenant)s AND session_id = %(session)s
    AND external_id = ANY(%(ids)s)
UNION
SELECT external_id FROM whatsapp_webhookitem WHERE tenant_id = %(tenant)s AND session_id = %(session)s
    AND external_id = ANY(%(ids)s) AND fate IN ('pending', 'parked') AND kind IN ('message', 'vote', 'echo')
UNION
SELECT external_id FROM whatsapp_parkedeffect WHERE tenant_id = %(tenant)s AND session_id = %(session)s
    AND external_id = ANY(%(ids)s) AND kind = 'twin'
"""
_PARKED_ACKS = """
SELECT external_id, data FROM whatsapp_parkedeffect
WHERE tenant_id = %s AND session_id = %s AND external_id = ANY(%s) AND kind = 'ack'
"""


@dataclass(slots=True)
class Known:
    """What is on its way into a session's messages: waiting in the inbox, or stored earlier in this round.

    `crowded`: more waits than is worth reading, so what the broker says was delivered is looked at again later.
    """

    tenant_id: UUID
    session_id: UUID
    messages: set[str] = field(default_factory=set)
    ranks: dict[str, int] = field(default_factory=dict)  # of the highest ack
    crowded: bool = False
    _read: UUID = _BEFORE_ALL

    def read_until(self, event_id: UUID | None) -> None:
        """Our own events, up to this one, need not be read again."""
        self._read = max(self._read, event_id or self._read)

    def read_inbox(self) -> None:
        """Take note of the events that wait in the inbox and were not there before."""
        with connection.cursor() as cursor:
            cursor.execute(_WAITING, [self.tenant_id, self.session_id, self._read, _MOST_WAITING + 1])
            rows = cursor.fetchall()
        self.crowded = len(rows) > _MOST_WAITING
        if self.crowded:
            return
        for event_id, body, received_at in rows:
            self._read = event_id
            for item in _parse_stored(bytes(body), received_at):
                self.add(item)

    def add(self, item: Item) -> None:
        """Take note of an item on its way."""
        if item.kind in _MESSAGES and item.external_id:
            self.messages.add(item.external_id)
        elif isinstance(item, StatusUpdate):
            before = self.ranks.get(item.external_id, 0)
            self.ranks[item.external_id] = max(before, rank_of_ack(item.status))


def sift(*, page: Sequence[Listed], known: Known, now: datetime) -> list[Verdict]:
    """Judge each event of a page, in order. Runs in the tenant's scope; `known` learns what is new."""
    adapter = get_adapter()
    parsed = [[] if one.entry is None else adapter.parse(one.entry, received_at=now) for one in page]
    items = [item for each in parsed for item in each]
    known.read_inbox()
    here = known.messages | _find_here(known, {item.external_id for item in items if item.kind in _MESSAGES})
    ranks = _find_ranks(known, {item.external_id for item in items if isinstance(item, StatusUpdate)})
    verdicts: list[Verdict] = []
    for one, each in zip(page, parsed, strict=True):
        verdict = _judge(one, each, here, ranks, known)
        if verdict == "new":
            for item in each:
                known.add(item)
            here |= known.messages
            ranks = {key: max(rank, known.ranks.get(key, 0)) for key, rank in ranks.items()}
        verdicts.append(verdict)
    return verdicts


def _judge(one: Listed, items: list[Item], here: set[str], ranks: dict[str, int], known: Known) -> Verdict:
    if one.delivery == "on_its_way":
        return "later"
    if not items:
        return "nothing" if one.entry is None else "known"
    delivered = one.delivery == "delivered"
    missing = any(item.kind in _MESSAGES and item.external_id not in here for item in items)
    risen = any(isinstance(item, StatusUpdate) and rank_of_ack(item.status) > ranks[item.external_id] for item in items)
    if missing or risen:
        # What was answered with 2xx is most likely in the backlog.
        return "later" if known.crowded and (delivered or not missing) else "new"
    if delivered or one.delivery == "retrying":
        return "known"  # the rest is in the ledger, or will come by itself
    # Never delivered. A raw copy may tell more of a message that we have; an effect is applied twice without harm.
    telling = any(item.kind in _TELLING or getattr(item, "origin", "") == "raw" for item in items)
    return "new" if telling else "known"


def _find_here(known: Known, ids: Collection[str | None]) -> set[str]:
    if not ids:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(_HERE, {"tenant": known.tenant_id, "session": known.session_id, "ids": list(ids)})
        return {row[0] for row in cursor.fetchall()}


def _find_ranks(known: Known, ids: Collection[str]) -> dict[str, int]:
    """How far each message has come, counting the acks that wait for it or are on their way."""
    if not ids:
        return {}
    keys = [(known.session_id, external_id) for external_id in sorted(ids)]
    stored = {key[1]: rank for key, rank in find_ranks(tenant_id=known.tenant_id, keys=keys).items()}
    with connection.cursor() as cursor:
        cursor.execute(_PARKED_ACKS, [known.tenant_id, known.session_id, sorted(ids)])
        parked = {
            external_id: max(rank_of_ack(ack["status"]) for ack in loads(data)["all"])
            for external_id, data in cursor.fetchall()
        }
    return {id_: max(stored.get(id_, 1), parked.get(id_, 0), known.ranks.get(id_, 0)) for id_ in ids}


def _parse_stored(body: bytes, received_at: datetime) -> list[Item]:
    entry: Any = json.loads(zlib.decompress(body).decode("utf-8-sig"))
    return get_adapter().parse(entry, received_at=received_at)
