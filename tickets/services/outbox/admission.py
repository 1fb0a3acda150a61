"""How many messages are accepted, and whether a line takes any now (spec/outbound.md sections 6 and 9).

One script in Redis, in one round trip: the share of a session in a minute, the guard of a ticket, the breaker. While
Redis is away everything is accepted: the sender keeps the pace all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.conf import settings

from leadengine import metrics
from leadengine.redis import UNAVAILABLE, run_script
from tickets.models import Message
from tickets.services.outbox.checking import Wish
from tickets.services.outbox.circuit import circuit_key, from_ms, in_ms
from tickets.services.outbox.refusals import CircuitOpen, RateLimited
from tickets.transports import Line

MOST_PER_TICKET = 200  # accepted in a minute: whoever sends more has run away
_MINUTE = 60

# Minutes fill one after the other: `minute` is the last that has anything in it, `used` how much of its share is gone.
# Whoever may wait takes the next share there is; nothing is taken by what is refused.
_ADMIT = """
local present, share, may_wait = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[4] == '1'
if tonumber(redis.call('GET', KEYS[2]) or '0') >= tonumber(ARGV[3]) then return {'ticket', present + 1} end
local minute, used = present, 0
if share > 0 then
    local held = redis.call('HMGET', KEYS[1], 'minute', 'used')
    if held[1] and tonumber(held[1]) >= present then minute, used = tonumber(held[1]), tonumber(held[2]) end
    if used >= share then minute, used = minute + 1, 0 end
    if minute > present and not may_wait then return {'session', minute} end
end
local retry_at = tonumber(redis.call('HGET', KEYS[3], 'retry_at') or '0')
if retry_at <= tonumber(ARGV[5]) then retry_at = 0 end
if retry_at > 0 and ARGV[6] == '0' then return {'open', retry_at} end
if share > 0 then
    redis.call('HSET', KEYS[1], 'minute', minute, 'used', used + 1)
    redis.call('EXPIRE', KEYS[1], (minute - present + 2) * 60)
end
redis.call('INCR', KEYS[2])
redis.call('EXPIRE', KEYS[2], 120)
return {'taken', minute, retry_at}
"""


@dataclass(frozen=True, slots=True)
class Wait:
    """What an accepted message waits for."""

    reason: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Rate:
    """A session's share of the running minute; `limit` 0 is none. `used` may pass it: people take of later minutes."""

    limit: int
    used: int
    resets_at: datetime

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


def admit(*, wish: Wish, line: Line, ticket_id: UUID, now: datetime) -> Wait | None:
    """Count a message that is about to be accepted; what it waits for, None when it may leave at once.

    Raises: RateLimited for a key over its session's share, and for everyone over a ticket's; CircuitOpen unless the
    wish is to wait.
    """
    minute, scheduled = int(now.timestamp()) // _MINUTE, wish.scheduled_at is not None
    keys = [_share_key(line.id), f"admitted-ticket:{ticket_id}:{minute}", circuit_key(line.id)]
    patient = wish.source != Message.Source.API
    arguments: list[str | float] = [
        minute, settings.REDIS_RATE_LIMIT_RPM, MOST_PER_TICKET, int(patient), in_ms(now),
        int(scheduled or wish.when_unavailable == "queue"),
    ]  # fmt: skip
    try:
        word, value, *rest = run_script(_ADMIT, keys, arguments)
    except UNAVAILABLE:
        return None
    if word in {b"ticket", b"session"}:
        metrics.outbound_rate_limited.labels(where=word.decode()).inc()  # nothing is committed of a refusal
        limit = MOST_PER_TICKET if word == b"ticket" else settings.REDIS_RATE_LIMIT_RPM
        raise RateLimited(limit=limit, resets_at=_start_of(value), now=now)
    if word == b"open":
        raise CircuitOpen(retry_at=from_ms(value), now=now)
    if scheduled:
        return None
    waits = [Wait("PACING", _start_of(value))] if value > minute else []
    if waits:
        metrics.count(metrics.outbound_rate_limited.labels(where="door"))
    waits += [Wait("CIRCUIT_OPEN", from_ms(rest[0]))] if rest[0] else []
    return max(waits, key=lambda wait: wait.until, default=None)


def put_off(message: Message, wait: Wait) -> None:
    """Let a row that is about to be inserted wait, unless it waits longer already. Its line's return ends any wait."""
    if message.status != Message.Status.QUEUED or message.wait_reason == "SESSION_OFFLINE":
        return
    if message.not_before is None or message.not_before < wait.until:
        message.wait_reason, message.not_before = wait.reason, wait.until


def read_rate(*, session_id: UUID, now: datetime) -> Rate:
    """A session's share of the running minute; unused while Redis is away."""
    minute, limit = int(now.timestamp()) // _MINUTE, settings.REDIS_RATE_LIMIT_RPM
    try:
        held, used = run_script("return redis.call('HMGET', KEYS[1], 'minute', 'used')", [_share_key(session_id)], [])
    except UNAVAILABLE:
        held, used = None, None
    ahead = int(held) - minute if held else -1
    taken = 0 if ahead < 0 else ahead * limit + int(used)
    return Rate(limit, taken, _start_of(minute + 1))


def _share_key(session_id: UUID) -> str:
    return f"admitted:{session_id}"


def _start_of(minute: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(minutes=minute)
