"""Webhooks for the load: both twins of each message, in the official broker's shape, with ids that never repeat."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from whatsapp.simulator.behaviours import Encoding
from whatsapp.simulator.wire import Message, canonical_payload, encode, envelope, upsert_payload

KEY, SECRET = "bench-webhook-key", "bench-webhook-secret"
PATH = "/api/integrations/whatsapp/webhook"
KNOWN = 100  # contacts of each tenant that have written before
NEW_EVERY = 5  # every fifth message comes from somebody new
TEXT = (
    "Oi! Comprei um tênis no site na semana passada e ele ficou apertado. Consigo trocar por um número maior na loja "
    "do centro, ou preciso mandar de volta pelo correio?"
)
_ID, _PHONE, _NUMBER = "3EB0" + "F" * 18, "5511900000000", "#000000000"


@dataclass(frozen=True, slots=True)
class Written:
    """One message of the load: `number` makes it unique within a `run`, `line` is the broker's name of the session."""

    run: int
    number: int
    line: str
    phone: str

    @property
    def external_id(self) -> str:
        """22 characters, as WhatsApp's."""
        return f"3EB0{self.run:04X}{self.number:014X}"


class Writer:
    """Makes the bodies of messages out of one template per line: a few microseconds each."""

    def __init__(self, size: int = 0) -> None:
        """With `size`, a canonical body has exactly so many bytes."""
        self._now = int(time.time())
        self._size = size
        self._templates: dict[str, tuple[bytes, bytes]] = {}

    def twins(self, message: Written) -> tuple[bytes, bytes]:
        """The canonical event and its raw twin."""
        if message.line not in self._templates:
            self._templates[message.line] = self._template(message.line)
        canonical, raw = (self._fill(template, message) for template in self._templates[message.line])
        return canonical, raw

    def _fill(self, template: bytes, message: Written) -> bytes:
        body = template.replace(_ID.encode(), message.external_id.encode())
        body = body.replace(_NUMBER.encode(), f"#{message.number:09}".encode())
        return body.replace(_PHONE.encode(), message.phone.encode())

    def _template(self, line: str) -> tuple[bytes, bytes]:
        text = f"{_NUMBER} {TEXT}"
        canonical, raw = self._bodies(line, text)
        if self._size:
            canonical, raw = self._bodies(line, text + "." * (self._size - len(canonical)))
        return canonical, raw

    def _bodies(self, line: str, text: str) -> tuple[bytes, bytes]:
        jid = f"{_PHONE}@s.whatsapp.net"
        message = Message(
            id=_ID, chat=jid, sender=jid, from_me=False, timestamp=self._now, content={"conversation": text},
            push_name="Cliente",
        )  # fmt: skip
        upsert = upsert_payload(line, [message], "notify", Encoding())
        return (
            encode(envelope("MESSAGE_INBOUND", line, canonical_payload(message), self._now)),
            encode(envelope("WHATSAPP_MESSAGES_UPSERT", line, upsert, self._now)),
        )


def messages(run: int, lines: list[str], count: int, *, first: int = 0) -> Iterator[Written]:
    """`count` messages, spread over the lines; one of five from a new contact, the others from KNOWN per line."""
    for number in range(first, first + count):
        line = number % len(lines)
        turn = number // len(lines)
        new = turn % NEW_EVERY == 0
        who = KNOWN + run % 90 * 1_000_000 + turn if new else turn % KNOWN
        yield Written(run, number, lines[line], f"551{line % 9 + 1}9{who:08}")


def introductions(lines: list[str]) -> Iterator[Written]:
    """A first message of each contact that is to be known."""
    for line, name in enumerate(lines):
        for who in range(KNOWN):
            yield Written(0, line * KNOWN + who, name, f"551{line % 9 + 1}9{who:08}")


def request(body: bytes, port: int) -> bytes:
    """The whole HTTP request of a webhook, signed."""
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nX-API-Key: {KEY}\r\n"
        f"X-Signature: {signature}\r\nUser-Agent: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def order(run: int, number: int, path: str, key: str, port: int) -> bytes:
    """The whole HTTP request of a message that a caller with a key sends through a door."""
    body = json.dumps({"text": f"#{run:04}{number:09} {TEXT}", "externalId": f"{run}-{number}"}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nX-API-Key: {key}\r\n"
        f"Idempotency-Key: bench-{run}-{number}\r\nUser-Agent: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
