"""The REST doors of the outbox: status, body, and each refusal at the edge (spec/outbound.md sections 4 to 6)."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from leadengine.accounts.models import ApiKey, User
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.accounts.services import create_api_key
from leads.models import Contact, ContactIdentity
from tests.conftest import World
from tests.outbound import MARIA, answering_never, claim_due, conversation, events_of, queue, reload, send
from tickets.models import Message, Queue, Ticket
from tickets.services.outbox import sweep_outbox
from tickets.transports import get_transport
from whatsapp.models import WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)


class Caller:
    """A browser session, or with `key` an API key, of a user."""

    def __init__(self, user: User | None, key: str | None = None) -> None:
        self.client = Client()
        self.headers = {"X-API-Key": key} if key else {}
        if user is not None and not key:
            self.client.force_login(user)

    def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        self.response = self.client.post(
            f"/api/{path}", body if body is not None else {}, "application/json", headers={**self.headers, **headers}
        )
        return self.response.status_code, self.response.json()

    def get(self, path: str) -> tuple[int, Any]:
        self.response = self.client.get(f"/api/{path}", headers=self.headers)
        return self.response.status_code, self.response.json()


def key_of(user: User, kind: str = ApiKey.Kind.USER) -> str:
    assert user.tenant_id is not None
    return create_api_key(owner=user, tenant_id=user.tenant_id, name="t", kind=kind)[0]


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


def test_ticket_door_answers_202_at_once_while_the_broker_hangs(committed_world: World, settings: Any) -> None:
    ticket = conversation(committed_world)
    with answering_never() as settings.WHATSAPP_BROKER_URL:
        status, body = Caller(committed_world.agent).post(
            f"tickets/{ticket.pk}/messages", {"text": "Olá", "idempotencyKey": "k1", "externalId": "crm"}
        )
    assert status == 202
    with tenant_scope(committed_world.ipe.pk):
        row = Message.objects.get(direction="OUTBOUND")
    assert body["data"] == {
        "queued": True, "ticketId": str(ticket.pk), "messageId": str(row.pk), "status": "QUEUED", "position": 2,
        "externalId": str(row.pk), "idempotencyKey": "k1", "scheduledAt": None, "cancelableUntil": None,
        "waitReason": None, "notBefore": None, "error": None,
    }  # fmt: skip
    assert (row.source, row.author_id, row.external_reference) == ("AGENT", committed_world.agent.pk, "crm")


def test_outbound_03_and_04_replay_says_so_and_shows_the_present_state(committed_world: World) -> None:
    ticket = conversation(committed_world)
    caller = Caller(committed_world.agent)
    path, body = f"tickets/{ticket.pk}/messages", {"payload": {"type": "TEXT", "text": "Olá"}}
    _, first = caller.post(path, body, **{"Idempotency-Key": "k1"})
    assert "Idempotent-Replayed" not in caller.response
    with tenant_scope(committed_world.ipe.pk), saving():
        Message.objects.filter(direction="OUTBOUND").update(status="SENT", external_id="X1")
        WhatsAppSession.objects.update(status="disconnected")
    status, again = caller.post(path, body, **{"Idempotency-Key": "k1"})
    assert (status, caller.response["Idempotent-Replayed"]) == (202, "true")
    assert (again["data"]["messageId"], again["data"]["status"]) == (first["data"]["messageId"], "SENT")
    assert again["data"]["externalId"] == "X1"
    status, refused = caller.post(path, body, **{"Idempotency-Key": "k2"})
    assert (status, refused["error"]["details"]["connected"], refused["error"]["details"]["status"]) == (
        409, False, "disconnected",
    )  # fmt: skip
    assert caller.post(path, body | {"whenUnavailable": "queue"}, **{"Idempotency-Key": "k2"})[0] == 202
    assert code(caller.post(path, body | {"idempotencyKey": "a"}, **{"Idempotency-Key": "b"})) == (
        409, "IDEMPOTENCY_KEY_MISMATCH",
    )  # fmt: skip
    assert code(caller.post(path, {"text": "outra"}, **{"Idempotency-Key": "k1"})) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_a_key_sends_as_the_api_and_a_signed_in_person_as_an_agent(committed_world: World) -> None:
    ticket = conversation(committed_world)
    for kind, source in ((ApiKey.Kind.USER, "API"), (ApiKey.Kind.LOGIN, "AGENT")):
        _, body = Caller(None, key_of(committed_world.agent, kind)).post(f"tickets/{ticket.pk}/messages", {"text": "x"})
        with tenant_scope(committed_world.ipe.pk):
            assert Message.objects.get(pk=body["data"]["messageId"]).source == source


def test_refusals_in_their_order(committed_world: World, settings: Any) -> None:
    ticket = conversation(committed_world)
    path = f"tickets/{ticket.pk}/messages"
    agent, outsider = Caller(committed_world.agent), Caller(committed_world.outsider)
    assert code(Caller(None).post(path, {"text": "x"})) == (401, "UNAUTHORIZED")
    read_only = key_of(committed_world.agent)
    ApiKey.objects.filter(sha256=ApiKey.digest(read_only)).update(scopes=["tickets:read"])
    assert code(Caller(None, read_only).post(path, {"text": "x"})) == (403, "FORBIDDEN")
    assert code(outsider.post(path, {"text": ""})) == (404, "NOT_FOUND")
    assert code(outsider.post(path, {"force": "yes"})) == (404, "NOT_FOUND")
    assert code(agent.post(f"tickets/{uuid4()}/messages", {"text": "x"})) == (404, "NOT_FOUND")
    assert code(agent.post(path, {"text": "x", "instanceId": "cedro-01"})) == (404, "NOT_FOUND")
    status, body = agent.post(path, {"text": "", "foo": 1, "replyTo": "x"})
    assert status == 400
    assert {error["field"] for error in body["error"]["details"]["errors"]} == {
        "text",
        "foo",
        "replyTo",
    }
    bad: dict[str, Any]
    for bad in (
        {"payload": {"text": "x"}, "text": "y"}, {"text": "x", "whenUnavailable": "never"}, {"text": "x", "force": 1},
        {"payload": "x"}, {"payload": ["x"]}, {"payload": {}}, {"payload": {"text": "x"}, "metadata": {}},
        {"text": "x", "expectedLastMessageId": "1"}, {"text": "x", "instanceId": "ipe-01", "sessionId": str(uuid4())},
    ):  # fmt: skip
        assert agent.post(path, bad)[0] in {400, 404}, bad
    assert code(agent.post(path, {"type": "sticker"})) == (400, "VALIDATION_ERROR")
    assert code(agent.post(path, {"type": "location", "location": {"latitude": 1, "longitude": 1}})) == (
        501, "UNSUPPORTED_OPERATION",
    )  # fmt: skip
    big = agent.client.post(f"/api/{path}", '{"text": "' + "x" * (1 << 20) + '"}', "application/json")
    assert (big.status_code, big.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    settings.WHATSAPP_BROKER_URL = ""
    for caller in (agent, outsider):
        status, body = caller.post(path, {"text": ""})
        assert status == 503
        assert body["error"]["details"] == {"missing": ["WHATSAPP_BROKER_URL"]}
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 1


def test_another_instance_is_recorded_as_an_override(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk), saving():
        other = WhatsAppSession.objects.create(
            tenant=committed_world.ipe, owner=committed_world.supervisor, session_name="B", connection_id="b-line",
            status="connected",
        )  # fmt: skip
    body = {"text": "x", "instanceId": "b-line", "sessionId": str(other.pk)}
    _, answer = Caller(committed_world.agent).post(f"tickets/{ticket.pk}/messages", body)
    with tenant_scope(committed_world.ipe.pk):
        row = Message.objects.get(pk=answer["data"]["messageId"])
    override = row.metadata["whatsapp"]
    assert (row.session_id, override["instanceId"], override["instanceOverride"]) == (other.pk, "b-line", True)
    assert override["overrideUserId"] == str(committed_world.agent.pk)
    assert override["overrideAt"]


@pytest.mark.parametrize("name", ["ipe-01", "inst-ipe-01", "id"])
def test_instance_door_opens_a_ticket_for_a_person_and_reuses_it(committed_world: World, name: str) -> None:
    name = str(committed_world.line.pk) if name == "id" else name
    agent = Caller(committed_world.agent)
    path = f"integrations/whatsapp/instances/{name}/messages"
    status, body = agent.post(path, {"to": "(11) 98888-7777", "text": "Olá"})
    assert status == 202
    _, again = agent.post(path, {"to": MARIA, "text": "de novo"})
    assert (again["data"]["ticketId"], again["data"]["position"]) == (body["data"]["ticketId"], 2)
    with tenant_scope(committed_world.ipe.pk):
        ticket = Ticket.objects.get()
        assert (ticket.assignee_id, ticket.status, ticket.queue_id) == (
            committed_world.agent.pk, "ASSIGNED", committed_world.queue.pk,
        )  # fmt: skip
        assert list(ticket.events.order_by("seq").values_list("kind", flat=True)) == ["OPENED", "ASSIGNED"]
        assert ContactIdentity.objects.values_list("kind", "value").get() == ("phone", MARIA)
        assert Contact.objects.get().name == MARIA
        row = WhatsAppAtendimento.objects.get()
        assert (row.chat_id, row.status, row.ticket_id, row.assigned_to) == (
            "5511988887777@s.whatsapp.net", "ATIVO", ticket.pk, committed_world.agent.pk,
        )  # fmt: skip
    conversation(committed_world, "quem é?")
    with tenant_scope(committed_world.ipe.pk):
        assert (Ticket.objects.count(), WhatsAppAtendimento.objects.count()) == (1, 1)


def test_instance_door_with_a_key_leaves_the_ticket_to_the_queue(committed_world: World) -> None:
    key = key_of(committed_world.agent)
    _, body = Caller(None, key).post("integrations/whatsapp/instances/ipe-01/messages", {"to": MARIA, "text": "x"})
    with tenant_scope(committed_world.ipe.pk):
        ticket = Ticket.objects.get(pk=body["data"]["ticketId"])
        assert (ticket.assignee_id, ticket.status) == (None, "OPEN")


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("11988887777", MARIA), ("5511988887777", MARIA), ("+55 11 98888-7777", MARIA), ("1188887777", MARIA),
        ("1133334444", "+551133334444"), ("988887777", "INVALID_TO"), ("", "INVALID_TO"), ("+12", "INVALID_TO"),
        ("14155551234", "+5514155551234"), ("abc", "INVALID_TO"), ("44 20 7946 0958", "INVALID_TO"),
        ("+1 415 555 1234", "UNSUPPORTED_RECIPIENT"), ("5511988887777@s.whatsapp.net", "INVALID_TO"),
    ],
)  # fmt: skip
def test_outbound_15_numbers(committed_world: World, to: str, expected: str) -> None:
    answer = Caller(committed_world.agent).post(
        "integrations/whatsapp/instances/ipe-01/messages", {"to": to, "text": "x"}
    )
    with tenant_scope(committed_world.ipe.pk):
        phones = list(ContactIdentity.objects.filter(kind="phone").values_list("value", flat=True))
    if expected.startswith("+"):
        assert answer[0] == 202
        assert phones == [expected]
    else:
        assert code(answer)[1] == expected
        assert answer[0] in {400, 422}
        assert phones == []


def test_instance_door_refuses_foreign_ones_and_a_tenant_without_queue(committed_world: World) -> None:
    agent = Caller(committed_world.agent)
    body = {"to": MARIA, "text": "x"}
    assert code(agent.post("integrations/whatsapp/instances/cedro-01/messages", body)) == (404, "NOT_FOUND")
    assert code(agent.post("integrations/whatsapp/instances/nada/messages", body)) == (404, "NOT_FOUND")
    path = "integrations/whatsapp/instances/ipe-01/messages"
    assert code(agent.post(path, body | {"instanceId": "nada"})) == (404, "NOT_FOUND")
    assert code(agent.post(path, {"text": "x"})) == (400, "VALIDATION_ERROR")
    with tenant_scope(committed_world.ipe.pk):
        Queue.objects.update(is_active=False)
    with events_of(committed_world) as events:
        assert code(agent.post(path, body)) == (409, "QUEUE_MISSING")
        assert [name for name, _ in events()] == ["whatsapp.queue.missing"]
    with tenant_scope(committed_world.ipe.pk):
        assert (Contact.objects.count(), Message.objects.count()) == (0, 0)


def test_outbound_16_contact_door(committed_world: World) -> None:
    ticket = conversation(committed_world)
    agent, path = Caller(committed_world.agent), f"contacts/{ticket.contact_id}/messages"
    status, body = agent.post(path, {"text": "x"})
    assert (status, body["data"]["ticketId"]) == (202, str(ticket.pk))
    assert agent.post(path, {"text": "x", "to": MARIA, "instanceId": "ipe-01"})[0] == 202
    conversation(committed_world, phone="+5511977776666")
    for foreign in ("+5511977776666", "+5511911112222"):
        assert code(agent.post(path, {"text": "x", "to": foreign})) == (409, "CONTACT_PHONE_MISMATCH")
    assert code(Caller(committed_world.outsider).post(path, {"text": "x"})) == (404, "NOT_FOUND")
    with service_scope("test"):
        stranger = Contact.objects.create(tenant=committed_world.ipe, name="Nova")
        phones = [("+5511955554444", True), ("+5511944443333", False)]
        for value, primary in phones:
            ContactIdentity.objects.create(
                tenant=committed_world.ipe, contact=stranger, kind="phone", value=value, is_primary=primary
            )
    path = f"contacts/{stranger.pk}/messages"
    assert code(agent.post(path, {"text": "x"})) == (400, "WHATSAPP_INSTANCE_REQUIRED")
    status, body = agent.post(path, {"text": "x", "instanceId": "ipe-01", "to": "11 94444-3333"})
    assert status == 202
    line = _line(committed_world)
    orders = {str(claim.order.message_id): claim.order for claim in claim_due(line=line, now=timezone.now())}
    assert orders[body["data"]["messageId"]].identities == (("phone", "+5511944443333"),)


def test_detail_and_list(committed_world: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    ticket = conversation(committed_world)
    rows = [queue(committed_world, ticket, str(n)) for n in range(3)]
    send(committed_world)
    agent, supervisor = Caller(committed_world.agent), Caller(committed_world.supervisor)
    status, body = agent.get(f"messages/{rows[0].pk}")
    assert status == 200
    assert body["data"]["status"] == "QUEUED"
    assert body["data"]["attempts"] == 1
    assert (body["data"]["waitReason"], body["data"]["error"]["code"]) == ("RETRY", "BROKER_UNREACHABLE")
    assert "payload" not in body["data"]
    assert "attemptRows" not in body["data"]
    assert code(agent.get(f"messages/{rows[0].pk}?include=attempts")) == (403, "FORBIDDEN")
    assert code(Caller(committed_world.outsider).get(f"messages/{rows[0].pk}")) == (404, "NOT_FOUND")
    _, body = supervisor.get(f"messages/{rows[0].pk}?include=attempts")
    (attempt,) = body["data"]["attemptRows"]
    assert (attempt["number"], attempt["outcome"], attempt["code"]) == (1, "QUEUED", "BROKER_UNREACHABLE")
    assert code(agent.get("messages")) == (403, "FORBIDDEN")
    _, page = supervisor.get("messages?status=QUEUED,SENDING&direction=OUTBOUND&limit=2")
    assert [row["id"] for row in page["data"]] == [str(row.pk) for row in reversed(rows[1:])]
    _, rest = supervisor.get(
        f"messages?status=QUEUED,SENDING&direction=OUTBOUND&limit=2&cursor={page['meta']['nextCursor']}"
    )
    assert [row["id"] for row in rest["data"]] == [str(rows[0].pk)]
    assert rest["meta"]["nextCursor"] is None
    assert supervisor.get(f"messages?ticketId={uuid4()}")[1]["data"] == []
    for bad in ("foo=1", "status=LOST", "direction=UP", "ticketId=1", "limit=0", "limit=101"):
        assert code(supervisor.get(f"messages?{bad}")) == (400, "VALIDATION_ERROR")
    assert code(supervisor.get(f"messages/{rows[0].pk}?include=all")) == (400, "VALIDATION_ERROR")
    assert Caller(committed_world.outsider).get("messages")[1]["data"] == []


def test_outbound_18_and_20_actions(committed_world: World) -> None:
    ticket = conversation(committed_world)
    agent = Caller(committed_world.agent)
    first, second = queue(committed_world, ticket, "um"), queue(committed_world, ticket, "dois")
    assert agent.post(f"messages/{first.pk}/cancel")[1]["data"]["status"] == "CANCELED"
    claim_due(line=_line(committed_world), now=timezone.now())
    assert code(agent.post(f"messages/{second.pk}/cancel")) == (409, "ALREADY_SENDING")
    with tenant_scope(committed_world.ipe.pk):
        Message.objects.filter(pk=second.pk).update(lease_until=timezone.now())
    sweep_outbox(now=timezone.now())
    assert reload(second).status == "UNCONFIRMED"
    assert code(agent.post(f"messages/{second.pk}/resend")) == (409, "RESEND_NOT_ALLOWED")
    assert code(agent.post(f"messages/{second.pk}/resend", {"confirm": True})) == (400, "VALIDATION_ERROR")
    status, body = agent.post(f"messages/{second.pk}/resend", {"confirmDuplicate": True})
    assert status == 202
    assert body["data"]["messageId"] != str(second.pk)
    assert agent.post(f"messages/{second.pk}/dismiss")[0] == 200
    assert reload(second).dismissed_at
    for action in ("cancel", "resend", "dismiss"):
        assert code(Caller(committed_world.agent2).post(f"messages/{first.pk}/{action}")) == (403, "FORBIDDEN")
        assert code(Caller(committed_world.outsider).post(f"messages/{first.pk}/{action}")) == (404, "NOT_FOUND")


def _line(world: World) -> Any:
    with tenant_scope(world.ipe.pk):
        return get_transport("WHATSAPP").line(world.line.pk)
