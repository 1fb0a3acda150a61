"""The shared Redis client. Redis is a wake-up and a hint: whoever calls it must do without it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

# What a Redis that is away raises. Callers catch exactly this.
UNAVAILABLE = (redis.RedisError, OSError)
CONNECT_SECONDS, ANSWER_SECONDS = 1, 2
SPARED = 2.0  # seconds for which a Redis that did not answer is not asked again
_LOG_EVERY = 60.0

log = structlog.get_logger(__name__)


@cache
def client() -> redis.Redis:
    """A thread-safe client with short time-outs and no retries: a request never waits for a Redis that is away."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=30,
    )


def run_script(script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> Any:
    """Run a Lua script, in one round trip, as `ask` does. Raises: one of UNAVAILABLE."""
    return ask(lambda server: server.register_script(script)(keys=list(keys), args=list(arguments)))


def ask(question: Callable[[redis.Redis], Any]) -> Any:
    """Ask the server something, unless it did not answer a moment ago: of many callers who can do without it only one
    waits for its time-out. Raises: one of UNAVAILABLE.
    """
    server = client()
    away = _away_of(server)
    if not away.admits():
        raise redis.ConnectionError("Redis did not answer a moment ago.")
    try:
        answer = question(server)
    except UNAVAILABLE as error:
        away.note(error)
        raise
    away.forget()
    return answer


class _Away:
    """Until when this process takes a server for away, and when it last said so."""

    def __init__(self) -> None:
        self.until: float | None = None
        self.told = float("-inf")
        self.lock = threading.Lock()

    def admits(self) -> bool:
        """Whether to ask it. Once its time is over one caller is let in; for the others it lasts until that one knows,
        or could know."""
        with self.lock:
            if self.until is None:
                return True
            now = time.monotonic()
            if now < self.until:
                return False
            self.until = now + SPARED + CONNECT_SECONDS + ANSWER_SECONDS
            return True

    def note(self, error: BaseException) -> None:
        with self.lock:
            now = time.monotonic()
            self.until = now + SPARED
            tell = now - self.told >= _LOG_EVERY
            if tell:
                self.told = now
        if tell:
            log.warning("redis_away", error=type(error).__name__)

    def forget(self) -> None:
        if self.until is not None:
            with self.lock:
                self.until = None


@cache
def _away_of(_server: redis.Redis) -> _Away:
    return _Away()
