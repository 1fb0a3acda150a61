"""Keys: the operator's, those of people, those of one connection, and wrong ones (spec/sessions.md section 7)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError
from django.test import Client
from django.utils import timezone

from leadengine.accounts.models import ApiKey, AuditLog, Tenant, User
from leadengine.accounts.scopes import service_scope
from leadengine.accounts.services import create_api_key
from leadengine.accounts.sockets import identify
from tests.api import by_key, refused, send
from tests.conftest import World
from tests.outbound import Broker
from tests.whatsapp.sessions.conftest import fresh, make
from tests.whatsapp.sessions.test_turbozap import bad, call, good, opened
from whatsapp.models import WhatsAppSession

pytestmark = pytest.mark.django_db(transaction=True)
INSTANCES = "/api/integrations/whatsapp/instances"
OPERATOR = "f" * 64


def with_key(key: str) -> Client:
    return Client(headers={"X-API-Key": key})


def key_of(session: WhatsAppSession, owner: User) -> str:
    with service_scope("test"):
        return create_api_key(
            owner=owner, tenant_id=session.tenant_id, name="one", kind=ApiKey.Kind.INSTANCE, session_id=session.pk
        )[0]


def heard(broker: Broker) -> Any:
    return broker.control("state", method="GET")


def test_a_key_of_one_connection_is_for_that_one_on_every_surface(house: World, broker: Broker) -> None:
    admin = by_key(house.admin)
    key = good(call(admin, "POST create", {"name": "minha"}), 201)["api_key"]
    with service_scope("test"):
        mine = WhatsAppSession.objects.get(connection_id="minha")
    other = opened(broker, make(house.admin, "outra", connection_id="outra"))
    assert call(admin, "POST minha/connect")[0] in {200, 202}
    mine = opened(broker, mine)
    one, before, state = with_key(key), fresh(other).version, heard(broker)
    assert [row["name"] for row in good(call(one, "GET list"))["instances"]] == ["minha"]
    assert [row["instanceId"] for row in send(one, "get", INSTANCES)[1]["data"]] == ["minha"]
    assert "outra" not in str(send(one, "get", "/api/baileys-simple/connections"))
    assert send(one, "get", f"{INSTANCES}/minha")[1]["data"]["id"] == str(mine.pk)
    assert good(call(one, "GET minha/status"))["status"] == "connected"
    for word in ("outra", str(other.pk), str(other.broker_instance_id)):
        for method, path in (
            ("get", ""), ("patch", ""), ("delete", ""), ("get", "/status"), ("get", "/qr"), ("post", "/connect"),
            ("post", "/disconnect"), ("post", "/pair"), ("get", "/events"), ("post", "/messages"), ("post", "/release"),
        ):  # fmt: skip
            body = {"to": "11988887777", "text": "Oi"} if path == "/messages" else {}
            status, _ = send(one, method, f"{INSTANCES}/{word}{path}", body if method != "get" else None)
            assert status in {403, 404}, (method, path)
        for line in ("GET {}", "GET {}/qrcode", "POST {}/connect", "PUT {}/restart", "POST {}/logout", "DELETE {}"):
            assert bad(call(one, line.format(word)))[0] == 404, line
        for method, path in (("get", "qr"), ("get", "info"), ("post", "refresh-qr"), ("post", "reconnect"),
                             ("post", "abort"), ("post", "send-message"), ("delete", "")):  # fmt: skip
            url = f"/api/baileys-simple/connections/{word}/{path}".rstrip("/")
            assert send(one, method, url, {} if method == "post" else None)[0] in {400, 403, 404}, path
    for method, path in (
        ("post", "/instance/create"), ("post", INSTANCES), ("post", f"{INSTANCES}/reconnect-all"),
        ("post", "/api/baileys-simple/connections"), ("post", "/api/baileys-simple/reconnect-all"),
        ("get", "/api/tickets"), ("get", "/api/contacts"), ("get", "/api/users"), ("get", "/api/auth/me"),
        ("get", "/api/messages"), ("get", "/api/user/apikeys"), ("post", "/api/user/apikeys"),
        ("get", "/api/integrations/whatsapp/webhook-events"), ("get", "/api/queues"),
    ):  # fmt: skip
        status, answer = send(one, method, path, {"name": "nova"} if method == "post" else None)
        assert (status, answer["error"]["code"]) == (403, "FORBIDDEN"), path
    lines = send(one, "get", "/api/integrations/whatsapp/lines")
    assert lines[0] == 403 or [line["name"] for line in lines[1]["data"]] == ["minha"]
    assert fresh(other).version == before
    assert heard(broker) == state
    body = {"to": "11988887777", "text": "Oi"}
    assert send(one, "post", f"{INSTANCES}/minha/messages", body)[0] == 202
    assert refused(send(one, "post", f"{INSTANCES}/minha/messages", {**body, "instanceId": "outra"}))[0] == 404
    good(call(one, "POST /message/minha/text", body), 201)
    scope = {"headers": [(b"x-api-key", key.encode())]}
    assert identify(scope) is None, "the events of a socket are a person's"
    good(call(one, "POST minha/logout"))
    good(call(one, "DELETE minha"))
    assert good(call(one, "GET list"))["total"] == 0


def test_a_key_of_one_connection_ends_with_its_owner_and_when_revoked(house: World, broker: Broker) -> None:
    session = make(house.agent, "balcao", connection_id="balcao")
    one = with_key(key_of(session, house.agent))
    good(call(one, "GET balcao"))
    ApiKey.objects.filter(session_id=session.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert bad(call(one, "GET balcao")) == (401, "UNAUTHORIZED")
    ApiKey.objects.filter(session_id=session.pk).update(expires_at=None, revoked_at=timezone.now())
    assert bad(call(one, "GET balcao")) == (401, "UNAUTHORIZED")
    ApiKey.objects.filter(session_id=session.pk).update(revoked_at=None)
    User.objects.filter(pk=house.agent.pk).update(is_active=False)
    assert bad(call(one, "GET balcao")) == (401, "UNAUTHORIZED")


def narrow(owner: User, *rights: str) -> Client:
    """An integration whose key has a list of rights."""
    assert owner.tenant_id is not None
    with service_scope("test"):
        return with_key(create_api_key(owner=owner, tenant_id=owner.tenant_id, name="narrow", scopes=rights)[0])


READS = (
    f"{INSTANCES}", f"{INSTANCES}/vendas", f"{INSTANCES}/vendas/status", f"{INSTANCES}/vendas/qr",
    f"{INSTANCES}/vendas/qr.png", f"{INSTANCES}/vendas/events", "/instance/list", "/instance/vendas",
    "/instance/vendas/status", "/api/instance/list", "/api/baileys-simple/connections",
    "/api/baileys-simple/connections/vendas/info", "/api/baileys-simple/connections/vendas/qr",
    "/api/baileys-simple/connections/vendas/qr.png", "/instance/vendas/qrcode",
)  # fmt: skip
CHANGES = (
    ("post", INSTANCES), ("patch", f"{INSTANCES}/vendas"), ("post", f"{INSTANCES}/vendas/pair"),
    ("post", f"{INSTANCES}/vendas/connect"), ("post", f"{INSTANCES}/vendas/disconnect"),
    ("post", f"{INSTANCES}/vendas/stop"), ("delete", f"{INSTANCES}/vendas"), ("post", "/instance/create"),
    ("post", "/instance/vendas/connect"), ("put", "/instance/vendas/restart"), ("post", "/instance/vendas/logout"),
    ("put", "/instance/vendas/name"), ("delete", "/instance/vendas"), ("post", "/api/baileys-simple/connections"),
    ("post", "/api/baileys-simple/connections/vendas/refresh-qr"),
    ("post", "/api/baileys-simple/connections/vendas/reconnect"),
    ("post", "/api/baileys-simple/connections/vendas/abort"), ("delete", "/api/baileys-simple/connections/vendas"),
)  # fmt: skip


def test_a_key_with_a_list_of_rights_needs_those_of_connections(house: World, broker: Broker) -> None:
    session = make(house.admin, "vendas", connection_id="vendas", auto_connect=False)
    tickets, reader = narrow(house.admin, "tickets:read"), narrow(house.admin, "sessions:read")
    writer = narrow(house.admin, "settings:write")
    for path in READS[:-1]:  # the last starts the connection
        assert send(reader, "get", path)[0] in {200, 204}, path
    version, state = fresh(session).version, heard(broker)
    for path in READS:
        for client in (tickets, writer):
            status, answer = send(client, "get", path)
            assert (status, answer["error"]["code"]) == (403, "FORBIDDEN"), path
            assert client.head(path).status_code == 403, path
    for method, path in CHANGES:
        for client in (tickets, reader):
            status, answer = send(client, method, path, {"name": "nova"})
            assert (status, answer["error"]["code"]) == (403, "FORBIDDEN"), path
    assert (fresh(session).version, heard(broker)) == (version, state)
    assert send(writer, "patch", f"{INSTANCES}/vendas", {"autoReconnect": False})[0] == 200
    # What names its own right asks for that one only.
    assert send(reader, "post", f"{INSTANCES}/reconnect-all")[0] == 202
    assert bad(call(tickets, "POST /message/vendas/text", {"to": "11988887777", "text": "Oi"}))[0] == 403
    sender = narrow(house.admin, "messages:send")
    assert bad(call(sender, "POST /message/vendas/text", {"to": "11988887777", "text": "Oi"}))[0] == 409


def test_the_key_of_a_new_connection_may_no_more_than_the_one_that_made_it(house: World, broker: Broker) -> None:
    maker = narrow(house.admin, "settings:write")
    one = with_key(good(call(maker, "POST create", {"name": "minha"}), 201)["api_key"])
    with service_scope("test"):
        assert ApiKey.objects.get(kind=ApiKey.Kind.INSTANCE).scopes == ["settings:write"]
        session = WhatsAppSession.objects.get(connection_id="minha")
    opened(broker, session)
    good(call(one, "GET minha"))
    body = {"to": "11988887777", "text": "Oi"}
    assert bad(call(one, "POST /message/minha/text", body)) == (403, "FORBIDDEN")
    assert refused(send(one, "post", f"{INSTANCES}/minha/messages", body)) == (403, "FORBIDDEN")
    wide = with_key(good(call(by_key(house.admin), "POST create", {"name": "outra"}), 201)["api_key"])
    assert bad(call(wide, "POST /message/outra/text", body)) == (409, "INSTANCE_DISCONNECTED")


def test_only_keys_of_a_connection_name_one(house: World) -> None:
    for kind, session in ((ApiKey.Kind.INSTANCE, None), (ApiKey.Kind.USER, house.line.pk)):
        with service_scope("test"), pytest.raises(IntegrityError, match="instance_has_a_session"), service_scope("in"):
            create_api_key(owner=house.admin, tenant_id=house.ipe.pk, name="x", kind=kind, session_id=session)


def test_the_operators_key_acts_as_administrator_of_one_tenant(house: World, broker: Broker, settings: Any) -> None:
    settings.API_KEY, settings.API_KEY_TENANT = ["e" * 64, OPERATOR], "ipe"
    client = with_key(OPERATOR)
    with service_scope("test"):
        User.objects.filter(pk=house.admin.pk).update(created_at=timezone.now() - timedelta(days=1))
        User.objects.create(tenant=house.ipe, email="zoe@example.test", name="Zoe", role="ADMIN", password="!")
    make(house.outsider, "deles", connection_id="deles")
    make(house.agent, "dela", connection_id="dela")
    mine = good(call(client, "POST create", {"name": "nossa"}), 201)
    assert fresh(WhatsAppSession(pk=mine["id"])).owner_id == house.admin.pk
    assert {row["name"] for row in good(call(client, "GET list"))["instances"]} == {"nossa", "dela"}
    assert bad(call(client, "GET deles")) == (404, "INSTANCE_NOT_FOUND")
    assert send(client, "get", "/api/auth/me")[1]["data"]["role"] == "ADMIN"
    bearer = Client(headers={"Authorization": f"Bearer {'e' * 64}"})
    good(call(bearer, "GET dela"))
    assert bad(call(with_key("e" * 63), "GET dela")) == (401, "UNAUTHORIZED")
    assert identify({"headers": [(b"x-api-key", OPERATOR.encode())]}) is None
    settings.API_KEY_TENANT = ""
    assert bad(call(client, "GET list"))[0] == 401, "which of two tenants is not for us to guess"
    settings.API_KEY_TENANT = "nobody"
    assert bad(call(client, "GET list"))[0] == 401
    settings.API_KEY_TENANT = "ipe"
    User.objects.filter(tenant=house.ipe, role="ADMIN").update(is_active=False)
    assert bad(call(client, "GET list"))[0] == 401


@pytest.mark.usefixtures("transactional_db")
def test_the_operators_key_needs_no_tenant_named_where_there_is_one(settings: Any) -> None:
    settings.API_KEY = [OPERATOR]
    only = Tenant.objects.create(slug="unica", name="Única")
    User.objects.create(tenant=only, email="eva@example.test", name="Eva", role="ADMIN", password="!")
    assert send(with_key(OPERATOR), "get", "/api/auth/me")[1]["data"]["tenant"]["slug"] == "unica"
    Tenant.objects.create(slug="outra", name="Outra")
    assert send(with_key(OPERATOR), "get", "/api/auth/me")[0] == 401


def test_the_operators_key_comes_before_stored_ones(house: World, broker: Broker, settings: Any) -> None:
    """The same text as both: it acts in the operator's tenant."""
    with service_scope("test"):
        key, _ = create_api_key(owner=house.outsider, tenant_id=house.cedro.pk, name="same")
    make(house.outsider, "deles", connection_id="deles")
    assert good(call(with_key(key), "GET list"))["total"] == 1
    settings.API_KEY, settings.API_KEY_TENANT = [key], "ipe"
    assert good(call(with_key(key), "GET list"))["total"] == 0


