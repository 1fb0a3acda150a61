"""How the fate of a sent message becomes known, against the real simulator: lines 7 and 8 of spec/outbound.md 17."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests
from django.db import connection
from django.utils import timezone

from leadengine.accounts.scopes import tenant_scope
from tests.conftest import World
from tests.outbound import (
    KEY,
    Broker,
    broker_running,
    conversation,
    due_now,
    events_of,
    queue,
    reload,
    send,
    until,
)
from tests.whatsapp.wire import Wire, closed_port
from tickets.models import Message, OutboundAttempt, Ticket
from tickets.services.outbox import sweep_outbox, wake_session

pytestmark = pytest.mark.django_db(transaction=True)
LEFT = {"SENT", "DELIVERED"}


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        yield running


def bubbles(world: World) -> list[tuple[str, str, str]]:
    """(source, status, text) of every message of ours that people are shown."""
    with tenant_scope(world.ipe.pk):
        rows = Message.objects.filter(direction="OUTBOUND").exclude(metadata__has_key="mergedInto").order_by("position")
        return [(row.source, row.status, row.content) for row in rows]


def attempts(world: World) -> list[tuple[str, str]]:
    with tenant_scope(world.ipe.pk):
        return list(OutboundAttempt.objects.order_by("claimed_at").values_list("outcome", "code"))


def time_passes(world: World, hours: int = 6) -> None:
    """Every sweep and every wake-up of the next hours."""
    for hour in range(1, hours + 1):
        due_now(world)
        sweep_outbox(now=timezone.now() + timedelta(hours=hour))
        send(world)


# --- Line 7 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [("read timeout", "BROKER_TIMEOUT"), ("500", "BROKER_ERROR"), ("connection reset", "BROKER_ERROR")],
)
def test_outbound_07_what_may_have_left_is_unconfirmed_after_one_call(
    committed_world: World, settings: Any, fault: str, code: str
) -> None:
    message, answered = queue(committed_world, conversation(committed_world), "talvez"), threading.Event()
    with Wire(500, {"error": "internal_server_error"}) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        wire.cut = fault == "connection reset"
        if fault == "read timeout":
            settings.WHATSAPP_BROKER_SEND_TIMEOUT_MS = 200
            wire.hold = answered.wait
        send(committed_world)
        answered.set()
        settings.WHATSAPP_BROKER_SEND_TIMEOUT_MS = 60_000
        time_passes(committed_world)
        row = reload(message)
        assert (row.status, row.attempts, len(wire.asked)) == ("UNCONFIRMED", 1, 1)
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"]) == (code, False)
    assert attempts(committed_world) == [("UNCONFIRMED", code)]


@pytest.mark.parametrize(
    ("reason", "fault"),
    [("RETRY", None), ("PACING", {"rate": {"max": 0}}), ("SESSION_OFFLINE", {"offline": True})],
    ids=["connection refused", "rate 429", "offline"],
)
def test_outbound_07_what_is_proved_not_sent_is_tried_again_and_accepted_once(
    committed_world: World, broker: Broker, settings: Any, reason: str, fault: dict[str, Any] | None
) -> None:
    message = queue(committed_world, conversation(committed_world), "de novo")
    if fault is None:
        settings.WHATSAPP_BROKER_URL = f"http://127.0.0.1:{closed_port()}"
    else:
        broker.behave(**fault)
    send(committed_world)
    row = reload(message)
    assert (row.status, row.wait_reason) == ("QUEUED", reason)
    assert row.not_before is not None
    broker.behave()
    settings.WHATSAPP_BROKER_URL = broker.url
    due_now(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        wake_session(session_id=committed_world.line.pk, now=timezone.now())
    send(committed_world)
    time_passes(committed_world, 2)
    assert (reload(message).status, reload(message).error) == ("SENT", None)
    assert broker.texts() == ["de novo"]


def test_outbound_07_a_500_after_it_left_is_one_call_and_its_echo_makes_it_sent(
    committed_world: World, broker: Broker
) -> None:
    broker.behave(failAfterSend=True)
    message = queue(committed_world, conversation(committed_world), "chegou")
    send(committed_world)
    assert reload(message).status == "UNCONFIRMED"
    broker.behave()
    time_passes(committed_world)
    broker.settle(lambda: reload(message).status in LEFT)
    assert broker.texts() == ["chegou"]
    assert reload(message).external_id == broker.sent()[0]["id"]
    assert reload(message).error is None
    assert bubbles(committed_world) == [("AGENT", reload(message).status, "chegou")]


# --- Line 8 -------------------------------------------------------------------------------------------------------


def test_outbound_08_an_echo_before_the_answer_leaves_one_bubble(committed_world: World, settings: Any) -> None:
    """The echo is processed while our call still waits for its answer, as the broker's order of things is."""
    told: list[Any] = []
    with broker_running() as real, Wire() as slow:

        def pass_on() -> None:
            answer = requests.post(
                real.url + slow.asked[-1][1], json=slow.asked[-1][3], headers={"x-api-key": KEY}, timeout=10
            )
            slow.body = answer.text
            until(lambda: [real.hook.let_in(), len(told)][1])  # the echo came, and found the send in flight
            connection.close()

        slow.hold = pass_on
        settings.WHATSAPP_BROKER_URL = slow.url
        message = queue(committed_world, conversation(committed_world), "uma vez")
        let_in = real.hook.let_in

        def count() -> int:
            done = let_in()
            if done:
                told.append((done, reload(message).status))
            return done

        real.hook.let_in = count  # type: ignore[method-assign]
        with events_of(committed_world) as events:
            send(committed_world)
            assert told[0][1] == "SENDING"
            assert reload(message).status == "SENT"
            real.settle(lambda: reload(message).status == "DELIVERED")
            names = [name for name, _ in events()]
    assert bubbles(committed_world) == [("AGENT", "DELIVERED", "uma vez")]
    assert names.count("messages.new") == 0  # it was told when it was accepted; the echo is no new message
    with tenant_scope(committed_world.ipe.pk):
        assert Ticket.objects.get().outbound_count == 1


