"""`chaos send` (R2): the broker misbehaves and processes are killed while messages are sent; no fate is untrue."""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
import redis
import requests

from leadengine.operations.chaos import settled
from leadengine.operations.chaos.fates import Findings, judge_fates
from leadengine.operations.chaos.misbehaving import FAULTS, OFFLINE, Weather
from leadengine.operations.chaos.product import RunningProduct
from leadengine.operations.chaos.writers import Conversation, Writer

# What a run lifts: the pace would be measured, not the fates. Breakers open and close often instead of once.
SETTINGS = {
    "REDIS_RATE_LIMIT_RPM": "0", "OUTBOUND_TPS_DEFAULT": "1000", "WHATSAPP_OUTBOUND_CIRCUIT_COOLDOWN_MS": "2000",
    "OUTBOUND_CONCURRENCY_PER_SESSION": "8",
}  # fmt: skip
# Who is hurt in every round: first, in some order, what sends or remembers, then, in some order, the others.
FIRST, THEN = ("sender", "sender", "valkey", "flush", "postgres"), ("sender", "worker-1", "web", "connections")
KNOWN = 2  # of three customers two have written to us before; the third is a stranger
_LOOK = 0.25


@dataclass(frozen=True, slots=True)
class Size:
    """How much is sent and hurt. `slow_ms` is how long a slow send takes, `fault_seconds` how long a fault stays at
    least and at most. The kills are spread over what has been sent, with `kill_seconds` between two at most.

    With `hasten` time is let pass in the database where a run would only wait: leases of killed senders end, pauses
    are over. `patience` is how long the rest may take to be settled once all is calm, in seconds.
    """

    messages: int = 5000
    conversations: int = 50
    lines: int = 8
    writers: int = 6
    kills: int = 50
    kill_seconds: float = 3.5
    slow_ms: int = 30_000
    fault_seconds: tuple[float, float] = (1.0, 8.0)
    pause: float = 0.02  # seconds between two messages of a writer
    hasten: bool = False
    patience: float = 240


SHORT = Size(
    messages=80, conversations=8, lines=2, writers=4, kills=6, kill_seconds=2, slow_ms=1500, fault_seconds=(0.4, 2.5),
    pause=0.4, hasten=True, patience=60,
)  # fmt: skip


