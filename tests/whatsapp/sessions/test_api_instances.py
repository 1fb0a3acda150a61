"""REST of connections, native: made, read, changed and ended, with the broker there and away."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.test import Client, override_settings
from django.utils import timezone
from pydantic import BaseModel, TypeAdapter

from leadengine.accounts.models import Tenant, User
from leadengine.accounts.scopes import service_scope
from leadengine.redis import client as redis
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World
from tests.outbound import Broker, at_once, until
from tests.whatsapp.sessions.conftest import fresh, make, sync
from tests.whatsapp.sessions.steps import creations, scan, set_columns
from whatsapp.models import WhatsAppSession
from whatsapp.serializers import (
    InstanceListMeta,
    InstanceShape,
    InstanceStatusShape,
    SessionEventShape,
    UnclaimedShape,
)

pytestmark = pytest.mark.django_db(transaction=True)
HERE = "/api/integrations/whatsapp"
INSTANCES = f"{HERE}/instances"
AWAY = "http://127.0.0.1:9"  # nobody listens there


def fits(shape: type[BaseModel], data: Any) -> Any:
    kind: Any = list[shape] if isinstance(data, list) else shape  # type: ignore[valid-type]
    TypeAdapter(kind).validate_json(json.dumps(data))
    return data


def create(client: Client, *, key: str | None = None, **body: Any) -> tuple[int, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    response = client.post(INSTANCES, json.dumps(body), content_type="application/json", headers=headers)
    return response.status_code, response.json()


def data_of(answer: tuple[int, Any], code: int = 200) -> Any:
    assert answer[0] == code, answer
    return answer[1]["data"]


def rows() -> list[WhatsAppSession]:
    with service_scope("test"):
        return list(WhatsAppSession.objects.filter(deleted_at=None).order_by("created_at"))


# --- Making one ------------------------------------------------------------------------------------------------


def test_created_with_what_was_asked_and_shown_to_its_owner(house: World, broker: Broker) -> None:
    client = by_cookie(house.agent)
    made = fits(InstanceShape, data_of(create(client, name="  Loja Centro  "), 201))
    assert (made["name"], made["instanceId"], made["ownerId"]) == ("Loja Centro", "loja-centro", str(house.agent.pk))
    assert made["brokerId"] == f"le-ipe-{made['id'][:8]}"
    until(lambda: [sync(), data_of(send(client, "get", f"{INSTANCES}/loja-centro"))["status"] == "qr_required"][1])
    assert data_of(create(client, name="Balcão", id="balcao_2"), 201)["instanceId"] == "balcao_2"
    quiet = data_of(create(client, name="Depois", autoConnect=False), 201)
    assert (quiet["status"], quiet["desiredState"], quiet["pending"]) == ("disconnected", "disconnected", False)
    assert creations(broker) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"), ({"name": "  "}, "name"), ({"name": "x" * 81}, "name"), ({"name": 1}, "name"),
        ({"name": "x", "id": "a b"}, "id"), ({"name": "x", "id": "qr"}, "id"), ({"name": "x", "id": "list"}, "id"),
        ({"name": "x", "colour": 1}, "colour"),
        ({"name": "x", "ownerId": "me"}, "ownerId"), ({"name": "x", "autoConnect": "yes"}, "autoConnect"),
        ({"name": "a\0b"}, "name"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_refused_by_field(house: World, body: dict[str, Any], field: str) -> None:
    answer = create(by_cookie(house.admin), **body)
    assert refused(answer) == (400, "VALIDATION_ERROR")
    assert [one["field"] for one in answer[1]["error"]["details"]["errors"]] == [field]
    assert rows() == []


def test_a_taken_id_or_name_is_refused_with_another(house: World) -> None:
    client = by_cookie(house.admin)
    data_of(create(client, name="Loja", id="loja", autoConnect=False), 201)
    for body in ({"name": "Outra", "id": "loja"}, {"name": "LOJA"}):
        answer = create(client, **body)
        assert refused(answer) == (409, "INSTANCE_ALREADY_EXISTS")
        assert answer[1]["error"]["details"]["suggestedId"].startswith("loja-")
    # What stands in another tenant is not given away: the id just gets a suffix.
    other = data_of(create(by_cookie(house.outsider), name="Loja", id="loja", autoConnect=False), 201)
    assert other["instanceId"].startswith("loja-")


def test_a_name_that_is_an_address_of_something_else_gives_an_id_with_a_suffix(house: World) -> None:
    client = by_cookie(house.agent)
    for name, word in (("QR", "qr"), ("Pair", "pair"), ("Reconnect all", "reconnect-all")):
        made = data_of(create(client, name=name, autoConnect=False), 201)
        assert re.fullmatch(f"{word}-[0-9a-f]{{6}}", made["instanceId"])
        assert data_of(send(client, "get", f"{INSTANCES}/{made['instanceId']}"))["name"] == name


def test_session_p04_native_with_the_broker_down_leaves_a_committed_row_and_says_pending(
    house: World, settings: Any
) -> None:
    settings.WHATSAPP_BROKER_URL = AWAY
    made = fits(InstanceShape, data_of(create(by_key(house.agent), name="Vendas"), 201))
    assert (made["status"], made["pending"], made["connected"]) == ("pending", True, False)
    (row,) = rows()
    assert (str(row.pk), row.desired_state, row.pending_wish) == (made["id"], "connected", "connect")


@contextmanager
def refusing() -> Iterator[str]:
    """A broker that refuses whatever is asked of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"error": "name_invalid"}'
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_creation_that_the_broker_refuses_has_failed_and_is_not_pending(house: World, settings: Any) -> None:
    with refusing() as settings.WHATSAPP_BROKER_URL:
        made = data_of(create(by_key(house.agent), name="Vendas"), 201)
    assert (made["status"], made["pending"], made["lastError"]["code"]) == ("failed", False, "BROKER_REFUSED")


