"""The broker simulator as our commands see it: its control API (spec/broker.md section 8).

A real broker has no `/_sim`, and is never asked for it: the simulator serves its own machine only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from django.conf import settings

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """A connection as the simulator should have it: open, under our id."""

    id: str
    name: str
    phone: str | None = None


class Simulator:
    """A running simulator. Every call raises requests.RequestException when it goes wrong."""

    def __init__(self, url: str, session: requests.Session, state: dict[str, Any]) -> None:
        self.url = url
        self.session = session
        # In the order of the simulator, which gives each customer a line by it.
        self.open_lines = {each["id"]: None for each in state["instances"] if each["connectionState"] == "open"}
        self.customers = int(state["customers"]["count"])

    def open(self, lines: Iterable[Line]) -> int:
        """Open the lines that are not; returns how many that were."""
        missing = [line for line in lines if line.id not in self.open_lines]
        for line in missing:
            body = {"name": line.name, **({"phone": line.phone} if line.phone else {})}
            self._post(f"{quote(line.id, safe='')}/open", body)
            self.open_lines[line.id] = None
        return len(missing)

    def let_customers_write(self, *, count: int, per_minute: float, lines: Iterable[Line]) -> list[dict[str, str]]:
        """Bring the customers of these lines to life; returns who they are: `{name, phone, city}`."""
        known = [line.id for line in lines]
        answer = self._post("customers", {"count": count, "perMinute": per_minute, "instances": known})
        self.customers = count
        return list(answer["customers"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.session.post(f"{self.url}/_sim/{path}", json=body, timeout=_SECONDS)
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()
        return result


def find_simulator() -> Simulator | None:
    """The simulator, when it is the configured broker and runs."""
    url = settings.WHATSAPP_BROKER_URL
    if urlsplit(url).hostname not in LOOPBACK or not settings.WHATSAPP_BROKER_API_KEY:
        return None
    session = requests.Session()
    session.trust_env = False  # no proxy of the environment between us and our own machine
    session.headers["x-api-key"] = settings.WHATSAPP_BROKER_API_KEY[0]
    try:
        answer = session.get(f"{url}/_sim/state", timeout=_SECONDS, allow_redirects=False)
        state = answer.json() if answer.ok else None
    except requests.RequestException:
        return None
    return Simulator(url, session, state) if isinstance(state, dict) and "instances" in state else None
