"""What a broker is asked through us, over HTTP (spec/outbound.md section 11)."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.test import Client
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.retry import Retry

from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.accounts.services import create_api_key
from leadengine.redis import client as redis_client
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World
from tests.outbound import Broker, answering_never, conversation
from tests.whatsapp.sessions.steps import set_columns
from tests.whatsapp.wire import Wire, closed_port
from tickets.models import Message
from tickets.queries.sends import count_sends
from tickets.services.outbox import send_due
from whatsapp.api.proxies import ExistsShape, GroupListShape, MetricsShape, PollAcceptedShape
from whatsapp.services import proxies

pytestmark = pytest.mark.django_db(transaction=True)
ONE = "/api/integrations/whatsapp/instances/inst-ipe-01"
QUESTIONS = [("post", "exists", {"to": "11988887777"}), ("get", "groups", None), ("get", "metrics", None)]
POLL = {"to": "11988887777", "question": "Qual horário?", "options": ["Manhã", "Tarde"]}


@pytest.fixture
def line(committed_world: World, broker: Broker, settings: Any) -> World:
    """The two tenants, the line of one of them open at the simulator."""
    settings.REDIS_RATE_LIMIT_RPM = 60
    broker.control("ipe-01/open")
    return committed_world


def data_of(answer: tuple[int, Any], shape: Any, status: int = 200) -> dict[str, Any]:
    """The data of an answer, held against the shape that the schema promises."""
    assert answer[0] == status, answer
    data: dict[str, Any] = answer[1]["data"]
    shape.model_validate(data)
    return data


def asked(broker: Broker, call: str) -> int:
    """How often the broker was asked something."""
    return int(broker.control("state", method="GET")["requests"].get(call, 0))


def exists(client: Client, body: dict[str, Any]) -> tuple[int, Any]:
    return send(client, "post", f"{ONE}/exists", body)


def test_outbound_25_exists_says_who_answers_and_an_empty_list_is_nobody(line: World, broker: Broker) -> None:
    client = by_key(line.admin)
    for word in ("11988887777", "(11) 98888-7777", "+5511988887777"):
        assert data_of(exists(client, {"to": word}), ExistsShape) == {
            "exists": True, "waAddress": "5511988887777",
            "results": [{"to": word, "exists": True, "jid": "5511988887777@s.whatsapp.net"}],
        }  # fmt: skip
    words = [f"119888877{number:02}" for number in range(50)]
    several = data_of(exists(client, {"numbers": words}), ExistsShape)
    assert [one["to"] for one in several["results"]] == words
    assert [one["jid"] for one in several["results"]] == [f"55{word}@s.whatsapp.net" for word in words]
    assert (several["exists"], several["waAddress"]) == (True, None)
    broker.behave(exists=False)
    assert data_of(exists(client, {"to": "11988887777"}), ExistsShape) == {
        "exists": False, "waAddress": None, "results": [{"to": "11988887777", "exists": False, "jid": None}],
    }  # fmt: skip
    assert data_of(exists(client, {"numbers": words[:2]}), ExistsShape)["exists"] is False


def test_a_number_that_is_none_or_of_another_country_is_never_asked_for(line: World, broker: Broker) -> None:
    client = by_key(line.admin)
    for body, refusal, fields in (
        ({"to": "123456789"}, (400, "INVALID_TO"), ["to"]),
        ({"to": "x"}, (400, "INVALID_TO"), ["to"]),
        ({"to": "+551198888"}, (400, "INVALID_TO"), ["to"]),
        ({"to": "+1 415 555 1234"}, (422, "UNSUPPORTED_RECIPIENT"), ["to"]),
        ({"numbers": ["11988887777", "x", "+14155551234"]}, (400, "INVALID_TO"), ["numbers.1", "numbers.2"]),
        ({}, (400, "VALIDATION_ERROR"), ["to"]),
        ({"to": "11988887777", "numbers": ["11988887777"]}, (400, "VALIDATION_ERROR"), ["to"]),
        ({"numbers": []}, (400, "VALIDATION_ERROR"), ["numbers"]),
        ({"numbers": ["11988887777"] * 51}, (400, "VALIDATION_ERROR"), ["numbers"]),
        ({"to": "11988887777", "colour": 1}, (400, "VALIDATION_ERROR"), ["colour"]),
    ):
        answer = exists(client, body)
        assert refused(answer) == refusal, body
        assert [one["field"] for one in answer[1]["error"]["details"]["errors"]] == fields
    assert asked(broker, "POST /instances/ipe-01/exists") == 0


def test_outbound_25_groups_given_as_a_bare_array_are_listed_and_kept_a_minute(
    line: World, broker: Broker, monkeypatch: Any
) -> None:
    client = by_key(line.admin)
    assert data_of(send(client, "get", f"{ONE}/groups"), GroupListShape) == {"groups": []}
    group = {"id": "120363000000000001", "subject": "Equipe"}
    broker.control("ipe-01/inbound", {"from": "5511988887777", "text": "Oi", "group": group})
    assert data_of(send(client, "get", f"{ONE}/groups"), GroupListShape) == {"groups": []}
    kept = f"broker-groups:{line.line.pk}"
    assert 50 < int(redis_client().ttl(kept)) <= 60
    redis_client().delete(kept)
    listed = {"groups": [{"id": "120363000000000001@g.us", "subject": "Equipe"}]}
    assert data_of(send(client, "get", f"{ONE}/groups"), GroupListShape) == listed
    assert data_of(send(client, "get", f"{ONE}/groups"), GroupListShape) == listed
    assert asked(broker, "GET /instances/ipe-01/groups") == 2
    away = redis.Redis(port=closed_port(), retry=Retry(NoBackoff(), 0))
    monkeypatch.setattr(proxies, "client", lambda: away)
    for times in (3, 4):
        assert data_of(send(client, "get", f"{ONE}/groups"), GroupListShape) == listed
        assert asked(broker, "GET /instances/ipe-01/groups") == times


def test_outbound_25_a_poll_is_accepted_by_the_outbox_and_arrives_with_its_options(line: World, broker: Broker) -> None:
    client = by_key(line.agent)
    body = POLL | {"allowMultipleAnswers": True, "idempotencyKey": "k1", "metadata": {"campaign": 7}}
    data = data_of(send(client, "post", f"{ONE}/polls", body), PollAcceptedShape, 202)
    assert (data["status"], data["poll"]) == ("QUEUED", {"id": data["messageId"], "status": "QUEUED"})
    assert (data["rate"]["limit"], data["rate"]["remaining"]) == (60, 59)
    assert broker.sent() == []
    again = send(client, "post", f"{ONE}/polls", body)
    assert data_of(again, PollAcceptedShape, 202)["messageId"] == data["messageId"]
    send_due(session_id=line.line.pk)
    (poll,) = broker.sent()
    assert (poll["type"], poll["question"], poll["options"]) == ("poll", "Qual horário?", ["Manhã", "Tarde"])
    after = data_of(send(client, "post", f"{ONE}/polls", body), PollAcceptedShape, 202)
    assert (after["poll"]["status"], after["poll"]["id"]) == ("SENT", poll["id"])
    assert refused(send(client, "post", f"{ONE}/polls", body | {"question": "Outra?"})) == (
        422, "IDEMPOTENCY_KEY_REUSED",
    )  # fmt: skip


def test_a_wrong_poll_is_refused_by_the_fields_of_this_route(line: World) -> None:
    client = by_key(line.agent)
    for change, fields in (
        ({"question": ""}, ["question"]),
        ({"question": "\u200b"}, ["question"]),
        ({"options": ["Só uma"]}, ["options"]),
        ({"options": ["a"] * 13}, ["options"]),
        ({"options": ["a", "x" * 101]}, ["options.1"]),
        ({"payload": {"type": "poll"}}, ["payload"]),
        ({"type": "text"}, ["type"]),
        ({"poll": {"question": "Outra?", "options": ["a", "b"]}}, ["poll"]),
        ({"force": "x", "options": ["a", "a"], "question": "", "type": "poll"}, ["force", "type"]),
        ({"force": "x", "options": ["Só uma"], "question": 5}, ["force", "question", "options"]),
        ({"colour": 1}, ["colour"]),
        ({"instanceId": "inst-ipe-01", "sessionId": "nobody"}, None),
    ):
        answer = send(client, "post", f"{ONE}/polls", POLL | change)
        if fields is None:
            assert refused(answer) == (404, "NOT_FOUND")
            continue
        assert refused(answer) == (400, "VALIDATION_ERROR"), change
        assert [one["field"] for one in answer[1]["error"]["details"]["errors"]] == fields, change
    assert refused(send(client, "post", f"{ONE}/polls", POLL | {"to": "x"})) == (400, "INVALID_TO")


def rows_of(world: World, **counts: int) -> None:
    """Outbound messages of the line in these states, and what must not be counted among them."""
    ticket = conversation(world)
    now, position = timezone.now(), 10
    common: dict[str, Any] = {
        "tenant": world.ipe, "ticket": ticket, "contact_id": ticket.contact_id, "session_id": world.line.pk,
        "direction": "OUTBOUND", "source": "AGENT", "sent_at": now - timedelta(hours=1),
    }  # fmt: skip
    with tenant_scope(world.ipe.pk):
        for status, count in counts.items():
            for _ in range(count):
                position += 1
                Message.objects.create(**common, status=status, position=position)
        for other in ({"source": "PHONE"}, {"session_id": None}, {"sent_at": now - timedelta(hours=25)}):
            position += 1
            Message.objects.create(**common | other, status="SENT", position=position)


def test_metrics_of_a_line_as_we_and_as_the_broker_count_it(line: World, broker: Broker, settings: Any) -> None:
    rows_of(line, SENT=2, DELIVERED=1, READ=1, FAILED=2, QUEUED=1)
    client = by_key(line.supervisor)
    data = data_of(send(client, "get", f"{ONE}/metrics"), MetricsShape)
    local = data["local"]
    assert (local["sent"], local["failed"]) == (4, 2)
    assert {state: count for state, count in local["byStatus"].items() if count} == {
        "SENT": 2, "DELIVERED": 1, "READ": 1, "FAILED": 2, "QUEUED": 1,
    }  # fmt: skip
    assert local["byStatus"]["CANCELED"] == 0
    assert local["rate"] == {"limit": 60, "used": 0, "remaining": 60, "percentage": 0.0}
    assert (data["brokerError"], data["broker"]["snapshot"]["id"]) == (None, "ipe-01")
    assert {"timeline", "delivery"} <= set(data["broker"])
    send(by_key(line.agent), "post", f"{ONE}/messages", {"to": "11988887777", "text": "Oi"})
    used = data_of(send(client, "get", f"{ONE}/metrics"), MetricsShape)["local"]["rate"]
    assert used == {"limit": 60, "used": 1, "remaining": 59, "percentage": 1.7}
    now = timezone.now()
    window = f"from={(now - timedelta(hours=26)).timestamp() * 1000:.0f}&to={now:%Y-%m-%dT%H:%M:%SZ}"
    assert data_of(send(client, "get", f"{ONE}/metrics?{window}"), MetricsShape)["local"]["sent"] == 5
    for wrong in (
        "from=yesterday", "from=2026-01-01T00:00:00", "from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z",
        "from=2026-01-01T00:00:00Z&to=2026-02-02T00:00:00Z", "since=1", "to=0001-01-01T00:00:00Z",
        "from=9999-12-31T23:59:59-12:00", "to=9999-12-31T23:59:59-12:00",
    ):  # fmt: skip
        assert refused(send(client, "get", f"{ONE}/metrics?{wrong}")) == (400, "VALIDATION_ERROR"), wrong
    settings.REDIS_RATE_LIMIT_RPM = 0
    rate = data_of(send(client, "get", f"{ONE}/metrics"), MetricsShape)["local"]["rate"]
    assert (rate["limit"], rate["remaining"], rate["percentage"]) == (0, None, 0.0)


def test_what_we_know_is_told_while_the_broker_is_away(line: World, settings: Any) -> None:
    rows_of(line, SENT=1)
    settings.WHATSAPP_BROKER_URL = f"http://127.0.0.1:{closed_port()}"
    data = data_of(send(by_key(line.admin), "get", f"{ONE}/metrics"), MetricsShape)
    assert (data["local"]["sent"], data["broker"]) == (1, None)
    assert data["brokerError"] == {"code": "BROKER_UNREACHABLE", "message": "O serviço do WhatsApp está fora do ar."}


def test_the_brokers_words_come_without_keys(line: World, settings: Any) -> None:
    key = settings.WHATSAPP_BROKER_API_KEY[0]
    told = {"snapshot": {"id": "x", "note": f"key {key}", "apiKey": "s", "list": [key]}, "verifyToken": "t"}
    with Wire(200, told) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        data = data_of(send(by_key(line.admin), "get", f"{ONE}/metrics"), MetricsShape)
    assert data["broker"] == {"snapshot": {"id": "x", "note": "key [key]", "list": ["[key]"]}}


HTML = "<!doctype html><title>x</title>"


@pytest.mark.parametrize("name", ["exists", "groups"])
def test_each_failure_of_the_broker_has_its_code(line: World, settings: Any, name: str) -> None:
    method, _, body = next(one for one in QUESTIONS if one[1] == name)
    client = by_key(line.admin)
    with Wire() as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        for status, said, refusal in (
            (503, {"error": "instance_offline", "state": "close"}, (409, "INSTANCE_DISCONNECTED")),
            (503, {"error": "socket_unavailable"}, (502, "BROKER_ERROR")),
            (404, {"error": "instance_not_found"}, (404, "INSTANCE_NOT_FOUND")),
            (404, {"error": "whatsapp_not_found"}, (400, "INVALID_TO")),
            (400, {"error": "to inválido. Use E.164: 55DDDNUMERO"}, (400, "INVALID_TO")),
            (400, {"error": "outra coisa"}, (400, "MESSAGE_REJECTED")),
            (429, {"error": "risk_paused"}, (409, "RISK_PAUSED")),
            (429, {"error": "rate limit exceeded"}, (429, "RATE_LIMITED")),
            (401, {"error": "unauthorized"}, (502, "BROKER_AUTH")),
            (403, {"error": "forbidden"}, (502, "BROKER_AUTH")),
            (404, HTML, (501, "UNSUPPORTED_OPERATION")),
            (500, {"error": "send timeout"}, (504, "BROKER_TIMEOUT")),
            (500, {"error": "internal_server_error"}, (502, "BROKER_ERROR")),
            (200, HTML, (502, "BROKER_ERROR")),
            (200, {"error": "x"}, (502, "BROKER_ERROR")),
        ):
            wire.status, wire.body = status, said if isinstance(said, str) else json.dumps(said)
            answer = send(client, method, f"{ONE}/{name}", body)
            assert refused(answer) == refusal, (status, said)
            error = answer[1]["error"]
            assert "pode ter saído" not in error["message"], "nothing was sent"
            if refusal[1] == "INSTANCE_DISCONNECTED":
                assert error["details"] == {
                    "status": "connected", "connected": False, "instanceId": "inst-ipe-01", "state": "close",
                }  # fmt: skip
            if refusal[1] == "RATE_LIMITED":
                assert error["details"]["retryAfterMs"] == 15_000
        wire.cut = True
        assert refused(send(client, method, f"{ONE}/{name}", body)) == (502, "BROKER_ERROR")
    assert refused(send(client, method, f"{ONE}/{name}", body)) == (502, "BROKER_UNREACHABLE")


def test_all_calls_of_one_question_share_its_time(line: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_TIMEOUT_MS = 300
    client = by_key(line.admin)
    with answering_never() as settings.WHATSAPP_BROKER_URL:
        began = time.monotonic()
        several = {"numbers": [f"119888877{number:02}" for number in range(50)]}
        for answer in (exists(client, several), send(client, "get", f"{ONE}/groups")):
            assert refused(answer) == (504, "BROKER_TIMEOUT")
        assert time.monotonic() - began < 2.5


def test_who_may_ask(line: World, broker: Broker, settings: Any) -> None:
    with service_scope("test"):
        reading, _ = create_api_key(
            owner=line.admin, tenant_id=line.ipe.pk, name="r", scopes=["sessions:read"]
        )  # fmt: skip
        sending, _ = create_api_key(owner=line.admin, tenant_id=line.ipe.pk, name="s", scopes=["messages:send"])
    answers = {"exists": 200, "groups": 200, "metrics": 200, "polls": 202}
    for number, (client, allowed) in enumerate((
        (by_cookie(line.admin), set(answers)), (by_key(line.supervisor), set(answers)),
        (by_key(line.agent), {"polls"}),  # the line is another's, and whoever may write may ask their customer
        (Client(headers={"X-API-Key": reading}), {"groups", "metrics"}),
        (Client(headers={"X-API-Key": sending}), {"exists", "polls"}),
        (by_key(line.outsider), set()), (Client(), set()),
    )):  # fmt: skip
        for method, name, body in [*QUESTIONS, ("post", "polls", POLL | {"to": f"1198888770{number}"})]:
            status = send(client, method, f"{ONE}/{name}", body)[0]
            assert (status == answers[name]) is (name in allowed), (name, status)
            assert status in {answers[name], 401, 403, 404}
    settings.WHATSAPP_BROKER_URL = f"http://127.0.0.1:{closed_port()}"
    set_columns(line.line.pk, status="disconnected")
    for method, name, body in [*QUESTIONS, ("post", "polls", POLL)]:
        answer = send(by_key(line.admin), method, f"{ONE}/{name}", body)
        assert refused(answer) == (409, "INSTANCE_DISCONNECTED"), name
        details = answer[1]["error"]["details"]
        assert (details["status"], details["connected"], details["instanceId"]) == (
            "disconnected", False, "inst-ipe-01",
        )  # fmt: skip


def test_what_a_broker_cannot_do_is_501(line: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_ADAPTER = "tests.whatsapp.memory_adapter.MemoryAdapter"
    client = by_key(line.admin)
    assert refused(exists(client, {"to": "11988887777"})) == (501, "UNSUPPORTED_OPERATION")
    assert send(client, "get", f"{ONE}/groups")[1]["data"]["groups"] == [{"id": "ipe-01-group", "subject": None}]
    data = data_of(send(client, "get", f"{ONE}/metrics"), MetricsShape)
    assert data["brokerError"]["code"] == "UNSUPPORTED_OPERATION"
    answer = send(client, "post", f"{ONE}/polls", POLL)
    assert refused(answer) == (501, "UNSUPPORTED_OPERATION")
    assert answer[1]["error"]["details"] == {"type": "poll", "supported": ["image", "text"]}
    set_columns(line.line.pk, capabilities={"exists": True})
    assert data_of(exists(client, {"to": "11988887777"}), ExistsShape)["waAddress"] == "5511988887777"


def test_sends_are_counted_within_the_walls(line: World) -> None:
    rows_of(line, SENT=1)
    now = timezone.now()
    with user_scope(line.outsider):
        foreign = {"tenant_id": line.ipe.pk, "session_id": line.line.pk}
        assert count_sends(**foreign, since=now - timedelta(days=1), until=now) == {}
