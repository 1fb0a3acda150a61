"""What the send routes do, check by check (spec/broker.md section 4)."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass

import aiohttp
from yarl import URL

from whatsapp.simulator.background import Background
from whatsapp.simulator.behaviours import Behaviour, Behaviours
from whatsapp.simulator.chats import Chats
from whatsapp.simulator.ids import Ids
from whatsapp.simulator.instances import BrokerError, Instance, Poll
from whatsapp.simulator.media import MAX_BYTES, MIMETYPES, Cdn, MediaFile
from whatsapp.simulator.wire import PHONE_SERVER, Json, Message

FETCH_TIMEOUT = aiohttp.ClientTimeout(total=15)
LATE_SECONDS = 1
CHARS_FULL_PACE = 40
BRACES = re.compile(r"\{([^{}]*)\}")
RECIPIENT_INVALID = "to inválido. Use E.164: 55DDDNUMERO"


class ConnectionDropped(Exception):
    """The behaviour `dropResponse`: the message left, and the caller gets no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message to send: its content, what it was made of (for `/_sim/:id/sent`), and whether it is echoed."""

    type: str
    content: Json
    text: str
    about: Json
    echoed: bool = True
    poll_secret: bytes | None = None


class Sender:
    """Sends for the API: admits, checks, types like a person, hands to WhatsApp, waits for the webhook."""

    def __init__(
        self, *, chats: Chats, behaviours: Behaviours, background: Background, ids: Ids, cdn: Cdn, human: bool
    ) -> None:
        self._chats = chats
        self._behaviours = behaviours
        self._background = background
        self._ids = ids
        self._cdn = cdn
        self._human = human
        self._rng = ids.rng("braces")
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Makes the client that fetches media."""
        self._session = aiohttp.ClientSession(timeout=FETCH_TIMEOUT)

    async def close(self) -> None:
        """Closes the client."""
        if self._session is not None:
            await self._session.close()

    def admit(self, instance: Instance) -> None:
        """Takes a slot of the instance; a request that is refused after this has used it all the same.

        Raises:
            BrokerError: 503 `instance_offline`, 429 `rate limit exceeded`.
        """
        self.require_open(instance)
        if not instance.take_slot(self._behaviours.of(instance.id).rate, time.monotonic()):
            raise BrokerError(429, "rate limit exceeded")

    def require_open(self, instance: Instance) -> None:
        """Checks the connection.

        Raises:
            BrokerError: 503 `instance_offline` with `state` and `updatedAt`.
        """
        connection = instance.connection
        if connection.state != "open":
            raise BrokerError(503, "instance_offline", **connection.error_fields())
        if self._behaviours.of(instance.id).offline:
            raise BrokerError(503, "instance_offline", **connection.error_fields("close"))

    async def send(self, instance: Instance, to: object, outgoing: Outgoing) -> str:
        """Sends one message that was admitted; gives its id once MESSAGE_OUTBOUND is settled or given up.

        Raises:
            BrokerError: 400 about `to`, 404 `whatsapp_not_found`, 429 `risk_paused`, 503 `socket_unavailable`,
                500 `send timeout` or `internal_server_error` (the message leaves all the same) or `send_failed`.
            ConnectionDropped: the message left, and the answer is to be withheld.
        """
        behaviour = self._behaviours.of(instance.id)
        chat = self.recipient(instance, to)
        self._check(instance, chat, behaviour)
        await self._type(instance, chat, outgoing, behaviour)
        message, confirmation = self._leave(instance, chat, outgoing, echoed=outgoing.echoed)
        if confirmation is not None:
            await asyncio.shield(confirmation)
        if behaviour.drop_response:
            raise ConnectionDropped
        if behaviour.fail_after_send:
            raise BrokerError(500, "internal_server_error", message="Connection Closed")
        return message.id

    def recipient(self, instance: Instance, to: object) -> str:
        """Reads `to`: 55 and 10 or 11 digits as they are, any other 10 or 11 digits get 55 in front.

        Raises:
            BrokerError: 400 for other lengths, LIDs and groups.
        """
        text = str(to)
        digits = re.sub(r"[^0-9]", "", text)
        if "@" in text and not text.endswith(PHONE_SERVER):
            raise BrokerError(400, RECIPIENT_INVALID)
        if len(digits) in (10, 11):
            digits = "55" + digits
        if len(digits) not in (12, 13) or not digits.startswith("55"):
            raise BrokerError(400, RECIPIENT_INVALID)
        return instance.resolve(digits + PHONE_SERVER)

    def expand(self, text: str) -> str:
        """Alters braces as the real broker does: `{a|b}` is one of both, `{x}` is `x`; the demo leaves them."""
        return BRACES.sub(lambda found: self._rng.choice(found[1].split("|")), text) if self._human else text

    async def load(self, kind: object, source: object, caption: object) -> tuple[MediaFile, str]:
        """Reads the media of a request; gives the file and where it came from, `url` or `base64`.

        Raises:
            BrokerError: 400 `type_invalid`, `media_invalid` and the rest of its family.
        """
        if not isinstance(kind, str) or kind not in ("image", "video", "audio", "document"):
            raise BrokerError(400, "type_invalid")
        if not isinstance(source, dict):
            raise BrokerError(400, "media_invalid")
        url, base64 = source.get("url"), source.get("base64")
        if not url and not base64:
            raise BrokerError(400, "media_source_missing")
        data, found_type = await self._fetch(url) if url else (_decoded(base64), None)
        if len(data) > MAX_BYTES:
            raise BrokerError(400, "media_too_large")
        file = MediaFile(
            kind=kind,
            data=data,
            mimetype=source.get("mimetype") or found_type or MIMETYPES[kind],
            file_name=source.get("fileName") or (URL(str(url)).name or None if url else None),
            caption=self.expand(caption) if isinstance(caption, str) and caption else None,
            voice=bool(source.get("ptt")),
            gif=bool(source.get("gifPlayback")),
        )
        return file, "url" if url else "base64"

    def media(self, instance: Instance, file: MediaFile) -> Outgoing:
        """Makes the outgoing message of a file, which is stored encrypted as any other."""
        content = self._cdn.store(instance.id, "api", file, time.time())
        about = {"mimetype": file.mimetype, "fileName": file.file_name, "size": len(file.data)}
        return Outgoing(type=file.kind, content=content, text=file.caption or "", about={"media": about})

    def poll(self, instance: Instance, question: str, options: list[str], selectable: int) -> Outgoing:
        """Makes the outgoing message of a poll; it has no MESSAGE_OUTBOUND."""
        instance.counters["polls"] += 1
        secret = self._ids.secret(32, "poll", instance.id, str(instance.counters["polls"]))
        created = {
            "name": question,
            "options": [{"optionName": option} for option in options],
            "selectableOptionsCount": selectable,
        }
        return Outgoing(
            type="poll",
            content={"pollCreationMessageV3": created},
            text=question,
            about={"question": question, "options": options},
            echoed=False,
            poll_secret=secret,
        )

    def _check(self, instance: Instance, chat: str, behaviour: Behaviour) -> None:
        if not behaviour.exists:
            raise BrokerError(404, "whatsapp_not_found")
        known = chat in instance.contacts or _digits(chat) in map(_digits, instance.risk.safe_contacts)
        if not known and not instance.risk.allows_stranger(instance.risk.limit(behaviour)):
            raise BrokerError(429, "risk_paused")
        if behaviour.socket_unavailable:
            raise BrokerError(503, "socket_unavailable", **instance.connection.error_fields())
        if behaviour.send_error is not None:
            instance.counters["failed"] += 1
            raise BrokerError(500, "send_failed", detail=behaviour.send_error)
        instance.risk.known += known
        instance.risk.unknown += not known

    async def _type(self, instance: Instance, chat: str, outgoing: Outgoing, behaviour: Behaviour) -> None:
        """Waits as long as a person types; past the limit it answers 500, and the message leaves later."""
        if behaviour.send_delay_ms:
            await asyncio.sleep(behaviour.send_delay_ms / 1000)
        typing = typing_seconds(len(outgoing.text), behaviour.humanize_ms_per_char)
        limit = behaviour.send_timeout_ms / 1000
        late = LATE_SECONDS if behaviour.send_timeout else typing - limit
        if late <= 0:
            await asyncio.sleep(typing)
            return
        await asyncio.sleep(limit)
        self._background.spawn(self._leave_late(instance, chat, outgoing, late))
        raise BrokerError(500, "send timeout")

    async def _leave_late(self, instance: Instance, chat: str, outgoing: Outgoing, delay: float) -> None:
        await asyncio.sleep(delay)
        self._leave(instance, chat, outgoing, echoed=False)

    def _leave(
        self, instance: Instance, chat: str, outgoing: Outgoing, *, echoed: bool
    ) -> tuple[Message, asyncio.Task[None] | None]:
        message = self._chats.compose(instance, outgoing.content, contact=chat, from_me=True, by_api=True)
        if outgoing.poll_secret is not None:
            instance.polls[message.id] = Poll(message, outgoing.poll_secret)
        instance.counters["type:" + outgoing.type] += 1
        instance.sent.append(
            {
                "id": message.id,
                "to": _digits(chat),
                "chatId": chat,
                "type": outgoing.type,
                "text": outgoing.text,
                **outgoing.about,
                "timestamp": message.timestamp,
            }
        )
        return message, self._chats.leave(instance, message, canonical=echoed)

    async def _fetch(self, url: object) -> tuple[bytes, str | None]:
        """Fetches media over HTTP, from loopback only: the simulator knows no other network."""
        assert self._session is not None  # noqa: S101 (open() ran before any request)
        if not isinstance(url, str) or not is_loopback(url):
            raise BrokerError(400, "media_url_invalid")
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise BrokerError(400, "media_url_invalid", detail=f"HTTP {response.status}")
                data = bytearray()
                async for chunk in response.content.iter_chunked(65_536):
                    data += chunk
                    if len(data) > MAX_BYTES:
                        raise BrokerError(400, "media_too_large")
                return bytes(data), response.content_type
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BrokerError(400, "media_url_invalid", detail=type(error).__name__) from error


