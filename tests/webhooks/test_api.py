"""The routes of webhooks: what they take, whom they refuse, what they show and what they write down."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone

from leadengine.accounts.models import AuditLog, User
from leadengine.accounts.scopes import service_scope, user_scope
from leadengine.webhooks.models import Delivery, Endpoint, OutgoingEvent
from leadengine.webhooks.services.delivering import deliver_due
from leadengine.webhooks.services.endpoints import MOST_ENDPOINTS
from leadengine.webhooks.services.replaying import send_test
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World
from tests.tickets.desk import arrive, nobody_id
from tests.webhooks.receiver import Receiver, connect, deliveries, due_now, now_of

ENDPOINTS = "/api/webhooks/endpoints"
URL = "https://erp.example.test/hook/SECRETPATH"


@pytest.fixture
def allowed(settings: Any) -> None:
    """Names are not looked up."""
    settings.WEBHOOK_ALLOW_PRIVATE = True


def audited() -> list[AuditLog]:
    with service_scope("test"):
        return list(AuditLog.objects.filter(action__startswith="webhook.").order_by("at", "pk"))


def test_an_endpoint_is_made_read_changed_and_removed(world: World, allowed: None) -> None:
    client = by_key(world.admin)
    status, body = send(client, "post", ENDPOINTS, {"url": URL, "events": ["ticket.updated", "messages.new"]})
    assert status == 201
    made = body["data"]
    secret, one = made.pop("secret"), f"{ENDPOINTS}/{made['id']}"
    assert secret.startswith("whsec_")
    assert (made["events"], made["enabled"], made["failures"]) == (["messages.new", "ticket.updated"], True, 0)
    assert send(client, "get", one) == (200, {"data": made})
    assert send(client, "get", ENDPOINTS) == (200, {"data": [made], "meta": {"nextCursor": None, "limit": 50}})
    status, body = send(client, "patch", one, {"enabled": False, "description": "ERP"})
    assert (status, body["data"]["disabledReason"], body["data"]["description"]) == (200, "BY_HAND", "ERP")
    assert send(client, "patch", one, {"enabled": True})[1]["data"]["disabledAt"] is None
    status, body = send(client, "post", f"{one}/rotate-secret")
    assert (status, body["data"]["secret"] != secret) == (200, True)
    assert body["data"]["previousSecretUntil"] is not None
    assert send(client, "delete", one) == (204, None)
    assert refused(send(client, "get", one)) == (404, "NOT_FOUND")
    assert send(client, "get", ENDPOINTS)[1]["data"] == []
    lines = audited()
    assert [line.action for line in lines] == [
        "webhook.created", "webhook.changed", "webhook.changed", "webhook.secret_rotated", "webhook.deleted",
    ]  # fmt: skip
    assert {line.actor_id for line in lines} == {world.admin.pk}
    assert "SECRETPATH" not in str([line.changes for line in lines])
    assert lines[2].changes == {"enabled": [False, True]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"events": ["messages.new"]}, "url"),
        ({"url": URL}, "events"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": ["presence.updated"]}, "events.0"),
        ({"url": URL, "events": ["messages.new"], "secret": "x"}, "secret"),
        ({"url": URL, "events": ["messages.new"], "description": "x" * 201}, "description"),
        ({"url": "https://x.test/" + "x" * 2000, "events": ["messages.new"]}, "url"),
    ],
)
def test_a_bad_body_names_its_field(world: World, allowed: None, body: Any, field: str) -> None:
    client = by_key(world.admin)
    status, answer = send(client, "post", ENDPOINTS, body)
    assert status == 400
    assert [one["field"] for one in answer["error"]["details"]["errors"]] == [field]
    assert audited() == []


def test_it_takes_an_administrator(world: World, allowed: None) -> None:
    endpoint, _ = connect(world.admin, URL)
    for client in (by_key(world.supervisor), by_cookie(world.agent)):
        assert refused(send(client, "get", ENDPOINTS)) == (403, "FORBIDDEN")
        assert refused(send(client, "post", f"{ENDPOINTS}/{endpoint.pk}/test")) == (403, "FORBIDDEN")
    assert refused(send(Client(), "get", ENDPOINTS)) == (401, "UNAUTHORIZED")
    platform = by_cookie(world.superuser)
    assert [one["id"] for one in send(platform, "get", ENDPOINTS)[1]["data"]] == [str(endpoint.pk)]
    assert send(platform, "post", ENDPOINTS, {"url": URL, "events": ["messages.new"]})[0] == 403


def test_those_of_another_tenant_are_not_there(world: World, allowed: None) -> None:
    endpoint, _ = connect(world.admin, URL)
    with user_scope(world.admin):
        delivery = send_test(actor=world.admin, endpoint=endpoint, now=timezone.now())
    client, before = by_key(world.outsider), now_of(endpoint)
    period = {"from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z"}
    for key in (endpoint.pk, nobody_id()):
        one = f"{ENDPOINTS}/{key}"
        for method, url, body in (
            ("get", one, None), ("patch", one, {"enabled": False}), ("delete", one, None),
            ("post", f"{one}/rotate-secret", None), ("post", f"{one}/test", None), ("post", f"{one}/replay", period),
            ("get", f"{one}/deliveries", None),
        ):  # fmt: skip
            assert refused(send(client, method, url, body)) == (404, "NOT_FOUND"), (method, url)
    assert refused(send(client, "post", f"/api/webhooks/deliveries/{delivery.pk}/replay")) == (404, "NOT_FOUND")
    assert send(client, "get", ENDPOINTS)[1]["data"] == []
    assert (now_of(endpoint).secret, now_of(endpoint).enabled) == (before.secret, True)


def test_there_is_an_end_to_their_number(world: World, allowed: None) -> None:
    for _ in range(MOST_ENDPOINTS):
        connect(world.admin, URL)
    client, body = by_key(world.admin), {"url": URL, "events": ["messages.new"]}
    assert refused(send(client, "post", ENDPOINTS, body)) == (409, "TOO_MANY_WEBHOOKS")
    with service_scope("test"):
        one = Endpoint.objects.values_list("pk", flat=True)[0]
    assert send(client, "delete", f"{ENDPOINTS}/{one}")[0] == 204
    assert send(client, "post", ENDPOINTS, body)[0] == 201


def test_outbound_27_test_log_and_replay_by_route(committed_world: World, receiver: Receiver) -> None:
    client = by_key(committed_world.admin)
    began = timezone.now().isoformat()
    body = {"url": receiver.url, "events": ["messages.new"], "description": "ERP"}
    made = send(client, "post", ENDPOINTS, body)[1]["data"]
    one = f"{ENDPOINTS}/{made['id']}"
    status, body = send(client, "post", f"{one}/test")
    assert (status, body["data"]["status"], body["data"]["event"]) == (202, "PENDING", "webhook.test")
    delivery = body["data"]
    assert delivery["request"]["body"]["data"] == {"endpointId": made["id"], "description": "ERP"}
    again = f"/api/webhooks/deliveries/{delivery['id']}/replay"
    assert refused(send(client, "post", again)) == (409, "DELIVERY_ON_ITS_WAY")
    receiver.answer = lambda _: (500, {}, b"away")
    deliver_due()
    arrive(committed_world)
    receiver.answer = lambda _: 200
    due_now()
    deliver_due()
    status, page = send(client, "get", f"{one}/deliveries")
    assert [(row["event"], row["status"], row["attempts"]) for row in page["data"]] == [
        ("messages.new", "DELIVERED", 1), ("webhook.test", "DELIVERED", 2),
    ]  # fmt: skip
    shown = page["data"][1]
    assert shown["webhookId"] == delivery["webhookId"] == receiver.got[0].id
    assert [(each["number"], each["code"], each["status"], each["answer"]) for each in shown["log"]] == [
        (1, "HTTP_ERROR", 500, "away"), (2, "OK", 200, "ok"),
    ]  # fmt: skip
    assert shown["request"]["headers"]["webhook-id"] == shown["webhookId"]
    assert all(name in receiver.got[1].headers for name in shown["request"]["headers"])
    status, body = send(client, "post", again)
    assert (status, body["data"]["status"]) == (202, "PENDING")
    period = {"from": began, "to": timezone.now().isoformat()}
    status, body = send(client, "post", f"{one}/replay", period)
    assert (status, body["data"]) == (202, {"replayed": 1, "nextFrom": None, "nextAfter": None})
    assert deliver_due() == 2
    assert sorted(receiver.ids().count(key) for key in set(receiver.ids())) == [2, 3]
    for wrong in ({"from": period["to"], "to": began}, {**period, "to": 5}, {**period, "to": "2026-01-01T00:00:00"}):
        status, body = send(client, "post", f"{one}/replay", wrong)
        assert (status, [each["field"] for each in body["error"]["details"]["errors"]]) == (400, ["to"])
    send(client, "patch", one, {"enabled": False})
    for url in (f"{one}/test", f"{one}/replay", again):
        assert refused(send(client, "post", url, period)) == (409, "WEBHOOK_DISABLED")


def test_a_replay_goes_on_behind_its_last_event_though_all_happened_at_once(
    committed_world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadengine.webhooks.services.replaying.MOST_REPLAYED", 2)
    world, at = committed_world, timezone.now()
    endpoint, _ = connect(world.admin, receiver.url, "messages.new")
    arrive(world, *(f"m{number}" for number in range(5)))
    with service_scope("test"):
        OutgoingEvent.objects.update(at=at)
    assert deliver_due() == 5
    client, until = by_key(world.admin), (at + timedelta(seconds=1)).isoformat()
    body: dict[str, Any] = {"from": at.isoformat(), "to": until}
    counts = []
    while body["from"]:
        status, answer = send(client, "post", f"{ENDPOINTS}/{endpoint.pk}/replay", body)
        assert status == 202
        counts.append(answer["data"]["replayed"])
        body = {"from": answer["data"]["nextFrom"], "to": until, "after": answer["data"]["nextAfter"]}
    assert counts == [2, 2, 1]
    assert deliver_due() == 5
    assert {receiver.ids().count(key) for key in receiver.ids()} == {2}


def test_the_log_is_paged_and_sieved(committed_world: World, receiver: Receiver) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, receiver.url, "messages.new", "ticket.message")
    arrive(world, *(f"m{number}" for number in range(5)))
    dead = deliveries()[0]
    with service_scope("test"):
        Delivery.objects.filter(pk=dead.pk).update(status="DEAD", next_attempt_at=None)
    client, log = by_key(world.admin), f"{ENDPOINTS}/{endpoint.pk}/deliveries"
    seen: list[UUID] = []
    url = f"{log}?limit=4"
    while url:
        page = send(client, "get", url)[1]
        seen += [UUID(row["id"]) for row in page["data"]]
        cursor = page["meta"]["nextCursor"]
        url = f"{log}?limit=4&cursor={cursor}" if cursor else ""
    assert seen == [row.pk for row in reversed(deliveries())]
    assert [row["id"] for row in send(client, "get", f"{log}?status=DEAD")[1]["data"]] == [str(dead.pk)]
    assert len(send(client, "get", f"{log}?event=ticket.message")[1]["data"]) == 5
    assert send(client, "get", f"{log}?event=x")[0] == 400
    assert send(client, "get", f"{log}?status=x")[0] == 400


def test_a_change_of_an_endpoint_makes_a_snapshot_that_shows_no_secret(committed_world: World, allowed: None) -> None:
    from leadengine.operations.models import ConfigSnapshot

    world = committed_world
    endpoint, secret = connect(world.admin, URL)
    with service_scope("test"):
        taken = ConfigSnapshot.objects.latest("version")
    part = taken.data["webhookEndpoints"][str(endpoint.pk)]
    assert (part["tenantId"], part["enabled"]) == (str(world.ipe.pk), True)
    assert secret not in str(taken.data)
    assert "SECRETPATH" not in str(taken.data)


def test_someone_who_left_is_refused(world: World, allowed: None) -> None:
    client = by_key(world.admin)
    User.objects.filter(pk=world.admin.pk).update(is_active=False)
    assert send(client, "get", ENDPOINTS)[0] == 401
