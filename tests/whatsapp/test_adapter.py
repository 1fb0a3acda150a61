"""The seam to brokers: the official one's adapter, and the same suites over a second one (spec/broker.md section 9)."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import tenant_scope
from tests.conftest import World
from tests.outbound import KEY, Broker, broker_running, due_now, queue, reload, send, until
from tests.whatsapp.door import post
from tests.whatsapp.inbound import text_event
from tests.whatsapp.memory_adapter import NAME, MemoryAdapter
from tests.whatsapp.wire import Wire
from tickets.models import Message, Ticket
from whatsapp.adapters import Adapter, Group, Outgoing, Reached, get_adapter
from whatsapp.adapters.baileys_http import BaileysHttp
from whatsapp.broker_errors import (
    BrokerError,
    BrokerFailed,
    InstanceDisconnected,
    InstanceNotFound,
    InvalidTo,
    MessageRejected,
    UnsupportedOperation,
)
from whatsapp.services.drain import drain_inbox
from whatsapp.services.gap_fill import fill_gap, request_gap_fills

ROOT = Path(__file__).resolve().parents[2]
HTML = "<!doctype html><html></html>"
PHONE = "+5511988887777"
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def outgoing(**more: Any) -> Outgoing:
    fields: dict[str, Any] = {
        "session_id": UUID(int=1), "instance": "ipe-01", "to": "5511988887777",
        "payload": {"type": "text", "text": "Olá"}, "media_url": None, "reference": "r", "message_id": UUID(int=2),
        "attempt_id": UUID(int=3),
    }  # fmt: skip
    return Outgoing(**{**fields, **more})


# --- The official broker --------------------------------------------------------------------------------------


@pytest.fixture
def simulated(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        yield running


def test_a_session_from_its_creation_to_its_end(simulated: Broker) -> None:
    adapter = get_adapter()
    name = adapter.ensure_session(instance="le-ipe-0a1b2c3d")
    assert (name, adapter.ensure_session(instance=name)) == ("le-ipe-0a1b2c3d",) * 2  # an answer that was lost
    assert adapter.connect(instance=name) == "qr"
    until(lambda: adapter.status(instance=name).state == "qrcode")
    waiting = adapter.status(instance=name)
    assert not waiting.connected
    assert waiting.qr_expires_at is not None and waiting.qr_version == 1
    simulated.control(f"{name}/open", {"phone": "5511912345678", "name": "Loja"})
    state = adapter.status(instance=name)
    assert (state.state, state.phone, state.profile_name) == ("connected", "+5511912345678", "Loja")
    assert adapter.connect(instance=name) == "none"
    assert [one.instance for one in adapter.list_own(instances={name, "not-there"})] == [name]
    simulated.control(f"{name}/close", {"statusCode": 428})
    assert adapter.status(instance=name).close_code == 428
    adapter.delete(instance=name)
    with pytest.raises(InstanceNotFound):
        adapter.status(instance=name)


def test_broker_11_what_was_done_already_is_done(simulated: Broker) -> None:
    adapter = get_adapter()
    adapter.logout(instance="ipe-01")
    adapter.logout(instance="ipe-01")  # 503 instance_offline
    adapter.logout(instance="not-there")
    adapter.delete(instance="not-there")


@pytest.mark.parametrize(
    ("user", "phone", "name"),
    [
        ({"id": "5511912345678:1@s.whatsapp.net", "name": "Loja"}, "+5511912345678", "Loja"),
        ({"id": "551112345678@s.whatsapp.net"}, "+551112345678", None),
        (None, None, None),
        ("5511912345678", None, None),
    ],
)
def test_broker_11_the_user_of_a_snapshot(settings: Any, user: Any, phone: str | None, name: str | None) -> None:
    with Wire(200, {"id": "x", "connectionState": "open", "connected": True, "user": user}) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        state = BaileysHttp().status(instance="x")
    assert (state.state, state.phone, state.profile_name) == ("connected", phone, name)


def test_broker_11_answers_in_odd_shapes(settings: Any) -> None:
    adapter = BaileysHttp()
    with Wire(200, {"id": "X1", "messageId": "X1", "status": 1}) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        assert adapter.send(outgoing()).external_id == "X1"
        wire.body = json.dumps({"status": 0, "id": "X2"})
        with pytest.raises(MessageRejected) as refused:
            adapter.send(outgoing())
        assert refused.value.external_id == "X2"
        wire.body = json.dumps({"results": []})
        assert adapter.exists(instance="x", to="5511988887777") is None
        assert adapter.find(instance="x", numbers=["1", "2"]) == [Reached("1"), Reached("2")]
        lid = {"results": [None, 7, {"exists": False, "jid": "1@lid"}, {"exists": True, "jid": "99@lid"}]}
        wire.body = json.dumps(lid)
        assert adapter.find(instance="x", numbers=["5511988887777"]) == [
            Reached("5511988887777", "5511988887777", "99@lid")
        ]
        rows = [{"id": "1-2@g.us", "subject": "A"}, {"id": "3@g.us"}, {"id": 7}, None, {"subject": "B"}]
        for said in (rows, {"groups": rows}):
            wire.body = json.dumps(said)
            assert adapter.groups(instance="x") == [Group("1-2@g.us", "A"), Group("3@g.us")]
        wire.body = json.dumps([])
        with pytest.raises(BrokerFailed):
            adapter.metrics(instance="x", since=NOW, until=NOW)
        assert adapter.list_own(instances={"x"}) == []


def test_broker_12_a_message_status_is_never_the_state_of_a_line(settings: Any) -> None:
    with Wire(200, {"id": "X1", "status": 2}) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        with pytest.raises(BrokerError):
            BaileysHttp().status(instance="x")  # a 200 that says nothing of a connection is not an answer
        assert [path for _, path, _, _ in wire.asked] == ["/instances/x"]
        # A broker that knows the seed's contract has no snapshot; its /status counts when it speaks of a connection.
        wire.status, wire.body, wire.kind = 404, HTML, "text/html"

        said: dict[str, Any] = {}

        def answer() -> None:
            if wire.asked[-1][1].endswith("/status"):
                wire.status, wire.body, wire.kind = 200, json.dumps(said), "application/json"
            else:
                wire.status, wire.body, wire.kind = 404, HTML, "text/html"

        wire.hold = answer
        for words, state in (
            ({"connected": True}, "connected"),
            ({"connected": False, "status": 5}, "closed"),
            ({"connectionState": "connecting", "hasLastQr": True}, "qrcode"),
        ):
            said.clear()
            said.update(words)
            assert BaileysHttp().status(instance="x").state == state
        for silent in ({"id": "X1", "status": 3}, {"status": "connected"}, {"id": "X1", "status": None}):
            said.clear()
            said.update(silent)
            with pytest.raises(UnsupportedOperation):
                BaileysHttp().status(instance="x")


CALLS: dict[str, Callable[[Adapter], Any]] = {
    "ensure": lambda adapter: adapter.ensure_session(instance="x"),
    "status": lambda adapter: adapter.status(instance="x"),
    "logout": lambda adapter: adapter.logout(instance="x"),
    "delete": lambda adapter: adapter.delete(instance="x"),
    "list": lambda adapter: adapter.list_own(instances={"x"}),
    "send": lambda adapter: adapter.send(outgoing()),
    "exists": lambda adapter: adapter.exists(instance="x", to="5511988887777"),
    "pull": lambda adapter: adapter.pull_events(instance="x", after=None, now=NOW),
    "find": lambda adapter: adapter.find(instance="x", numbers=["5511988887777", "5511988887778"]),
    "groups": lambda adapter: adapter.groups(instance="x"),
    "metrics": lambda adapter: adapter.metrics(instance="x", since=NOW, until=NOW),
    "ack": lambda adapter: adapter.ack_events(instance="x", ids=["1"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_broker_14_a_page_with_200_is_an_error_and_a_send_unknown(settings: Any, name: str) -> None:
    with Wire(200, HTML, "text/html") as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        with pytest.raises(BrokerFailed) as failed:
            CALLS[name](BaileysHttp())
    assert (failed.value.code, failed.value.unknown) == ("BROKER_ERROR", True)


@pytest.mark.parametrize("events", [None, {}, "x", 5])
def test_a_list_of_events_must_be_a_list(settings: Any, events: Any) -> None:
    with Wire(200, {"events": events}) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        with pytest.raises(BrokerFailed):
            BaileysHttp().pull_events(instance="x", after="a", now=NOW)
        assert wire.asked[0][1] == "/instances/x/events?limit=200&after=a"


def test_listed_events_in_every_odd_shape_are_read(settings: Any) -> None:
    odd: list[Any] = [
        None,
        5,
        {},
        {"id": ""},
        {"id": "1"},
        {"id": "2", "type": "MESSAGE_INBOUND"},
        {"id": "3", "type": []},
    ]
    odd += [{"id": "4", "type": "WEBHOOK_DELIVERY", "payload": {"state": "failed", "body": "x"}}]
    with Wire(200, {"events": odd}) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        listed = BaileysHttp().pull_events(instance="x", after=None, now=NOW)
    assert [(one.id, one.entry is None, one.delivery) for one in listed] == [
        ("1", True, "none"), ("2", False, "none"), ("3", True, "none"), ("4", True, "given_up"),
    ]  # fmt: skip


# --- The same suites over two brokers -------------------------------------------------------------------------


@dataclass
class Harness:
    """What a suite needs of a broker: to let customers and WhatsApp act, and to see what left."""

    deliver: Callable[[dict[str, Any]], int]
    texts: Callable[[], list[str]]
    fail: Callable[[str], None]


def _official(broker: Broker) -> Harness:
    def deliver(what: dict[str, Any]) -> int:
        body = json.dumps(_official_body(what)).encode()
        signature = hmac.new(KEY.encode(), body, hashlib.sha256).hexdigest()
        return post(body, {"X-API-Key": "hook-key", "x-signature": signature}).status

    def fail(how: str) -> None:
        keys: dict[str, dict[str, Any]] = {"offline": {"offline": True}, "unknown": {"dropResponse": True}, "well": {}}
        broker.behave(**keys[how])

    return Harness(deliver, broker.texts, fail)


def _memory() -> Harness:
    def deliver(what: dict[str, Any]) -> int:
        body = json.dumps(what).encode()
        return post(body, {"X-API-Key": "hook-key", "x-memory-digest": hashlib.sha256(body).hexdigest()}).status

    def fail(how: str) -> None:
        kinds: dict[str, list[BrokerError]] = {
            "offline": [InstanceDisconnected()],
            "unknown": [BrokerFailed()],
            "well": [],
        }
        MemoryAdapter.fails[:] = kinds[how]

    return Harness(deliver, lambda: [one.payload["text"] for one in MemoryAdapter.sent], fail)


def _official_body(what: dict[str, Any]) -> dict[str, Any]:
    jid, name = what["with"].removeprefix("+") + "@s.whatsapp.net", what["line"]
    key = {"remoteJid": jid, "id": what["id"], "fromMe": what["what"] in {"ack", "echo"}}
    if what["what"] == "message":
        return text_event(what["says"], phone=what["with"], name=what["name"], instance=name, external_id=what["id"])
    if what["what"] == "ack":
        update = {"raw": {"updates": [{"key": key, "update": {"status": what["step"]}}]}}
        return {"event": "WHATSAPP_MESSAGES_UPDATE", "instanceId": name, "payload": update}
    content: dict[str, Any] = {"conversation": what.get("says")}
    if what["what"] == "reaction":
        content = {"reactionMessage": {"key": {"id": what["of"], "remoteJid": jid}, "text": what["says"]}}
    elif what["what"] in {"edit", "revoke"}:
        edited = {"editedMessage": {"conversation": what["says"]}} if what["what"] == "edit" else {}
        word = "MESSAGE_EDIT" if edited else "REVOKE"
        content = {"protocolMessage": {"type": word, "key": {"id": what["of"]}, **edited}}
    raw = {"key": key, "message": content, "messageTimestamp": int(timezone.now().timestamp())}
    payload = {"raw": {"messages": [raw], "type": "notify"}}
    return {"event": "WHATSAPP_MESSAGES_UPSERT", "instanceId": name, "payload": payload}


@pytest.fixture(params=["baileys_http", NAME])
def harness(request: Any, settings: Any, committed_world: World) -> Iterator[Harness]:
    settings.WHATSAPP_BROKER_ADAPTER = request.param
    settings.WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE = True
    if request.param == NAME:
        for kept in (MemoryAdapter.sent, MemoryAdapter.listed, MemoryAdapter.lines, MemoryAdapter.fails):
            kept.clear()
        yield _memory()
    else:
        with broker_running() as running:
            settings.WHATSAPP_BROKER_URL = running.url
            running.behave(autoAck=[])
            yield _official(running)


def says(text: str, id_: str, what: str = "message", **more: Any) -> dict[str, Any]:
    return {"what": what, "line": "ipe-01", "id": id_, "with": PHONE, "says": text, "name": "Maria", **more}


def rows(world: World) -> list[tuple[str, str, str]]:
    with tenant_scope(world.ipe.pk):
        return list(Message.objects.order_by("position").values_list("direction", "content", "status"))


def ticket_of(world: World) -> Ticket:
    with tenant_scope(world.ipe.pk):
        return Ticket.objects.get()


@pytest.mark.django_db(transaction=True)
def test_broker_15_inbound_suite(committed_world: World, harness: Harness) -> None:
    assert [harness.deliver(says("Oi", "A")), harness.deliver(says("Oi", "A")), harness.deliver(says("Tudo", "B"))] == [
        202, 202, 202,
    ]  # fmt: skip
    drain_inbox()
    assert rows(committed_world) == [("INBOUND", "Oi", "RECEIVED"), ("INBOUND", "Tudo", "RECEIVED")]
    assert ticket_of(committed_world).message_count == 2
    harness.deliver(says("do celular", "C", "echo"))
    harness.deliver(says("", "C", "ack", step=4))
    harness.deliver(says("👍", "D", "reaction", of="A"))
    harness.deliver(says("Tudo bem?", "E", "edit", of="B"))
    harness.deliver(says("", "F", "revoke", of="A"))
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        first, second, third = Message.objects.order_by("position")
        assert first.revoked_at is not None and first.reactions.get().emoji == "👍"
        assert (second.content, second.edited_at is not None) == ("Tudo bem?", True)
        assert (third.direction, third.source, third.status) == ("OUTBOUND", "PHONE", "READ")
        assert third.ticket.contact.name == "Maria"


@pytest.mark.django_db(transaction=True)
def test_broker_15_a_wrong_signature_is_refused_by_the_scheme_of_the_broker(
    committed_world: World, harness: Harness
) -> None:
    body = json.dumps(says("Oi", "A")).encode()
    for headers in ({}, {"x-signature": "00"}, {"x-memory-digest": "00"}):
        assert post(body, {"X-API-Key": "hook-key", **headers}).code == "INVALID_SIGNATURE"
    assert rows(committed_world) == []


@pytest.mark.django_db(transaction=True)
def test_broker_15_send_suite(committed_world: World, harness: Harness) -> None:
    harness.deliver(says("Oi", "A"))
    drain_inbox()
    ticket = ticket_of(committed_world)
    message = queue(committed_world, ticket, "Olá!")
    send(committed_world)
    sent = reload(message)
    assert (sent.status, sent.attempts, harness.texts()) == ("SENT", 1, ["Olá!"])
    assert sent.external_id
    harness.deliver(says("", sent.external_id, "ack", step=3))
    drain_inbox()
    assert reload(message).status == "DELIVERED"
    harness.fail("offline")
    waiting = queue(committed_world, ticket, "depois")
    send(committed_world)
    assert (reload(waiting).status, reload(waiting).wait_reason) == ("QUEUED", "SESSION_OFFLINE")
    harness.fail("well")
    due_now(committed_world)
    send(committed_world)
    assert (reload(waiting).status, harness.texts()) == ("SENT", ["Olá!", "depois"])
    harness.fail("unknown")
    doubtful = queue(committed_world, ticket, "talvez")
    send(committed_world)
    assert reload(doubtful).status == "UNCONFIRMED"
    harness.fail("well")
    send(committed_world)
    assert reload(doubtful).status == "UNCONFIRMED"  # never again by the system
    harness.deliver(says("talvez", "ECHO1", "echo"))
    drain_inbox()
    assert (reload(doubtful).status, reload(doubtful).external_id) == ("SENT", "ECHO1")


@pytest.mark.django_db(transaction=True)
def test_broker_15_the_list_of_any_broker_fills_the_gap(committed_world: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_ADAPTER = NAME
    MemoryAdapter.listed.clear()
    MemoryAdapter.listed.update({"1": says("Oi", "A"), "2": says("", "ZZ", "ack", step=3), "3": {"odd": True}})
    request_gap_fills(now=timezone.now())
    assert fill_gap(session_id=committed_world.line.pk) == 3
    drain_inbox()
    assert (rows(committed_world), MemoryAdapter.listed) == ([("INBOUND", "Oi", "RECEIVED")], {})


@pytest.mark.django_db(transaction=True)
def test_a_type_outside_the_capabilities_is_refused_by_what_the_adapter_says(
    committed_world: World, settings: Any
) -> None:
    settings.WHATSAPP_BROKER_ADAPTER = NAME
    assert "poll" not in get_adapter().capabilities["types"]
    MemoryAdapter.fails[:] = [InvalidTo()]
    with pytest.raises(InvalidTo):
        get_adapter().send(outgoing())


def test_broker_15_wire_words_are_found_inside_the_channel_and_in_rest_fields_only() -> None:
    word = re.compile(r"remoteJid|instanceId|wamid")
    # REST fields of spec/outbound.md section 5 and of spec/sessions.md: our own name of a session.
    rest = {
        "tickets/services/outbox/checking.py", "tickets/services/outbox/appending.py", "tickets/api/messages.py",
        "tickets/payloads.py", "tickets/serializers.py",
    }  # fmt: skip
    found: dict[str, set[str]] = {}
    for folder in ("leadengine", "leads", "tickets"):
        for path in (ROOT / folder).rglob("*"):
            name = str(path.relative_to(ROOT))
            if path.suffix in {".py", ".html", ".js", ".css"} and "/vendor/" not in name:
                words = set(word.findall(path.read_text()))
                if words:
                    found[name] = words
    drives = ("/bench/", "/chaos/", "/demo/")  # they call the product as its callers do
    outside = {name: words for name, words in found.items() if not any(part in name for part in drives)}
    assert all(words == {"instanceId"} for words in outside.values()), outside
    assert set(outside) <= rest, set(outside) - rest


def test_no_module_but_the_adapters_names_a_broker() -> None:
    names = re.compile(
        r"^(from|import) .*(whatsapp\.broker|whatsapp import broker|adapters(\.| import )baileys_http)\b", re.M
    )
    allowed = {"whatsapp/adapters/baileys_http.py", "whatsapp/adapters/baileys_questions.py"}
    found = {
        str(path.relative_to(ROOT))
        for folder in ("leadengine", "leads", "tickets", "whatsapp")
        for path in (ROOT / folder).rglob("*.py")
        if names.search(path.read_text())
    }
    assert found - allowed == set()
