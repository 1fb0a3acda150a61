"""How many messages may leave on a line now: its pace and its breaker, over all workers (spec/outbound.md section 9).

One script in Redis answers for both, so that a round of claims asks once. While Redis is away each process goes by
itself, at one message a second and line, as if every circuit were closed.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from django.conf import settings

from leadengine import metrics
from leadengine.redis import UNAVAILABLE, run_script
from tickets.services.outbox.circuit import circuit_key, from_ms, in_ms
from tickets.transports import Line

HORIZON = 50  # how many of those that must wait are told when their turn comes
ALONE_SECONDS = 1.0  # between two sends of a line, of a process that cannot ask Redis
PROBE_SPARE = timedelta(seconds=30)
ALONE_HORIZON = 5  # few: when Redis is back, nobody should wait for a time that was told without it
# The channel counts when a send arrives, we when it leaves us: what takes less long to get there must not come early.
_WINDOW_SPARE = 0.25

# The list holds when the latest sends were let go, in ms of the server's clock: those of workers differ. The n-th send
# after `max` others goes no sooner than `window` after the one that is `max` before it, in every window.
_GRANT = """
local now, wanted, horizon = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local circuit = redis.call('HMGET', KEYS[1], 'retry_at', 'probe_until')
local probe = 0
if circuit[1] then
    local retry_at, busy = tonumber(circuit[1]), tonumber(circuit[2] or '0')
    if retry_at > now then return {'open', retry_at} end
    if busy > now then return {'probing', busy} end
    probe, wanted = 1, 1
end
local clock = redis.call('TIME')
local present = clock[1] * 1000 + math.floor(clock[2] / 1000)
local most, longest = 0, 0
for i = 5, #ARGV, 2 do
    most, longest = math.max(most, tonumber(ARGV[i])), math.max(longest, tonumber(ARGV[i + 1]))
end
local length = redis.call('LLEN', KEYS[2])
local turns, granted, waits = {}, 0, {}
for n = 1, wanted + horizon do
    local turn = present
    for i = 5, #ARGV, 2 do
        local before = length + n - 1 - tonumber(ARGV[i])
        if before >= 0 then
            local at = turns[before - length + 1] or tonumber(redis.call('LINDEX', KEYS[2], before))
            turn = math.max(turn, at + tonumber(ARGV[i + 1]))
        end
    end
    turns[n] = turn
    if n <= wanted and turn <= present then
        granted = granted + 1
    else
        waits[#waits + 1] = turn - present
    end
    if n >= wanted and (#waits == 0 or #waits >= horizon) then break end
end
if granted > 0 then
    for _ = 1, granted do redis.call('RPUSH', KEYS[2], present) end
    redis.call('LTRIM', KEYS[2], -most, -1)
    redis.call('PEXPIRE', KEYS[2], longest)
    if probe == 1 then redis.call('HSET', KEYS[1], 'probe_until', ARGV[2]) end
end
return {'closed', granted, probe, unpack(waits)}
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """How many may leave now. The rest waits for `reason`: until `until`, or for `waits` seconds, one by one.

    `probe`: the one that may leave decides whether a circuit closes. `alone`: Redis could not be asked.
    """

    granted: int
    reason: Literal["PACING", "CIRCUIT_OPEN"] = "PACING"
    until: datetime | None = None
    waits: tuple[float, ...] = ()
    probe: bool = False
    alone: bool = False


def ask_to_send(*, line: Line, wanted: int, now: datetime) -> Grant:
    """Take the turns of up to `wanted` messages of a line."""
    windows = _windows_of(line)
    probe_until = now + timedelta(milliseconds=settings.WHATSAPP_BROKER_SEND_TIMEOUT_MS) + PROBE_SPARE
    arguments = [in_ms(now), in_ms(probe_until), wanted, HORIZON]
    for most, seconds in windows:
        arguments += [most, int(seconds * 1000)]
    try:
        word, first, *rest = run_script(_GRANT, [circuit_key(line.id), f"pace:{line.id}"], arguments)
    except UNAVAILABLE:
        return _go_alone(line.id, wanted)
    if word != b"closed":
        return Grant(0, "CIRCUIT_OPEN", until=from_ms(first))
    if rest[0] == 1 and first:
        metrics.count(metrics.circuit_transitions.labels(to="half_open"))
        return Grant(1, "CIRCUIT_OPEN", until=probe_until, probe=True)
    return Grant(first, waits=tuple(wait / 1000 for wait in rest[1:]))


def _windows_of(line: Line) -> list[tuple[int, float]]:
    """(sends, seconds) that a line keeps to: its own pace, and what its channel declares."""
    own = settings.OUTBOUND_TPS_BY_INSTANCE
    names = (str(line.id), line.name, line.reference)
    windows = [(next((own[name] for name in names if name in own), settings.OUTBOUND_TPS_DEFAULT), 1.0)]
    if line.capabilities.rate is not None:
        most, seconds = line.capabilities.rate
        windows.append((max(1, most), seconds + _WINDOW_SPARE))
    return windows


def _go_alone(line_id: UUID, wanted: int) -> Grant:
    metrics.count(metrics.outbound_rate_limited.labels(where="local"))
    with _lock:
        present = time.monotonic()
        wait = _last.get(line_id, present - ALONE_SECONDS) + ALONE_SECONDS - present
        granted = int(wait <= 0 and wanted > 0)
        if granted:
            _last[line_id] = present
            wait = ALONE_SECONDS
    return Grant(granted, waits=tuple(wait + n * ALONE_SECONDS for n in range(ALONE_HORIZON)), alone=True)


_lock = threading.Lock()
_last: dict[UUID, float] = {}  # when this process last sent on a line by itself
