"""The broker misbehaves: on each line one fault after the other, each of them in every round."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
import requests

from leadengine.operations.chaos.product import RunningProduct


@dataclass(frozen=True, slots=True)
class Fault:
    """What the simulator is told (docs/reference/simulator.md), and what tells that it was felt: the code of an
    attempt, or what a message waits for. Without either nothing tells it."""

    behaviour: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    reason: str = ""


SLOW, RISK, OFFLINE = "slow sends", "429 risk", "offline"  # begun or ended in a way of their own
FAULTS = {
    SLOW: Fault(),
    "send time-outs": Fault({"sendTimeout": True, "sendTimeoutMs": 200}, code="BROKER_TIMEOUT"),
    "500 after delivery": Fault({"failAfterSend": True}, code="BROKER_ERROR"),
    "500, nothing sent": Fault({"sendError": "Connection Closed"}, code="BROKER_ERROR"),
    "dropped answers": Fault({"dropResponse": True}, code="BROKER_ERROR"),
    "429 rate": Fault({"rate": {"max": 1, "windowMs": 1000}}, reason="PACING"),
    RISK: Fault(reason="RISK_PAUSED"),
    OFFLINE: Fault({"offline": True}, reason="SESSION_OFFLINE"),
    "not on WhatsApp": Fault({"exists": False}, code="INVALID_TO"),
    "webhooks twice and shuffled": Fault({"webhook": {"duplicate": 3, "shuffle": 8}}),
}
_LOOK = 0.15
_FELT = """
SELECT (SELECT count(*) FROM tickets_message WHERE session_id = s.id AND status = 'QUEUED' AND wait_reason = %s)
    + (SELECT count(*) FROM tickets_outboundattempt a JOIN tickets_message m ON m.id = a.message_id
       WHERE m.session_id = s.id AND a.claimed_at > %s AND a.code = %s)
FROM whatsapp_sessions s WHERE s.connection_id = %s
"""


class Weather(threading.Thread):
    """The faults of one line, until `ended`; then it is calm, whatever it takes.

    A fault stays `least` seconds, and goes on until a message has felt it, `most` seconds in all.
    """

    def __init__(
        self, product: RunningProduct, key: str, line: str, *, seed: int, seconds: tuple[float, float], slow_ms: int,
        first: list[str], step: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(name=f"weather-{line}", daemon=True)
        self.product, self.line = product, line
        self.seen: Counter[str] = Counter()
        self.felt: Counter[str] = Counter()
        self.ended = threading.Event()
        self._key, self._slow_ms, self._first, self._step = key, slow_ms, first, step
        self._least, self._most = seconds
        self._random = random.Random(seed)  # noqa: S311 - chooses what goes wrong

    def run(self) -> None:
        """One fault, a moment of calm, the next."""
        left = self._first
        while not self.ended.is_set():
            left = left or self._random.sample(sorted(FAULTS), len(FAULTS))
            name = left.pop()
            self._step(name)
            began = datetime.now(UTC)
            self._try(lambda fault=name: self._begin(fault))  # type: ignore[misc]
            self.seen[name] += 1
            self.felt[name] += self._stay(FAULTS[name], began)
            self._try(lambda fault=name: self._end(fault))  # type: ignore[misc]
            self.ended.wait(self._random.uniform(0, self._least))

    def calm(self) -> None:
        """Everything is well again: connected, released, on time. Raises: Failed."""
        self.product.wait_for(self._calm, f"{self.line} is calm")

    def _calm(self) -> bool:
        self._behave({})
        self.product.simulate(f"/_sim/{self.line}/open", {})
        return self._lift()

    def _begin(self, name: str) -> None:
        if name == RISK:
            self.product.simulate(f"/instances/{self.line}/risk/pause", {})
        else:
            self._behave({"sendDelayMs": self._slow_ms} if name == SLOW else FAULTS[name].behaviour)
        if name == OFFLINE:
            self.product.simulate(f"/_sim/{self.line}/close", {"statusCode": 428})

    def _end(self, name: str) -> None:
        self._behave({})
        if name == OFFLINE:
            self.product.simulate(f"/_sim/{self.line}/open", {})
        if name == RISK:
            self._lift()

    def _stay(self, fault: Fault, began: datetime) -> bool:
        """Wait as long as a fault stays; whether a message has felt it."""
        self.ended.wait(self._least)
        end = time.monotonic() + self._most - self._least
        while (fault.code or fault.reason) and time.monotonic() < end and not self.ended.is_set():
            with contextlib.suppress(psycopg.Error):
                if self.product.rows(_FELT, [fault.reason, began, fault.code, self.line])[0][0]:
                    return True
            self.ended.wait(_LOOK)
        return False

    def _behave(self, keys: dict[str, Any]) -> None:
        self.product.simulate(f"/_sim/{self.line}/behaviour", {})
        if keys:
            self.product.simulate(f"/_sim/{self.line}/behaviour", keys)

    def _lift(self) -> bool:
        """What a supervisor does on the sessions page; and a pause that no message has felt, which nobody sees there,
        ends at the broker."""
        done = self._release()
        self.product.simulate(f"/instances/{self.line}/risk", {"threshold": 1})
        self.product.simulate(f"/instances/{self.line}/risk/resume", {})
        return done

    def _release(self) -> bool:
        url = f"{self.product.url}/api/integrations/whatsapp/instances/{self.line}/release"
        return requests.post(url, json={}, headers={"X-API-Key": self._key}, timeout=20).ok

    def _try(self, change: Callable[[], None]) -> None:
        """A fault meets a product that is being hurt: what cannot be changed now is changed by the next one."""
        with contextlib.suppress(requests.RequestException, psycopg.Error):
            change()
