"""/api/baileys-simple over HTTP: every route of its table, with and without a key, with the broker there and away."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pydantic import BaseModel, TypeAdapter

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World
from tests.outbound import MARIA, Broker, at_once, events_of, until
from tests.whatsapp.inbound import receive, text_event
from tests.whatsapp.sessions.conftest import fresh, sync
from tests.whatsapp.sessions.steps import at_broker, becomes, connected, scan, set_columns
from tickets.models import Message, Queue, Ticket
from whatsapp.api.baileys import SimpleConnectionShape, SimpleHealthShape, SimpleNewConnectionShape, SimpleQrShape
from whatsapp.models import WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)
HERE = "/api/baileys-simple"
CONNECTIONS = f"{HERE}/connections"
AWAY = "http://127.0.0.1:9"  # nobody listens there


def good(answer: tuple[int, Any], shape: type[BaseModel] | None = None, code: int = 200) -> Any:
    """The data of an answer in the envelope."""
    assert answer[0] == code, answer
    assert answer[1]["success"] is True
    assert set(answer[1]) <= {"success", "message", "pending", "data"}
    data = answer[1]["data"]
    if shape is not None:
        kind: Any = list[shape] if isinstance(data, list) else shape  # type: ignore[valid-type]
        TypeAdapter(kind).validate_json(json.dumps(data))
    return data


def made(client: Client, **body: Any) -> WhatsAppSession:
    data = good(send(client, "post", CONNECTIONS, body or None), SimpleNewConnectionShape, 201)
    with service_scope("test"):
        found: WhatsAppSession = WhatsAppSession.objects.get(connection_id=data["connectionId"])
        return found


def row_of(connection_id: str) -> WhatsAppSession:
    with service_scope("test"):
        found: WhatsAppSession = WhatsAppSession.objects.get(connection_id=connection_id)
        return found


# --- Connections -----------------------------------------------------------------------------------------------


def test_session_p40_and_p41_and_p43_and_p44_the_commands_of_the_seed(house: World, broker: Broker) -> None:
    client = by_key(house.agent)
    response = client.generic("POST", CONNECTIONS)  # no body, no content type, as curl sends it
    assert response.status_code == 201
    data = response.json()["data"]
    assert re.fullmatch(r"connection_\d{13}", data["connectionId"])
    assert (data["name"], data["type"]) == (f"Conexão {data['connectionId']}", "whatsapp_baileys")
    row = row_of(data["connectionId"])
    assert (row.owner_id, row.tenant_id, row.desired_state) == (house.agent.pk, house.ipe.pk, "connected")
    url = f"{CONNECTIONS}/{data['connectionId']}"
    until(lambda: [sync(), good(send(client, "get", f"{url}/qr"))["qrCode"]][1])
    shown = good(send(client, "get", f"{url}/qr"), SimpleQrShape)
    assert shown["qrCode"].startswith("data:image/png;base64,")
    assert (shown["connectionState"], shown["isConnected"]) == ("connecting", False)
    listed = good(send(client, "get", CONNECTIONS), SimpleConnectionShape)
    assert [(one["id"], one["owner_id"]) for one in listed] == [(data["connectionId"], str(house.agent.pk))]


def test_session_p04_baileys_simple_with_the_broker_down_leaves_a_committed_row_and_says_pending(
    house: World, settings: Any
) -> None:
    settings.WHATSAPP_BROKER_URL = AWAY
    answer = send(by_key(house.agent), "post", CONNECTIONS, {"name": "Loja", "type": "whatsapp_baileys", "extra": 1})
    data = good(answer, SimpleNewConnectionShape, 201)
    assert (data["name"], data["status"], data["pending"], data["qrCode"]) == ("Loja", "connecting", True, None)
    row = row_of(data["connectionId"])
    assert (row.status, row.desired_state, row.pending_wish) == ("connecting", "connected", "connect")


def test_created_at_one_moment_and_by_name_and_without_start(house: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = AWAY
    settings.WHATSAPP_MAX_CONNECTIONS_PER_OWNER = 0
    clients = [by_key(house.agent) for _ in range(4)]
    answers = at_once(*[lambda client=client: send(client, "post", CONNECTIONS) for client in clients])
    assert len({good(answer, code=201)["connectionId"] for answer in answers}) == 4
    client = clients[0]
    quiet = made(client, name="Parada", autoInit=False, owner_id=str(house.agent2.pk))
    assert (quiet.status, quiet.desired_state, quiet.owner_id) == ("disconnected", "disconnected", house.agent.pk)
    again = send(client, "post", CONNECTIONS, {"name": "parada"})
    assert refused(again) == (409, "INSTANCE_ALREADY_EXISTS")
    assert refused(send(client, "post", CONNECTIONS, {"name": "x" * 81})) == (400, "VALIDATION_ERROR")
    settings.WHATSAPP_MAX_CONNECTIONS_PER_OWNER = 4
    answer = send(client, "post", CONNECTIONS)
    assert refused(answer) == (409, "MAX_CONNECTIONS_REACHED")
    assert answer[1]["error"]["details"] == {"activeConnections": 4, "maxConnections": 4}


def test_list_holds_all_and_filters_in_their_words_and_ours(house: World) -> None:
    client = by_key(house.agent)
    for status in ("disconnected", "connecting", "qrcode", "connected", "error", "duplicate", "logged_out"):
        session = made(client, name=status, autoInit=False)
        set_columns(session.pk, status=status)
    for query, names in (
        ("", ["disconnected", "connecting", "qrcode", "connected", "error", "duplicate", "logged_out"]),
        ("?status=connected", ["connected"]), ("?status=connecting", ["connecting", "qrcode"]),
        ("?status=disconnected", ["disconnected", "error", "duplicate", "logged_out"]), ("?status=qrcode", ["qrcode"]),
        ("?status=lost", []), ("?page=1", ["disconnected", "connecting", "qrcode", "connected", "error", "duplicate",
                                           "logged_out"]),
    ):  # fmt: skip
        found = good(send(client, "get", f"{CONNECTIONS}{query}"), SimpleConnectionShape)
        assert [one["name"] for one in found] == names, query


def test_life_of_a_connection(house: World, broker: Broker) -> None:
    client = by_cookie(house.agent)
    session = made(client, name="Loja")
    url = f"{CONNECTIONS}/{session.connection_id}"
    until(lambda: [sync(), fresh(session).qr_code][1])
    before = good(send(client, "get", f"{url}/qr"), SimpleQrShape)
    picture = client.get(f"{url}/qr.png")
    assert (picture.status_code, picture["Content-Type"], picture["Cache-Control"]) == (200, "image/png", "no-store")
    after = good(send(client, "post", f"{url}/refresh-qr", {"force": True}), SimpleQrShape)
    assert after["qrVersion"] > before["qrVersion"]
    assert after["qrCode"] != before["qrCode"]
    scan(broker, session, "5511912345678")
    becomes(session, "connected")
    info = good(send(client, "get", f"{url}/info"), SimpleConnectionShape)
    assert (info["connectionState"], info["isConnected"], info["phoneNumber"]) == ("connected", True, "+5511912345678")
    assert (info["id"], info["qrCode"], info["whatsappId"] is None) == (session.connection_id, None, False)
    assert client.get(f"{url}/qr.png").status_code == 204
    kept = send(client, "post", f"{url}/reconnect")
    assert (good(kept)["isConnected"], kept[1]["pending"]) == (True, False)
    ended = send(client, "post", f"{url}/abort")
    assert (good(ended, SimpleConnectionShape)["connectionState"], ended[1]["pending"]) == ("disconnected", False)
    assert send(client, "post", f"{url}/reconnect")[0] in {200, 202}
    becomes(session, "qrcode")
    gone = send(client, "delete", url)
    assert good(gone)["id"] == session.connection_id
    assert at_broker(broker, session) is None
    assert refused(send(client, "get", f"{url}/info")) == (404, "INSTANCE_NOT_FOUND")


def test_session_p05_baileys_simple_serves_list_and_qr_while_the_broker_is_stopped(
    house: World, broker: Broker, settings: Any
) -> None:
    client = by_key(house.agent)
    session = made(client)
    until(lambda: [sync(), fresh(session).qr_code][1])
    settings.WHATSAPP_BROKER_URL = AWAY
    url = f"{CONNECTIONS}/{session.connection_id}"
    stored = fresh(session)
    assert good(send(client, "get", f"{url}/qr"))["qrCode"] == stored.qr_code
    assert client.get(f"{url}/qr.png").content.startswith(b"\x89PNG")
    assert [one["qrCode"] for one in good(send(client, "get", CONNECTIONS))] == [stored.qr_code]
    assert good(send(client, "get", f"{url}/info"))["qrCode"] == stored.qr_code
    assert refused(send(client, "post", f"{url}/refresh-qr")) == (502, "BROKER_UNREACHABLE")
    set_columns(session.pk, qr_expires_at=timezone.now() - timedelta(seconds=1))
    assert good(send(client, "get", f"{url}/qr"))["qrCode"] is None
    assert client.get(f"{url}/qr.png").status_code == 204
    ended = send(client, "post", f"{url}/abort")
    assert (ended[0], ended[1]["pending"], ended[1]["data"]["connectionState"]) == (202, True, "disconnected")


def test_asking_for_the_qr_starts_a_wanted_connection_and_no_other(house: World, broker: Broker) -> None:
    client = by_key(house.agent)
    wanted, parked = made(client, name="Quero"), made(client, name="Parada", autoInit=False)
    set_columns(wanted.pk, status="error", pending_wish=None)
    for session in (wanted, parked):
        assert good(send(client, "get", f"{CONNECTIONS}/{session.connection_id}/qr"), SimpleQrShape)
    assert fresh(wanted).status in {"connecting", "qrcode"}
    assert (fresh(parked).status, at_broker(broker, parked)) == ("disconnected", None)


def test_session_p70_baileys_simple_reconnect_all_is_for_supervisors(house: World) -> None:
    session = made(by_key(house.agent))
    set_columns(session.pk, status="error", pending_wish=None)
    assert refused(send(by_key(house.agent), "post", f"{HERE}/reconnect-all")) == (403, "FORBIDDEN")
    assert good(send(by_key(house.outsider), "post", f"{HERE}/reconnect-all"), code=202) == {"count": 0}
    assert good(send(by_key(house.supervisor), "post", f"{HERE}/reconnect-all"), code=202) == {"count": 1}
    assert (fresh(session).status, fresh(session).pending_wish) == ("connecting", "connect")


# --- Who may call ----------------------------------------------------------------------------------------------


def test_session_p69_health_answers_anybody_and_holds_no_id_and_no_secret(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin, phone="5511912345678")
    set_columns(house.line.pk, deleted_at=None, status="connected")
    response = Client().get(f"{HERE}/health")
    assert response.status_code == 200
    body = response.json()
    SimpleHealthShape.model_validate_json(response.content)
    assert set(body) == {"success", "status", "timestamp", "uptime", "connections", "version"}
    assert (body["success"], body["status"] in {"healthy", "degraded"}) == (True, True)
    assert type(body["connections"]) is int
    text = response.content.decode() + json.dumps(dict(response.headers))
    for word in (session.pk, session.connection_id, session.broker_instance_id, house.ipe.slug, "broker-key-1", "5511"):
        assert str(word) not in text
    assert Client().get(f"{HERE}/health", headers={"X-API-Key": "wrong"}).status_code == 200


CALLERS: list[tuple[str, dict[str, str], bool]] = [
    ("127.0.0.1", {}, True), ("::1", {}, True), ("10.0.0.7", {}, False), ("", {}, False),
    ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, False), ("127.0.0.1", {"Forwarded": "for=1"}, False),
    ("127.0.0.1", {"X-Real-IP": "127.0.0.1"}, False), ("127.0.0.1", {"Origin": "https://evil.test"}, False),
    ("127.0.0.1", {"Sec-Fetch-Site": "cross-site"}, False), ("127.0.0.1", {"X-API-Key": "wrong"}, False),
    ("127.0.0.1", {"X-API-Key": ""}, False), ("127.0.0.1", {"Authorization": "Basic abc"}, False),
]  # fmt: skip


def test_without_a_key_only_a_developer_on_this_machine_is_somebody(house: World, settings: Any) -> None:
    for peer, headers, _ in CALLERS:
        client = Client(headers=headers, REMOTE_ADDR=peer)
        assert refused(send(client, "post", CONNECTIONS)) == (401, "UNAUTHORIZED"), (peer, headers)
    settings.BAILEYS_SIMPLE_DEV_OWNER = house.agent.email
    for peer, headers, let_in in CALLERS:
        client = Client(headers=headers, REMOTE_ADDR=peer)
        if let_in:
            session = made(client, name=peer, autoInit=False)
            assert session.owner_id == house.agent.pk
            assert session.connection_id in {one["id"] for one in good(send(client, "get", CONNECTIONS))}
        else:
            assert refused(send(client, "post", CONNECTIONS)) == (401, "UNAUTHORIZED"), (peer, headers)
        # The other surfaces know no such caller.
        assert send(client, "get", "/api/integrations/whatsapp/instances")[0] == 401
    User.objects.filter(pk=house.agent.pk).update(is_active=False)
    assert refused(send(Client(), "get", CONNECTIONS)) == (401, "UNAUTHORIZED")


def test_401_has_the_sentences_that_programs_compare(house: World) -> None:
    for headers, sentence in (({}, "API key is required"), ({"X-API-Key": "wrong"}, "Invalid API key")):
        for method, address in (("get", CONNECTIONS), ("post", f"{CONNECTIONS}/inst-ipe-01/send-message")):
            answer = send(Client(headers=headers), method, address)
            assert refused(answer) == (401, "UNAUTHORIZED")
            assert answer[1]["error"]["message"] == sentence


def test_a_key_decides_whatever_the_developers_setting_says(house: World, settings: Any) -> None:
    settings.BAILEYS_SIMPLE_DEV_OWNER = house.admin.email
    client = by_key(house.outsider)
    assert made(client, autoInit=False).owner_id == house.outsider.pk


# --- Chats -----------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(house: World) -> World:
    """The world's line, open, and Maria's two messages on it."""
    set_columns(house.line.pk, deleted_at=None, status="connected", desired_state="connected")
    receive(text_event("oi"), text_event("tudo bem?"))
    return house


LINE = f"{CONNECTIONS}/inst-ipe-01"


@pytest.mark.parametrize("chat", ["5511988887777@s.whatsapp.net", "551188887777@c.us", "11 98888-7777", MARIA])
def test_a_message_to_a_chat_waits_in_the_outbox(desk: World, chat: str) -> None:
    body = {"chatId": chat, "type": "text", "text": "Olá", "options": {"linkPreview": None}}
    data = good(send(by_key(desk.admin), "post", f"{LINE}/send-message", body), code=202)
    assert data["status"] == "queued"
    with service_scope("test"):
        message = Message.objects.get(pk=data["id"])
        assert (message.status, message.content, message.source) == ("QUEUED", "Olá", "API")
        assert Ticket.objects.get().pk == message.ticket_id


def test_files_their_captions_and_what_the_outbox_refuses(desk: World) -> None:
    client, url = by_key(desk.admin), f"{LINE}/send-message"
    body = {"chatId": MARIA, "type": "image", "text": "Veja", "mediaUrl": "https://example.com/a.png"}
    data = good(send(client, "post", url, body), code=202)
    with service_scope("test"):
        message = Message.objects.get(pk=data["id"])
        assert (message.type, message.caption) == ("IMAGE", "Veja")
        assert message.media.source == {"url": body["mediaUrl"]}
    for wrong, code in (
        ({"chatId": "ramal 12", "text": "x"}, (400, "INVALID_TO")), ({"chatId": "@", "text": "x"}, (400, "INVALID_TO")),
        ({"text": "x"}, (400, "VALIDATION_ERROR")), ({"chatId": MARIA}, (400, "VALIDATION_ERROR")),
        ({"chatId": MARIA, "type": "image"}, (400, "VALIDATION_ERROR")),
        ({"chatId": "120363000000000001@g.us", "text": "x"}, (422, "GROUPS_NOT_SUPPORTED")),
        ({"chatId": "98765@lid", "text": "x"}, (422, "RECIPIENT_NOT_ADDRESSABLE")),
        ({"chatId": "+14155550100", "text": "x"}, (422, "UNSUPPORTED_RECIPIENT")),
    ):  # fmt: skip
        assert refused(send(client, "post", url, wrong)) == code, wrong
    set_columns(desk.line.pk, status="disconnected")
    assert refused(send(client, "post", url, {"chatId": MARIA, "text": "x"})) == (409, "INSTANCE_DISCONNECTED")
    set_columns(desk.line.pk, status="connected")
    with service_scope("test"):
        assert Message.objects.filter(direction="OUTBOUND").count() == 1
        Queue.objects.update(is_active=False)
    with events_of(desk) as events:
        nowhere = {"chatId": "+5511900000009", "text": "x"}
        assert refused(send(client, "post", url, nowhere)) == (409, "QUEUE_MISSING")
        until(lambda: "whatsapp.queue.missing" in {name for name, _ in events()})


def test_a_chat_is_read_once(desk: World) -> None:
    client, url = by_key(desk.admin), f"{LINE}/mark-read"
    body = {"chatId": "5511988887777@s.whatsapp.net"}
    assert good(send(client, "post", url, body)) == {"count": 2}
    assert good(send(client, "post", url, body)) == {"count": 0}
    receive(text_event("e aí?"))
    assert good(send(client, "post", url, {"chatId": MARIA})) == {"count": 1}
    assert good(send(client, "post", url, {"chatId": "+5511900000001"})) == {"count": 0}


def test_a_conversation_that_is_finished_closes_its_atendimento_and_its_ticket(desk: World) -> None:
    client, url = by_key(desk.supervisor), f"{LINE}/finalizar-conversa"
    body = {"chatId": "5511988887777@s.whatsapp.net"}
    closed = good(send(client, "post", url, body))
    with service_scope("test"):
        row, ticket = WhatsAppAtendimento.objects.get(), Ticket.objects.get()
    assert closed == {"count": 1, "id": str(row.pk), "status": "FECHADO"}
    assert (row.status, ticket.status, ticket.closed_by_id) == ("FECHADO", "RESOLVED", desk.supervisor.pk)
    assert good(send(client, "post", url, body)) == {"count": 0}
    nowhere = f"{CONNECTIONS}/nowhere/finalizar-conversa"
    assert refused(send(client, "post", nowhere, body)) == (404, "INSTANCE_NOT_FOUND")
    receive(text_event("voltei", phone="+5511900000002"))
    assert good(send(client, "post", url, {"chatId": "+5511900000002", "reasonCode": "SPAM"}))
    with service_scope("test"):
        assert Ticket.objects.order_by("number").last().status == "CLOSED"  # type: ignore[union-attr]


def test_an_atendimento_without_a_ticket_closes_by_itself(desk: World) -> None:
    with service_scope("test"), saving():
        row = WhatsAppAtendimento.objects.create(
            tenant=desk.ipe, owner=desk.admin, connection_id="inst-ipe-01", chat_id="5511900000003@s.whatsapp.net"
        )
    body = {"chatId": "+5511900000003"}
    assert good(send(by_key(desk.admin), "post", f"{LINE}/mark-read", body)) == {"count": 0}
    assert good(send(by_key(desk.admin), "post", f"{LINE}/finalizar-conversa", body))["id"] == str(row.pk)
    with service_scope("test"):
        row.refresh_from_db()
    assert (row.status, row.closed_by) == ("FECHADO", desk.admin.pk)
