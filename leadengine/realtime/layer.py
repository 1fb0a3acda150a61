"""The channel layer: Redis publish and subscribe, with a way to publish from synchronous code."""

from __future__ import annotations

from functools import cache
from typing import Any

import redis
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _consistent_hash
from redis.backoff import NoBackoff
from redis.retry import Retry


class PublishingLayer(RedisPubSubChannelLayer):
    """channels_redis' publish-and-subscribe layer plus `publish`.

    A worker that calls `async_to_sync(group_send)` pays a new event loop and a new Redis connection each time (4 ms
    were measured); a plain PUBLISH of the same bytes costs 0.03 ms.
    """

    def __init__(self, *, urls: list[str], prefix: str = "asgi") -> None:
        # redis-py 8 closes an idle subscription after 5 s unless its socket has no time-out.
        super().__init__(hosts=[{"address": url, "socket_timeout": None} for url in urls], prefix=prefix)
        self.urls = urls
        self.prefix = prefix

    def publish(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to a group now, from any thread. Raises what Redis raises."""
        channel = f"{self.prefix}__group__{group}"
        url = self.urls[_consistent_hash(channel, len(self.urls))]
        _client(url).publish(channel, self.serialize(message))


@cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_connect_timeout=1, socket_timeout=2, retry=Retry(NoBackoff(), 0), health_check_interval=30
    )
