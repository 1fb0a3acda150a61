"""Shows 3, 4, 5, 9, 10 and 13 of spec/broker.md, named after their line: sending through a broker that misbehaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from django.db import connection
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.celery import SENDING
from tests.api import by_cookie, refused
from tests.api import send as ask
from tests.conftest import World
from tests.outbound import (
    KEY,
    MARIA,
    Broker,
    broker_running,
    conversation,
    due_now,
    events_of,
    queue,
    reload,
    send,
    until,
)
from tests.samples import sample
from tests.whatsapp.wire import Wire, closed_port
from tickets.models import Message, OutboundAttempt, Ticket
from tickets.services.outbox import sweep_outbox, wake_session
from whatsapp import broker as client
from whatsapp.adapters import get_adapter
from whatsapp.models import WhatsAppSession
from whatsapp.services.lines import announce_late
from whatsapp.services.sessions.acting import release_session
from whatsapp.services.sessions.syncing import sync_sessions
from whatsapp.services.sessions.wishes import Asker

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[2]
SEND = "/instances/{id}/send-text"
HTML = "<!doctype html><html></html>"


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        yield running


def told(route: str = SEND, *, method: str = "POST", name: str = "ipe-01", body: Any = None, **more: Any) -> str:
    """The code of a call's failure, with a mark when nobody knows whether it was done all the same."""
    whole = {"to": "5511988887777", "message": "Olá", **(body or {})}
    try:
        client.call(method, route, parts={"id": name}, body=whole, **more)
    except client.BrokerError as error:
        return error.code + ("?" if error.unknown else "")
    return "OK"


# --- Show 3 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "call", "code"),
    [
        ({"offline": True}, {}, "INSTANCE_DISCONNECTED"),
        ({"offline": True}, {"route": "/instances/{id}/send-poll"}, "INSTANCE_DISCONNECTED"),
        ({"socketUnavailable": True}, {}, "BROKER_ERROR?"),
        ({}, {"name": "nobody"}, "INSTANCE_NOT_FOUND"),
        ({"exists": False}, {}, "INVALID_TO"),
        ({}, {"body": {"to": "12"}}, "INVALID_TO"),
        ({}, {"route": "/instances/{id}/send-media", "body": {"to": ""}}, "INVALID_TO"),
        ({}, {"route": "/instances/{id}/send-media", "body": {"type": "gif"}}, "INVALID_MEDIA"),
        ({}, {"route": "/instances/{id}/send-media", "body": {"type": "image", "media": {}}}, "INVALID_MEDIA"),
        ({}, {"body": {"message": "x" * 1_048_577}}, "INVALID_MEDIA"),
        ({}, {"body": {"message": ""}}, "MESSAGE_REJECTED"),
        ({"risk": {"threshold": 0}}, {}, "RISK_PAUSED"),
        ({"rate": {"max": 0}}, {}, "RATE_LIMITED"),
        ({}, {"route": "/instances", "body": {"name": "ipe-01"}}, "INSTANCE_EXISTS"),
        ({}, {"route": "/instances/{id}/send-location"}, "UNSUPPORTED_OPERATION"),
        ({"sendTimeout": True, "sendTimeoutMs": 10}, {}, "BROKER_TIMEOUT?"),
        ({"sendDelayMs": 400}, {"timeout_ms": 50}, "BROKER_TIMEOUT?"),
        ({"dropResponse": True}, {}, "BROKER_ERROR?"),
        ({"sendError": "boom"}, {}, "BROKER_ERROR?"),
        ({}, {"route": "/no-such-page", "method": "GET"}, "BROKER_ERROR?"),
        ({}, {}, "OK"),
    ],
)
def test_broker_03_each_row_of_the_error_table_gives_its_code(
    broker: Broker, behaviour: Any, call: Any, code: str
) -> None:
    if "risk" in behaviour:
        requests.post(f"{broker.url}/instances/ipe-01/risk/pause", headers={"x-api-key": KEY}, timeout=10)
    broker.behave(**behaviour)
    assert told(**call) == code


