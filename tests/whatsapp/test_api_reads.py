"""REST of connections and of the webhook ledger: reading only."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings
from pydantic import BaseModel, TypeAdapter

from leadengine.accounts.scopes import service_scope
from leadengine.ids import uuid7
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World
from tests.whatsapp.inbound import receive, store, text_event
from whatsapp.models import WebhookEvent, WhatsAppSession
from whatsapp.serializers import InstanceShape, LineShape, WebhookEventDetailShape, WebhookEventShape
from whatsapp.services.persistence import saving

EVENTS = "/api/integrations/whatsapp/webhook-events"
INSTANCES = "/api/integrations/whatsapp/instances"
LINES = "/api/integrations/whatsapp/lines"


def fits(shape: type[BaseModel], data: Any) -> Any:
    kind: Any = list[shape] if isinstance(data, list) else shape  # type: ignore[valid-type]
    TypeAdapter(kind).validate_json(json.dumps(data))
    return data


# --- The ledger --------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_ledger_tells_what_came_and_what_became_of_it(committed_world: World) -> None:
    world = committed_world
    receive(text_event("bom dia", external_id="X1"), text_event("deles", instance="cedro-01"))
    client = by_cookie(world.supervisor)
    events = fits(WebhookEventShape, send(client, "get", EVENTS)[1]["data"])
    assert [(event["status"], event["instanceId"]) for event in events] == [("PROCESSED", "ipe-01")]
    url = f"{EVENTS}/{events[0]['id']}"
    detail = fits(WebhookEventDetailShape, send(client, "get", url)[1]["data"])
    item = detail["items"][0]
    assert (item["externalId"], item["fate"], item["canonical"]["payload"]["message"]["text"]) == (
        "X1",
        "stored",
        "bom dia",
    )
    assert "body" not in detail
    assert refused(send(client, "get", f"{url}?include=body")) == (403, "FORBIDDEN")
    body = send(by_cookie(world.admin), "get", f"{url}?include=body")[1]["data"]["body"]
    assert json.loads(body)["payload"]["message"]["text"] == "bom dia"
    assert refused(send(by_cookie(world.outsider), "get", url)) == (404, "NOT_FOUND")


@pytest.mark.django_db(transaction=True)
def test_ledger_filters(committed_world: World) -> None:
    world = committed_world
    receive(text_event("um", external_id="X1"))
    receive(text_event("um", external_id="X1"))
    store(text_event("dois", external_id="X2"))
    client = by_cookie(world.admin)
    now = datetime.now(UTC)
    hour_ago, soon = f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}", f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    for query, expected in (
        ("", 3), ("status=PENDING", 1), ("status=PROCESSED", 2), ("status=PENDING,PROCESSED", 3), ("fate=stored", 1),
        ("fate=duplicate", 1), ("reason=message_duplicate", 1), ("reason=nothing", 0), ("externalId=X1", 2),
        ("externalId=X2", 0), ("kind=MESSAGE_INBOUND", 3), ("kind=OTHER", 0), (f"sessionId={world.line.pk}", 3),
        (f"sessionId={world.foreign_line.pk}", 0), (f"from={hour_ago}&to={soon}", 3), (f"to={hour_ago}", 0),
        (f"from={soon}", 0),
    ):  # fmt: skip
        assert len(send(client, "get", f"{EVENTS}?{query}")[1]["data"]) == expected, query
    assert refused(send(client, "get", f"{EVENTS}?status=LOST")) == (400, "VALIDATION_ERROR")


@pytest.mark.django_db(transaction=True)
def test_orphans_and_rejected_bodies_are_for_superusers(committed_world: World) -> None:
    world = committed_world
    store(text_event(instance="nobody"))
    with service_scope("test"):
        broken = WebhookEvent.objects.create(id=uuid7(), status="REJECTED", body=zlib.compress(b'{"a": \xff'))
        gone = WebhookEvent.objects.create(id=uuid7(), tenant=world.ipe, status="PROCESSED", instance_id="ipe-01")
    root = by_cookie(world.superuser)
    statuses = [event["status"] for event in send(root, "get", EVENTS)[1]["data"]]
    assert sorted(statuses) == ["ORPHAN", "PROCESSED", "REJECTED"]
    assert len(send(by_cookie(world.admin), "get", EVENTS)[1]["data"]) == 1
    assert send(root, "get", f"{EVENTS}/{broken.pk}?include=body")[1]["data"]["body"] == '{"a": �'
    assert send(root, "get", f"{EVENTS}/{gone.pk}?include=body")[1]["data"]["body"] is None


def test_agents_do_not_see_the_ledger(world: World) -> None:
    assert refused(send(by_cookie(world.agent), "get", EVENTS)) == (403, "FORBIDDEN")
    assert refused(send(by_cookie(world.agent), "get", f"{EVENTS}/{uuid7()}")) == (403, "FORBIDDEN")


# --- Connections -------------------------------------------------------------------------------------------------


def test_supervisors_see_all_connections_of_the_tenant_and_agents_their_own(world: World) -> None:
    with service_scope("test"), saving():
        own = WhatsAppSession.objects.create(
            tenant=world.ipe, owner=world.agent, session_name="Minha", connection_id="inst-ana", qr_code="data:secret",
            qr_raw="secret", status="qrcode",
        )  # fmt: skip
        WhatsAppSession.objects.create(
            tenant=world.ipe,
            owner=world.agent,
            session_name="Antiga",
            connection_id="old",
            deleted_at=datetime.now(UTC),
        )
    for user, names in (
        (world.supervisor, ["Loja", "Minha"]), (world.agent, ["Minha"]), (world.agent2, []), (world.outsider, ["Cedro"])
    ):  # fmt: skip
        data = fits(InstanceShape, send(by_cookie(user), "get", INSTANCES)[1]["data"])
        assert [row["name"] for row in data] == names, user.name
    client = by_key(world.agent)
    for name in (str(own.pk), "inst-ana"):
        status, body = send(client, "get", f"{INSTANCES}/{name}")
        assert (status, body["data"]["status"], body["data"]["hasQr"]) == (200, "qr_required", True)
        assert "secret" not in json.dumps(body)
    for name in (str(world.line.pk), "inst-ipe-01", "ipe-01", "cedro-01", "nothing", str(uuid7()), "%00"):
        assert refused(send(client, "get", f"{INSTANCES}/{name}")) == (404, "INSTANCE_NOT_FOUND"), name
    assert send(by_cookie(world.supervisor), "get", f"{INSTANCES}/ipe-01")[1]["data"]["id"] == str(world.line.pk)


def test_instances_filter_and_short_form(world: World) -> None:
    client = by_cookie(world.admin)
    for query, expected in (
        ("status=connected", 1), ("status=error,qrcode", 0), (f"ownerId={world.admin.pk}", 1),
        (f"ownerId={world.agent.pk}", 0), ("q=loj", 1), ("q=x", 0), ("fields=basic", 1),
    ):  # fmt: skip
        assert len(send(client, "get", f"{INSTANCES}?{query}")[1]["data"]) == expected, query
    short = fits(InstanceShape, send(client, "get", f"{INSTANCES}?fields=basic")[1]["data"])[0]
    assert "evidence" not in short
    full = send(client, "get", INSTANCES)[1]["data"][0]
    assert full["evidence"]["stale"] is True
    assert full["statusInfo"] == {"label": "Conectada", "variant": "success"}


def test_lines_tell_every_agent_whether_an_answer_can_leave(world: World) -> None:
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=world.line.pk).update(phone_number="+5511", qr_code="data:secret")
    data = fits(LineShape, send(by_cookie(world.agent), "get", LINES)[1]["data"])
    assert data == [
        {
            "id": str(world.line.pk), "name": "Loja", "status": "connected", "connected": True,
            "circuit": {"state": "closed"},
        }
    ]  # fmt: skip


@override_settings(WHATSAPP_BROKER_URL="", WHATSAPP_BROKER_API_KEY=[])
def test_unconfigured_integration_says_what_is_missing(world: World) -> None:
    for url in (INSTANCES, f"{INSTANCES}/ipe-01", LINES):
        answer = send(by_cookie(world.admin), "get", url)
        assert refused(answer) == (503, "WHATSAPP_NOT_CONFIGURED")
        assert answer[1]["error"]["details"]["missing"] == ["WHATSAPP_BROKER_URL", "WHATSAPP_BROKER_API_KEY"]
    assert send(by_cookie(world.admin), "get", EVENTS)[0] == 200