def test_session_p09_an_owner_in_the_body_or_a_header_is_ignored(house: World) -> None:
    client = by_key(house.agent)
    body = json.dumps({"name": "Minha", "owner_id": str(house.agent2.pk), "autoConnect": False})
    response = client.post(
        INSTANCES, body, content_type="application/json", headers={"x-user-id": str(house.agent2.pk)}
    )
    assert response.status_code == 201
    assert [row.owner_id for row in rows()] == [house.agent.pk]


def test_only_admins_create_for_others_and_only_in_their_tenant(house: World) -> None:
    body: dict[str, Any] = {"name": "Dela", "autoConnect": False, "ownerId": str(house.agent2.pk)}
    for user in (house.agent, house.supervisor):
        assert refused(create(by_cookie(user), **body)) == (403, "FORBIDDEN")
    assert data_of(create(by_cookie(house.admin), **body), 201)["ownerId"] == str(house.agent2.pk)
    assert data_of(create(by_cookie(house.agent), name="Própria", ownerId=str(house.agent.pk)), 201)
    foreign = create(by_cookie(house.admin), name="x", ownerId=str(house.outsider.pk))
    assert refused(foreign) == (400, "VALIDATION_ERROR")
    root = by_cookie(house.superuser)
    assert refused(create(root, name="x")) == (400, "VALIDATION_ERROR")  # who belongs to no tenant owns nothing
    assert data_of(create(root, **{**body, "name": "Da plataforma"}), 201)["ownerId"] == str(house.agent2.pk)


def test_where_agents_own_none_only_supervisors_create(house: World) -> None:
    Tenant.objects.filter(pk=house.ipe.pk).update(settings={"agentsMayOwnSessions": False})
    assert refused(create(by_cookie(house.agent), name="x")) == (403, "FORBIDDEN")
    data_of(create(by_cookie(house.supervisor), name="x", autoConnect=False), 201)


