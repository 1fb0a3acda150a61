"""The health record of the broker as a whole (D36): one small hash in Redis, shared by all processes.

It only informs (`whatsapp.broker` of /healthz, alerts): nothing waits for it, so a Redis that is away costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from django.utils import timezone

from leadengine.redis import UNAVAILABLE, client

log = structlog.get_logger(__name__)

KEY = "broker:health"
FAILURES = "broker:health:failures"  # times of the failures since the last success, newest first
STREAK = 3  # failures in a row …
WITHIN = timedelta(minutes=5)  # … within this time make the broker degraded, until it answers again


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """What is known of the broker; all None before the first call."""

    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    consecutive_failures: int = 0
    last_error_code: str | None = None
    degraded: bool = False


def record_success(*, now: datetime | None = None) -> None:
    """Note that the broker answered a call as it should."""
    values: dict[str | bytes, str | int] = {"last_success_at": _text(now), "consecutive_failures": 0}
    try:
        with client().pipeline() as pipe:
            pipe.hset(KEY, mapping=values)  # type: ignore[arg-type]
            pipe.delete(FAILURES)
            pipe.execute()
    except UNAVAILABLE as error:
        log.debug("broker_health_not_recorded", error=type(error).__name__)


def record_failure(code: str, *, now: datetime | None = None) -> None:
    """Note that the broker did not: `code` is one of D34. Refusals of one message or session are no failure of it."""
    at = _text(now)
    try:
        with client().pipeline() as pipe:
            pipe.hset(KEY, mapping={"last_failure_at": at, "last_error_code": code})
            pipe.hincrby(KEY, "consecutive_failures", 1)
            pipe.lpush(FAILURES, at)
            pipe.ltrim(FAILURES, 0, STREAK - 1)
            pipe.execute()
    except UNAVAILABLE as error:
        log.debug("broker_health_not_recorded", error=type(error).__name__)


def read_broker_health() -> BrokerHealth:
    """The record as it stands. Raises: leadengine.redis.UNAVAILABLE."""
    with client().pipeline() as pipe:
        pipe.hgetall(KEY)
        pipe.lrange(FAILURES, 0, -1)
        fields, times = pipe.execute()
    known = {name.decode(): value.decode() for name, value in fields.items()}
    failures = [_time(value.decode()) for value in times]
    return BrokerHealth(
        last_success_at=_time(known["last_success_at"]) if "last_success_at" in known else None,
        last_failure_at=_time(known["last_failure_at"]) if "last_failure_at" in known else None,
        consecutive_failures=int(known.get("consecutive_failures", 0)),
        last_error_code=known.get("last_error_code"),
        degraded=len(failures) == STREAK and failures[0] - failures[-1] <= WITHIN,
    )


def _text(now: datetime | None) -> str:
    return str((now or timezone.now()).timestamp())


def _time(text: str) -> datetime:
    return datetime.fromtimestamp(float(text), UTC)