@dataclass(slots=True)
class Outcome:
    """What was done, what became of the messages, and every difference between promise and fate."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    replayed: int = 0
    unanswered: int = 0
    felt: Counter[str] = field(default_factory=Counter)
    codes: dict[str, int] = field(default_factory=dict)
    found: Findings = field(default_factory=Findings)
    sending_seconds: float = 0
    settled_seconds: float | None = None
    differences: list[str] = field(default_factory=list)
    died_at: datetime | None = None  # when the last sender was killed

    @property
    def good(self) -> bool:
        """Whether every fate is true."""
        return not self.differences

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "accepted": self.accepted, "replayed": self.replayed, "unanswered": self.unanswered,
            "kills": dict(self.kills), "faults": dict(self.faults), "arrived": self.found.arrived,
            "late": self.found.late, "neverArrived": dict(self.found.ended), "felt": dict(self.felt),
            "attempts": self.codes, "sendingSeconds": self.sending_seconds, "settledSeconds": self.settled_seconds,
            "differences": self.differences, "good": self.good,
        }  # fmt: skip

    def as_lines(self) -> list[str]:
        """For people."""
        settled_after = "never" if self.settled_seconds is None else f"{self.settled_seconds:.1f} s"
        figures = [
            ("messages accepted", f"{self.accepted} in {self.sending_seconds:.0f} s"),
            ("repeated calls", f"{self.replayed}, each answered with the same message"),
            ("calls without an answer", str(self.unanswered)),
            ("kills", _listed(self.kills)), ("faults of the broker", _listed(self.faults)),
            ("of them felt", _listed(self.felt)), ("attempts", _listed(self.codes)),
            ("at the phones, once", str(self.found.arrived)),
            ("of them late", f"{self.found.late} (sent by the broker after it had reported them as failed)"),
            ("never arrived", _listed(self.found.ended)), ("all settled after", settled_after),
        ]  # fmt: skip
        lines = [f"  {name:<26}{value}" for name, value in figures]
        return lines + (self.differences or ["Each message is at a phone once and in order, or says why it is not."])


def chaos_send(
    *, product: RunningProduct, size: Size, seed: int, step: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Send through a running product while everything goes wrong, then compare. Raises: Failed."""
    slug = f"envio-{uuid.uuid4().hex[:6]}"
    key, lines = _provision(product, slug, size.lines)
    chance = random.Random(seed)  # noqa: S311 - chooses whom to kill
    conversations = _begin(product, slug, lines, size)
    writers = _writers(product, key, conversations, size, slug, seed)
    weathers = _weathers(product, key, lines, size, seed, step)
    threads: list[Writer | Weather] = [*writers, *weathers]
    outcome = Outcome()
    began = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        _hurt(product, slug, size, chance, outcome, step)
        for writer in writers:
            writer.join()  # it gives up by itself
        outcome.sending_seconds = round(time.monotonic() - began, 1)
        product.wait_for(lambda: len(_seen(weathers)) == len(FAULTS), "every fault has come once")
        for weather in weathers:
            weather.ended.set()
        for weather in weathers:
            weather.join(60)
            weather.calm()
        _compare(product, slug, lines, conversations, size, outcome, step)
    finally:
        for thread in threads:
            thread.ended.set()
        for thread in threads:
            thread.join(60)
    outcome.faults, outcome.felt = _seen(weathers), sum((weather.felt for weather in weathers), Counter())
    outcome.accepted = sum(writer.accepted for writer in writers)
    outcome.replayed = sum(writer.replayed for writer in writers)
    outcome.unanswered = sum(writer.unanswered for writer in writers)
    outcome.differences += [f"{writer.name}: {writer.trouble}" for writer in writers if writer.trouble]
    return outcome


def _provision(product: RunningProduct, slug: str, lines: int) -> tuple[str, list[str]]:
    """A tenant with open lines and somebody who has a key: the key, the lines' names."""
    names = [f"{slug}-{number}" for number in range(lines)]
    email = f"admin@{slug}.test"
    tenant = {
        "slug": slug, "name": "Envio", "queues": [{"name": "Recepção"}],
        "users": [{"email": email, "name": "Caos", "role": "ADMIN"}],
        "apiTokens": [{"name": "caos", "user": email}],
        "sessions": [
            {"connectionId": name, "brokerInstanceId": name, "name": name, "status": "connected", "owner": email}
            for name in names
        ],
    }  # fmt: skip
    made = json.loads(product.manage("provision", "--file", "-", given=json.dumps({"tenants": [tenant]})))
    # The pace of the official broker, 20 in 15 s, is lifted, too: a run would last for hours.
    product.rows(
        "UPDATE whatsapp_sessions SET capabilities = capabilities || '{\"rate\": null}'"
        " WHERE connection_id = ANY(%s) RETURNING id",
        [names],
    )
    for name in names:
        product.simulate(f"/_sim/{name}/open", {})
    return str(made["tenants"][0]["apiTokens"][0]["token"]), names


