"""`chaos sessions` (R3, P-72): random kills while connections are changed; no acknowledged wish is lost."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import requests

from leadengine.operations.chaos.owners import Owner, Promise
from leadengine.operations.chaos.product import Failed, RunningProduct

OWNERS = 4
RECOVERY_SECONDS = 30.0
_LOOK = 0.1
KINDS = ("web", "worker-1", "sender", "connections", "valkey", "postgres")
_ROWS = """
SELECT s.id::text, s.session_name, s.desired_state, s.auto_reconnect, s.deleted_at IS NOT NULL, s.status,
       s.pending_wish, coalesce(s.broker_instance_id, s.connection_id)
FROM whatsapp_sessions s JOIN accounts_tenant t ON t.id = s.tenant_id WHERE t.slug = %s
"""


@dataclass(slots=True)
class Outcome:
    """What was done, and every difference between what was promised and what is."""

    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    unanswered: int = 0
    sessions: int = 0
    wanted: int = 0
    slowest_seconds: float | None = None
    differences: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is lost."""
        return not self.differences

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kills": dict(self.kills), "acknowledged": self.acknowledged, "unanswered": self.unanswered,
            "sessions": self.sessions, "wanted": self.wanted, "slowestSeconds": self.slowest_seconds,
            "differences": self.differences, "good": self.good,
        }  # fmt: skip

    def as_lines(self) -> list[str]:
        """For people."""
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        slowest = "never" if self.slowest_seconds is None else f"{self.slowest_seconds:.1f} s"
        figures = [
            ("kills", f"{self.kills.total()} ({kills})"), ("acknowledged wishes", str(self.acknowledged)),
            ("calls without an answer", str(self.unanswered)), ("connections", str(self.sessions)),
            ("of them wanted", str(self.wanted)), ("all as wished after", slowest),
        ]  # fmt: skip
        lines = [f"  {name:<26}{value}" for name, value in figures]
        return lines + (self.differences or ["Nothing is lost."])


