"""The shared Redis client. Redis is a wake-up and a hint: whoever calls it must do without it."""

from __future__ import annotations

from functools import cache

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

# What a Redis that is away raises. Callers catch exactly this.
UNAVAILABLE = (redis.RedisError, OSError)


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
