"""What the official broker can be asked besides: numbers, groups, figures (spec/broker.md section 2)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime
from typing import Any

from django.conf import settings

from whatsapp import broker
from whatsapp.adapters import Group, Reached
from whatsapp.adapters.patience import time_left, within
from whatsapp.addresses import PHONE_SERVER, parse_jid
from whatsapp.broker_errors import BrokerFailed
from whatsapp.normalizers.values import as_dict, as_id, as_text

AT_ONCE = 8  # it takes one number a call
_ONE = "/instances/{id}"
_SECRET = re.compile(r"(?i)(key|token|secret|password)$")


def find_number(instance: str, to: str) -> Reached:
    """Who answers for one number; an empty list of results is nobody. Raises: BrokerError."""
    answer = broker.call("POST", f"{_ONE}/exists", parts={"id": instance}, body={"to": to})
    results = answer.data.get("results") if isinstance(answer.data, dict) else None
    found = next((one for one in results or [] if isinstance(one, dict) and one.get("exists")), None)
    if found is None:
        return Reached(to)
    jid = parse_jid(found.get("jid"))
    is_phone = jid is not None and jid.server == PHONE_SERVER and jid.user.isdigit()
    return Reached(to, jid.user if jid is not None and is_phone else to, as_text(found.get("jid")))


def find_numbers(instance: str, numbers: Sequence[str]) -> list[Reached]:
    """Who answers for each number, some at a time, for as long as the caller waits. Raises: the first BrokerError."""
    left = time_left()
    until = None if left is None else time.monotonic() + left

    def ask(to: str) -> Reached:
        # How long somebody waits is known to the thread of the caller alone.
        with nullcontext() if until is None else within(until - time.monotonic()):
            return find_number(instance, to)

    with ThreadPoolExecutor(min(len(numbers), AT_ONCE) or 1) as pool:
        asked = [pool.submit(ask, to) for to in numbers]
        try:
            return [one.result() for one in asked]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def list_groups(instance: str) -> list[Group]:
    """The groups, which it gives as a bare array; one without an id could not be written to. Raises: BrokerError."""
    answer = broker.call("GET", f"{_ONE}/groups", parts={"id": instance})
    rows = answer.data.get("groups") if isinstance(answer.data, dict) else answer.data
    if not isinstance(rows, list):
        raise BrokerFailed(http_status=answer.status, answer=answer.text)
    named = [(as_id(row.get("id")), as_text(row.get("subject"))) for row in map(as_dict, rows)]
    return [Group(id_, subject) for id_, subject in named if id_ is not None]


def read_metrics(instance: str, since: datetime, until: datetime) -> dict[str, Any]:
    """Its snapshot, sends per minute, and what became of them. Raises: BrokerError."""
    params = {"from": _millis(since), "to": _millis(until)}
    answer = broker.call("GET", f"{_ONE}/metrics", parts={"id": instance}, params=params)
    if not isinstance(answer.data, dict):
        raise BrokerFailed(http_status=answer.status, answer=answer.text)
    cleaned: dict[str, Any] = _without_keys(answer.data)
    return cleaned


def _millis(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _without_keys(value: Any) -> Any:
    """JSON without our keys wherever they stand, and without what calls itself a key."""
    if isinstance(value, dict):
        return {name: _without_keys(inner) for name, inner in value.items() if not _SECRET.search(name)}
    if isinstance(value, list):
        return [_without_keys(inner) for inner in value]
    if isinstance(value, str):
        for key in settings.WHATSAPP_BROKER_API_KEY:
            value = value.replace(key, "[key]")
    return value
