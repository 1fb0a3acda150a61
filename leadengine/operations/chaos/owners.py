"""People who change their connections over the API, and remember what they were promised."""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import requests

from leadengine.operations.chaos.product import Failed, RunningProduct

PATIENCE = 90.0  # seconds that somebody goes on asking for one change
MOST = 4  # wanted connections of one owner: below the limit, which counts one more while one is made
_PATH = "/api/integrations/whatsapp/instances"


@dataclass(slots=True)
class Promise:
    """A connection as its owner was last told."""

    name: str
    wanted: bool = True
    auto_reconnect: bool = True
    deleted: bool = False


class Owner(threading.Thread):
    """Makes, connects, renames, disconnects and deletes until told to stop; repeats each call until it is answered."""

    def __init__(self, product: RunningProduct, key: str, number: int, seed: int) -> None:
        super().__init__(name=f"owner-{number}", daemon=True)
        self.product = product
        self.number = number
        self.promises: dict[str, Promise] = {}
        self.acknowledged = 0
        self.unanswered = 0
        self.trouble: str | None = None
        self.ended = threading.Event()
        self._key = key
        self._random = random.Random(seed + number)  # noqa: S311 - chooses what to do next

    def run(self) -> None:
        """Until `ended` is set, or a call is refused that should not be."""
        try:
            while not self.ended.is_set():
                self._change_something()
                self.ended.wait(self._random.uniform(0.05, 0.4))
        except Failed as error:
            self.trouble = str(error)

    def _change_something(self) -> None:
        live = [one for one, promise in self.promises.items() if not promise.deleted]
        wanted = [one for one in live if self.promises[one].wanted]
        if not live or (len(wanted) < MOST and self._random.random() < 0.25):
            self._create()
            return
        chosen = self._random.choice(live)
        promise, dice = self.promises[chosen], self._random.random()
        if dice < 0.35:
            name = self._new_name()
            self._call("PATCH", f"/{chosen}", {"name": name})
            promise.name = name
        elif dice < 0.5:
            self._call("PATCH", f"/{chosen}", {"autoReconnect": not promise.auto_reconnect})
            promise.auto_reconnect = not promise.auto_reconnect
        elif dice < 0.7:
            self._call("POST", f"/{chosen}/disconnect")
            promise.wanted = False
        elif dice < 0.92 and (promise.wanted or len(wanted) < MOST):
            self._call("POST", f"/{chosen}/connect")
            promise.wanted = True
        elif len(live) > 1:
            self._call("DELETE", f"/{chosen}", gone_is_done=True)
            promise.wanted, promise.deleted = False, True

    def _create(self) -> None:
        name = self._new_name()
        data = self._call("POST", "", {"name": name}, headers={"Idempotency-Key": uuid.uuid4().hex})
        self.promises[data["id"]] = Promise(name)

    def _new_name(self) -> str:
        return f"Linha {self.number} {uuid.uuid4().hex[:10]}"

    def _call(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None,
        gone_is_done: bool = False,
    ) -> Any:  # fmt: skip
        """Repeat a call until it is answered; the answer's data. Raises: Failed."""
        end, asked_before = time.monotonic() + PATIENCE, False
        while time.monotonic() < end:
            try:
                answer = requests.request(
                    method, self.product.url + _PATH + path, json=body or {}, timeout=15,
                    headers={"X-API-Key": self._key, **(headers or {})},
                )  # fmt: skip
            except requests.RequestException:
                answer = None
            if answer is not None and answer.ok:
                self.acknowledged += 1
                return answer.json()["data"]
            if answer is not None and answer.status_code == 404 and gone_is_done and asked_before:
                self.acknowledged += 1
                return None
            if answer is not None and answer.status_code < 500:
                raise Failed(f"{method} {path or '/'} was refused with {answer.status_code}: {answer.text[:200]}")
            asked_before = True
            self.unanswered += 1
            time.sleep(0.2)
        raise Failed(f"{method} {path or '/'} was not answered for {PATIENCE:.0f} s.")