def test_broker_03_a_wrong_key_and_a_dead_broker(broker: Broker, settings: Any) -> None:
    settings.WHATSAPP_BROKER_API_KEY = ["another"]
    assert told() == "BROKER_AUTH"
    settings.WHATSAPP_BROKER_URL = f"http://127.0.0.1:{closed_port()}"
    assert told() == "BROKER_UNREACHABLE"


@pytest.mark.parametrize(
    ("status", "word", "page"),
    [
        (200, "BROKER_ERROR?", "BROKER_ERROR?"),
        (400, "MESSAGE_REJECTED", "MESSAGE_REJECTED"),
        (401, "BROKER_AUTH", "BROKER_AUTH"),
        (403, "BROKER_AUTH", "BROKER_AUTH"),
        (404, "MESSAGE_REJECTED", "UNSUPPORTED_OPERATION"),
        (409, "MESSAGE_REJECTED", "MESSAGE_REJECTED"),
        (413, "INVALID_MEDIA", "INVALID_MEDIA"),
        (429, "RATE_LIMITED", "RATE_LIMITED"),
        (500, "BROKER_ERROR?", "BROKER_ERROR?"),
        (501, "UNSUPPORTED_OPERATION", "UNSUPPORTED_OPERATION"),
        (502, "BROKER_ERROR?", "BROKER_ERROR?"),
        (503, "BROKER_ERROR?", "BROKER_ERROR?"),
        (504, "BROKER_ERROR?", "BROKER_ERROR?"),
    ],
)
def test_broker_03_unknown_words_and_pages_have_a_code(settings: Any, status: int, word: str, page: str) -> None:
    with Wire(status, {"error": "a_word_that_nobody_knows"}) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        assert told() == word
        wire.body, wire.kind = HTML, "text/html"
        assert told() == page


@pytest.mark.parametrize(
    ("status", "first", "second"),
    [
        (404, ("instance_not_found", "INSTANCE_NOT_FOUND"), ("whatsapp_not_found", "INVALID_TO")),
        (429, ("risk_paused", "RISK_PAUSED"), ("rate limit exceeded", "RATE_LIMITED")),
        (500, ("send timeout", "BROKER_TIMEOUT?"), ("send_failed", "BROKER_ERROR?")),
        (503, ("instance_offline", "INSTANCE_DISCONNECTED"), ("socket_unavailable", "BROKER_ERROR?")),
    ],
)
def test_broker_03_the_same_status_with_two_texts_gives_two_codes(
    settings: Any, status: int, first: Any, second: Any
) -> None:
    for word, code in (first, second):
        with Wire(status, {"error": word}) as wire:
            settings.WHATSAPP_BROKER_URL = wire.url
            assert told() == code


def test_broker_03_a_caller_of_a_proxy_is_told_by_status() -> None:
    found = {kind.code: kind.status for kind in client.BrokerError.__subclasses__()}
    found |= {kind.code: kind.status for kind in client.BrokerFailed.__subclasses__()}
    assert found | {"INSTANCE_EXISTS": 409} == {
        "BROKER_ERROR": 502, "BROKER_TIMEOUT": 504, "BROKER_UNREACHABLE": 502, "BROKER_AUTH": 502,
        "INSTANCE_DISCONNECTED": 409, "INSTANCE_NOT_FOUND": 404, "INSTANCE_EXISTS": 409, "INVALID_TO": 400,
        "INVALID_MEDIA": 400, "MESSAGE_REJECTED": 400, "RISK_PAUSED": 409, "RATE_LIMITED": 429,
        "UNSUPPORTED_OPERATION": 501,
    }  # fmt: skip


# --- Show 4 -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_broker_04_a_send_of_30_seconds_is_sent_once(committed_world: World, broker: Broker) -> None:
    broker.behave(sendDelayMs=30_000)
    message = queue(committed_world, conversation(committed_world), "devagar")
    send(committed_world)
    assert (reload(message).status, reload(message).attempts) == ("SENT", 1)
    broker.settle(lambda: reload(message).status == "DELIVERED")
    assert broker.texts() == ["devagar"]


