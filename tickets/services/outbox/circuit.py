"""The breaker of a session, in Redis and shared by all processes (spec/outbound.md section 9).

A hint and nothing more: while Redis is away, or after it was flushed, every circuit counts as closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from django.conf import settings

from leadengine import metrics
from leadengine.redis import UNAVAILABLE, client, run_script

State = Literal["closed", "open", "half_open"]
Outcome = Literal["good", "bad", "neither"]  # neither: it says nothing about the session's way to the channel

_INDEX = "circuits"  # sessions whose circuit is not closed, by the time until which it is open
# Whoever has nothing to send does not probe: a circuit that nobody asked for so long is forgotten.
_FORGOTTEN = timedelta(hours=1)
# The calls of the window, and of them the failures, by their time. While a circuit is not closed only its probe counts:
# the other answers are of calls that began before.
_RECORD = """
local retry_at = redis.call('HGET', KEYS[1], 'retry_at')
local now, cooldown, forgotten = tonumber(ARGV[1]), tonumber(ARGV[6]), tonumber(ARGV[8])
local opens = false
if retry_at then
    if ARGV[7] == '0' then return '' end
    redis.call('HDEL', KEYS[1], 'probe_until')
    if ARGV[3] == 'neither' then return '' end
    if ARGV[3] == 'good' then
        redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
        redis.call('ZREM', KEYS[4], ARGV[2])
        return 'closed'
    end
    opens = true
elseif ARGV[3] ~= 'neither' then
    local window, token = tonumber(ARGV[5]), ARGV[9]
    for _, key in ipairs({KEYS[2], KEYS[3]}) do
        redis.call('ZREMRANGEBYSCORE', key, '-inf', now - window)
    end
    redis.call('ZADD', KEYS[2], now, token)
    redis.call('PEXPIRE', KEYS[2], window)
    if ARGV[3] == 'bad' then
        redis.call('ZADD', KEYS[3], now, token)
        redis.call('PEXPIRE', KEYS[3], window)
        local failures = redis.call('ZCARD', KEYS[3])
        opens = failures >= tonumber(ARGV[4]) and 2 * failures >= redis.call('ZCARD', KEYS[2])
    end
end
if not opens then return '' end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'retry_at', now + cooldown)
redis.call('PEXPIRE', KEYS[1], cooldown + forgotten)
redis.call('ZADD', KEYS[4], now + cooldown, ARGV[2])
return 'open'
"""


@dataclass(frozen=True, slots=True)
class Circuit:
    """A breaker as it stands: `retry_at` is when an open one lets a probe pass."""

    state: State = "closed"
    retry_at: datetime | None = None


CLOSED = Circuit()


def circuit_key(session_id: UUID | str) -> str:
    """The hash of a breaker that is not closed: `retry_at`, and `probe_until` while a probe is under way, in ms."""
    return f"circuit:{session_id}"


def record_call(*, session_id: UUID, token: UUID, outcome: Outcome, probe: bool, now: datetime) -> State | None:
    """Note how a call of a session ended; the state that its circuit has changed to, None when it has not changed."""
    name = str(session_id)
    keys = [circuit_key(name), f"circuit-calls:{name}", f"circuit-failures:{name}", _INDEX]
    arguments: list[str | float] = [
        in_ms(now), name, outcome, settings.WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES,
        settings.WHATSAPP_OUTBOUND_CIRCUIT_WINDOW_MS, settings.WHATSAPP_OUTBOUND_CIRCUIT_COOLDOWN_MS, int(probe),
        int(_FORGOTTEN.total_seconds() * 1000), str(token),
    ]  # fmt: skip
    try:
        changed: bytes = run_script(_RECORD, keys, arguments)
    except UNAVAILABLE:
        return None
    if not changed:
        return None
    state: State = "open" if changed == b"open" else "closed"
    metrics.count(metrics.circuit_transitions.labels(to=state))
    return state


def close_circuit(*, session_id: UUID) -> bool:
    """Close a circuit because a person says so; whether it was not closed."""
    name = str(session_id)
    try:
        with client().pipeline() as pipe:
            pipe.delete(circuit_key(name))
            pipe.delete(f"circuit-calls:{name}", f"circuit-failures:{name}")
            pipe.zrem(_INDEX, name)
            closed = bool(pipe.execute()[0])
    except UNAVAILABLE:
        return False
    if closed:
        metrics.count(metrics.circuit_transitions.labels(to="closed"))
    return closed


def read_circuits(*, now: datetime) -> dict[UUID, Circuit]:
    """Every circuit that is not closed, of all tenants, in one round trip; none while Redis is away."""
    return known_circuits(now=now) or {}


def known_circuits(*, now: datetime) -> dict[UUID, Circuit] | None:
    """As `read_circuits`; None while Redis is away, so that nobody takes silence for closed circuits."""
    try:
        raw: list[bytes] = run_script(_READ, [_INDEX], [in_ms(now - _FORGOTTEN)])
    except UNAVAILABLE:
        return None
    pairs = zip(raw[::2], raw[1::2], strict=True)
    return {UUID(name.decode()): circuit_at(float(retry_at), now) for name, retry_at in pairs}


def circuit_at(retry_at_ms: float, now: datetime) -> Circuit:
    """The circuit that lets a probe pass from a moment on."""
    retry_at = from_ms(retry_at_ms)
    return Circuit("open", retry_at) if retry_at > now else Circuit("half_open")


def in_ms(at: datetime) -> int:
    """Milliseconds since 1970, which is how Redis keeps our times."""
    return int(at.timestamp() * 1000)


def from_ms(value: float) -> datetime:
    """The moment of `in_ms`."""
    return datetime.fromtimestamp(value / 1000, UTC)


_READ = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
"""
