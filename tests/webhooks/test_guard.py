"""Where webhooks may go: refused when an endpoint is saved and again at each call, whatever a name says by then."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from django.utils import timezone

from leadengine.accounts.models import User
from leadengine.accounts.scopes import user_scope
from leadengine.ssrf import Blocked, Gate, Limits, Unreachable, post
from leadengine.webhooks.models import Endpoint
from leadengine.webhooks.services.delivering import deliver_due
from leadengine.webhooks.services.replaying import send_test
from tests.api import by_key, send
from tests.conftest import World
from tests.webhooks.receiver import attempts, connect, deliveries, receiving

ENDPOINTS = "/api/webhooks/endpoints"
FORBIDDEN = (
    "https://127.0.0.1/x", "https://169.254.169.254/latest", "https://[::ffff:127.0.0.1]/", "https://[::1]/",
    "https://[::ffff:169.254.169.254]/", "https://100.64.0.1/", "https://10.0.0.1/", "https://224.0.0.1/",
    "https://192.0.2.1/", "https://127.1/", "https://2130706433./", "https://localhost/", "https://redis/",
    "http://93.184.215.14/", "https://me:you@93.184.215.14/", "https://me@93.184.215.14/", "ftp://93.184.215.14/",
    "https://exa mple.test/", "https://exemplo.test/ação", "not an address", "https:///x",
)  # fmt: skip
PUBLIC = "93.184.215.14"


class Names:
    """What every name resolves to, one answer after the other, the last one for good; and who was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str | tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.called: list[tuple[str, int]] = []
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)
        monkeypatch.setattr("urllib3.util.connection.create_connection", self.connect)

    def resolve(self, host: str, port: int | None, *_: Any, **__: Any) -> list[Any]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        found = (answer,) if isinstance(answer, str) else answer
        kind = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(kind[":" in one], socket.SOCK_STREAM, 6, "", (one, port or 0)) for one in found]

    def connect(self, address: tuple[str, int], *_: Any, **__: Any) -> Any:
        self.called.append(address)
        raise OSError("no route")


def probe(actor: User, endpoint: Endpoint) -> None:
    with user_scope(actor):
        send_test(actor=actor, endpoint=endpoint, now=timezone.now())


@pytest.mark.parametrize("url", FORBIDDEN)
def test_outbound_27_an_address_of_ours_is_refused_when_it_is_saved(world: World, url: str) -> None:
    client = by_key(world.admin)
    status, body = send(client, "post", ENDPOINTS, {"url": url, "events": ["messages.new"]})
    assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR")
    assert [one["field"] for one in body["error"]["details"]["errors"]] == ["url"]
    endpoint, _ = connect(world.admin, "https://erp.example.test/")
    status, _ = send(client, "patch", f"{ENDPOINTS}/{endpoint.pk}", {"url": url})
    assert status == 400
    with user_scope(world.admin):
        assert [one.url for one in Endpoint.objects.all()] == ["https://erp.example.test/"]


@pytest.mark.parametrize(
    "answer", ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "::1", "100.64.1.1", (PUBLIC, "10.0.0.1")]
)
def test_outbound_27_a_name_that_leads_to_us_is_refused_when_it_is_saved(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    client = by_key(world.admin)
    monkeypatch.setattr("leadengine.ssrf._resolve", lambda *_: [answer] if isinstance(answer, str) else list(answer))
    assert send(client, "post", ENDPOINTS, {"url": "https://x.example.test/", "events": ["messages.new"]})[0] == 400


def test_a_name_that_nobody_knows_is_refused_when_it_is_saved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror

    client = by_key(world.admin)
    monkeypatch.setattr("leadengine.ssrf.socket.getaddrinfo", unknown)
    status, body = send(client, "post", ENDPOINTS, {"url": "https://x.example.test/", "events": ["messages.new"]})
    assert (status, body["error"]["details"]["errors"][0]["field"]) == (400, "url")


@pytest.mark.parametrize("url", [one for one in FORBIDDEN if one.isascii() and " " not in one])
def test_outbound_27_an_address_of_ours_is_refused_when_it_is_called(committed_world: World, url: str) -> None:
    """One that got past the door, or stood there before it was shut."""
    world = committed_world
    endpoint, _ = connect(world.admin, url)
    probe(world.admin, endpoint)
    assert deliver_due() == 1
    (row,) = deliveries()
    assert (row.status, row.code, row.response_status) == ("PENDING", "BLOCKED", None)
    assert [one.code for one in attempts()] == ["BLOCKED"]


def test_outbound_27_a_name_that_turned_to_us_is_refused_when_it_is_called(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it was saved, loopback when it is called."""
    world = committed_world
    client, url = by_key(world.admin), "https://rebinding.example.test/hook"
    with monkeypatch.context() as patch:
        patch.setattr("leadengine.ssrf._resolve", lambda *_: [PUBLIC])
        status, body = send(client, "post", ENDPOINTS, {"url": url, "events": ["messages.new"]})
    assert status == 201
    assert send(client, "post", f"{ENDPOINTS}/{body['data']['id']}/test")[0] == 202
    with receiving() as ours, monkeypatch.context() as patch:
        patch.setattr("leadengine.ssrf._resolve", lambda *_: ["127.0.0.1"])
        assert deliver_due() == 1
        assert ours.got == []
    assert [row.code for row in deliveries()] == ["BLOCKED"]


def test_outbound_27_a_call_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is looked up twice in one call could be public the first time only."""
    names = Names(monkeypatch, PUBLIC, "127.0.0.1")
    limits = Limits(connect=1, read=1, total=2)
    with pytest.raises(Unreachable):
        post("https://rebinding.example.test/", Gate(), body=b"{}", headers={}, limits=limits, most_bytes=10)
    assert names.called == [(PUBLIC, 443)]
    names = Names(monkeypatch, (PUBLIC, "10.0.0.1"))
    with pytest.raises(Blocked):
        post("https://mixed.example.test/", Gate(), body=b"{}", headers={}, limits=limits, most_bytes=10)
    assert names.called == []


def test_development_lifts_it_but_not_user_and_password(world: World, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    client = by_key(world.admin)
    body = {"url": "http://127.0.0.1:8080/x", "events": ["messages.new"]}
    assert send(client, "post", ENDPOINTS, body)[0] == 201
    assert send(client, "post", ENDPOINTS, {**body, "url": "http://me:you@127.0.0.1/"})[0] == 400