def test_outbound_08_an_echo_after_a_timeout_binds_by_content(committed_world: World, broker: Broker) -> None:
    """Also of several that wait: each echo takes the row with its own text, and of two with one text the older."""
    broker.behave(sendTimeout=True, sendTimeoutMs=20)
    ticket = conversation(committed_world)
    texts = ["primeira", " igual ", "igual", "última"]
    rows = [queue(committed_world, ticket, text) for text in texts]
    send(committed_world)
    assert {reload(row).status for row in rows} == {"UNCONFIRMED"}
    broker.behave()
    until(lambda: len(broker.sent()) == 4)
    broker.settle(lambda: all(reload(row).status in LEFT for row in rows))
    ids = {one["id"]: one["text"].strip() for one in broker.sent()}
    assert [ids[str(reload(row).external_id)] for row in rows] == [text.strip() for text in texts]
    assert [text for _, _, text in bubbles(committed_world)] == texts
    time_passes(committed_world)
    assert len(broker.sent()) == 4


def test_outbound_08_an_echo_with_an_altered_text_shows_what_left_and_keeps_what_was_asked(
    committed_world: World, settings: Any
) -> None:
    with broker_running(profile="real") as real:
        settings.WHATSAPP_BROKER_URL = real.url
        real.behave(humanizeMsPerChar=0)
        message = queue(committed_world, conversation(committed_world), "{Olá|Olá}, {nome}")
        with events_of(committed_world) as events:
            send(committed_world)
            real.settle(lambda: "requestedText" in reload(message).metadata and reload(message).status in LEFT)
            told = [data["changes"] for name, data in events() if name == "message.updated"]
        assert real.texts() == ["Olá, nome"]
    row = reload(message)
    assert (row.content, row.metadata["requestedText"]) == ("Olá, nome", "{Olá|Olá}, {nome}")
    assert [change["content"] for change in told if "content" in change] == ["Olá, nome"]
    assert len(bubbles(committed_world)) == 1


