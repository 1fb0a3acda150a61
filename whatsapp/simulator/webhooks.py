"""Delivery of webhooks: headers, signatures, retries and the faults that tests ask for (spec/broker.md section 5)."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from io import BytesIO

import aiohttp
import structlog

from whatsapp.simulator.background import Background
from whatsapp.simulator.behaviours import Behaviours, WebhookFaults
from whatsapp.simulator.events import Event, EventLog
from whatsapp.simulator.wire import Json, encode, envelope, sign

log = structlog.get_logger()

WAITS = (0, 1, 3, 10, 30, 120)  # seconds before each attempt: at 0, 1, 4, 14, 44, 164 s
ATTEMPT_TIMEOUT = aiohttp.ClientTimeout(total=5)
IN_FLIGHT_MAX = 50
SHUFFLE_HOLD_SECONDS = 0.25
LARGE_BODY = 1 << 20
USER_AGENT = "axios/1.12.2"
CANONICAL = ("MESSAGE_INBOUND", "MESSAGE_OUTBOUND")
RAW = "WHATSAPP_MESSAGES_UPSERT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the broker's one webhook goes; without a URL nothing is sent, and everything counts as settled."""

    url: str | None
    api_key: str
    hmac_secret: str


class Webhooks:
    """Posts webhooks until they are settled or given up, a bounded number at a time."""

    def __init__(
        self,
        target: Target,
        *,
        behaviours: Behaviours,
        events: EventLog,
        background: Background,
        rng: random.Random,
    ) -> None:
        self._target = target
        self._behaviours = behaviours
        self._events = events
        self._background = background
        self._rng = rng
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._held: dict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._session: aiohttp.ClientSession | None = None
        self.counters: Counter[str] = Counter()

    async def open(self) -> None:
        """Makes the HTTP client, which needs a running loop."""
        self._session = aiohttp.ClientSession(
            # Shorter than a server keeps an idle connection: a webhook must not meet one that is just being closed.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3),
            headers={"user-agent": USER_AGENT},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Closes the HTTP client."""
        if self._session is not None:
            await self._session.close()

    async def deliver(self, instance_id: str, event: str, payload: Json, entry: Event | None = None) -> None:
        """Delivers one webhook, as many times as `duplicate` says; returns when it is settled or given up.

        `entry` is the event of the catch-up list that carries the same payload.
        """
        faults = self._behaviours.of(instance_id).webhook
        body = encode(envelope(event, instance_id, payload, time.time()))
        dropped = faults.drop_raw if event == RAW else faults.drop_canonical and event in CANONICAL
        if dropped or self._target.url is None:
            self.counters["lost" if dropped else "unconfigured"] += 1
            if entry is not None and entry.delivery is not None:
                entry.delivery.state = "success"
            return
        self.counters["pending"] += 1
        try:
            if faults.delay_ms:
                await asyncio.sleep(faults.delay_ms / 1000)
            if faults.shuffle > 1:
                await self._draw_turn(instance_id, faults.shuffle)
            copies = [self._attempts(instance_id, event, body, faults, entry) for _ in range(faults.duplicate)]
            await (copies[0] if len(copies) == 1 else asyncio.gather(*copies))
        finally:
            self.counters["pending"] -= 1

    def waits_for_turn(self, instance_id: str) -> bool:
        """Whether webhooks of the instance are shuffled, so that none may wait for the one before it."""
        return self._behaviours.of(instance_id).webhook.shuffle > 1

    async def _attempts(
        self, instance_id: str, event: str, body: bytes, faults: WebhookFaults, entry: Event | None
    ) -> None:
        headers = self._headers(body, faults)
        for attempt, wait in enumerate(WAITS, start=1):
            if wait:
                await asyncio.sleep(wait * faults.retry_scale)
            status, error = await self._post(body, headers)
            settled = status is not None and 200 <= status < 300
            last = attempt == len(WAITS)
            state = "success" if settled else "failed" if last else "retry"
            self._record(instance_id, event, body, entry, attempt=attempt, state=state, status=status, error=error)
            if settled:
                return
        log.warning("simulator_webhook_given_up", instance_id=instance_id, webhook=event)

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int | None, str | None]:
        assert self._session is not None  # noqa: S101 (open() ran first)
        assert self._target.url is not None  # noqa: S101 (deliver() has looked)
        # A batch with thumbnails is megabytes: aiohttp wants such a body as a file, to send it in pieces.
        data = body if len(body) <= LARGE_BODY else BytesIO(body)
        async with self._slots:
            self.counters["attempts"] += 1
            try:
                async with self._session.post(
                    self._target.url,
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    timeout=ATTEMPT_TIMEOUT,
                ) as response:
                    await response.read()
                    return response.status, None if response.ok else f"HTTP {response.status}"
            except TimeoutError:
                return None, "timeout of 5000ms exceeded"
            except aiohttp.ClientError as error:
                return None, type(error).__name__

    def _headers(self, body: bytes, faults: WebhookFaults) -> dict[str, str]:
        key = self._target.api_key if faults.api_key is None else faults.api_key
        secret = self._target.hmac_secret if faults.hmac_secret is None else faults.hmac_secret
        headers = {"content-type": "application/json", "x-signature": sign(secret, body)}
        if key:
            headers["x-api-key"] = key
        if faults.bearer:
            headers["authorization"] = f"Bearer {faults.bearer}"
        return headers

    def _record(
        self,
        instance_id: str,
        event: str,
        body: bytes,
        entry: Event | None,
        *,
        attempt: int,
        state: str,
        status: int | None,
        error: str | None,
    ) -> None:
        now = time.time()
        self.counters[{"success": "delivered", "failed": "givenUp", "retry": "retried"}[state]] += 1
        if entry is not None and (delivery := entry.delivery) is not None:
            delivery.state, delivery.attempts = state, attempt  # type: ignore[assignment]
            delivery.last_attempt_at = int(now * 1000)
            delivery.last_status, delivery.last_error = status, error
        about = {
            "event": event,
            "eventId": entry.id if entry else None,
            "attempt": attempt,
            "maxAttempts": len(WAITS),
            "state": state,
            "status": status,
            "error": error,
        }
        self._events.add(instance_id, "system", "WEBHOOK_DELIVERY", about, now=now, body=body)

    async def _draw_turn(self, instance_id: str, size: int) -> None:
        """Holds a webhook until `size` of them wait, or a moment has passed, then lets them go in random order."""
        held = self._held[instance_id]
        turn = asyncio.get_running_loop().create_future()
        held.append(turn)
        if len(held) >= size:
            self._release(instance_id)
        elif len(held) == 1:
            asyncio.get_running_loop().call_later(SHUFFLE_HOLD_SECONDS, self._release, instance_id)
        await turn

    def _release(self, instance_id: str) -> None:
        turns = self._held.pop(instance_id, [])
        self._rng.shuffle(turns)
        for turn in turns:
            if not turn.done():
                turn.set_result(None)