def text_message(type_: str, text: str) -> Outgoing:
    """Makes the outgoing message of a text; buttons and lists are such texts, too."""
    return Outgoing(type=type_, content={"extendedTextMessage": {"text": text}}, text=text, about={})


def typing_seconds(characters: int, ms_per_char: float) -> float:
    """Gives how long the real broker types: at 200 ms, 5 characters 5 s, 40 12 s, 100 21 s, never above 28 s."""
    paced = min(characters, CHARS_FULL_PACE) + 0.75 * max(0, characters - CHARS_FULL_PACE)
    return min(20 + paced, 140) * ms_per_char / 1000


def is_loopback(url: str) -> bool:
    """Whether an http URL names this machine by a loopback address or as localhost."""
    try:
        parsed = URL(url)
        host = parsed.host or ""
    except ValueError:
        return False
    return parsed.scheme in ("http", "https") and is_loopback_host(host)


def is_loopback_host(host: str) -> bool:
    """Whether a host is a loopback address or localhost."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _decoded(base64: object) -> bytes:
    if not isinstance(base64, str):
        raise BrokerError(400, "media_base64_invalid")
    try:
        data = b64decode(base64.partition("base64,")[2] or base64, validate=True)
    except (Base64Error, ValueError) as error:
        raise BrokerError(400, "media_base64_invalid") from error
    if not data:
        raise BrokerError(400, "media_base64_invalid")
    return data


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)