@pytest.mark.parametrize("acked_first", [False, True], ids=["echo", "ack before the echo"])
@pytest.mark.parametrize("fault", ["sendTimeout", "dropResponse", "bad gateway"])
def test_broker_04_what_may_have_left_is_never_sent_again_and_settled_by_what_comes_back(
    committed_world: World, broker: Broker, settings: Any, fault: str, acked_first: bool
) -> None:
    message = queue(committed_world, conversation(committed_world), "talvez")
    if fault == "bad gateway":
        with Wire(502, HTML, "text/html") as proxy:
            proxy.hold = lambda: requests.post(
                broker.url + proxy.asked[-1][1], json=proxy.asked[-1][3], headers={"x-api-key": KEY}, timeout=10
            )
            settings.WHATSAPP_BROKER_URL = proxy.url
            send(committed_world)
        settings.WHATSAPP_BROKER_URL = broker.url
    else:
        behaviour: dict[str, Any] = {fault: True, "sendTimeoutMs": 20}
        broker.behave(**behaviour)
        send(committed_world)
        broker.behave()
    assert reload(message).status == "UNCONFIRMED"
    until(lambda: len(broker.sent()) == 1)
    for hour in range(1, 25):
        due_now(committed_world)
        sweep_outbox(now=timezone.now() + timedelta(hours=hour))
        send(committed_world)
    assert (reload(message).status, broker.texts()) == ("UNCONFIRMED", ["talvez"])
    until(lambda: sum(b"MESSAGES_UPDATE" in body for body in broker.hook.bodies) == 2)
    if acked_first:
        later = [body for body in broker.hook.bodies if b"MESSAGES_UPDATE" not in body]
        broker.hook.bodies = [body for body in broker.hook.bodies if b"MESSAGES_UPDATE" in body]
        broker.hook.let_in()
        assert reload(message).status == "UNCONFIRMED"
        broker.hook.bodies = later
    broker.settle(lambda: reload(message).status == "DELIVERED")
    assert reload(message).external_id == broker.sent()[0]["id"]
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.filter(direction="OUTBOUND").count() == 1
        assert OutboundAttempt.objects.filter(message=message).count() == 1


# --- Show 5 -------------------------------------------------------------------------------------------------------


def wake(world: World) -> None:
    """The news that the line is connected."""
    with tenant_scope(world.ipe.pk):
        wake_session(session_id=world.line.pk, now=timezone.now())


def test_broker_05_an_offline_line_waits_and_leaves_after_open(committed_world: World, broker: Broker) -> None:
    broker.behave(offline=True)
    broker.control("ipe-01/close", {"statusCode": 428})
    message = queue(committed_world, conversation(committed_world))
    send(committed_world)
    assert (reload(message).status, reload(message).wait_reason) == ("QUEUED", "SESSION_OFFLINE")
    broker.behave()
    broker.control("ipe-01/open")
    wake(committed_world)
    send(committed_world)
    assert (reload(message).status, reload(message).attempts) == ("SENT", 1)
    assert len(broker.sent()) == 1


@pytest.mark.slow
def test_broker_05_the_21st_send_in_15_seconds_leaves_after_the_window(committed_world: World, broker: Broker) -> None:
    broker.behave(rate={"max": 20, "windowMs": 15_000})
    ticket = conversation(committed_world)
    rows = [queue(committed_world, ticket, f"{n:02}") for n in range(21)]
    began = timezone.now()
    due = send(committed_world)
    assert len(broker.sent()) == 20
    assert (reload(rows[20]).status, reload(rows[20]).wait_reason) == ("QUEUED", "PACING")
    assert due is not None
    assert due >= began + timedelta(seconds=15)
    until(lambda: timezone.now() >= due, 25)
    send(committed_world)
    assert reload(rows[20]).status == "SENT"
    assert broker.texts() == [f"{n:02}" for n in range(21)]


