"""Acks of our own messages in every order, by a broker that really sends them: line 9 of spec/outbound.md 17."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from django.db import connection

from leadengine.accounts.scopes import tenant_scope
from tests.conftest import World
from tests.outbound import KEY, Broker, broker_running, conversation, events_of, queue, reload, send, until
from tests.whatsapp.inbound import receive
from tests.whatsapp.wire import Wire
from tests.whatsapp.wire_talk import ack
from tickets.models import Message, Ticket
from whatsapp.models import ParkedEffect

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        running.behave(autoAck=[])
        yield running


def sent(world: World, broker: Broker) -> Message:
    """A message that left, its echoes settled."""
    message = queue(world, conversation(world))
    send(world)
    until(lambda: len(broker.hook.bodies) == 2)
    broker.hook.let_in()
    return reload(message)


def told(broker: Broker, *statuses: int, at: int | None = None) -> None:
    """WhatsApp tells these statuses of the last send, in this order; each is processed before the next comes."""
    id_ = broker.sent()[-1]["id"]
    for status in statuses:
        if at is not None:
            receive(ack(id_, status, messageTimestamp=at))
            continue
        broker.control("ipe-01/ack", {"id": id_, "status": status})
        until(lambda: broker.hook.bodies)
        broker.hook.let_in()


def test_outbound_09_read_in_the_second_of_delivered_is_applied(committed_world: World, broker: Broker) -> None:
    message = sent(committed_world, broker)
    at = int(datetime.now(UTC).timestamp())
    told(broker, 3, 4, at=at)
    row = reload(message)
    assert row.status == "READ"
    assert row.read_at == row.delivered_at == datetime.fromtimestamp(at, UTC)


def test_outbound_09_read_before_delivered_ends_read_with_both_times_and_delivered_changes_nothing(
    committed_world: World, broker: Broker
) -> None:
    message = sent(committed_world, broker)
    told(broker, 4)
    row = reload(message)
    assert (row.status, row.delivered_at) == ("READ", row.read_at)
    assert row.read_at is not None
    with events_of(committed_world) as events:
        told(broker, 3, 2, 1)
        after = reload(message)
        assert events() == []
    assert (after.status, after.delivered_at, after.read_at, after.version) == (
        "READ", row.delivered_at, row.read_at, row.version,
    )  # fmt: skip


def test_outbound_09_an_error_after_delivered_changes_nothing(committed_world: World, broker: Broker) -> None:
    message = sent(committed_world, broker)
    told(broker, 3)
    before = reload(message)
    told(broker, 0)
    row = reload(message)
    assert (row.status, row.failed_at, row.error, row.version) == ("DELIVERED", None, None, before.version)


def test_outbound_09_an_error_ends_what_was_only_sent_and_a_later_proof_takes_it_back(
    committed_world: World, broker: Broker
) -> None:
    message = sent(committed_world, broker)
    told(broker, 0)
    row = reload(message)
    assert row.status == "FAILED"
    assert row.error is not None
    assert (row.error["retryable"], row.failed_at is not None) == (False, True)
    with tenant_scope(committed_world.ipe.pk):
        assert Ticket.objects.get().outbound_count == 0
    told(broker, 3)
    row = reload(message)
    assert (row.status, row.error, row.failed_at) == ("DELIVERED", None, None)
    with tenant_scope(committed_world.ipe.pk):
        assert Ticket.objects.get().outbound_count == 1


@pytest.mark.parametrize("order", [(3, 4, 5), (5,), (5, 4, 3)])
def test_outbound_09_played_sets_its_time_on_read(
    committed_world: World, broker: Broker, order: tuple[int, ...]
) -> None:
    message = sent(committed_world, broker)
    told(broker, *order)
    row = reload(message)
    assert row.status == "READ"
    assert row.played_at is not None
    assert row.read_at is not None
    assert row.delivered_at is not None
    assert row.delivered_at <= row.read_at <= row.played_at


def test_outbound_09_an_ack_before_the_echo_is_applied_when_the_echo_binds(
    committed_world: World, broker: Broker
) -> None:
    broker.behave(autoAck=[4, 3], ackDelayMs=20, failAfterSend=True)
    message = queue(committed_world, conversation(committed_world), "lida logo")
    send(committed_world)
    until(lambda: len(broker.hook.bodies) == 4)
    acks = [body for body in broker.hook.bodies if b"MESSAGES_UPDATE" in body]
    echoes = [body for body in broker.hook.bodies if b"MESSAGES_UPDATE" not in body]
    receive(*acks)
    assert parked(committed_world) == 1
    assert reload(message).status == "UNCONFIRMED"
    receive(*echoes)
    check_read_once(committed_world, message)


def test_outbound_09_an_ack_before_the_answer_is_applied_when_the_answer_binds(
    committed_world: World, broker: Broker, settings: Any
) -> None:
    broker.behave(autoAck=[4], ackDelayMs=0)
    message = queue(committed_world, conversation(committed_world), "lida logo")
    with Wire() as slow:

        def pass_on() -> None:
            path, body = slow.asked[-1][1], slow.asked[-1][3]
            slow.body = requests.post(broker.url + path, json=body, headers={"x-api-key": KEY}, timeout=10).text
            until(lambda: [broker.hook.let_in(), parked(committed_world)][1])
            connection.close()

        slow.hold = pass_on
        settings.WHATSAPP_BROKER_URL = slow.url
        send(committed_world)
    check_read_once(committed_world, message)


def parked(world: World) -> int:
    with tenant_scope(world.ipe.pk):
        return ParkedEffect.objects.filter(kind="ack").count()


def check_read_once(world: World, message: Message) -> None:
    row = reload(message)
    assert row.status == "READ"
    assert row.delivered_at == row.read_at
    assert parked(world) == 0
    with tenant_scope(world.ipe.pk):
        assert Message.objects.filter(direction="OUTBOUND").count() == 1
