"""Which address, which route, which body, and what an answer means for a send (spec/broker.md sections 4, 7, 9)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings as product
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.errors import DomainError
from tests.conftest import World
from tests.outbound import conversation
from tests.whatsapp.wire import Wire
from tickets.models import CloseReason, Ticket
from tickets.transports import (
    Line,
    LineOffline,
    OperatorNeeded,
    OutcomeUnknown,
    RateLimited,
    Refused,
    Retryable,
    SendFailure,
    SendOrder,
    get_transport,
)
from whatsapp.broker import InvalidTo
from whatsapp.models import WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.lines import capabilities_of
from whatsapp.services.persistence import saving
from whatsapp.transport import (
    BrokerTransport,
    GroupsNotSupported,
    RecipientNotAddressable,
    UnsupportedRecipient,
    choose_address,
)

OFFICIAL = capabilities_of(None)
EVERYTHING = replace(
    OFFICIAL, types=frozenset({"text", "image", "location", "template", "contact", "poll"}), lid_recipients=True,
    groups_send=True, countries=(), exists=False,
)  # fmt: skip
LINE = Line(UUID(int=1), UUID(int=2), "loja", "loja-1", "connected", True, None, None, OFFICIAL)
MARIA = (("phone", "+5511988887777"), ("wa_address", "551188887777"))


def order(payload: dict[str, Any], **more: Any) -> SendOrder:
    fields: dict[str, Any] = {
        "message_id": UUID(int=3), "attempt_id": UUID(int=4), "line": LINE, "identities": MARIA, "is_group": False,
        "payload": payload, "file": None, "reference": "crm-7",
    }  # fmt: skip
    return SendOrder(**{**fields, **more})


@pytest.mark.parametrize(
    ("capabilities", "identities", "group", "expected"),
    [
        (OFFICIAL, MARIA, False, "551188887777"),
        (OFFICIAL, (("phone", "+5511988887777"),), False, "5511988887777"),
        (OFFICIAL, (("phone", "+5511988887777"), ("phone", "+5511977776666")), False, "5511988887777"),
        (OFFICIAL, (("lid", "99"), ("phone", "+5511988887777")), False, "5511988887777"),
        (OFFICIAL, (("lid", "99"),), False, RecipientNotAddressable),
        (OFFICIAL, (), False, RecipientNotAddressable),
        (OFFICIAL, (("jid", "1-2@g.us"),), True, GroupsNotSupported),
        (OFFICIAL, (("phone", "+14155551234"),), False, UnsupportedRecipient),
        (OFFICIAL, (("phone", "+551198888777766"),), False, InvalidTo),
        (OFFICIAL, (("phone", "+55119888"),), False, InvalidTo),
        (EVERYTHING, (("lid", "99"), ("phone", "+5511988887777")), False, "99@lid"),
        (EVERYTHING, MARIA, False, "551188887777"),
        (EVERYTHING, (("phone", "+14155551234"),), False, "14155551234"),
        (EVERYTHING, (("jid", "1-2@g.us"),), True, "1-2@g.us"),
    ],
)  # fmt: skip
def test_address(capabilities: Any, identities: Any, group: bool, expected: Any) -> None:
    if isinstance(expected, str):
        assert choose_address(capabilities, identities, is_group=group) == expected
    else:
        with pytest.raises(expected):
            choose_address(capabilities, identities, is_group=group)


SEED = {"sessionId": str(LINE.id), "instanceId": "loja-1", "to": "551188887777", "externalId": "crm-7"}
FILE = {"type": "image", "caption": "veja", "mimeType": "image/png", "fileName": "a.png"}
POLL = {"type": "poll", "poll": {"question": "Qual?", "options": ["a", "b", "c"], "allowMultipleAnswers": True}}
PLACE = {"type": "location", "location": {"latitude": 1.5, "longitude": 2.5}}


@pytest.mark.parametrize(
    ("route", "payload", "path", "expected"),
    [
        ("auto", {"type": "text", "text": "Olá", "metadata": {"a": 1}}, "send-text",
         {**SEED, "type": "text", "message": "Olá", "text": "Olá", "metadata": {"a": 1}}),
        ("auto", FILE, "send-media",
         {**SEED, "type": "image", "caption": "veja",
          "media": {"url": "http://f/a.png", "mimetype": "image/png", "fileName": "a.png"}}),
        ("auto", {"type": "audio", "voice": True}, "send-media",
         {**SEED, "type": "audio", "media": {"url": "http://f/a.png", "ptt": True}}),
        ("auto", POLL, "send-poll",
         {**SEED, "type": "poll", "question": "Qual?", "options": ["a", "b", "c"], "selectableCount": 3}),
        ("send-text", {"type": "text", "text": "Olá", "previewUrl": False}, "send-text",
         {**SEED, "type": "text", "message": "Olá", "text": "Olá", "previewUrl": False}),
        ("send-text", FILE, "send-text",
         {**SEED, **FILE, "message": "veja", "mediaUrl": "http://f/a.png"}),
        ("send-text", PLACE, "send-text", {**SEED, **PLACE, "message": ""}),
    ],
)  # fmt: skip
def test_route_and_body(settings: Any, route: str, payload: Any, path: str, expected: Any) -> None:
    settings.WHATSAPP_BROKER_SEND_ROUTE = route
    file = {"url": "http://f/a.png"} if payload["type"] in {"image", "audio"} else None
    line = replace(LINE, capabilities=replace(OFFICIAL, types=OFFICIAL.types | {"location"}))
    with Wire(201, {"id": "X1"}) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        sent = BrokerTransport().send(order(payload, file=file, line=line))
    method, asked, headers, body = wire.asked[0]
    assert (method, asked, body) == ("POST", f"/instances/loja-1/{path}", expected)
    assert (headers["Idempotency-Key"], headers["X-Request-Id"]) == (str(UUID(int=3)), UUID(int=4).hex)
    assert (sent.external_id, sent.status, sent.learned) == ("X1", 201, ())


@pytest.mark.parametrize(
    "impossible",
    [
        order(PLACE), order({"type": "text", "text": "x"}, identities=(("lid", "9"),)),
        order({"type": "text", "text": "x"}, identities=(("jid", "1@g.us"),), is_group=True),
        order({"type": "text", "text": "x"}, identities=(("phone", "+14155551234"),)),
        order(PLACE, line=replace(LINE, capabilities=EVERYTHING)),
    ],
)  # fmt: skip
def test_what_the_broker_cannot_do_is_refused_before_any_call(settings: Any, impossible: SendOrder) -> None:
    with Wire() as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        with pytest.raises(Refused):
            BrokerTransport().send(impossible)
        assert wire.asked == []


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (503, {"error": "instance_offline"}, LineOffline, "INSTANCE_DISCONNECTED"),
        (404, {"error": "instance_not_found"}, LineOffline, "INSTANCE_NOT_FOUND"),
        (429, {"error": "rate limit exceeded"}, RateLimited, "RATE_LIMITED"),
        (429, {"error": "risk_paused"}, OperatorNeeded, "RISK_PAUSED"),
        (401, {"error": "unauthorized"}, Retryable, "BROKER_AUTH"),
        (404, {"error": "whatsapp_not_found"}, Refused, "INVALID_TO"),
        (400, {"error": "media_too_large"}, Refused, "INVALID_MEDIA"),
        (400, {"error": "texto proibido"}, Refused, "MESSAGE_REJECTED"),
        (501, {}, Refused, "UNSUPPORTED_OPERATION"),
        (500, {"error": "send timeout"}, OutcomeUnknown, "BROKER_TIMEOUT"),
        (502, "x", OutcomeUnknown, "BROKER_ERROR"),
        (200, [], OutcomeUnknown, "BROKER_ERROR"),
        (200, {"id": "X", "status": "ERROR"}, Refused, "MESSAGE_REJECTED"),
    ],
)
def test_outcome_of_each_answer(settings: Any, status: int, body: Any, expected: Any, code: str) -> None:
    with Wire(status, body) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        with pytest.raises(SendFailure) as failed:
            BrokerTransport().send(order({"type": "text", "text": "x"}))
    assert (type(failed.value), failed.value.code, failed.value.status) == (expected, code, status)


def test_unconfigured_waits(settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = ""
    with pytest.raises(Retryable) as failed:
        BrokerTransport().send(order({"type": "text", "text": "x"}))
    assert failed.value.code == "WHATSAPP_NOT_CONFIGURED"


def test_unknown_answer_to_the_question_for_an_address_sent_nothing(settings: Any) -> None:
    stranger = order({"type": "text", "text": "x"}, identities=(("phone", "+5511988887777"),))
    with Wire(502, "x") as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        with pytest.raises(Retryable):
            BrokerTransport().send(stranger)
        assert [path for _, path, _, _ in wire.asked] == ["/instances/loja-1/exists"]
        wire.status, wire.body = 200, '{"results": []}'
        with pytest.raises(Refused) as failed:
            BrokerTransport().send(stranger)
        assert failed.value.code == "INVALID_TO"
        wire.body = '{"results": [{"jid": "551188887777@s.whatsapp.net", "exists": true}], "id": "X1"}'
        assert BrokerTransport().send(stranger).learned == (("wa_address", "551188887777"),)
        assert wire.asked[-1][3]["to"] == "551188887777"


@pytest.mark.django_db
def test_lines_are_found_by_any_name_within_the_tenant(world: World) -> None:
    transport = get_transport("WHATSAPP")
    with user_scope(world.agent):  # who owns none of them
        for name in (world.line.pk, str(world.line.pk), "inst-ipe-01", "ipe-01"):
            line = transport.line(name)
            assert line is not None
            assert (line.id, line.reference, line.connected) == (world.line.pk, "ipe-01", True)
        for name in (world.foreign_line.pk, "cedro-01", "nada", ""):
            assert transport.line(name) is None
        assert WhatsAppSession.objects.count() == 0  # the scope is the agent's own again
    with service_scope("test"), saving():
        assert transport.line(world.foreign_line.pk) is not None
        WhatsAppSession.objects.filter(pk=world.line.pk).update(
            deleted_at=timezone.now(), capabilities={"types": ["text"]}
        )
    with tenant_scope(world.ipe.pk):
        assert transport.line("ipe-01") is None
        assert transport.capabilities(world.line.pk) == OFFICIAL


@pytest.mark.django_db(transaction=True)
def test_atendimento_follows_its_ticket_also_for_an_agent_who_owns_no_line(committed_world: World) -> None:
    ticket = conversation(committed_world)
    transport = get_transport("WHATSAPP")

    def changed(**fields: Any) -> list[tuple[str, Any]]:
        with tenant_scope(committed_world.ipe.pk):
            Ticket.objects.update(**fields)
        with user_scope(committed_world.agent):
            transport.ticket_changed(tenant_id=committed_world.ipe.pk, ticket_id=ticket.pk, now=timezone.now())
        with tenant_scope(committed_world.ipe.pk):
            return sorted(WhatsAppAtendimento.objects.values_list("status", "assigned_to"))

    agent = committed_world.agent.pk
    assert changed(status="ASSIGNED", assignee=committed_world.agent) == [("ATIVO", agent)]
    with tenant_scope(committed_world.ipe.pk):
        reason = CloseReason.objects.get(code="SOLVED")
    ended = changed(status="RESOLVED", closed_at=timezone.now(), close_reason=reason)
    assert ended == [("FECHADO", agent)]
    again = changed(status="ASSIGNED", closed_at=None, close_reason=None)
    assert again == [("ATIVO", agent), ("FECHADO", agent)]
    assert changed() == again


def test_every_refusal_is_a_domain_error_with_a_sentence() -> None:
    for kind in (UnsupportedRecipient, RecipientNotAddressable, GroupsNotSupported, InvalidTo):
        assert issubclass(kind, DomainError)
        assert kind().message
    assert product.TICKETS_TRANSPORTS["WHATSAPP"] == "whatsapp.transport.BrokerTransport"