@override_settings(WHATSAPP_MAX_CONNECTIONS_PER_OWNER=2)
def test_session_n07_two_creates_at_the_limit_one_201_one_409(house: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = AWAY
    client = by_key(house.agent)
    data_of(create(client, name="Primeira"), 201)
    answers = at_once(*[lambda name=name: create(by_key(house.agent), name=name) for name in ("A", "B")])
    assert sorted(status for status, _ in answers) == [201, 409]
    (no,) = [body for status, body in answers if status == 409]
    assert no["error"]["code"] == "MAX_CONNECTIONS_REACHED"
    assert no["error"]["details"] == {"activeConnections": 2, "maxConnections": 2}
    assert len(rows()) == 2


def test_session_n08_the_same_key_and_body_twice_is_one_session(house: World, broker: Broker) -> None:
    client = by_key(house.admin)
    first = data_of(create(client, key="k-1", name="Vendas"), 201)
    again = data_of(create(client, key="k-1", name="Vendas"), 201)
    assert again["id"] == first["id"]
    assert (len(rows()), creations(broker)) == (1, 1)
    assert refused(create(client, key="k-1", name="Outra")) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert refused(create(client, key="k" * 129, name="Outra")) == (400, "VALIDATION_ERROR")
    answers = at_once(*[lambda: create(by_key(house.admin), key="k-2", name="Duas vezes")] * 2)
    assert len({data_of(answer, 201)["id"] for answer in answers}) == 1


# --- Reading ---------------------------------------------------------------------------------------------------


def qr_waiting(owner: User, name: str = "Vendas") -> WhatsAppSession:
    """A connection whose QR code is stored."""
    session = make(owner, name)
    until(lambda: [sync(), fresh(session).qr_code][1])
    return fresh(session)


def test_session_p05_the_database_answers_and_a_valid_qr_is_served_while_the_broker_is_stopped(
    house: World, settings: Any
) -> None:
    session, client = qr_waiting(house.admin), by_cookie(house.admin)
    settings.WHATSAPP_BROKER_URL = AWAY
    assert [one["status"] for one in data_of(send(client, "get", INSTANCES))] == ["qr_required"]
    for address in ("status", "status?refresh=0", "qr"):
        shown = fits(InstanceStatusShape, data_of(send(client, "get", f"{INSTANCES}/{session.pk}/{address}")))
        assert (shown["status"], shown["qr"]["available"]) == ("qr_required", True)
        assert (shown["qr"]["qrCode"], shown["qr"]["raw"]) == (session.qr_code, session.qr_raw)
        assert shown["stale"] is (address == "status")  # the one that could not ask
    response = client.get(f"{INSTANCES}/{session.pk}/qr.png")
    assert (response.status_code, response["Content-Type"], response["Cache-Control"]) == (200, "image/png", "no-store")
    assert response.content.startswith(b"\x89PNG")
    set_columns(session.pk, qr_expires_at=timezone.now() - timedelta(seconds=1))
    shown = data_of(send(client, "get", f"{INSTANCES}/{session.pk}/qr"))["qr"]
    assert shown == {"available": False, "qrCode": None, "raw": None, "qrExpiresAt": None, "reason": "EXPIRED"}
    assert client.get(f"{INSTANCES}/{session.pk}/qr.png").status_code == 204


def test_session_n06_without_the_broker_connected_stays_connected_and_grows_stale(house: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = AWAY
    client, line = by_key(house.admin), house.line
    set_columns(line.pk, deleted_at=None, status="connected", desired_state="connected", last_synced_at=timezone.now())
    events = f"{INSTANCES}/{line.pk}/events"
    before = data_of(send(client, "get", events))
    assert data_of(send(client, "get", f"{INSTANCES}/{line.pk}"))["evidence"]["stale"] is False
    set_columns(line.pk, last_synced_at=timezone.now() - timedelta(seconds=31))
    sync()
    for address in (INSTANCES, f"{INSTANCES}?refresh=1", f"{INSTANCES}/{line.pk}", f"{HERE}/lines"):
        shown = data_of(send(client, "get", address))
        one = shown[0] if isinstance(shown, list) else shown
        assert (one["status"], one["connected"]) == ("connected", True)
        assert one.get("evidence", {"stale": True})["stale"] is True
    for address in ("status", "status?refresh=0", "qr"):
        shown = data_of(send(client, "get", f"{INSTANCES}/{line.pk}/{address}"))
        assert (shown["status"], shown["connected"], shown["stale"]) == ("connected", True, True)
    assert data_of(send(client, "get", events)) == before


def test_status_asks_the_broker_first(house: World, broker: Broker) -> None:
    session, client = qr_waiting(house.admin), by_cookie(house.admin)
    scan(broker, session)
    stored = data_of(send(client, "get", f"{INSTANCES}/{session.pk}/status?refresh=0"))
    assert (stored["status"], stored["connected"], stored["stale"]) == ("qr_required", False, False)
    asked = data_of(send(client, "get", f"{INSTANCES}/{session.pk}/status"))
    assert (asked["status"], asked["connected"], asked["stale"]) == ("connected", True, False)
    assert asked["qr"]["reason"] == "UNAVAILABLE"
    assert asked["instance"]["phoneNumber"] is not None


def test_list_refreshed_by_force_and_not_too_often(house: World, broker: Broker, settings: Any) -> None:
    redis().flushdb()
    session, client = qr_waiting(house.admin), by_cookie(house.supervisor)
    quiet = send(client, "get", INSTANCES)[1]["meta"]
    assert fits(InstanceListMeta, quiet) == {
        "nextCursor": None, "limit": 50, "synced": False, "refreshFailed": False, "warnings": [],
    }  # fmt: skip
    scan(broker, session)
    status, body = send(client, "get", f"{INSTANCES}?refresh=1")
    assert (status, body["data"][0]["connected"], body["meta"]["synced"]) == (200, True, True)
    settings.WHATSAPP_BROKER_URL = AWAY
    status, body = send(client, "get", f"{INSTANCES}?refresh=1")
    assert (status, body["data"][0]["connected"]) == (200, True)
    assert (body["meta"]["synced"], body["meta"]["refreshFailed"]) == (False, True)
    assert [one["code"] for one in fits(InstanceListMeta, body["meta"])["warnings"]] == ["BROKER_UNREACHABLE"]
    for _ in range(3):
        assert send(by_cookie(house.admin), "get", f"{INSTANCES}?refresh=1")[0] == 200
    response = client.get(f"{INSTANCES}?refresh=1")
    assert response.status_code == 429
    assert 1 <= int(response["Retry-After"]) <= 60
    assert send(client, "get", INSTANCES)[0] == 200
    assert send(by_cookie(house.outsider), "get", f"{INSTANCES}?refresh=1")[0] == 200  # each tenant its own


def test_pages_of_the_list(house: World) -> None:
    for number in range(5):
        make(house.admin, f"Linha {number}", auto_connect=False)
    client, names, cursor = by_cookie(house.admin), [], ""
    for _ in range(3):
        _, body = send(client, "get", f"{INSTANCES}?limit=2{cursor}")
        names += [one["name"] for one in body["data"]]
        cursor = f"&cursor={body['meta']['nextCursor']}"
    assert names == [f"Linha {number}" for number in range(5)]
    assert body["meta"]["nextCursor"] is None


def test_list_filtered_by_the_words_of_the_database_and_by_native_ones(house: World) -> None:
    client = by_cookie(house.admin)
    for status in ("disconnected", "connecting", "qrcode", "connected", "error", "duplicate", "logged_out"):
        set_columns(make(house.admin, status, auto_connect=False).pk, status=status)
    for words, names in (
        ("qrcode", {"qrcode"}), ("qr_required", {"qrcode"}), ("pending", {"connecting"}),
        ("reconnecting", {"connecting"}), ("failed", {"error"}), ("error", {"error"}), ("duplicate", {"duplicate"}),
        ("disconnected", {"disconnected", "duplicate", "logged_out"}), ("failed,connected", {"error", "connected"}),
    ):  # fmt: skip
        found = data_of(send(client, "get", f"{INSTANCES}?status={words}"))
        assert {one["name"] for one in found} == names, words
    assert refused(send(client, "get", f"{INSTANCES}?status=lost")) == (400, "VALIDATION_ERROR")


def test_history_newest_first_in_pages(house: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = AWAY
    client = by_cookie(house.agent)
    url = f"{INSTANCES}/{data_of(create(client, name='Vendas', autoConnect=False), 201)['id']}"
    send(client, "post", f"{url}/connect")
    send(client, "post", f"{url}/disconnect")
    first = send(client, "get", f"{url}/events?limit=2")[1]
    assert [one["newStatus"] for one in fits(SessionEventShape, first["data"])] == ["disconnected", "connecting"]
    (rest,) = data_of(send(client, "get", f"{url}/events?limit=2&cursor={first['meta']['nextCursor']}"))
    assert (rest["oldStatus"], rest["newStatus"], rest["reason"], rest["source"]) == (
        "", "disconnected", "created", "api",
    )  # fmt: skip
    assert {one["actorId"] for one in [*first["data"], rest]} == {str(house.agent.pk)}


def test_session_n16_superusers_list_what_nobody_claims_and_no_tenant_does(house: World, broker: Broker) -> None:
    make(house.admin)
    broker.control("estranha/open")
    found = fits(UnclaimedShape, data_of(send(by_cookie(house.superuser), "get", f"{INSTANCES}?unclaimed=1")))
    assert [(one["brokerId"], one["connected"]) for one in found] == [("estranha", True)]
    for client in (by_cookie(house.admin), by_key(house.outsider)):
        assert refused(send(client, "get", f"{INSTANCES}?unclaimed=1")) == (403, "FORBIDDEN")


def test_what_nobody_wants_is_said_to_be_unexpected_and_a_refused_creation_failed(house: World) -> None:
    session, client = make(house.admin, auto_connect=False), by_cookie(house.admin)
    set_columns(session.pk, status="connected")
    shown = fits(InstanceShape, data_of(send(client, "get", f"{INSTANCES}/{session.pk}")))
    assert (shown["status"], shown["statusInfo"]["unexpected"]) == ("connected", True)
    set_columns(session.pk, status="error", last_error={"code": "BROKER_REFUSED"})
    assert data_of(send(client, "get", f"{INSTANCES}/{session.pk}"))["status"] == "failed"
