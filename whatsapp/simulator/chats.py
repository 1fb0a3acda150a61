"""What happens in the chats of an instance: messages in and out, acks, votes, and the webhooks that tell of them."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable, Sequence

from whatsapp.simulator.background import Background
from whatsapp.simulator.behaviours import Behaviours
from whatsapp.simulator.events import Delivery, Direction, Event, EventLog
from whatsapp.simulator.ids import Ids
from whatsapp.simulator.instances import Instance, Poll, Tracked
from whatsapp.simulator.media import encrypt_vote
from whatsapp.simulator.webhooks import RAW, Webhooks
from whatsapp.simulator.wire import (
    Json,
    Message,
    canonical_payload,
    phone_jid,
    poll_choice_payload,
    text_of,
    update_payload,
    upsert_payload,
)

DEFAULT_ACKS = (2, 3)


class Chats:
    """Moves messages between an instance and WhatsApp, and posts what the broker would post."""

    def __init__(
        self,
        *,
        ids: Ids,
        behaviours: Behaviours,
        events: EventLog,
        webhooks: Webhooks,
        background: Background,
    ) -> None:
        self._ids = ids
        self._behaviours = behaviours
        self._events = events
        self._webhooks = webhooks
        self._background = background
        self.reader: Callable[[Instance, Message], bool] = lambda instance, message: False  # noqa: ARG005
        """Is told of each message that left; true when a living customer got it, who then sends the acks."""

    def compose(
        self,
        instance: Instance,
        content: Json,
        *,
        contact: str,
        group: str | None = None,
        push_name: str | None = None,
        from_me: bool = False,
        by_api: bool = False,
        id_: str | None = None,
        timestamp: float | None = None,
        lid: str | None = None,
        stub: str | None = None,
    ) -> Message:
        """Makes a message of a chat: with a contact, or in a group (or `status@broadcast`) by a contact."""
        mode = self._behaviours.of(instance.id).lid
        chat = group or contact
        return Message(
            id=id_ or (self._ids.sent if by_api else self._ids.received)(instance.id, chat),
            chat=chat,
            sender=instance.connection.own_jid if from_me else contact,
            from_me=from_me,
            timestamp=int(time.time() if timestamp is None else timestamp),
            content=content,
            push_name=push_name,
            lid=lid or (self._ids.lid(contact) if mode else None),
            lid_only=mode == "only",
            stub=stub,
            by_api=by_api,
        )

    def receive(self, instance: Instance, messages: Sequence[Message], upsert_type: str = "notify") -> None:
        """Takes a batch from WhatsApp: a MESSAGE_INBOUND each, one at a time, then one upsert that holds them all."""
        for message in messages:
            instance.track(message)
            if not message.from_me:
                instance.counters["received"] += 1
                instance.last["receivedAt"] = int(time.time() * 1000)
                instance.contacts.add(message.sender)
                instance.risk.replies += message.sender in instance.written_to
        entries = [self._entry(instance, message) for message in messages if message.canonical]
        self._background.spawn(self._tell(instance, entries, messages, upsert_type))

    def leave(self, instance: Instance, message: Message, *, canonical: bool) -> asyncio.Task[None] | None:
        """Hands a message of the API to WhatsApp; gives the delivery of its MESSAGE_OUTBOUND, if there is one."""
        tracked = instance.track(message, status=1)
        instance.written_to.add(message.chat)
        instance.counters["sent"] += 1
        instance.acks[1] += 1
        instance.timeline[message.timestamp // 60 * 60] += 1
        instance.last["sentAt"] = message.timestamp * 1000
        confirmation = None
        if canonical:
            entry = self._entry(instance, message)
            work = self._webhooks.deliver(instance.id, "MESSAGE_OUTBOUND", entry.payload, entry)
            confirmation = self._background.spawn(work)
        self._background.spawn(self._upsert(instance, [message], "append"))
        taken = self.reader(instance, message)
        auto = self._behaviours.of(instance.id).auto_ack
        if auto is not None or not taken:
            self._background.spawn(self._auto_ack(instance, tracked, DEFAULT_ACKS if auto is None else auto))
        return confirmation

    def ack(self, instance: Instance, message: Message, status: int, source: str = "messages.update") -> None:
        """Tells the status of a message; the receipts of a group make no webhook, only an event."""
        tracked = instance.messages.get(message.id)
        if tracked is not None and message.by_api:
            instance.acks[tracked.status] -= 1
            instance.acks[status] += 1
            tracked.status = status
        now = time.time()
        about = {"messageId": message.id, "chatId": message.chat, "status": status, "source": source}
        self._events.add(instance.id, "system", "MESSAGE_STATUS", {**about, "timestamp": int(now * 1000)}, now=now)
        if message.direct and source != "receipt":
            payload = update_payload(instance.id, message, status)
            self._background.spawn(self._webhooks.deliver(instance.id, "WHATSAPP_MESSAGES_UPDATE", payload))

    def vote(self, instance: Instance, poll: Poll, voter: str, options: list[str], push_name: str | None) -> Message:
        """Votes: POLL_CHOICE, a MESSAGE_INBOUND and an upsert with the encrypted vote, all with one message id."""
        contact = phone_jid(voter)
        group = None if poll.message.direct else poll.message.chat
        poll.votes[contact] = options
        message = self.compose(instance, {}, contact=contact, group=group, push_name=push_name)
        iv = self._ids.secret(12, "vote", message.id)
        encrypted = encrypt_vote(
            poll.secret,
            iv,
            poll_id=poll.message.id,
            author=poll.message.sender,
            voter=contact,
            options=options,
        )
        message.content["pollUpdateMessage"] = {
            "pollCreationMessageKey": {"remoteJid": poll.message.chat, "fromMe": True, "id": poll.message.id},
            "vote": {"encPayload": b64encode(encrypted).decode(), "encIv": b64encode(iv).decode()},
            "senderTimestampMs": str(message.timestamp * 1000),
        }
        payload = poll_choice_payload(message, poll.message, poll.votes)
        entry = self._add_entry(instance, "inbound", "POLL_CHOICE", payload)
        self._background.spawn(self._webhooks.deliver(instance.id, "POLL_CHOICE", payload, entry))
        instance.track(message)
        choice = {name: value for name, value in payload.items() if name != "contact"}
        twin = self._add_entry(instance, "inbound", "MESSAGE_INBOUND", canonical_payload(message, choice))
        self._background.spawn(self._tell(instance, [twin], [message], "notify"))
        return message

    async def _tell(
        self,
        instance: Instance,
        entries: list[Event],
        messages: Sequence[Message],
        upsert_type: str,
    ) -> None:
        shuffled = self._webhooks.waits_for_turn(instance.id)
        for entry in entries:
            work = self._webhooks.deliver(instance.id, "MESSAGE_INBOUND", entry.payload, entry)
            if shuffled:
                self._background.spawn(work)
            else:
                await work
        await self._upsert(instance, messages, upsert_type)

    async def _upsert(self, instance: Instance, messages: Sequence[Message], type_: str) -> None:
        payload = upsert_payload(instance.id, messages, type_, self._behaviours.of(instance.id).encoding)
        await self._webhooks.deliver(instance.id, RAW, payload)

    async def _auto_ack(self, instance: Instance, tracked: Tracked, statuses: Sequence[int]) -> None:
        for status in statuses:
            await asyncio.sleep(self._behaviours.of(instance.id).ack_delay_ms / 1000)
            self.ack(instance, tracked.message, status)

    def _entry(self, instance: Instance, message: Message) -> Event:
        if message.from_me:
            return self._add_entry(instance, "outbound", "MESSAGE_OUTBOUND", canonical_payload(message))
        return self._add_entry(instance, "inbound", "MESSAGE_INBOUND", canonical_payload(message))

    def _add_entry(self, instance: Instance, direction: Direction, type_: str, payload: Json) -> Event:
        return self._events.add(instance.id, direction, type_, payload, now=time.time(), delivery=Delivery())


def quote(content: Json, *, id_: str, participant: str, text: str | None) -> Json:
    """Makes the content an answer to a message; a plain text becomes an extended one, as on the wire."""
    context: Json = {"stanzaId": id_, "participant": participant}
    if text is not None:
        context["quotedMessage"] = {"conversation": text}
    if "conversation" in content:
        return {"extendedTextMessage": {"text": content["conversation"], "contextInfo": context}}
    return {kind: {**body, "contextInfo": context} for kind, body in content.items()}


def quote_known(instance: Instance, content: Json, id_: str) -> Json:
    """Quotes a message by its id; what the instance does not know is quoted without its text."""
    tracked = instance.messages.get(id_)
    if tracked is None:
        return quote(content, id_=id_, participant=instance.connection.own_jid, text=None)
    message = tracked.message
    return quote(content, id_=id_, participant=message.sender, text=text_of(message.content))
