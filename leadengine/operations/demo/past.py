"""A small past, so that the first glance at the inbox is not an empty one.

It takes the way of every message: webhook bodies as the broker writes them, the raw inbox, the pipeline; people take
and end their tickets by the same services as in the inbox. Only the clock is set back.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db.models import F

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.ids import uuid7
from tickets.models import Ticket
from tickets.services.lifecycle import close_ticket, take_ticket
from whatsapp.models import WhatsAppSession
from whatsapp.normalizers import normalize
from whatsapp.services.batch import Claim, Work, process_batch
from whatsapp.services.intake import Collector, Entry, parse_body, split_entries
from whatsapp.simulator.wire import Message, canonical_payload, encode, envelope, phone_jid, update_payload

SOURCE = Path(__file__).with_name("past.toml")
READ = 4  # an ack's number


def tell_past(
    *, people: Sequence[str], customers: Sequence[dict[str, str]], lines: Sequence[str], now: datetime
) -> None:
    """Let the conversations of past.toml have happened before `now`, between the simulator's customers and its lines.

    `people` are the e-mails of the agents who answered.
    """
    agents = [User.objects.select_related("tenant").get(email=email) for email in people]
    conversations: list[dict[str, Any]] = tomllib.loads(SOURCE.read_text(encoding="utf-8"))["conversations"]
    for talk in conversations:
        index = talk["customer"]
        # The simulator gives its customers the lines in turn: the same one here, or there would be two tickets.
        _tell(talk, customers[index], lines[index % len(lines)], agents, now - timedelta(minutes=talk["began"]))
    with tenant_scope(agents[0].tenant_id or ""):
        Ticket.objects.update(created_at=F("first_inbound_at"))


def _tell(talk: dict[str, Any], customer: dict[str, str], line: str, agents: Sequence[User], began: datetime) -> None:
    written = [(began + timedelta(minutes=minutes), who, text) for minutes, who, text in talk["lines"]]
    first = [each for each in written if each[0] == began]
    with service_scope("demo past"):
        session = WhatsAppSession.objects.get(connection_id=line)
    ticket_id = _receive(session, customer, first, began)
    if "agent" in talk:
        agent = agents[talk["agent"]]
        answered = next(at for at, who, _ in written if who == "a")
        with user_scope(agent):
            take_ticket(actor=agent, ticket_id=ticket_id, now=answered - timedelta(seconds=20))
    _receive(session, customer, written[len(first) :], written[-1][0])
    if "closed" in talk:
        with user_scope(agent):
            ended = written[-1][0] + timedelta(minutes=2)
            close_ticket(
                actor=agent, ticket_id=ticket_id, reason_code=talk["closed"], note=talk.get("note", ""), now=ended
            )


def _receive(
    session: WhatsAppSession, customer: dict[str, str], written: Sequence[tuple[datetime, str, str]], now: datetime
) -> UUID:
    """Store and process what was written up to `now`; returns the ticket."""
    entries: list[tuple[Entry, Any]] = []
    for number, (at, who, text) in enumerate(written):
        message = _message(customer, at + timedelta(seconds=7 * number), who, text)
        name = "MESSAGE_OUTBOUND" if message.from_me else "MESSAGE_INBOUND"
        entries += _entries(session, name, canonical_payload(message), message.timestamp)
        if message.from_me:
            acked = update_payload(str(session.broker_instance_id), message, READ)
            entries += _entries(session, "WHATSAPP_MESSAGES_UPDATE", acked, message.timestamp + 60)
    asyncio.run(_store([entry for entry, _ in entries]))
    claims = [_claim(session, entry, body) for entry, body in entries]
    with tenant_scope(session.tenant_id):
        process_batch(tenant_id=session.tenant_id, claims=claims, now=now)
        found: UUID = Ticket.objects.filter(messages__external_id=message.id).latest("number").pk
        return found


def _message(customer: dict[str, str], at: datetime, who: str, text: str) -> Message:
    jid = phone_jid(customer["phone"])
    return Message(
        id=f"3EB0{uuid7().hex[-18:].upper()}", chat=jid, sender=jid, from_me=who == "a",
        timestamp=int(at.timestamp()), content={"conversation": text}, push_name=customer["name"],
    )  # fmt: skip


def _entries(session: WhatsAppSession, event: str, payload: Any, at: int) -> list[tuple[Entry, Any]]:
    """The rows that the door would have made of a webhook, each with its body."""
    body = envelope(event, str(session.broker_instance_id), payload, at)
    raw = encode(body)
    received_at = datetime.fromtimestamp(at + 1, UTC)
    parts = split_entries(raw=raw, parsed=parse_body(raw), request_id="demo", received_at=received_at)
    return [(part, body) for part in parts]


async def _store(entries: Sequence[Entry]) -> None:
    collector = Collector()
    await collector.store(entries)
    await collector.close()


def _claim(session: WhatsAppSession, entry: Entry, body: Any) -> Claim:
    items = normalize(body, received_at=entry.received_at, raw_fallback=True, default_instance_id=None)
    works = [Work(entry.id, session.pk, entry.received_at, index, item) for index, item in enumerate(items)]
    return Claim(entry.id, entry.id, works, 0, is_event=True)