def test_broker_05_a_risk_pause_is_flagged_and_replies_to_known_contacts_go_on(
    committed_world: World, broker: Broker
) -> None:
    ticket, known = conversation(committed_world), conversation(committed_world, phone="+5511977776666")
    broker.control("ipe-01/inbound", {"from": "5511977776666", "text": "Oi"})
    broker.behave(risk={"threshold": 0.7})
    requests.post(f"{broker.url}/instances/ipe-01/risk/pause", headers={"x-api-key": KEY}, timeout=10)
    with events_of(committed_world) as events:
        held, answer = queue(committed_world, ticket, "estranha"), queue(committed_world, known, "conhecida")
        send(committed_world)
        flagged = [data for name, data in events() if name == "whatsapp.session.updated"]
    assert [data["riskPaused"] for data in flagged] == [True]
    with tenant_scope(committed_world.ipe.pk):
        assert WhatsAppSession.objects.get(pk=committed_world.line.pk).risk_paused
    assert (reload(held).status, reload(held).wait_reason) == ("QUEUED", "RISK_PAUSED")
    assert reload(answer).status == "SENT"
    assert broker.texts() == ["conhecida"]
    sync_sessions(now=timezone.now())
    assert reload(held).wait_reason == "RISK_PAUSED"  # the pause holds until it is lifted
    for path, body in (("risk", {"threshold": 1}), ("risk/resume", {})):
        requests.post(f"{broker.url}/instances/ipe-01/{path}", json=body, headers={"x-api-key": KEY}, timeout=10)
    with events_of(committed_world) as events:
        sync_sessions(now=timezone.now())

        def told() -> list[Any]:
            announce_late(now=timezone.now())
            return [data["riskPaused"] for name, data in events() if name == "whatsapp.session.updated"]

        until(lambda: told()[-1:] == [False])
    assert (reload(held).status, reload(held).wait_reason) == ("QUEUED", None)
    send(committed_world)
    assert broker.texts() == ["conhecida", "estranha"]


def test_broker_05_a_supervisor_lifts_a_risk_pause_and_the_rest_leaves(committed_world: World, broker: Broker) -> None:
    held = queue(committed_world, conversation(committed_world), "estranha")
    broker.behave(risk={"threshold": 0.7})
    requests.post(f"{broker.url}/instances/ipe-01/risk/pause", headers={"x-api-key": KEY}, timeout=10)
    send(committed_world)
    assert reload(held).wait_reason == "RISK_PAUSED"
    supervisor = committed_world.supervisor
    release_session(session=committed_world.line, asker=Asker(supervisor, lambda: user_scope(supervisor)))
    send(committed_world)
    assert broker.texts() == ["estranha"]


# --- Show 9 -------------------------------------------------------------------------------------------------------


def test_broker_09_what_the_broker_cannot_reach_is_refused_before_it_is_asked(
    committed_world: World, broker: Broker
) -> None:
    broker.behave(lid="only")
    broker.control("ipe-01/inbound", {"from": "5511955554444", "pushName": "Lídia", "text": "oi"})
    broker.behave()
    group = {"id": "120363041234567890", "subject": "Vizinhos"}
    broker.control("ipe-01/inbound", {"from": "5511966665555", "text": "oi", "group": group})
    broker.settle(lambda: tickets(committed_world) == 2)
    with tenant_scope(committed_world.ipe.pk):
        hidden = Ticket.objects.get(contact__name="Lídia")
        crowd = Ticket.objects.get(contact__kind="GROUP")
    known = conversation(committed_world)
    caller, door = by_cookie(committed_world.admin), "/api/integrations/whatsapp/instances/ipe-01/messages"
    place = {"type": "location", "location": {"latitude": -23.5, "longitude": -46.6}}
    before = broker.control("state", method="GET")["requests"]
    for path, body, expected in (
        (door, {"to": "+1 415 555 1234", "text": "hi"}, (422, "UNSUPPORTED_RECIPIENT")),
        (f"/api/tickets/{hidden.pk}/messages", {"text": "oi"}, (422, "RECIPIENT_NOT_ADDRESSABLE")),
        (f"/api/tickets/{crowd.pk}/messages", {"text": "oi"}, (422, "GROUPS_NOT_SUPPORTED")),
        (f"/api/tickets/{known.pk}/messages", place, (501, "UNSUPPORTED_OPERATION")),
    ):
        answer = ask(caller, "post", path, body)
        assert refused(answer) == expected
        assert len(answer[1]["error"]["message"]) > 20, "a sentence that says why"
    send(committed_world)
    assert broker.control("state", method="GET")["requests"] == before
    with tenant_scope(committed_world.ipe.pk):
        assert not Message.objects.filter(direction="OUTBOUND").exists()