def chaos_sessions(
    *, product: RunningProduct, kills: int, seed: int, step: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Hurt a running product `kills` times while people change their connections, then compare. Raises: Failed."""
    slug = f"caos-{uuid.uuid4().hex[:6]}"
    owners = [
        Owner(product, key, number, seed) for number, key in enumerate(_provision(product, slug))
    ]  # fmt: skip
    phones = Phones(product, slug)
    outcome = Outcome()
    for thread in (phones, *owners):
        thread.start()
    try:
        product.wait_for(lambda: all(one.promises or one.trouble for one in owners), "each owner has a connection")
        _hurt(product, kills, random.Random(seed), outcome, step)  # noqa: S311 - chooses whom to kill
        for owner in owners:
            owner.ended.set()
        for owner in owners:
            owner.join(120)
        product.wait_for(product.is_ready, "all parts are well")
        _compare(product, slug, owners, outcome)
    finally:
        phones.ended.set()
        for thread in (phones, *owners):
            getattr(thread, "ended").set()  # noqa: B009 - both have it
            thread.join(120)
    return outcome


class Phones(threading.Thread):
    """Somebody scans every QR code that our pages show."""

    def __init__(self, product: RunningProduct, slug: str) -> None:
        super().__init__(name="phones", daemon=True)
        self.product, self.slug = product, slug
        self.ended = threading.Event()

    def run(self) -> None:
        """Until `ended` is set; what cannot be read now is read later."""
        while not self.ended.wait(0.2):
            with contextlib.suppress(psycopg.Error, requests.RequestException):
                for row in self.product.rows(_ROWS, [self.slug]):
                    if row[5] == "qrcode" and row[2] == "connected":
                        self.product.simulate(f"/_sim/{row[7]}/open", {})


def _provision(product: RunningProduct, slug: str) -> list[str]:
    """A tenant whose people have keys; the keys."""
    emails = [f"dono-{number}@{slug}.test" for number in range(OWNERS)]
    tenant = {
        "slug": slug, "name": "Caos", "queues": [{"name": "Recepção"}],
        "users": [{"email": email, "name": email.partition("@")[0], "role": "ADMIN"} for email in emails],
        "apiTokens": [{"name": f"caos-{number}", "user": email} for number, email in enumerate(emails)],
    }  # fmt: skip
    made = json.loads(product.manage("provision", "--file", "-", given=json.dumps({"tenants": [tenant]})))
    return [token["token"] for token in made["tenants"][0]["apiTokens"]]


def _hurt(
    product: RunningProduct, kills: int, chance: random.Random, outcome: Outcome, step: Callable[[str], None]
) -> None:
    """Each kind comes once in every round of kinds, in an order of its own."""
    left: list[str] = []
    for _ in range(kills):
        if not left:
            left = chance.sample(KINDS, len(KINDS))
        name = left.pop()
        if name == "connections":
            with contextlib.suppress(psycopg.Error):  # the database may be on its way back
                product.cut_connections()
        else:
            product.hurt(name)
        outcome.kills[name] += 1
        step(name)
        time.sleep(chance.uniform(0.3, 1.5))


def _compare(product: RunningProduct, slug: str, owners: list[Owner], outcome: Outcome) -> None:
    """Wait until all is as wished, RECOVERY_SECONDS at most; then list what is not."""
    outcome.acknowledged = sum(owner.acknowledged for owner in owners)
    outcome.unanswered = sum(owner.unanswered for owner in owners)
    outcome.differences += [f"{owner.name}: {owner.trouble}" for owner in owners if owner.trouble]
    promises = {session: promise for owner in owners for session, promise in owner.promises.items()}
    began, missing = time.monotonic(), ["not looked yet"]
    while time.monotonic() - began < RECOVERY_SECONDS:
        with contextlib.suppress(psycopg.Error, requests.RequestException):
            missing = _differences(product, slug, promises)
            if not missing:
                break
        time.sleep(_LOOK)
    if not missing:
        outcome.slowest_seconds = round(time.monotonic() - began, 1)
    outcome.sessions = len(promises)
    outcome.wanted = sum(promise.wanted for promise in promises.values())
    outcome.differences += missing + _journal(product)


def _differences(product: RunningProduct, slug: str, promises: dict[str, Promise]) -> list[str]:
    rows = {row[0]: row for row in product.rows(_ROWS, [slug])}
    at_broker = {one["id"]: one for one in product.simulate("/_sim/state")["instances"]}
    found = [f"{session}: acknowledged, and not in the database" for session in promises.keys() - rows.keys()]
    found += [f"{session}: in the database, and nobody was told" for session in rows.keys() - promises.keys()]
    for session, promise in promises.items():
        if session in rows:
            found += [f"{session}: {what}" for what in _judge(rows[session], promise, at_broker)]
    own = {row[7] for row in rows.values() if not row[4]}
    strangers = [name for name in at_broker if name.startswith(f"le-{slug}-") and name not in own]
    return found + [f"{name}: at the broker, and no connection's" for name in strangers]


def _judge(row: tuple[Any, ...], promise: Promise, at_broker: dict[str, Any]) -> list[str]:
    _, name, desired, auto, deleted, status, pending, instance = row
    told = (promise.name, "connected" if promise.wanted else "disconnected", promise.auto_reconnect, promise.deleted)
    found = [] if (name, desired, auto, deleted) == told else [f"is {(name, desired, auto, deleted)}, not {told}"]
    open_there = at_broker.get(instance, {}).get("connected", False)
    if promise.wanted and not (status == "connected" and open_there):
        found.append(f"wanted, and {status} here, {'open' if open_there else 'not open'} at the broker")
    if not promise.wanted and (status == "connected" or open_there):
        found.append(f"not wanted, and {status} here, {'open' if open_there else 'not open'} at the broker")
    if pending:
        found.append(f"{pending} is still pending")
    return found


def _journal(product: RunningProduct) -> list[str]:
    """Lines that were not applied."""
    try:
        product.manage("drain_persistence_journal")
    except Failed as error:
        return [f"journal: {error}"]
    failed = product.rows("SELECT operation, reason FROM whatsapp_persistencejournal WHERE status = 'failed'")
    return [f"journal: {operation} failed: {reason}" for operation, reason in failed]
