"""Posting recorded webhooks over HTTP, in file order, at the pace at which they came."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp

TIMEOUT = 60.0  # seconds for one answer
_SIGNATURES = {"x-signature", "x-signature-sha256", "x-webhook-signature", "x-webhook-signature-sha256"}
_KEYS = {"x-api-key", "authorization", "x-authorization"}
_OF_THE_CONNECTION = {"host", "content-length", "connection", "transfer-encoding", "accept-encoding", "expect"}


class BadLine(ValueError):
    """A line that is no recorded webhook; the text names it and says what is wrong."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One line of a recording. `at`: seconds since 1970, None when neither line nor body says when it came."""

    number: int
    headers: dict[str, str]
    body: bytes
    at: float | None


@dataclass(slots=True)
class Played:
    """What was answered. `statuses` counts HTTP statuses; 0 is no answer at all. `ack_ms` are in milliseconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    ack_ms: list[float] = field(default_factory=list)
    last_line: int = 0

    @property
    def all_taken(self) -> bool:
        return all(200 <= status < 300 for status in self.statuses)

    def quantile(self, share: float) -> float:
        """The ack time that this share of the answers kept, in milliseconds; 0 without answers."""
        ordered = sorted(self.ack_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to post. `key` replaces the recorded one, `secret` signs anew; None leaves what was recorded."""

    url: str
    key: str | None = None
    secret: str | None = None

    def headers_of(self, one: Recorded) -> dict[str, str]:
        """The recorded headers with the key and signature of this target."""
        dropped = _OF_THE_CONNECTION | (_KEYS if self.key else set()) | (_SIGNATURES if self.secret else set())
        headers = {name: value for name, value in one.headers.items() if name.lower() not in dropped}
        if self.key:
            headers["x-api-key"] = self.key
        if self.secret:
            headers["x-signature"] = hmac.new(self.secret.encode(), one.body, hashlib.sha256).hexdigest()
        return headers


def read_recording(lines: Iterable[str], *, first: int = 1) -> Iterator[Recorded]:
    """Read `{"headers", "body"}` lines from line `first` on; a body may also be JSON itself. Raises: BadLine."""
    for number, line in enumerate(lines, 1):
        if number < first or not line.strip():
            continue
        try:
            row = json.loads(line)
            body = row["body"]
            headers = {str(name): str(value) for name, value in (row.get("headers") or {}).items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadLine(f'line {number} is not {{"headers", "body"}}: {error}') from error
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        yield Recorded(number, headers, text.encode("utf-8", "surrogatepass"), _moment_of(row, text))


async def play(
    recording: Iterable[Recorded],
    *,
    target: Target,
    speed: float,
    concurrency: int,
    played: Played,
    step: Callable[[], None] = lambda: None,
) -> None:
    """Post a recording: requests begin in file order, `concurrency` at once, the recorded gaps divided by `speed`.

    Speed 0 leaves no gaps. `played` is filled as answers come; nothing is posted twice. Raises: BadLine.
    """
    waiting: asyncio.Queue[Recorded | None] = asyncio.Queue(maxsize=concurrency)
    limits = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session:

        async def post() -> None:
            while (one := await waiting.get()) is not None:
                began = time.perf_counter()
                try:
                    async with session.post(target.url, data=one.body, headers=target.headers_of(one)) as answer:
                        await answer.read()
                        status = answer.status
                except (aiohttp.ClientError, TimeoutError, OSError):
                    status = 0
                played.statuses[status] += 1
                played.ack_ms.append((time.perf_counter() - began) * 1000)
                played.last_line = max(played.last_line, one.number)
                step()

        posting = [asyncio.create_task(post()) for _ in range(concurrency)]
        before: float | None = None
        try:
            for one in recording:
                if speed and before is not None and one.at is not None:
                    await asyncio.sleep(max(0.0, one.at - before) / speed)
                before = one.at if one.at is not None else before
                await waiting.put(one)
        finally:
            for _ in posting:
                await waiting.put(None)
            await asyncio.gather(*posting)


def _moment_of(row: dict[str, Any], body: str) -> float | None:
    """When it came: `receivedAt`, `at` or `timestamp` of the line, else the envelope's timestamp."""
    for name in ("receivedAt", "at", "timestamp"):
        if (at := _seconds(row.get(name))) is not None:
            return at
    try:
        event = json.loads(body)
    except ValueError:
        return None
    event = event[0] if isinstance(event, list) and event else event
    return _seconds(event.get("timestamp")) if isinstance(event, dict) else None


def _seconds(value: Any) -> float | None:
    if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number / 1000 if number > 1e11 else number
