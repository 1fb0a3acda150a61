"""The doors from outside: each answers at once, whatever the broker does, and changes nothing it refuses."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.redis import client as redis
from leads.models import Contact, ContactIdentity
from tests.api import by_cookie, by_key
from tests.api import send as call
from tests.conftest import World
from tests.outbound import MARIA, at_once, claim_due, conversation, queue, reload, send, until
from tests.tickets.desk import arrive, nobody_id
from tests.whatsapp.wire import Wire
from tickets.models import Message, Queue, Ticket
from tickets.services.lifecycle import close_ticket
from tickets.services.outbox import queue_message
from tickets.services.outbox.settling import Try, settle
from tickets.transports import Sent, get_transport
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving
from whatsapp.transport import choose_address

pytestmark = pytest.mark.django_db(transaction=True)
DOORS = ("ticket", "contact", "instance")
IMAGE = "http://files.example.com/a.png"


def door(ticket: Ticket, name: str) -> tuple[str, dict[str, Any]]:
    """The path of a door to a ticket's contact, and what its body needs beside the payload."""
    return {
        "ticket": (f"/api/tickets/{ticket.pk}/messages", {}),
        "contact": (f"/api/contacts/{ticket.contact_id}/messages", {}),
        "instance": ("/api/integrations/whatsapp/instances/ipe-01/messages", {"to": MARIA}),
    }[name]


def post(client: Client, ticket: Ticket, name: str, **body: Any) -> tuple[int, Any]:
    path, more = door(ticket, name)
    return call(client, "POST", path, more | body)


def can(world: World, *types: str) -> None:
    """What the line can send."""
    with tenant_scope(world.ipe.pk), saving():
        WhatsAppSession.objects.filter(pk=world.line.pk).update(capabilities={"types": list(types)})


@pytest.mark.parametrize("name", DOORS)
def test_outbound_01_each_door_answers_while_the_broker_hangs(committed_world: World, settings: Any, name: str) -> None:
    ticket, client = conversation(committed_world), by_cookie(committed_world.agent)
    hanging = threading.Event()
    with Wire(200, "{}") as wire:
        settings.WHATSAPP_BROKER_URL, wire.hold = wire.url, hanging.wait
        status, body = post(client, ticket, name, text="um")
        assert (status, body["data"]["status"], body["data"]["queued"]) == (202, "QUEUED", True)

        def work() -> None:
            try:
                send(committed_world)
            finally:
                connection.close()

        worker = threading.Thread(target=work)
        worker.start()
        try:
            until(lambda: wire.asked)
            with tenant_scope(committed_world.ipe.pk):
                first = Message.objects.get(pk=body["data"]["messageId"])
            assert first.status == "SENDING"
            status, body = post(client, ticket, name, text="dois")
            assert (status, body["data"]["status"], body["data"]["waitReason"]) == (202, "QUEUED", "ORDER")
        finally:
            hanging.set()
            worker.join(10)
    assert reload(first).status == "SENT"


ROUND_TRIPS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"text": " *Olá!*\n", "previewUrl": True},
        {"type": "text", "message": " *Olá!*\n", "text": " *Olá!*\n", "previewUrl": True},
    ),
    (
        {"type": "IMAGE", "mediaUrl": IMAGE, "caption": "veja", "fileName": "a.png", "mimeType": "image/png"},
        {"type": "image", "mediaUrl": IMAGE, "caption": "veja", "fileName": "a.png", "mimeType": "image/png"},
    ),
    (
        {"type": "video", "media": {"url": IMAGE, "mimetype": "video/mp4", "filename": "b.mp4", "size": 9}},
        {"type": "video", "mediaUrl": IMAGE, "mimeType": "video/mp4", "fileName": "b.mp4"},
    ),
    ({"type": "document", "mediaUrl": IMAGE}, {"type": "document", "mediaUrl": IMAGE}),
    ({"type": "audio", "mediaUrl": IMAGE, "voice": True}, {"type": "audio", "mediaUrl": IMAGE}),
    (
        {"type": "location", "location": {"latitude": -23.5, "longitude": -46.6, "name": "Loja"}},
        {"type": "location", "location": {"latitude": -23.5, "longitude": -46.6, "name": "Loja"}},
    ),
    (
        {"type": "contact", "contact": {"fullName": "Ana", "phones": [{"phoneNumber": MARIA}]}},
        {"type": "contact", "contact": {"fullName": "Ana", "emails": [], "phones": [{"phoneNumber": MARIA}]}},
    ),
    (
        {"type": "template", "template": {"name": "oi", "language": "pt_BR", "components": [{"type": "body"}]}},
        {"type": "template", "template": {"name": "oi", "language": "pt_BR", "components": [{"type": "body"}]}},
    ),
    (
        {"type": "poll", "poll": {"question": "Qual?", "options": ["a", "b"]}},
        {"type": "poll", "poll": {"question": "Qual?", "options": ["a", "b"], "allowMultipleAnswers": False}},
    ),
]  # fmt: skip


