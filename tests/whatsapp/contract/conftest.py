"""The broker that the contract is held against: our simulator, or a real one.

`BROKER_CONTRACT_URL` and `BROKER_CONTRACT_KEY` name a real broker. What a row needs besides, or it is skipped:
`BROKER_CONTRACT_INSTANCE`, an instance that is connected, and `BROKER_CONTRACT_TO`, a number that may be written to.
Instances that a row changes are made by it and removed again; nobody else's are touched.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.outbound import KEY, broker_running
from tests.whatsapp.contract.shapes import misfits

URL = os.environ.get("BROKER_CONTRACT_URL", "").rstrip("/")
MARIA = "5511988887777"


class Contract:
    """A broker and the ways to ask it."""

    def __init__(self, url: str, key: str, *, simulated: bool) -> None:
        self.url, self.key, self.simulated = url, key, simulated
        self.session = requests.Session()
        self.session.trust_env = False
        self.to = MARIA if simulated else os.environ.get("BROKER_CONTRACT_TO", "")

    def call(self, method: str, path: str, body: Any = None, *, keyed: bool = True, **more: Any) -> requests.Response:
        """One request with the key; a body that is not bytes is sent as JSON."""
        headers = {"x-api-key": self.key} if keyed else {}
        if isinstance(body, bytes):
            more["data"] = body
            headers["content-type"] = "application/json"
        elif body is not None:
            more["json"] = body
        headers |= more.pop("headers", {})
        more = {"allow_redirects": False, "timeout": 60} | more
        return self.session.request(method, self.url + path, headers=headers, **more)

    def expect(self, answer: requests.Response, status: int, shape: Any) -> Any:
        """The JSON of an answer that has this status, the content type and the fields."""
        assert (answer.status_code, _kind(answer)) == (status, "application/json"), answer.text[:500]
        data = answer.json()
        assert misfits(data, shape, exact=self.simulated) == []
        return data

    def refused(self, answer: requests.Response, status: int, error: str | re.Pattern[str], *more: str) -> None:
        """An error is a flat object of texts, with the word in `error`; `more` are the fields besides."""
        assert (answer.status_code, _kind(answer)) == (status, "application/json"), answer.text[:500]
        data = answer.json()
        assert {type(value) for value in data.values()} == {str}
        assert data.keys() <= {"error", "detail", "message", "state", "updatedAt"}
        assert set(more) <= data.keys()
        assert error.match(data["error"]) if isinstance(error, re.Pattern) else data["error"] == error, data
        assert not {"retry-after", "etag"} & {name.lower() for name in answer.headers}

    def control(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """A call of the simulator's control API."""
        assert self.simulated
        answer = self.call(method, f"/_sim/{path}", {} if body is None and method == "POST" else body)
        assert answer.ok, answer.text
        return answer.json()


def _kind(answer: requests.Response) -> str:
    return answer.headers.get("content-type", "").partition(";")[0]


@pytest.fixture(scope="session")
def _running() -> Iterator[Contract]:
    if URL:
        yield Contract(URL, os.environ["BROKER_CONTRACT_KEY"], simulated=False)
        return
    with broker_running(profile="real") as running:
        yield Contract(running.url, KEY, simulated=True)


@pytest.fixture
def broker(_running: Contract) -> Contract:
    """The broker; the simulator without its delays and limits, which the rows about them set for themselves."""
    if _running.simulated:
        _running.control("reset")
        patient = {"humanizeMsPerChar": 0, "rate": {"max": 10_000}, "risk": {"threshold": 1}, "autoAck": []}
        _running.control("behaviour", patient)
    return _running


@pytest.fixture
def simulator(broker: Contract) -> Contract:
    """The simulator: what the row asks for cannot be brought about at a real broker, or would harm it."""
    if not broker.simulated:
        pytest.skip("Only the simulator can be brought into this state.")
    return broker


@pytest.fixture
def opened(broker: Contract) -> str:
    """An instance that is connected."""
    if broker.simulated:
        broker.control("loja1/open", {"phone": "5511912345678", "name": "Loja"})
        return "loja1"
    name = os.environ.get("BROKER_CONTRACT_INSTANCE")
    if not name:
        pytest.skip("BROKER_CONTRACT_INSTANCE names no connected instance.")
    return name


@pytest.fixture
def sender(broker: Contract, opened: str) -> str:
    """An instance that is connected and may write to `broker.to`."""
    if not broker.to:
        pytest.skip("BROKER_CONTRACT_TO names no number that may be written to.")
    return opened


@pytest.fixture
def made(broker: Contract) -> Iterator[str]:
    """A fresh instance of the test's own, not paired; removed at the end."""
    answer = broker.call("POST", "/instances", {"name": f"contract {secrets.token_hex(4)}", "note": "contract suite"})
    assert answer.status_code == 200, answer.text
    name = answer.json()["id"]
    yield name
    broker.call("DELETE", f"/instances/{name}")
