"""People who write to customers through all doors, and remember what was accepted."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from leadengine.operations.chaos.product import Failed, RunningProduct

PATIENCE = 120.0  # seconds that somebody goes on asking for one message
REPEATED = 0.15  # share of the messages that are sent to the door again, with the key of the first time
POLLS = 0.05  # share of the messages that are polls, of which the broker tells less
LONGEST_WAIT = 5.0  # seconds that a caller waits who is told to come back later


@dataclass(frozen=True, slots=True)
class Promise:
    """A message that a door accepted; `number` counts within its conversation, and `text` is like no other."""

    message_id: str
    conversation: int
    number: int
    text: str


@dataclass(slots=True)
class Conversation:
    """A customer on a line. Whoever wrote to us first has a ticket; a stranger gets one with our first message."""

    index: int
    line: str
    phone: str
    ticket_id: str | None = None
    contact_id: str | None = None
    promises: list[Promise] = field(default_factory=list)


class Writer(threading.Thread):
    """Writes so many messages into conversations of its own, one after the other; repeats what is not answered."""

    def __init__(
        self, product: RunningProduct, key: str, conversations: Sequence[Conversation], messages: int, *, seed: int,
        mark: str, pause: float,
    ) -> None:  # fmt: skip
        super().__init__(name=f"writer-{conversations[0].index}", daemon=True)
        self.product = product
        self.conversations = conversations
        self.accepted = self.replayed = self.unanswered = self.told_to_wait = 0
        self.trouble: str | None = None
        self.ended = threading.Event()
        self._key, self._mark, self._pause, self._messages = key, mark, pause, messages
        self._random = random.Random(seed)  # noqa: S311 - chooses whom to write to

    def run(self) -> None:
        """Until all is accepted, `ended` is set, or a door says what it should not."""
        try:
            for conversation in self._turns():
                if self.ended.is_set():
                    return
                self._write(conversation)
                self.ended.wait(self._random.uniform(0, 2 * self._pause))
        except Failed as error:
            self.trouble = str(error)

    def _turns(self) -> Iterator[Conversation]:
        """Every conversation as often as every other, in an order of its own."""
        rounds = (self._random.sample(self.conversations, len(self.conversations)) for _ in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(rounds), self._messages)

    def _write(self, conversation: Conversation) -> None:
        number = len(conversation.promises)
        text = f"{self._mark} {conversation.index:03}.{number:04}"
        body: dict[str, Any] = {"whenUnavailable": "queue"}
        if self._random.random() < POLLS:
            body["payload"] = {"type": "poll", "poll": {"question": text, "options": ["sim", "não"]}}
        else:
            body["payload"] = {"text": text}
        path, more = self._door(conversation)
        key = f"{text} {self._random.getrandbits(32):08x}"
        answer = self._post(path, body | more, key)
        conversation.ticket_id = str(answer["ticketId"])
        conversation.promises.append(Promise(str(answer["messageId"]), conversation.index, number, text))
        self.accepted += 1
        while self._random.random() < REPEATED:
            again = self._post(path, body | more, key)
            if again["messageId"] != answer["messageId"]:
                raise Failed(f"{text}: the same key was accepted as {answer['messageId']} and {again['messageId']}")

    def _door(self, conversation: Conversation) -> tuple[str, dict[str, Any]]:
        """One of the doors that lead to a conversation, and what it wants beside the payload."""
        doors: list[tuple[str, dict[str, Any]]] = [
            (f"/api/integrations/whatsapp/instances/{conversation.line}/messages", {"to": f"+{conversation.phone}"})
        ]
        if conversation.ticket_id is not None:
            doors.append((f"/api/tickets/{conversation.ticket_id}/messages", {}))
        if conversation.contact_id is not None:
            doors.append((f"/api/contacts/{conversation.contact_id}/messages", {"instanceId": conversation.line}))
        return self._random.choice(doors)

    def _post(self, path: str, body: dict[str, Any], key: str) -> Any:
        """Call a door, with the same key each time, until it accepts; its data. Raises: Failed."""
        end = time.monotonic() + PATIENCE
        by_header = self._random.random() < 0.5
        headers = {"X-API-Key": self._key} | ({"Idempotency-Key": key} if by_header else {})
        whole = body if by_header else body | {"idempotencyKey": key}
        while time.monotonic() < end:
            try:
                answer = requests.post(self.product.url + path, json=whole, headers=headers, timeout=5)
            except requests.RequestException:
                answer = None
            if answer is not None and answer.status_code == 202:
                self.replayed += answer.headers.get("Idempotent-Replayed") == "true"
                return answer.json()["data"]
            wait = 0.2
            if answer is not None and answer.status_code == 429:
                self.told_to_wait += 1
                wait = min(LONGEST_WAIT, float(answer.headers.get("Retry-After") or 1))
            elif answer is not None and answer.status_code < 500:
                raise Failed(f"{path} was refused with {answer.status_code}: {answer.text[:200]}")
            else:
                self.unanswered += 1
            if self.ended.wait(wait):
                break
        raise Failed(f"{path} did not accept a message within {PATIENCE:.0f} s.")