def test_outbound_02_each_type_reaches_the_broker_with_exact_fields(committed_world: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_SEND_ROUTE = "send-text"  # the one route that takes every type
    can(committed_world, "text", "image", "video", "document", "audio", "location", "contact", "template", "poll")
    ticket, client = conversation(committed_world), by_cookie(committed_world.agent)
    settings.OUTBOUND_MEDIA_ALLOW_PRIVATE = True  # no name is looked up
    for payload, _ in ROUND_TRIPS:
        status, body = post(client, ticket, "ticket", payload=payload | {"externalId": "crm-1", "metadata": {"a": 1}})
        assert status == 202, body
    with Wire(200, "{}") as wire:  # a JSON answer without an id is a success with the identity still open
        settings.WHATSAPP_BROKER_URL = wire.url
        send(committed_world)
        until(lambda: len(wire.asked) == len(ROUND_TRIPS))
    for (_, expected), (_, _, _, sent) in zip(ROUND_TRIPS, wire.asked, strict=True):
        common = {"sessionId", "instanceId", "to", "externalId", "metadata"}
        assert (sent["to"], sent["externalId"], sent["metadata"]) == ("5511988887777", "crm-1", {"a": 1})
        left = {field: value for field, value in sent.items() if field not in common}
        assert {"message": "", **left} == {"message": expected.get("caption", ""), **expected}


def test_outbound_03_one_key_is_one_row_and_one_call(committed_world: World, settings: Any) -> None:
    ticket = conversation(committed_world)

    def twice(name: str, **body: Any) -> list[tuple[int, Any]]:
        clients = [by_cookie(committed_world.agent) for _ in range(2)]
        return at_once(*[lambda client=one: post(client, ticket, name, **body) for one in clients])

    ids = {}
    for name in DOORS:
        answers = twice(name, text="oi", idempotencyKey=f"k-{name}")
        assert [status for status, _ in answers] == [202, 202]
        (ids[name],) = {body["data"]["messageId"] for _, body in answers}
    with Wire(200, "{}") as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        send(committed_world)
        redis().flushdb()
        for name in DOORS:
            client = by_cookie(committed_world.agent)
            path, more = door(ticket, name)
            body = {**more, "text": "oi"}
            response = client.post(path, body, "application/json", headers={"Idempotency-Key": f"k-{name}"})
            assert (response.status_code, response.headers["Idempotent-Replayed"]) == (202, "true")
            assert (response.json()["data"]["messageId"], response.json()["data"]["status"]) == (ids[name], "SENT")
            assert post(client, ticket, name, text="ai", idempotencyKey=f"k-{name}")[0] == 422
            # One key at another door is another message, too.
            other = DOORS[DOORS.index(name) - 1]
            assert post(client, ticket, other, text="oi", idempotencyKey=f"k-{name}")[0] == 422
        send(committed_world)
        assert len(wire.asked) == len(DOORS)
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.filter(direction="OUTBOUND").count() == len(DOORS)


def test_outbound_03_of_two_calls_at_once_the_later_is_a_replay_even_where_it_would_be_refused(
    committed_world: World,
) -> None:
    """Without an author nobody's own answer is known: the row of the first call would be a newer one to the second."""
    ticket = conversation(committed_world)

    def work(key: str, seen: UUID) -> Any:
        with tenant_scope(committed_world.ipe.pk):
            return queue_message(
                ticket_id=ticket.pk, author=None, payload={"text": "x"}, source="AUTOMATION", idempotency_key=key,
                expected_last_message_id=seen, now=timezone.now(),
            )  # fmt: skip

    for n in range(4):
        first, second = at_once(*[partial(work, f"k{n}", _last(ticket))] * 2)
        assert first.message.pk == second.message.pk
        assert {first.replayed, second.replayed} == {True, False}


def test_a_key_on_another_line_is_another_message(committed_world: World) -> None:
    with tenant_scope(committed_world.ipe.pk), saving():
        WhatsAppSession.objects.create(
            tenant=committed_world.ipe, owner=committed_world.admin, session_name="B", connection_id="b-line",
            status="connected",
        )  # fmt: skip
    client, body = by_cookie(committed_world.agent), {"to": MARIA, "text": "x", "idempotencyKey": "k"}
    path = "/api/integrations/whatsapp/instances/{}/messages"
    assert call(client, "POST", path.format("ipe-01"), body)[0] == 202
    status, answer = call(client, "POST", path.format("b-line"), body)
    assert (status, answer["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


@dataclass(frozen=True)
class Target:
    """Something of another tenant, or of nobody, and how it is addressed."""

    path: str
    body: dict[str, Any]


def test_outbound_16_foreign_things_are_not_found_and_nothing_changes(committed_world: World) -> None:
    own = conversation(committed_world)
    foreign = arrive(committed_world, "de fora", phone="+5511955554444", tenant=committed_world.cedro)
    with service_scope("test"):
        theirs = Message.objects.get(ticket=foreign)
        count = Message.objects.count()
    mine = queue(committed_world, own, "minha")
    clients = [by_cookie(committed_world.agent), by_cookie(committed_world.supervisor), by_key(committed_world.admin)]
    targets = [
        *(Target(door(foreign, name)[0], {}) for name in ("ticket", "contact")),
        Target(f"/api/tickets/{nobody_id()}/messages", {}),
        Target(f"/api/contacts/{nobody_id()}/messages", {}),
        Target("/api/integrations/whatsapp/instances/cedro-01/messages", {"to": MARIA}),
        Target(f"/api/integrations/whatsapp/instances/{committed_world.foreign_line.pk}/messages", {"to": MARIA}),
        *(Target(door(own, name)[0], door(own, name)[1] | {"instanceId": "cedro-01"}) for name in DOORS),
    ]
    for client in clients:
        for target in targets:
            for key in (None, "k"):
                body = {"text": "x", **target.body} | ({"idempotencyKey": key} if key else {})
                status, answer = call(client, "POST", target.path, body)
                assert (status, answer["error"]["code"]) == (404, "NOT_FOUND"), target
        for method, path in (
            ("GET", ""), ("GET", "?include=attempts"), ("PATCH", ""), ("POST", "/cancel"), ("POST", "/resend"),
            ("POST", "/dismiss"),
        ):  # fmt: skip
            body = {"scheduledAt": "2099-01-01T00:00:00Z"} if method == "PATCH" else {}
            assert call(client, method, f"/api/messages/{theirs.pk}{path}", body)[0] == 404, (method, path)
        reply = {"text": "x", "replyTo": str(theirs.pk)}
        assert call(client, "POST", door(own, "ticket")[0], reply)[0] == 400
    with service_scope("test"):
        assert Message.objects.count() == count + 1
        assert reload(mine).status == "QUEUED"
        assert Ticket.objects.count() == 2


def test_outbound_16_no_door_moves_a_phone_between_contacts(committed_world: World) -> None:
    maria = conversation(committed_world)
    joana = conversation(committed_world, phone="+5511977776666")
    client = by_cookie(committed_world.agent)

    def owners() -> list[Any]:
        with tenant_scope(committed_world.ipe.pk):
            return sorted(ContactIdentity.objects.values_list("contact_id", "kind", "value"))

    before = owners()
    path, _ = door(maria, "contact")
    status, body = call(client, "POST", path, {"text": "x", "to": "+5511977776666"})
    assert (status, body["error"]["code"]) == (409, "CONTACT_PHONE_MISMATCH")
    status, body = call(
        client, "POST", "/api/integrations/whatsapp/instances/ipe-01/messages", {"text": "x", "to": "11977776666"}
    )
    assert (status, body["data"]["ticketId"]) == (202, str(joana.pk))
    assert owners() == before


def two_phones(world: World, *addresses: str) -> Ticket:
    """Maria's ticket, who is also reached at +5511944443333, with these addresses in WhatsApp and no other."""
    ticket = conversation(world)
    given = {"tenant": world.ipe, "contact_id": ticket.contact_id}
    with tenant_scope(world.ipe.pk):
        ContactIdentity.objects.filter(kind="wa_address").delete()
        ContactIdentity.objects.create(**given, kind="phone", value="+5511944443333")
        for value in addresses:
            ContactIdentity.objects.create(**given, kind="wa_address", value=value)
    return ticket


def write(world: World, to: str | None) -> Any:
    """Accept a text to a phone over the contact's door, claim it, and say to which address it is sent."""
    with service_scope("test"):
        contact = ContactIdentity.objects.get(value=MARIA).contact_id
    body = {"text": "x", "whenUnavailable": "queue"} | ({"to": to} if to else {})
    status, answer = call(by_cookie(world.agent), "POST", f"/api/contacts/{contact}/messages", body)
    assert status == 202, answer
    with tenant_scope(world.ipe.pk):
        line = get_transport("WHATSAPP").line(world.line.pk)
    assert line is not None
    (claim,) = claim_due(line=line, now=timezone.now())
    assert str(claim.order.message_id) == answer["data"]["messageId"]
    return claim


@pytest.mark.parametrize(
    ("addresses", "to", "reached"),
    [
        (("5511944443333",), MARIA, "5511988887777"),  # the other phone's address is not theirs
        (("5511944443333",), "11944443333", "5511944443333"),
        (("551188887777", "5511944443333"), MARIA, "551188887777"),  # without the ninth digit, as WhatsApp has it
        (("551188887777",), "11944443333", "5511944443333"),
        (("5511944443333",), None, "5511944443333"),
    ],
)
def test_a_message_to_one_phone_never_reaches_another(
    committed_world: World, addresses: tuple[str, ...], to: str | None, reached: str
) -> None:
    two_phones(committed_world, *addresses)
    claim = write(committed_world, to)
    assert choose_address(claim.order.line.capabilities, claim.order.identities, is_group=False) == reached


@pytest.mark.parametrize(("others", "kept"), [(True, set()), (False, {"5511988887777"})])
def test_an_address_learned_for_one_phone_of_several_does_not_become_the_contacts(
    committed_world: World, *, others: bool, kept: set[str]
) -> None:
    ticket = two_phones(committed_world)
    if not others:
        with tenant_scope(committed_world.ipe.pk):
            ContactIdentity.objects.filter(value="+5511944443333").delete()
    claim = write(committed_world, MARIA)
    sent = Sent("X1", 200, "{}", (("wa_address", "5511988887777"),))
    settle(transport=get_transport("WHATSAPP"), claim=claim, tried=Try(sent, timezone.now(), 5))
    with tenant_scope(committed_world.ipe.pk):
        found = ContactIdentity.objects.filter(contact_id=ticket.contact_id, kind="wa_address")
        assert set(found.values_list("value", flat=True)) == kept


def test_what_is_wrong_with_a_call_is_said_before_what_the_state_of_things_refuses(
    committed_world: World, settings: Any
) -> None:
    ticket, client = conversation(committed_world), by_cookie(committed_world.supervisor)
    stranger, soon = str(nobody_id()), (datetime.now(UTC) + timedelta(seconds=5)).isoformat()

    def told(name: str, **body: Any) -> tuple[int, Any]:
        path, more = door(ticket, name)
        response = client.post(path, {**more, **body}, "application/json", headers={"Idempotency-Key": "header"})
        error = response.json()["error"]
        fields = [one["field"] for one in error["details"].get("errors", [])]
        return response.status_code, fields or error["code"]

    # Two keys that differ: a conflict, after the ticket that is not there and after every bad field.
    differ = {"idempotencyKey": "body", "text": "x"}
    path = f"/api/tickets/{nobody_id()}/messages"
    response = client.post(path, differ, "application/json", headers={"Idempotency-Key": "header"})
    assert response.status_code == 404
    assert told("ticket", **differ) == (409, "IDEMPOTENCY_KEY_MISMATCH")
    assert told("ticket", **differ | {"text": ""}) == (400, ["text"])
    assert told("ticket", **differ | {"scheduledAt": soon}) == (400, ["scheduledAt"])
    assert told("ticket", **differ | {"replyTo": stranger, "expectedLastMessageId": stranger}) == (
        400, ["replyTo", "expectedLastMessageId"],
    )  # fmt: skip
    settings.OUTBOUND_REQUIRE_IDEMPOTENCY_KEY = True
    status, body = post(client, ticket, "ticket", text="x", scheduledAt=soon)
    assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR")
    settings.OUTBOUND_REQUIRE_IDEMPOTENCY_KEY = False
    # No queue, and a phone that is not theirs, after what the message refers to.
    with tenant_scope(committed_world.ipe.pk):
        Queue.objects.update(is_active=False)
        close_ticket(actor=committed_world.supervisor, ticket_id=ticket.pk, reason_code="SOLVED", now=timezone.now())
    assert told("instance", text="x") == (409, "QUEUE_MISSING")
    assert told("instance", text="x", replyTo=stranger) == (400, ["replyTo"])
    assert told("instance", type="image", uploadId=stranger) == (404, "NOT_FOUND")
    assert told("contact", text="x", to="11977776666", replyTo=stranger) == (400, ["replyTo"])
    # A number that nobody can have, before the ticket that has ended.
    with tenant_scope(committed_world.ipe.pk):
        ContactIdentity.objects.filter(kind="wa_address").delete()
        ContactIdentity.objects.filter(kind="phone").update(value="+55119888")
    assert told("ticket", text="x") == (400, "INVALID_TO")


def test_a_body_is_refused_for_all_that_is_wrong_with_it_and_its_payload(committed_world: World) -> None:
    ticket, client = conversation(committed_world), by_cookie(committed_world.agent)

    def fields(name: str, body: dict[str, Any]) -> set[str]:
        path, _ = door(ticket, name)
        status, answer = call(client, "POST", path, body)
        assert status == 400, answer
        told = [one["field"] for one in answer["error"]["details"]["errors"]]
        assert len(told) == len(set(told))
        return set(told)

    assert fields("ticket", {"force": "x", "text": ""}) == {"force", "text"}
    assert fields("ticket", {"force": "x", "payload": {"text": ""}}) == {"force", "text"}
    assert fields("ticket", {"force": "x", "payload": {"text": "a"}, "text": "b"}) == {"force", "text"}
    assert fields("ticket", {"force": "x", "payload": "text"}) == {"force", "payload"}
    assert fields("ticket", {"force": "x", "text": "fine"}) == {"force"}
    assert fields("instance", {"foo": 1}) == {"to", "foo", "text"}
    assert call(client, "POST", door(ticket, "ticket")[0], [])[0] == 400


def test_replay_comes_before_what_has_changed_since(committed_world: World) -> None:
    ticket, client = conversation(committed_world), by_cookie(committed_world.supervisor)
    bodies = {name: {"text": "x", "idempotencyKey": f"k-{name}"} for name in DOORS}
    bodies["contact"]["to"] = MARIA
    first = {name: post(client, ticket, name, **body)[1]["data"]["messageId"] for name, body in bodies.items()}
    with tenant_scope(committed_world.ipe.pk):
        Contact.objects.update(is_blocked=True)
        other = Contact.objects.create(tenant=committed_world.ipe, name="Outra")
        ContactIdentity.objects.filter(kind="phone").update(contact=other)
    for name in ("ticket", "contact"):
        status, body = post(client, ticket, name, **bodies[name])
        assert (status, body["data"]["messageId"]) == (202, first[name])
        status, body = post(client, ticket, name, **bodies[name] | {"idempotencyKey": "new"})
        code = "CONTACT_PHONE_MISMATCH" if name == "contact" else "CONTACT_BLOCKED"
        assert (status, body["error"]["code"]) == (409, code)


@pytest.mark.parametrize("name", DOORS)
def test_a_door_asks_little_of_the_database_and_nothing_of_the_broker(
    committed_world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ticket, client = conversation(committed_world), by_cookie(committed_world.agent)
    for n in range(30):
        queue(committed_world, ticket, str(n))
    post(client, ticket, name, text="warm")
    called: list[Any] = []
    connect = socket.socket.connect
    redis_at = redis().connection_pool.connection_kwargs.get("port")

    def watch(self: socket.socket, address: Any) -> None:
        called.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watch)
    body = {"text": "x", "idempotencyKey": "k", "expectedLastMessageId": str(_last(ticket))}
    with CaptureQueriesContext(connection) as queries:
        assert post(client, ticket, name, **body)[0] == 202
    assert len(queries) <= 45, "\n".join(one["sql"][:150] for one in queries)  # some of them begin and end scopes
    assert {address[1] for address in called} <= {redis_at}


def test_the_list_and_the_detail_cost_the_same_whatever_there_is(committed_world: World) -> None:
    ticket, client = conversation(committed_world), by_cookie(committed_world.supervisor)

    def cost(path: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            status, body = call(client, "GET", path)
        assert status == 200, body
        assert not any("COUNT(" in one["sql"] for one in queries)
        return len(queries)

    first = queue(committed_world, ticket, "0")
    paths = ["/api/messages?status=QUEUED", f"/api/messages/{first.pk}?include=attempts"]
    costs = [cost(path) for path in paths]
    for n in range(8):
        queue(committed_world, ticket, str(n), payload={"type": "image", "mediaUrl": IMAGE} if n % 2 else {"text": "x"})
    assert [cost(path) for path in paths] == costs


def test_schedule_over_the_api(committed_world: World) -> None:
    ticket, client = conversation(committed_world), by_cookie(committed_world.agent)
    at = (datetime.now(UTC) + timedelta(hours=2)).replace(microsecond=0)
    local = at.astimezone(tz=None).isoformat() if at.astimezone(tz=None).utcoffset() else at.isoformat()
    for name in DOORS:
        status, body = post(client, ticket, name, text="x", scheduledAt=local, cancelIfCustomerReplies=False)
        assert (status, body["data"]["status"]) == (202, "SCHEDULED")
        assert datetime.fromisoformat(body["data"]["scheduledAt"]) == at
    for bad in ("2099-01-01T00:00:00", "amanhã", 5, (datetime.now(UTC) + timedelta(seconds=50)).isoformat()):
        status, answer = post(client, ticket, "ticket", text="x", scheduledAt=bad)
        assert (status, answer["error"]["details"]["errors"][0]["field"]) == (400, "scheduledAt")
    message = f"/api/messages/{body['data']['messageId']}"
    later = (at + timedelta(hours=1)).isoformat()
    status, changed = call(client, "PATCH", message, {"scheduledAt": later})
    assert (status, changed["data"]["status"]) == (200, "SCHEDULED")
    assert datetime.fromisoformat(changed["data"]["scheduledAt"]) == at + timedelta(hours=1)
    assert call(client, "PATCH", message, {"scheduledAt": None})[0] == 400
    assert call(client, "PATCH", message, {})[0] == 400
    assert call(client, "PATCH", message, {"scheduledAt": later, "text": "y"})[0] == 400
    assert call(by_cookie(committed_world.agent2), "PATCH", message, {"scheduledAt": later})[0] == 403
    assert call(client, "POST", f"{message}/cancel")[1]["data"]["status"] == "CANCELED"
    status, answer = call(client, "PATCH", message, {"scheduledAt": later})
    assert (status, answer["error"]["code"], answer["error"]["details"]) == (
        409, "ALREADY_SENDING", {"status": "CANCELED"},
    )  # fmt: skip


def test_undo_over_the_api(committed_world: World) -> None:
    with service_scope("test"):
        Tenant.objects.filter(pk=committed_world.ipe.pk).update(settings={"undoSeconds": 7})
    ticket, client = conversation(committed_world), by_cookie(committed_world.agent)
    for name in DOORS:
        began = timezone.now()
        _, body = post(client, ticket, name, text="x")
        until_ = datetime.fromisoformat(body["data"]["cancelableUntil"])
        assert timedelta(seconds=7) <= until_ - began < timedelta(seconds=9)
        assert (body["data"]["waitReason"], body["data"]["notBefore"]) == (
            "UNDO_WINDOW",
            body["data"]["cancelableUntil"],
        )


def _last(ticket: Ticket) -> UUID:
    with service_scope("test"):
        found: UUID = Message.objects.filter(ticket=ticket).order_by("-position").values_list("pk", flat=True)[0]
        return found
