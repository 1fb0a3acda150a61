"""The broker misbehaves: on each line one fault after the other, each of them in every round."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import requests

from leadengine.operations.chaos.product import RunningProduct

# What the simulator is told (docs/reference/simulator.md); the two without words are begun and ended in their own way.
FAULTS: dict[str, dict[str, Any]] = {
    "slow sends": {},  # with the delay of the run
    "send time-outs": {"sendTimeout": True, "sendTimeoutMs": 200},
    "500 after delivery": {"failAfterSend": True},
    "500, nothing sent": {"sendError": "Connection Closed"},
    "dropped answers": {"dropResponse": True},
    "429 rate": {"rate": {"max": 1, "windowMs": 1000}},
    "429 risk": {},
    "offline": {"offline": True},
    "not on WhatsApp": {"exists": False},
    "webhooks twice and shuffled": {"webhook": {"duplicate": 3, "shuffle": 8}},
}
_HELD = """
SELECT count(*) FROM tickets_message m JOIN whatsapp_sessions s ON s.id = m.session_id
WHERE s.connection_id = %s AND m.status = 'QUEUED' AND m.wait_reason = 'RISK_PAUSED'
"""


class Weather(threading.Thread):
    """The faults of one line, until `ended`; then it is calm, whatever it takes."""

    def __init__(
        self, product: RunningProduct, key: str, line: str, *, seed: int, seconds: tuple[float, float], slow_ms: int,
        first: list[str], step: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(name=f"weather-{line}", daemon=True)
        self.product, self.line = product, line
        self.seen: Counter[str] = Counter()
        self.held = 0  # messages that waited for a release when it came
        self.ended = threading.Event()
        self._key, self._seconds, self._slow_ms, self._first, self._step = key, seconds, slow_ms, first, step
        self._random = random.Random(seed)  # noqa: S311 - chooses what goes wrong

    def run(self) -> None:
        """One fault, a moment of calm, the next."""
        left = self._first
        while not self.ended.is_set():
            left = left or self._random.sample(sorted(FAULTS), len(FAULTS))
            fault = left.pop()
            self._step(fault)
            self._try(lambda name=fault: self._begin(name))  # type: ignore[misc]
            self.seen[fault] += 1
            self.ended.wait(self._random.uniform(*self._seconds))
            self._try(lambda name=fault: self._end(name))  # type: ignore[misc]
            self.ended.wait(self._random.uniform(*self._seconds) / 4)

    def calm(self) -> None:
        """Everything is well again: connected, released, on time. Raises: Failed."""
        self.product.wait_for(self._calm, f"{self.line} is calm")

    def _calm(self) -> bool:
        self._behave({})
        self.product.simulate(f"/_sim/{self.line}/open", {})
        return self._release()

    def _begin(self, fault: str) -> None:
        if fault == "429 risk":
            self.product.simulate(f"/instances/{self.line}/risk/pause", {})
        else:
            self._behave({"sendDelayMs": self._slow_ms} if fault == "slow sends" else FAULTS[fault])
        if fault == "offline":
            self.product.simulate(f"/_sim/{self.line}/close", {"statusCode": 428})

    def _end(self, fault: str) -> None:
        self._behave({})
        if fault == "offline":
            self.product.simulate(f"/_sim/{self.line}/open", {})
        if fault == "429 risk":
            self.held += int(self.product.rows(_HELD, [self.line])[0][0])
            self._release()

    def _behave(self, keys: dict[str, Any]) -> None:
        self.product.simulate(f"/_sim/{self.line}/behaviour", {})
        if keys:
            self.product.simulate(f"/_sim/{self.line}/behaviour", keys)

    def _release(self) -> bool:
        """What a supervisor does on the sessions page."""
        url = f"{self.product.url}/api/integrations/whatsapp/instances/{self.line}/release"
        return requests.post(url, json={}, headers={"X-API-Key": self._key}, timeout=20).ok

    def _try(self, change: Callable[[], None]) -> None:
        """A fault meets a product that is being hurt: what cannot be changed now is changed by the next one."""
        with contextlib.suppress(requests.RequestException, psycopg.Error):
            change()
