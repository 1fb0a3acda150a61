"""The TurboZap surface over HTTP: every route of its table, its envelope, and who is refused."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from typing import Any

import pytest
import zxingcpp
from django.test import Client
from django.utils import timezone
from PIL import Image

from leadengine.accounts.scopes import service_scope
from tests.api import by_cookie, by_key, send
from tests.conftest import World
from tests.outbound import Broker, answering_never, at_once, until
from tests.whatsapp.sessions.conftest import asker, fresh, make, sync
from tests.whatsapp.sessions.steps import set_columns
from tickets.models import Message
from whatsapp.models import Upload, WhatsAppSession
from whatsapp.services.persistence import saving
from whatsapp.services.sessions.wishes import edit_session

pytestmark = pytest.mark.django_db(transaction=True)


def call(client: Client, line: str, body: Any = None) -> tuple[int, Any]:
    """`call(client, "GET vendas/status")`: (status, the whole answer)."""
    method, _, path = line.partition(" ")
    return send(client, method, path if path.startswith("/") else f"/instance/{path}", body)


def good(answer: tuple[int, Any], code: int = 200) -> Any:
    assert answer[0] == code, answer
    assert answer[1]["success"] is True
    assert set(answer[1]) <= {"success", "message", "data"}
    return answer[1].get("data")


def bad(answer: tuple[int, Any]) -> tuple[int, str]:
    assert set(answer[1]) == {"success", "message", "error"}
    assert answer[1]["success"] is False
    assert answer[1]["message"] == answer[1]["error"]["message"]
    return answer[0], answer[1]["error"]["code"]


def created(client: Client, name: str = "vendas") -> WhatsAppSession:
    data = good(call(client, "POST create", {"name": name}), 201)
    with service_scope("test"):
        found: WhatsAppSession = WhatsAppSession.objects.get(pk=data["id"])
    return found


def opened(broker: Broker, session: WhatsAppSession) -> WhatsAppSession:
    broker.control(f"{fresh(session).broker_instance_id}/open", {"phone": "5511912345678", "name": "Loja"})
    until(lambda: [sync(), fresh(session).connected][1])
    return fresh(session)


def test_a_connection_is_made_started_scanned_renamed_logged_out_and_deleted(house: World, broker: Broker) -> None:
    client = by_key(house.agent)
    data = good(call(client, "POST create", {"name": "vendas", "owner_id": str(house.admin.pk)}), 201)
    assert set(data) == {"id", "name", "api_key", "status"}
    assert (data["name"], data["status"]) == ("vendas", "disconnected")
    assert re.fullmatch("[0-9a-f]{64}", data["api_key"])
    session = WhatsAppSession(pk=data["id"])
    row = fresh(session)
    assert (row.owner_id, row.connection_id, row.desired_state) == (house.agent.pk, "vendas", "disconnected")
    shown = {
        "id": data["id"], "name": "vendas", "status": "disconnected", "phone_number": None, "profile_name": None,
        "profile_pic": None,
    }  # fmt: skip
    listed = good(call(client, "GET list"))
    assert listed["total"] == 1
    assert listed["instances"][0] | shown == listed["instances"][0]
    assert set(listed["instances"][0]) == {*shown, "created_at"}
    assert good(call(client, "GET vendas")) == listed["instances"][0]
    assert good(call(client, "GET /api/instance/vendas/status")) == {
        "name": "vendas", "status": "disconnected", "phone_number": None, "profile_name": None, "profile_pic": None,
        "last_error": None, "action": None,
    }  # fmt: skip
    status, answer = call(client, "POST vendas/connect")
    begun = good((status, answer), status)
    assert (status in {200, 202}, begun["name"], begun["status"]) == (True, "vendas", "connecting")
    assert fresh(session).desired_state == "connected"
    opened(broker, session)
    now = good(call(client, "GET vendas/status"))
    assert (now["status"], now["phone_number"], now["profile_name"]) == ("connected", "+5511912345678", "Loja")
    assert good(call(client, "POST vendas/connect"))["status"] == "connected"
    assert good(call(client, "PUT vendas/name", {"name": "caixa"})) == {
        "old_name": "vendas", "new_name": "caixa", "message": "Instance renamed",
    }  # fmt: skip
    assert good(call(client, "GET caixa")) == good(call(client, "GET vendas"))  # the connection_id stays
    assert good(call(client, "POST caixa/logout")) == {
        "name": "caixa", "status": "disconnected", "message": "Instance logged out",
    }  # fmt: skip
    state = {one["id"]: one for one in broker.control("state", method="GET")["instances"]}
    assert not state[row.broker_instance_id]["connected"]
    assert good(call(client, "DELETE caixa")) == {"name": "caixa", "message": "Instance deleted"}
    assert fresh(session).deleted_at is not None
    assert bad(call(client, "GET caixa")) == (404, "INSTANCE_NOT_FOUND")
    assert row.broker_instance_id not in {one["id"] for one in broker.control("state", method="GET")["instances"]}


def test_names(house: World, broker: Broker) -> None:
    admin, agent, supervisor = by_key(house.admin), by_key(house.agent), by_key(house.supervisor)
    created(agent)
    for body in ({}, {"name": ""}, {"name": "loja ipê"}, {"name": "a/b"}, {"name": "a" * 101}, {"name": 7}):
        assert bad(call(agent, "POST create", body)) == (400, "VALIDATION_ERROR")
    assert bad(call(agent, "POST create", {"name": "VENDAS"})) == (409, "INSTANCE_ALREADY_EXISTS")
    other = created(admin)
    assert re.fullmatch("vendas-[0-9a-f]{6}", other.connection_id)
    assert other.session_name == "vendas"
    third = created(by_key(house.agent2))
    assert good(call(supervisor, "GET vendas"))["id"] != str(other.pk), "a connection_id comes before a name"
    edit_session(session=other, asker=asker(house.admin), now=timezone.now(), name="loja")
    edit_session(session=third, asker=asker(house.agent2), now=timezone.now(), name="loja")
    status, answer = call(supervisor, "GET loja")
    assert bad((status, answer)) == (409, "AMBIGUOUS_NAME")
    assert answer["error"]["details"]["connectionIds"] == sorted([other.connection_id, third.connection_id])
    assert good(call(by_key(house.agent2), "GET loja"))["id"] == str(third.pk)
    created(by_key(house.agent2), "balcao")
    assert bad(call(by_key(house.agent2), "PUT balcao/name", {"name": "Loja"})) == (409, "INSTANCE_ALREADY_EXISTS")
    assert bad(call(agent, "PUT vendas/name", {"name": "a b"})) == (400, "VALIDATION_ERROR")


def test_a_name_that_is_an_address_of_something_else_is_no_id(house: World, broker: Broker) -> None:
    client = by_key(house.agent)
    for word in ("list", "create", "qr", "pair", "reconnect-all"):
        session = created(client, word)
        assert re.fullmatch(f"{word}-[0-9a-f]{{6}}", session.connection_id)
        assert session.session_name == word
        for name in (session.connection_id, str(session.pk)):
            assert good(call(client, f"GET {name}"))["id"] == str(session.pk)
    assert good(call(client, "GET list"))["total"] == 5
    good(call(client, f"DELETE {session.pk}"))


def test_session_p45_the_code_is_a_picture_of_the_string(house: World, broker: Broker) -> None:
    client = by_key(house.agent)
    session = created(client)
    found: dict[str, Any] = {}

    def shown() -> bool:
        found.update(good(call(client, "GET vendas/qrcode")))
        return bool(found["status"] == "qrcode")

    until(shown)  # asking has started it
    assert fresh(session).desired_state == "connected"
    assert set(found) == {"name", "status", "qrcode", "code", "qr_code", "expires_at"}
    assert found["qrcode"] == found["code"] == fresh(session).qr_raw
    assert found["qrcode"].startswith("2@")
    assert found["expires_at"].endswith("Z")
    picture = Image.open(BytesIO(base64.b64decode(found["qr_code"].removeprefix("data:image/png;base64,"))))
    assert (picture.format, min(picture.size) >= 200) == ("PNG", True)
    assert [code.text for code in zxingcpp.read_barcodes(picture.convert("L"))] == [found["qrcode"]]
    opened(broker, session)
    assert good(call(client, "GET vendas/qrcode")) == {
        "name": "vendas", "status": "connected", "qrcode": None, "code": None, "qr_code": None, "expires_at": None,
    }  # fmt: skip


def test_restart_never_logs_out_or_wipes(house: World, broker: Broker) -> None:
    client = by_key(house.agent)
    session = opened(broker, make(house.agent, "vendas", connection_id="vendas"))
    said = good(call(client, "PUT vendas/restart"))
    assert (said["name"], said["status"]) == ("vendas", "restarting")
    row = fresh(session)
    assert (row.status, row.desired_state, row.pending_wish) == ("connected", "connected", None)
    state = {one["id"]: one for one in broker.control("state", method="GET")["instances"]}
    assert state[session.broker_instance_id]["connected"]
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=session.pk).update(
            status="error", last_error={"code": "X", "message": "Bloqueado.", "action": "Outro número."}
        )
    now = good(call(client, "GET vendas/status"))
    assert (now["status"], now["last_error"], now["action"]) == ("error", "Bloqueado.", "Outro número.")
    good(call(client, "PUT vendas/restart"))
    assert fresh(session).connected, "the broker had kept its keys"


def test_messages_leave_through_the_outbox(house: World, broker: Broker) -> None:
    client = by_key(house.admin)
    session = make(house.admin, "vendas", connection_id="vendas")
    text = "POST /message/vendas/text"
    status, answer = call(client, text, {"to": "11988887777", "text": "Olá"})
    assert bad((status, answer)) == (409, "INSTANCE_DISCONNECTED")
    assert answer["message"] == "Instance is not connected to WhatsApp"
    opened(broker, session)
    data = good(call(client, text, {"to": "11988887777", "text": "Olá"}), 201)
    assert (set(data), data["message_id"], data["status"]) == (
        {"id", "message_id", "status", "timestamp"}, None, "queued",
    )  # fmt: skip
    media = {
        "to": "11988887777", "media_url": "https://files.example.test/a.jpg", "mime_type": "image/jpeg",
        "caption": "Veja", "quote_id": data["id"],
    }  # fmt: skip
    second = good(call(client, "POST /api/message/vendas/media", media), 201)
    with service_scope("test"):
        first, photo = Message.objects.get(pk=data["id"]), Message.objects.get(pk=second["id"])
        Message.objects.filter(pk=first.pk).update(external_id="WA1")
    assert (first.content, first.source, first.session_id, first.author_id) == (
        "Olá", "API", session.pk, house.admin.pk,
    )  # fmt: skip
    assert (photo.type, photo.caption, photo.reply_to_id) == ("IMAGE", "Veja", first.pk)
    third = good(call(client, text, {"to": "11988887777", "text": "Resposta", "quote_id": "WA1"}), 201)
    with service_scope("test"):
        assert Message.objects.get(pk=third["id"]).reply_to_id == first.pk
    for body, refusal in (
        ({"to": "11988887777"}, (400, "VALIDATION_ERROR")),
        ({"to": "x", "text": "Oi"}, (400, "INVALID_TO")),
        ({"to": "11988887777", "text": "Oi", "quote_id": "WA2"}, (400, "VALIDATION_ERROR")),
    ):
        assert bad(call(client, text, body)) == refusal
    same = {"to": "11988887777", "text": "Uma vez"}
    both = [
        client.post("/message/vendas/text", same, "application/json", headers={"Idempotency-Key": "k1"}).json()["data"]
        for _ in range(2)
    ]
    assert both[0]["id"] == both[1]["id"]


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_a_file_in_the_body_becomes_an_upload_and_leaves_through_the_outbox(
    house: World, broker: Broker, settings: Any
) -> None:
    client, route = by_key(house.admin), "POST /message/vendas/media"
    session = make(house.admin, "vendas", connection_id="vendas")
    body = {
        "to": "11988887777", "base64": base64.b64encode(PNG).decode(), "mime_type": "image/png", "caption": "Veja",
        "file_name": "../foto.png",
    }  # fmt: skip
    assert bad(call(client, route, body)) == (409, "INSTANCE_DISCONNECTED")
    opened(broker, session)
    data = good(call(client, route, body), 201)
    with service_scope("test"):
        message = Message.objects.select_related("media").get(pk=data["id"])
        upload = Upload.objects.get(pk=message.media.upload_id)
    assert (message.type, message.caption, message.status) == ("IMAGE", "Veja", "QUEUED")
    assert (upload.state, upload.media_type, upload.mime_type, upload.size) == (
        "ATTACHED",
        "image",
        "image/png",
        len(PNG),
    )
    assert (upload.file_name, upload.actor_id) == ("foto.png", house.admin.pk)
    data_url = body | {"base64": f"data:image/png;base64,{body['base64']}", "mime_type": "application/octet-stream"}
    with service_scope("test"):
        document = Message.objects.get(pk=good(call(client, "POST /api/message/vendas/media", data_url), 201)["id"])
    assert document.type == "DOCUMENT"
    for wrong, refusal in (
        ({"base64": "a*b="}, (400, "VALIDATION_ERROR")),
        ({"base64": ""}, (400, "FILE_EMPTY")),
        ({"base64": None}, (400, "VALIDATION_ERROR")),
        ({"media_url": "https://files.example.test/a.jpg"}, (400, "VALIDATION_ERROR")),
        ({"mime_type": "video/mp4"}, (415, "MEDIA_TYPE_MISMATCH")),
        ({"to": "x"}, (400, "INVALID_TO")),
    ):
        assert bad(call(client, route, body | wrong)) == refusal, wrong
    settings.UPLOAD_MAX_BYTES = dict.fromkeys(settings.UPLOAD_MAX_BYTES, len(PNG) - 1)
    assert bad(call(client, route, body)) == (413, "FILE_TOO_LARGE")


def test_the_same_file_with_the_same_key_is_one_message(house: World, broker: Broker) -> None:
    client = by_key(house.admin)
    session = opened(broker, make(house.admin, "vendas", connection_id="vendas"))
    body = {"to": "11988887777", "base64": base64.b64encode(PNG).decode(), "mime_type": "image/png"}

    def put(body: dict[str, str]) -> tuple[int, Any]:
        answer = client.post("/message/vendas/media", body, "application/json", headers={"Idempotency-Key": "k1"})
        return answer.status_code, answer.json()

    first, second, third = at_once(*[lambda: put(body)] * 3)
    assert good(first, 201)["id"] == good(second, 201)["id"] == good(third, 201)["id"]
    set_columns(session.pk, status="disconnected")
    assert good(put(body), 201)["id"] == first[1]["data"]["id"]
    with service_scope("test"):
        assert Message.objects.filter(type="IMAGE").count() == 1
        kept = Upload.objects.count()
    assert bad(put(body | {"caption": "Outra"})) == (422, "IDEMPOTENCY_KEY_REUSED")
    with service_scope("test"):
        assert Upload.objects.count() == kept


def test_a_file_whose_message_is_refused_is_not_kept(house: World, broker: Broker) -> None:
    client, route = by_key(house.admin), "POST /message/vendas/media"
    opened(broker, make(house.admin, "vendas", connection_id="vendas"))
    body = {"to": "11988887777", "base64": base64.b64encode(PNG).decode(), "mime_type": "image/png"}
    assert bad(call(client, route, body | {"quote_id": "nobody"})) == (400, "VALIDATION_ERROR")
    assert bad(call(client, route, body | {"caption": "x" * 1025})) == (400, "VALIDATION_ERROR")
    with service_scope("test"):
        uploads = list(Upload.objects.all())
    assert [upload.state for upload in uploads] == ["EXPIRED"] * 2
    assert all(upload.file_removed_at for upload in uploads)
    assert good(call(client, route, body), 201)["status"] == "queued"


def test_what_turbozap_can_and_we_cannot(house: World, broker: Broker) -> None:
    client = by_key(house.agent)
    for path in ("message/vendas/sticker", "group/vendas/list", "contact/vendas/check", "presence/vendas/available",
                 "profile/vendas/name", "call/vendas/reject"):  # fmt: skip
        for prefix in ("/", "/api/"):
            assert bad(call(client, f"POST {prefix}{path}", {})) == (501, "NOT_SUPPORTED")
            assert bad(call(Client(), f"POST {prefix}{path}", {})) == (401, "UNAUTHORIZED")


def test_session_p04_turbozap_creates_while_the_broker_is_down(house: World, broker: Broker, settings: Any) -> None:
    client = by_key(house.agent)
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    session = created(client)
    assert fresh(session).session_name == "vendas"
    assert good(call(client, "GET vendas/qrcode"))["status"] == "pending"
    row = fresh(session)
    assert (row.status, row.desired_state, row.pending_wish) == ("connecting", "connected", "connect")
    begun = good(call(client, "POST vendas/connect"), 202)
    assert begun["status"] == "connecting"
    assert good(call(client, "POST vendas/logout"), 202)["status"] == "disconnected"
    good(call(client, "DELETE vendas"), 202)
    with answering_never() as settings.WHATSAPP_BROKER_URL:
        settings.SESSION_ACTION_TIMEOUT_MS = 200
        created(client, "caixa")
        good(call(client, "POST caixa/connect"), 202)


def routes(name: str, foreign: str) -> list[tuple[str, Any]]:
    """Every call of the surface that names a connection."""
    return [
        (f"GET {name}", None), (f"GET {name}/status", None), (f"GET {name}/qrcode", None),
        (f"POST {name}/connect", None), (f"PUT {name}/restart", None), (f"POST {name}/logout", None),
        (f"PUT {name}/name", {"name": foreign}), (f"DELETE {name}", None),
        (f"POST /message/{name}/text", {"to": "11988887777", "text": "Oi"}),
        (f"POST /message/{name}/media", {"to": "11988887777", "media_url": "https://a.test/b", "mime_type": "a/b"}),
    ]  # fmt: skip


def test_session_p08_and_n05_turbozap_shows_and_does_nothing_to_others(house: World, broker: Broker) -> None:
    session = opened(broker, make(house.agent, "vendas", connection_id="vendas"))
    before, heard = fresh(session).__dict__, broker.control("state", method="GET")
    del before["_state"]
    for person, names in ((house.agent2, 0), (house.outsider, 0), (house.supervisor, 1), (house.admin, 1)):
        assert good(call(by_key(person), "GET list"))["total"] == names, person
    for word in ("vendas", session.broker_instance_id, str(session.pk)):
        for line, body in routes(str(word), "outro"):
            for client in (by_key(house.agent2), by_key(house.outsider)):
                assert bad(call(client, line, body)) == (404, "INSTANCE_NOT_FOUND"), line
    for line, body in [*routes("vendas", "outro"), ("GET list", None), ("POST create", {"name": "nova"})]:
        for client, message in (
            (Client(), "API key is required"), (by_cookie(house.admin), "API key is required"),
            (Client(headers={"X-API-Key": "0" * 64}), "Invalid API key"),
            (Client(headers={"Authorization": "Bearer wrong"}), "Invalid API key"),
        ):  # fmt: skip
            status, answer = call(client, line, body)
            if status != 429:  # too many wrong ones
                assert (bad((status, answer)), answer["message"]) == ((401, "UNAUTHORIZED"), message), line
    assert bad(call(by_key(house.supervisor), "DELETE vendas")) == (403, "FORBIDDEN")
    after = fresh(session).__dict__
    del after["_state"]
    assert after == before
    assert broker.control("state", method="GET") == heard
    with service_scope("test"):
        assert not Message.objects.filter(direction="OUTBOUND").exists()
        assert not WhatsAppSession.objects.filter(session_name="nova").exists()
    good(call(by_key(house.admin), "DELETE vendas"))


def test_keys_of_the_caller(house: World) -> None:
    keys, admin = "/api/user/apikeys", by_key(house.admin)
    data = good(call(admin, f"POST {keys}", {"name": "CRM", "permissions": ["messages:send"]}), 201)
    text = data.pop("key")
    assert (len(text), data["prefix"], data["permissions"]) == (64, text[:8], ["messages:send"])
    assert data in good(call(admin, f"GET {keys}"))
    assert text not in str(call(admin, f"GET {keys}"))
    narrow = Client(headers={"X-API-Key": text})
    assert bad(call(narrow, f"POST {keys}", {"name": "mais"})) == (403, "FORBIDDEN")
    assert bad(call(admin, f"POST {keys}", {"name": "x", "permissions": ["all"]})) == (400, "VALIDATION_ERROR")
    assert bad(call(admin, f"POST {keys}", {"name": "x", "expires_at": "2020-01-01T00:00:00Z"}))[0] == 400
    maker = good(call(admin, f"POST {keys}", {"name": "m", "permissions": ["keys:write", "leads:read"]}), 201)["key"]
    heir = good(call(Client(headers={"X-API-Key": maker}), f"POST {keys}", {"name": "n"}), 201)
    assert heir["permissions"] == ["keys:write", "leads:read"], "a key makes none that may more"
    wide = {"name": "n", "permissions": ["tickets:read"]}
    assert bad(call(Client(headers={"X-API-Key": maker}), f"POST {keys}", wide))[0] == 400
    assert bad(call(by_key(house.agent), f"POST {keys}", {"name": "x"})) == (403, "FORBIDDEN")
    for client in (by_key(house.supervisor), by_key(house.outsider)):
        assert call(client, f"DELETE {keys}/{data['id']}")[0] in {403, 404}
        assert data["id"] not in str(call(client, f"GET {keys}"))
    good(call(admin, f"DELETE {keys}/{data['id']}"))
    assert bad(call(admin, f"DELETE {keys}/{data['id']}")) == (404, "NOT_FOUND")
    assert call(narrow, "GET list")[0] == 401