def test_outbound_08_a_late_answer_takes_the_place_of_the_echo_that_came_as_another_message(
    committed_world: World, settings: Any
) -> None:
    """The lease is over, the echo's text is not ours: two bubbles, until the answer names the id. Then one, ours."""
    message = queue(committed_world, conversation(committed_world), "{x} pedido")
    with broker_running(profile="real") as real, Wire() as slow:
        real.behave(humanizeMsPerChar=0, autoAck=[])

        def pass_on() -> None:
            sweep_outbox(now=timezone.now() + timedelta(minutes=2))
            answer = requests.post(
                real.url + slow.asked[-1][1], json=slow.asked[-1][3], headers={"x-api-key": KEY}, timeout=10
            )
            slow.body = answer.text
            until(lambda: [real.hook.let_in(), len(bubbles(committed_world)) == 2][1])
            connection.close()

        slow.hold = pass_on
        settings.WHATSAPP_BROKER_URL = slow.url
        send(committed_world)
        id_ = real.sent()[0]["id"]
    row = reload(message)
    assert (row.status, row.external_id, row.content) == ("SENT", id_, "x pedido")
    assert row.metadata["requestedText"] == "{x} pedido"
    assert bubbles(committed_world) == [("AGENT", "SENT", "x pedido")]
    with tenant_scope(committed_world.ipe.pk):
        assert Ticket.objects.get().outbound_count == 1


@pytest.mark.parametrize("before", ["UNCONFIRMED", "QUEUED", "FAILED"])
def test_outbound_08_a_message_typed_on_the_phone_is_another_one_and_never_sent(
    committed_world: World, broker: Broker, before: str
) -> None:
    faults: dict[str, Any] = {
        "UNCONFIRMED": {"sendError": "boom"}, "QUEUED": {"offline": True}, "FAILED": {"exists": False},
    }  # fmt: skip
    broker.behave(**faults[before])
    message = queue(committed_world, conversation(committed_world), "do sistema")
    send(committed_world)
    assert reload(message).status == before
    broker.behave()
    typed = {"from": "5511988887777", "fromMe": True, "text": "digitada no celular"}
    id_ = broker.control("ipe-01/inbound", typed)["ids"][0]
    broker.settle(lambda: len(bubbles(committed_world)) == 2)
    row = reload(message)
    assert (row.status, row.external_id, row.content) == (before, None, "do sistema")
    assert bubbles(committed_world)[1] == ("PHONE", "SENT", "digitada no celular")
    with tenant_scope(committed_world.ipe.pk):
        phone = Message.objects.get(source="PHONE")
        assert (phone.external_id, phone.author_id, phone.attempts) == (id_, None, 0)
    if before != "QUEUED":
        time_passes(committed_world)
        assert broker.texts() == []
    else:
        time_passes(committed_world, 1)
        assert broker.texts() == ["do sistema"]


def test_outbound_08_the_same_text_typed_on_the_phone_long_after_is_another_message(
    committed_world: World, broker: Broker
) -> None:
    """Content binds within 15 minutes of the send; what is typed later is a message of its own."""
    broker.behave(sendError="boom")
    message = queue(committed_world, conversation(committed_world), "ok")
    send(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        Message.objects.filter(pk=message.pk).update(sent_at=timezone.now() - timedelta(minutes=16))
    broker.control("ipe-01/inbound", {"from": "5511988887777", "fromMe": True, "text": "ok"})
    broker.settle(lambda: len(bubbles(committed_world)) == 2)
    assert reload(message).status == "UNCONFIRMED"


# --- What may not happen in any of these ------------------------------------------------------------------------------


def test_outbound_07_and_08_echoes_that_come_twice_and_in_any_order_settle_each_row_once(
    committed_world: World, broker: Broker
) -> None:
    broker.behave(failAfterSend=True, webhook={"duplicate": 3, "shuffle": 6})
    ticket = conversation(committed_world)
    rows = [queue(committed_world, ticket, f"n{number}") for number in range(3)]
    send(committed_world)
    broker.behave()
    broker.settle(lambda: all(reload(row).status == "DELIVERED" for row in rows))
    assert broker.texts() == ["n0", "n1", "n2"]
    assert [text for _, _, text in bubbles(committed_world)] == ["n0", "n1", "n2"]
    ids = {one["text"]: one["id"] for one in broker.sent()}
    assert [reload(row).external_id for row in rows] == [ids[f"n{number}"] for number in range(3)]
    with tenant_scope(committed_world.ipe.pk):
        assert Ticket.objects.get().outbound_count == 3