def tickets(world: World) -> int:
    with tenant_scope(world.ipe.pk):
        return Ticket.objects.count()


# --- Show 10 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_broker_10_after_a_logout_the_queued_messages_leave_in_order(
    committed_world: World, broker: Broker, late: bool
) -> None:
    ticket = conversation(committed_world)
    broker.control("ipe-01/close", {"statusCode": 401})
    if late:  # nobody looked before the broker had its next code
        until(lambda: get_adapter().status(instance="ipe-01").state == "qrcode")
    rows = [queue(committed_world, ticket, text) for text in ("um", "dois", "três")]
    send(committed_world)
    assert {reload(row).status for row in rows} == {"QUEUED"}
    assert reload(rows[0]).wait_reason == "SESSION_OFFLINE"

    def line() -> WhatsAppSession:
        sync_sessions(now=timezone.now())
        with service_scope("test"):
            found: WhatsAppSession = WhatsAppSession.objects.get(pk=committed_world.line.pk)
            return found

    until(lambda: line().qr_code, 10)
    row = line()
    assert (row.status, row.reauth_reason) == ("qrcode", "session_expired")
    broker.control("ipe-01/open")
    until(lambda: line().connected, 10)
    assert line().qr_code is None
    send(committed_world)  # woken by the connection
    assert broker.texts() == ["um", "dois", "três"]
    assert {reload(row).status for row in rows} == {"SENT"}


# --- Show 13 ------------------------------------------------------------------------------------------------------


def test_broker_13_the_log_of_failing_sends_holds_no_key_phone_or_text(
    committed_world: World, broker: Broker, tmp_path: Path
) -> None:
    ticket = conversation(committed_world)
    environment = {
        **os.environ,
        "LEADENGINE_PROCESS": "sender",
        "WHATSAPP_BROKER_URL": broker.url,
        "LOG_LEVEL": "debug",
    }
    command = [sys.executable, "-m", "django", "worker", "--name", "sender", "--queues", SENDING]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            for behaviour, ends in (
                ({"sendError": "falhou"}, "UNCONFIRMED"),
                ({"dropResponse": True}, "UNCONFIRMED"),
                ({"exists": False}, "FAILED"),
                ({"offline": True}, "QUEUED"),
            ):
                broker.behave(**behaviour)
                message = queue(committed_world, ticket, "segredo do cliente")
                until(lambda: reload(message).error is not None, 40)  # noqa: B023 - looked at within the loop
                assert reload(message).status == ends
                broker.behave()
        finally:
            connection.close()
            worker.terminate()
            worker.wait(30)
    said = (tmp_path / "log").read_text()
    assert said.count("send_failed") >= 4, said
    for secret in (KEY, MARIA, MARIA.removeprefix("+"), "988887777", "segredo", "falhou"):
        assert secret not in said


def test_broker_13_a_redirect_is_not_followed(committed_world: World, settings: Any) -> None:
    message = queue(committed_world, conversation(committed_world))
    with Wire(307) as wire, Wire() as elsewhere:
        wire.headers = {"Location": elsewhere.url}
        settings.WHATSAPP_BROKER_URL = wire.url
        send(committed_world)
        assert (len(wire.asked), elsewhere.asked) == (1, [])
    assert reload(message).status == "UNCONFIRMED"


def test_broker_13_a_get_is_tried_three_times_on_a_refused_connection_a_send_once(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "REPEATS", (0.01, 0.02))
    settings.WHATSAPP_BROKER_URL = f"http://127.0.0.1:{closed_port()}"
    for method, tries in (("GET", 3), ("POST", 1)):
        labels = {"route": SEND, "method": method, "status": "none", "result": "broker_unreachable"}
        before = sample("whatsapp_http_requests_total", **labels)
        assert told(method=method) == "BROKER_UNREACHABLE"
        assert sample("whatsapp_http_requests_total", **labels) == before + tries
