"""The shared Redis client. Redis is a wake-up and a hint: whoever calls it must do without it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

# What a Redis that is away raises. Callers catch exactly this.
UNAVAILABLE = (redis.RedisError, OSError)
SPARED = 2.0  # seconds for which a Redis that did not answer is not asked again
_LOG_EVERY = 60.0

log = structlog.get_logger(__name__)


@cache
def client() -> redis.Redis:
    """A thread-safe client with short time-outs and no retries: a request never waits for a Redis that is away."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_connect_timeout=1,
        socket_timeout=2,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=30,
    )


def run_script(script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> Any:
    """Run a Lua script, in one round trip, unless Redis did not answer a moment ago: of many callers who can do without
    it only one waits for its time-out. Raises: one of UNAVAILABLE.
    """
    server = client()
    away = _away_of(server)
    if time.monotonic() < away.until:
        raise redis.ConnectionError("Redis did not answer a moment ago.")
    try:
        return server.register_script(script)(keys=list(keys), args=list(arguments))
    except UNAVAILABLE as error:
        away.note(error)
        raise


class _Away:
    """Until when this process takes a server for away, and when it last said so."""

    def __init__(self, server: redis.Redis) -> None:
        self.server = server
        self.until = self.told = float("-inf")

    def note(self, error: BaseException) -> None:
        now = time.monotonic()
        self.until = now + SPARED
        if now - self.told >= _LOG_EVERY:
            self.told = now
            log.warning("redis_away", error=type(error).__name__)


@cache
def _away_of(server: redis.Redis) -> _Away:
    return _Away(server)
