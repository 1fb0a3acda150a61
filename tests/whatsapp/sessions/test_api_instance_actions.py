"""REST of what people do with a connection: changed, paired, connected, ended, with the broker there and away."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from leadengine.accounts.models import ApiKey, AuditLog
from leadengine.accounts.scopes import service_scope
from leadengine.accounts.services import create_api_key
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World
from tests.outbound import Broker
from tests.whatsapp.sessions.conftest import fresh, make
from tests.whatsapp.sessions.steps import at_broker, becomes, connected, scan, set_columns
from tests.whatsapp.sessions.test_api_instances import AWAY, HERE, INSTANCES, data_of, fits, qr_waiting
from tickets.services.outbox.circuit import read_circuits, record_call
from whatsapp.serializers import DeletedShape, DisconnectShape, InstanceShape, PairShape

pytestmark = pytest.mark.django_db(transaction=True)


def test_renamed_once_for_each_version(house: World) -> None:
    session, client = make(house.agent, auto_connect=False), by_cookie(house.agent)
    url = f"{INSTANCES}/{session.pk}"
    changed = fits(InstanceShape, data_of(send(client, "patch", url, {"name": "Nova", "version": session.version})))
    assert (changed["name"], changed["version"]) == ("Nova", session.version + 1)
    stale = send(client, "patch", url, {"autoReconnect": False, "version": session.version})
    assert refused(stale) == (409, "VERSION_CONFLICT")
    assert stale[1]["error"]["details"] == {"version": changed["version"]}
    assert data_of(send(client, "patch", url, {"autoReconnect": False}))["autoReconnect"] is False
    assert refused(send(client, "patch", url, {"ownerId": str(house.agent2.pk)})) == (400, "VALIDATION_ERROR")


def test_connected_disconnected_and_connected_again(house: World, broker: Broker) -> None:
    session, client = connected(broker, house.agent), by_cookie(house.agent)
    url = f"{INSTANCES}/{session.pk}"
    status, body = send(client, "post", f"{url}/connect")
    assert (status, body["data"]["connected"], body["data"]["pending"]) == (200, True, False)
    ended = fits(DisconnectShape, data_of(send(client, "post", f"{url}/disconnect")))
    assert (ended["disconnected"], ended["pending"], ended["instance"]["status"]) == (True, False, "disconnected")
    state = at_broker(broker, session)
    assert state is not None
    assert not state["connected"]
    assert data_of(send(client, "post", f"{url}/stop"))["disconnected"] is True  # offline already: done
    assert send(client, "post", f"{url}/connect")[0] in {200, 202}
    becomes(session, "qrcode")


def test_a_wish_that_the_broker_cannot_hear_is_202_pending(house: World, broker: Broker, settings: Any) -> None:
    session, client = connected(broker, house.agent), by_key(house.agent)
    settings.WHATSAPP_BROKER_URL = AWAY
    url = f"{INSTANCES}/{session.pk}"
    ended = fits(DisconnectShape, data_of(send(client, "post", f"{url}/stop", {"wipe": True}), 202))
    assert (ended["disconnected"], ended["pending"], ended["instance"]["pending"]) == (False, True, True)
    asked = fits(InstanceShape, data_of(send(client, "post", f"{url}/connect"), 202))
    assert (asked["status"], asked["pending"], asked["desiredState"]) == ("connecting", True, "connected")
    gone = fits(DeletedShape, data_of(send(client, "delete", url)))
    assert gone["brokerStatus"] == "pending"
    assert refused(send(client, "get", url)) == (404, "INSTANCE_NOT_FOUND")


def test_deleted_here_and_at_the_broker(house: World, broker: Broker) -> None:
    client = by_cookie(house.agent)
    session = make(house.agent)
    gone = fits(DeletedShape, data_of(send(client, "delete", f"{INSTANCES}/{session.pk}", {"wipe": True})))
    assert (gone["id"], gone["brokerStatus"], at_broker(broker, session)) == (str(session.pk), "deleted", None)
    assert fresh(session).deleted_at is not None
    never = make(house.agent, auto_connect=False)
    assert data_of(send(client, "delete", f"{INSTANCES}/{never.pk}"))["brokerStatus"] == "not_found"


def test_what_ends_a_connection_for_good_is_for_its_owner_and_admins(house: World) -> None:
    session = make(house.agent, auto_connect=False)
    url = f"{INSTANCES}/{session.pk}"
    for method, address, body in (("post", f"{url}/disconnect", {"wipe": True}), ("delete", url, None)):
        assert refused(send(by_cookie(house.supervisor), method, address, body)) == (403, "FORBIDDEN")
        assert refused(send(by_cookie(house.agent2), method, address, body)) == (404, "INSTANCE_NOT_FOUND")
    assert send(by_cookie(house.supervisor), "post", f"{url}/disconnect")[0] == 200
    assert send(by_cookie(house.admin), "delete", url)[0] == 200


def test_paired_by_a_code(house: World, broker: Broker, settings: Any) -> None:
    session, client = qr_waiting(house.agent), by_cookie(house.agent)
    url = f"{INSTANCES}/{session.pk}/pair"
    paired = fits(PairShape, data_of(send(client, "post", url, {"phoneNumber": "11 98765-4321"})))
    assert paired["pairingCode"]
    assert refused(send(client, "post", url, {"phoneNumber": "ramal"})) == (400, "INVALID_PHONE")
    renewed = data_of(send(client, "post", url))  # no number: what is there to scan is renewed
    assert (renewed["pairingCode"], renewed["connected"]) == (None, False)
    assert fresh(session).qr_version > session.qr_version
    here, settings.WHATSAPP_BROKER_URL = settings.WHATSAPP_BROKER_URL, AWAY
    assert refused(send(client, "post", url, {"phoneNumber": "+5511987654321"})) == (502, "BROKER_UNREACHABLE")
    settings.WHATSAPP_BROKER_URL = here
    scan(broker, session)
    becomes(session, "connected")
    assert data_of(send(client, "post", url, {"phoneNumber": "+5511987654321"}))["connected"] is True
    send(client, "post", f"{INSTANCES}/{session.pk}/disconnect")
    response = client.post(url, "{}", content_type="application/json")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "INSTANCE_DISCONNECTED")
    assert int(response["Retry-After"]) > 0


def test_a_risk_pause_is_released_by_supervisors(house: World, broker: Broker, settings: Any) -> None:
    session = connected(broker, house.agent)
    set_columns(session.pk, risk_paused=True)
    url = f"{INSTANCES}/{session.connection_id}/release"
    assert refused(send(by_cookie(house.agent), "post", url)) == (403, "FORBIDDEN")
    released = fits(InstanceShape, data_of(send(by_cookie(house.supervisor), "post", url)))
    assert released["riskPaused"] is False
    with service_scope("test"):
        assert AuditLog.objects.filter(action="session.release", object_id=str(session.pk)).count() == 1
    settings.WHATSAPP_BROKER_URL = AWAY
    set_columns(session.pk, risk_paused=True)
    assert refused(send(by_cookie(house.supervisor), "post", url)) == (502, "BROKER_UNREACHABLE")
    assert fresh(session).risk_paused


@pytest.mark.parametrize(("paused", "answer"), [(False, 200), (True, 502)])
def test_a_circuit_is_closed_without_the_broker_whose_guard_stays_as_it_is(
    house: World, broker: Broker, settings: Any, *, paused: bool, answer: int
) -> None:
    settings.WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES = 5
    session, now = connected(broker, house.agent), timezone.now()
    set_columns(session.pk, risk_paused=paused)
    for _ in range(5):
        record_call(session_id=session.pk, token=uuid4(), outcome="bad", probe=False, now=now)
    assert session.pk in read_circuits(now=now)
    settings.WHATSAPP_BROKER_URL = AWAY  # whoever asks it is told so
    url = f"{INSTANCES}/{session.connection_id}/release"
    assert send(by_cookie(house.supervisor), "post", url)[0] == answer
    assert session.pk not in read_circuits(now=now)
    with service_scope("test"):
        assert AuditLog.objects.filter(action="session.release", object_id=str(session.pk)).count() == 1


def test_session_p70_reconnect_all_wishes_again_for_each_wanted_one(house: World, broker: Broker) -> None:
    down = [make(house.agent, "Uma"), make(house.admin, "Outra")]
    make(house.admin, "Parada", auto_connect=False)
    connected(broker, house.supervisor, "Boa")
    for session in down:
        set_columns(session.pk, status="error", pending_wish=None)
    assert refused(send(by_cookie(house.agent), "post", f"{INSTANCES}/reconnect-all")) == (403, "FORBIDDEN")
    assert data_of(send(by_key(house.supervisor), "post", f"{INSTANCES}/reconnect-all"), 202) == {"count": 2}
    assert {(fresh(one).status, fresh(one).pending_wish) for one in down} == {("connecting", "connect")}
    for session in down:
        becomes(session, "qrcode")


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("get", "instances/qr", "GET /api/integrations/whatsapp/instances/{id}/qr"),
        ("get", "instances/qr.png", "GET /api/integrations/whatsapp/instances/{id}/qr.png"),
        ("post", "instances/pair", "POST /api/integrations/whatsapp/instances/{id}/pair"),
        ("post", "session/connect", "POST /api/integrations/whatsapp/instances/{id}/connect"),
        ("post", "session/logout", "POST /api/integrations/whatsapp/instances/{id}/disconnect"),
        ("get", "session/status", "GET /api/integrations/whatsapp/instances/{id}/status"),
    ],
)
def test_addresses_of_earlier_versions_name_the_new_one(house: World, method: str, old: str, new: str) -> None:
    answer = send(by_cookie(house.agent), method, f"{HERE}/{old}")
    assert refused(answer) == (410, "ENDPOINT_GONE")
    assert answer[1]["error"]["details"] == {"use": new}
    assert refused(send(Client(), method, f"{HERE}/{old}")) == (401, "UNAUTHORIZED")


def test_addresses_of_earlier_versions_refuse_as_the_new_ones_do(house: World, settings: Any) -> None:
    with service_scope("test"):
        key, _ = create_api_key(
            owner=house.admin, tenant_id=house.ipe.pk, name="one", kind=ApiKey.Kind.INSTANCE, session_id=house.line.pk
        )
    one = Client(headers={"X-API-Key": key})
    for method, old in (("get", "instances/qr"), ("post", "session/logout")):
        assert refused(send(one, method, f"{HERE}/{old}")) == (410, "ENDPOINT_GONE")
    settings.WHATSAPP_BROKER_URL = ""
    assert refused(send(one, "post", f"{HERE}/session/logout")) == (503, "WHATSAPP_NOT_CONFIGURED")
