"""Maintenance: one row that leaves connections alone, or closes the product."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.management import CommandError, call_command
from django.utils import timezone

from leadengine.accounts.models import AuditLog
from leadengine.accounts.scopes import service_scope
from leadengine.asgi import application
from tests.conftest import World
from tests.outbound import Broker, until
from tests.whatsapp import door
from tests.whatsapp.sessions.conftest import fresh, sync
from tests.whatsapp.sessions.steps import close, connected, due, set_columns, starts
from whatsapp.api import closed
from whatsapp.api.closed import HEALTH, sign
from whatsapp.models import WebhookEvent
from whatsapp.services.sessions.maintaining import read_maintenance, set_maintenance


@pytest.fixture
def open_again(transactional_db: None) -> Iterator[None]:
    """The sign belongs to the process: other tests must find it open."""
    sign.forget()
    yield
    sign.closed = False
    sign.forget()


def switch(*words: str) -> dict[str, Any]:
    out = StringIO()
    call_command("maintenance", *words, "--json", stdout=out)
    answer: dict[str, Any] = json.loads(out.getvalue())
    return answer


@pytest.mark.django_db(transaction=True)
def test_session_n13_maintenance_acts_within_5_s_and_nothing_is_started(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    assert switch("on", "--reason", "Troca do servidor") == {
        "on": True, "closed": False, "reason": "Troca do servidor",
    }  # fmt: skip
    close(broker, session, 428)
    before = starts(broker)
    sync()
    row = fresh(session)
    assert row.status == "connecting", "the status is still followed"
    due(row.pk)
    sync()
    assert starts(broker) == before, "nothing is reconnected"
    assert fresh(session).reconnect_attempts == 0
    switch("off")
    due(row.pk)
    sync()
    assert starts(broker) == before + 1
    with service_scope("test"):
        actions = list(AuditLog.objects.filter(action__startswith="maintenance").values_list("action", flat=True))
    assert sorted(actions) == ["maintenance.off", "maintenance.on"]


@pytest.mark.django_db(transaction=True)
def test_session_n12_without_auto_reconnect_a_drop_shows_and_nothing_is_started(
    house: World, broker: Broker, settings: Any
) -> None:
    session = connected(broker, house.admin)
    settings.WHATSAPP_AUTO_RECONNECT = False
    close(broker, session, 408)
    before = starts(broker)
    sync()  # beat's next tick: 5 s at most
    assert fresh(session).status == "connecting"
    due(session.pk)
    sync()
    sync()
    assert starts(broker) == before
    broker.control("reset")  # not even what the broker has lost is made again
    sync()
    assert starts(broker) == 0
    assert broker.control("state", method="GET")["instances"] == []


@pytest.mark.django_db(transaction=True)
def test_a_session_may_be_left_alone_by_itself(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    set_columns(session.pk, auto_reconnect=False)
    close(broker, session, 503)
    before = starts(broker)
    sync()
    due(session.pk)
    sync()
    assert (fresh(session).status, starts(broker)) == ("connecting", before)


# --- Closed ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("open_again", "committed_world")
def test_closed_is_503_everywhere_but_health() -> None:
    switch("on", "--closed", "--reason", "Migração")
    for path in ("/", "/inbox/", "/admin/", "/api/tickets", "/static/leadengine/app.css", "/nada"):
        answer = door.call("GET", path=path)
        assert (answer.status, answer.headers["retry-after"], answer.code) == (503, "30", "MAINTENANCE"), path
    page = door.call("GET", path="/inbox/", headers={"Accept": "text/html"})
    assert page.status == 503
    assert page.headers["content-type"].startswith("text/html")
    assert "manutenção" in page.body.decode()
    for path in ("/health", "/healthz", "/metrics"):
        assert door.call("GET", path=path).status != 503, path
    ready = door.call("GET", path="/ready")
    assert (ready.status, ready.json) == (503, {"ready": False, "reason": "closed"})
    switch("off")
    sign.forget()
    assert door.call("GET", path="/ready").status == 200
    assert door.call("GET", path="/inbox/").status == 302


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("open_again", "committed_world")
def test_the_door_of_the_broker_is_closed_too_and_takes_nothing() -> None:
    switch("on", "--closed")
    answer = door.post({"event": "MESSAGE_INBOUND"})
    assert (answer.status, answer.headers["retry-after"]) == (503, "30")
    with service_scope("test"):
        assert not WebhookEvent.objects.exists()
    switch("off")
    sign.forget()
    assert door.post({"event": "MESSAGE_INBOUND"}).status < 300


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("open_again", "committed_world")
def test_a_socket_is_refused_while_closed() -> None:
    set_closed()

    async def knock() -> Any:
        scope = {"type": "websocket", "path": "/ws", "headers": [], "query_string": b""}
        socket: Any = ApplicationCommunicator(application, scope)  # type: ignore[no-untyped-call]
        await socket.send_input({"type": "websocket.connect"})
        return await socket.receive_output(5)

    assert asyncio.run(knock()) == {"type": "websocket.close", "code": 1013}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("open_again", "committed_world")
def test_the_row_is_read_every_2_s_and_a_change_acts_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sign.is_closed()
    set_closed()
    assert not sign.is_closed(), "what was read is used for 2 s"
    monkeypatch.setattr(closed, "LOOK", 0.2)
    began = time.monotonic()
    until(sign.is_closed, 5)
    assert time.monotonic() - began < 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("open_again", "committed_world")
def test_without_the_database_the_product_counts_as_open(settings: Any) -> None:
    set_closed()
    assert sign.is_closed()
    settings.DATABASE_URL = "postgres://x:y@127.0.0.1:1/z"
    sign.forget()
    assert not sign.is_closed()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("committed_world")
def test_the_command_says_how_it_is_and_refuses_nonsense() -> None:
    assert switch() == {"on": False, "closed": False, "reason": ""}
    with pytest.raises(CommandError):
        call_command("maintenance", "off", "--closed")
    switch("on", "--closed", "--reason", "r")
    out = StringIO()
    call_command("maintenance", stdout=out)
    assert out.getvalue() == "Maintenance is on, closed: r.\n"
    switch("on")
    assert not read_maintenance().closed
    assert "/ready" in HEALTH


def set_closed() -> None:
    with service_scope("test"):
        set_maintenance(on=True, closed=True, now=timezone.now())