def _begin(product: RunningProduct, slug: str, lines: list[str], size: Size) -> list[Conversation]:
    """Customers, of whom most write first."""
    base = 60_000_000 + int(slug[-6:], 16) % 30_000 * 1000
    made = [
        Conversation(number, lines[number % len(lines)], f"55119{base + number:08}")
        for number in range(size.conversations)
    ]
    known = [one for one in made if one.index // len(lines) % 3 < KNOWN]
    for one in known:
        product.simulate(f"/_sim/{one.line}/inbound", {"from": one.phone, "text": "Oi", "pushName": f"C{one.index}"})

    def arrived() -> bool:
        found = settled.tickets_of(product, slug)
        for one in known:
            one.ticket_id, one.contact_id = found.get(one.phone, (None, None))
        return all(one.ticket_id for one in known)

    product.wait_for(arrived, "the customers' first words are here")
    return made


def _writers(
    product: RunningProduct, key: str, conversations: list[Conversation], size: Size, slug: str, seed: int
) -> list[Writer]:
    many = min(size.writers, len(conversations))
    return [
        Writer(
            product, key, conversations[number::many], len(range(number, size.messages, many)), seed=seed + number,
            mark=slug, pause=size.pause,
        )
        for number in range(many)
    ]  # fmt: skip


def _weathers(
    product: RunningProduct, key: str, lines: list[str], size: Size, seed: int, step: Callable[[str], None]
) -> list[Weather]:
    """Together the lines begin with every fault once, offline last: who waits for a connection feels nothing else."""
    chance = random.Random(seed + 1)  # noqa: S311 - chooses what goes wrong
    others = sorted(FAULTS.keys() - {OFFLINE})
    faults = [OFFLINE, *chance.sample(others, len(others))]
    return [
        Weather(
            product, key, line, seed=seed + number, seconds=size.fault_seconds, slow_ms=size.slow_ms,
            first=faults[number :: len(lines)], step=step,
        )
        for number, line in enumerate(lines)
    ]  # fmt: skip


def _seen(weathers: Sequence[Weather]) -> Counter[str]:
    return sum((weather.seen for weather in weathers), Counter())


def _hurt(
    product: RunningProduct, slug: str, size: Size, chance: random.Random, outcome: Outcome,
    step: Callable[[str], None],
) -> None:  # fmt: skip
    """Spread the kills over the sending."""
    left: list[str] = []
    for number in range(1, size.kills + 1):
        _wait_for_turn(product, slug, number * size.messages // (size.kills + 1), size.kill_seconds)
        if not left:
            left = chance.sample(THEN, len(THEN)) + chance.sample(FIRST, len(FIRST))
        name = left.pop()
        # The database may be on its way back, and so may Valkey.
        with contextlib.suppress(psycopg.Error, redis.RedisError):
            if name == "flush":
                product.flush_valkey()
            elif name == "connections":
                product.cut_connections()
            else:
                product.hurt(name)
                if name == "sender":
                    outcome.died_at = datetime.now(UTC)  # the new one needs a second before it claims
        outcome.kills[name] += 1
        step(name)


def _wait_for_turn(product: RunningProduct, slug: str, share: int, seconds: float) -> None:
    """Until so many messages have been sent, or it takes too long: faults may hold back a line for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(psycopg.Error):
            if settled.count_ended(product, slug) >= share:
                return
        time.sleep(_LOOK)


def _compare(
    product: RunningProduct, slug: str, lines: list[str], conversations: list[Conversation], size: Size,
    outcome: Outcome, step: Callable[[str], None],
) -> None:  # fmt: skip
    """Look until every fate is true and nothing waits, for as long as the run is patient; then list what is not."""
    promises = [promise for one in conversations for promise in one.promises]
    began, waiting = time.monotonic(), "not looked yet"
    while time.monotonic() - began < size.patience:
        with contextlib.suppress(psycopg.Error, requests.RequestException):
            waiting = settled.what_waits(product, slug)
            step(waiting or "settled")
            if not waiting:
                rows, arrivals = settled.rows_of(product, slug), settled.arrivals_at(product, lines)
                outcome.found = judge_fates(promises=promises, rows=rows, arrivals=arrivals)
                outcome.codes = settled.codes_of(rows)
                if not outcome.found.differences:
                    break
            if size.hasten:
                settled.let_time_pass(product, slug, outcome.died_at)
        time.sleep(_LOOK)
    outcome.differences += [f"still {waiting}"] if waiting else outcome.found.differences
    if not outcome.differences:
        outcome.settled_seconds = round(time.monotonic() - began, 1)


def _listed(counts: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