def test_thirty_wrong_keys_a_minute_then_429_and_right_ones_go_on(house: World, monkeypatch: Any) -> None:
    monkeypatch.setattr("leadengine.limiting.time.time", lambda: 1_800_000_000.0)
    wrong = [send(with_key(f"{number:064}"), "get", "/api/tickets")[0] for number in range(31)]
    assert wrong == [401] * 30 + [429]
    answer = with_key("0" * 64).get("/instance/list")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "RATE_LIMITED")
    assert 0 < int(answer["Retry-After"]) <= 61
    assert by_key(house.agent).get("/api/tickets").status_code == 200
    elsewhere = Client(headers={"X-API-Key": "0" * 64}, REMOTE_ADDR="10.0.0.9").get("/api/tickets")
    assert elsewhere.status_code == 401
    monkeypatch.setattr("leadengine.limiting.time.time", lambda: 1_800_000_060.0)
    assert send(with_key("0" * 64), "get", "/api/tickets")[0] == 401


def test_wrong_keys_are_counted_without_redis_too(house: World, settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("leadengine.limiting._counts", {})
    monkeypatch.setattr("leadengine.limiting.client", _away)
    monkeypatch.setattr("leadengine.limiting.time.time", lambda: 1_800_000_000.0)
    wrong = [send(with_key("0" * 64), "get", "/api/tickets")[0] for _ in range(31)]
    assert (wrong[29], wrong[30]) == (401, 429)


def _away() -> None:
    raise ConnectionError


def test_last_used_is_written_once_a_minute(house: World) -> None:
    client = by_key(house.agent)
    key = ApiKey.objects.get(owner=house.agent)
    assert key.last_used_at is None
    for age, written in ((None, True), (59, False), (61, True)):
        if age is not None:
            ApiKey.objects.filter(pk=key.pk).update(last_used_at=timezone.now() - timedelta(seconds=age))
        before = ApiKey.objects.get(pk=key.pk).last_used_at
        client.get("/api/tickets")
        assert (ApiKey.objects.get(pk=key.pk).last_used_at != before) is written


def test_no_key_reaches_the_log_or_the_audit(house: World, broker: Broker, capfd: Any) -> None:
    made = good(call(by_key(house.admin), "POST create", {"name": "nova"}), 201)["api_key"]
    call(with_key("9" * 64), "GET list")
    with service_scope("test"):
        entry = AuditLog.objects.get(action="key.created")
    assert entry.changes == {"name": "nova", "kind": "INSTANCE", "scopes": []}
    text = "".join(capfd.readouterr())
    assert made not in text
    assert "9" * 64 not in text
