"""After an outage: the broker's event list, read through the real simulator (spec/inbound.md section 15)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import requests
from django.db import connection
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.redis import client
from tests.conftest import World
from tests.outbound import KEY, Broker, broker_running, until
from tests.samples import sample
from tests.whatsapp.inbound import store
from tests.whatsapp.wire import Wire, closed_port
from tickets.models import Message
from whatsapp.adapters import get_adapter
from whatsapp.broker_health import record_failure, record_success
from whatsapp.models import GapFill, ParkedEffect, WebhookEvent, WhatsAppSession
from whatsapp.services.drain import drain_inbox
from whatsapp.services.gap_fill import LEASE, fill_gap, find_due, request_gap_fills
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)
MARIA = "5511988887777"
GROUP = "12036304"


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    """A broker whose webhooks fail fast: 1.6 s until they are given up."""
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        running.control("cedro-01/open")
        running.behave(webhook={"retryScale": 0.01}, autoAck=[])
        yield running


def events(broker: Broker, instance: str = "ipe-01") -> list[dict[str, Any]]:
    url = f"{broker.url}/instances/{instance}/events?limit=200"
    found: list[dict[str, Any]] = requests.get(url, headers={"x-api-key": KEY}, timeout=10).json()["events"]
    return found


def delivered(broker: Broker, count: int) -> None:
    """Wait until so many webhooks were answered, and the broker has noted it."""
    until(lambda: broker.control("state", method="GET")["webhooks"].get("delivered", 0) >= count)


def given_up(broker: Broker, count: int) -> None:
    until(lambda: broker.control("state", method="GET")["webhooks"].get("givenUp", 0) >= count, 20)


def refuse(broker: Broker) -> None:
    """From now on our door refuses every webhook."""
    broker.hook.status = 503


def texts(world: World) -> list[str]:
    with tenant_scope(world.ipe.pk):
        return list(Message.objects.order_by("position").values_list("content", flat=True))


def pulled() -> list[str]:
    with service_scope("test"):
        return list(WebhookEvent.objects.filter(source="pull").order_by("id").values_list("kind", flat=True))


def fill(world: World) -> int:
    """What the tasks do: the session is due, its list is read, the inbox is drained."""
    request_gap_fills(now=timezone.now(), session_id=world.line.pk)
    new = fill_gap(session_id=world.line.pk)
    drain_inbox()
    return new


def counted() -> Counter[str]:
    name = "whatsapp_gap_fill_events_total"
    outcomes = ("new", "known", "failed")
    return Counter({one: int(sample(name, outcome=one)) for one in outcomes})


def test_inbound_19_what_was_given_up_comes_with_the_next_reading_once_and_the_list_is_empty(
    committed_world: World, broker: Broker
) -> None:
    refuse(broker)
    picture = {"type": "image", "base64": "aGk=", "mimetype": "image/png"}
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "um", "pushName": "Maria"})
    broker.control("ipe-01/inbound", {"from": MARIA, "caption": "dois", "media": picture})
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "do celular", "fromMe": True})
    given_up(broker, 5)  # two twins each, and one raw event that has no other trace in the list
    assert texts(committed_world) == []
    before = counted()
    assert fill(committed_world) == 5
    with tenant_scope(committed_world.ipe.pk):
        rows = Message.objects.order_by("sent_at", "position").values_list("content", "caption", "direction")
        assert sorted(rows) == [("", "dois", "INBOUND"), ("do celular", "", "OUTBOUND"), ("um", "", "INBOUND")]
        assert Message.objects.get(caption="dois").media.source["mediaKey"]  # which only the raw twin has
    assert events(broker) == []
    assert counted() - before == Counter(new=5, known=2)  # the canonical bodies of the deliveries
    assert fill(committed_world) == 0
    assert len(texts(committed_world)) == 3


def test_what_was_delivered_leaves_no_row_drained_or_not(committed_world: World, broker: Broker) -> None:
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "zero"})
    delivered(broker, 2)
    broker.hook.let_in()  # stored as a message
    broker.control("ipe-01/inbound", [{"from": MARIA, "text": "um"}, {"from": MARIA, "text": "dois"}])
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "status", "group": "status@broadcast"})
    delivered(broker, 7)
    store(*broker.hook.bodies[:3])  # committed, and nobody has drained it
    broker.hook.bodies = broker.hook.bodies[3:]
    request_gap_fills(now=timezone.now())
    assert fill_gap(session_id=committed_world.line.pk) == 0
    assert (pulled(), events(broker)) == ([], [])
    drain_inbox()
    broker.hook.let_in()
    assert sorted(texts(committed_world)) == ["dois", "um", "zero"]


def test_what_somebody_else_answered_with_2xx_is_found_by_its_identity(committed_world: World, broker: Broker) -> None:
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "perdida"})
    delivered(broker, 2)
    broker.hook.bodies.clear()  # a proxy's page said 200; we have seen nothing
    assert fill(committed_world) == 1
    assert texts(committed_world) == ["perdida"]
    assert events(broker) == []


def test_an_attempt_that_still_runs_is_left_to_it(committed_world: World, broker: Broker) -> None:
    held = threading.Event()
    broker.hook.hold = held.wait
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "um"})
    until(lambda: broker.hook.bodies)
    assert fill(committed_world) == 0
    assert [one["type"] for one in events(broker)] == ["MESSAGE_INBOUND"]  # not acknowledged
    held.set()
    delivered(broker, 2)
    broker.hook.let_in()
    assert fill(committed_world) == 0
    assert (texts(committed_world), pulled(), events(broker)) == (["um"], [], [])


def test_broker_17_group_receipts_come_by_the_list_alone_and_move_the_ticks(
    committed_world: World, broker: Broker
) -> None:
    own = {"from": MARIA, "text": "aviso", "group": GROUP, "fromMe": True, "id": "G1"}
    broker.control("ipe-01/inbound", own)
    delivered(broker, 1)
    broker.hook.let_in()
    for status in (3, 4):
        broker.control("ipe-01/receipt", {"id": "G1", "status": status})
    broker.control("ipe-01/receipt", {"id": "G1", "status": 3})  # changes nothing any more
    assert broker.hook.bodies == []
    assert fill(committed_world) == 2
    with tenant_scope(committed_world.ipe.pk):
        message = Message.objects.get()
        assert (message.direction, message.status, message.external_id) == ("OUTBOUND", "READ", "G1")
        assert message.delivered_at is not None and message.read_at is not None
    assert pulled() == ["MESSAGE_STATUS", "MESSAGE_STATUS"]
    assert events(broker) == []
    broker.control("ipe-01/receipt", {"id": "G1", "status": 2})
    assert fill(committed_world) == 0
    assert (len(pulled()), events(broker)) == (2, [])


def test_a_receipt_that_comes_before_its_message_waits_for_it(committed_world: World, broker: Broker) -> None:
    broker.control("ipe-01/receipt", {"id": "LATE", "status": 4, "to": MARIA})
    assert fill(committed_world) == 1
    with tenant_scope(committed_world.ipe.pk):
        assert ParkedEffect.objects.get(kind="ack").external_id == "LATE"
    broker.control("ipe-01/receipt", {"id": "LATE", "status": 3, "to": MARIA})
    assert fill(committed_world) == 0  # a higher one waits already
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "oi", "fromMe": True, "id": "LATE"})
    delivered(broker, 1)
    broker.hook.let_in()
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.get().status == "READ"


def test_broker_06_a_wrong_key_is_tried_six_times_then_dropped_and_then_recovered(
    committed_world: World, broker: Broker
) -> None:
    broker.hook.key = "hook-key"
    broker.behave(webhook={"retryScale": 0.01, "apiKey": "wrong"})
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "um"})
    given_up(broker, 2)
    state = broker.control("state", method="GET")["webhooks"]
    assert (state["attempts"], state["retried"], state["givenUp"]) == (12, 10, 2)
    times = [at for body, at in zip(broker.hook.bodies, broker.hook.times, strict=True) if b"MESSAGE_INBOUND" in body]
    waited = [round((at - times[0]) * 100) for at in times]
    for seen, due in zip(waited, (0, 1, 4, 14, 44, 164), strict=True):
        assert due <= seen <= due + 25
    assert fill(committed_world) == 2
    assert (texts(committed_world), events(broker)) == (["um"], [])


def test_long_lists_are_read_page_by_page_in_their_order(committed_world: World, broker: Broker) -> None:
    refuse(broker)
    broker.behave(webhook={"retryScale": 0})
    for start in range(0, 250, 50):
        batch = [{"from": MARIA, "text": f"{n}", "id": f"M{n}"} for n in range(start, start + 50)]
        broker.control("ipe-01/inbound", batch)
    given_up(broker, 255)
    fill(committed_world)
    assert texts(committed_world) == [str(n) for n in range(250)]
    assert events(broker) == []


def test_a_failed_ack_changes_nothing_and_the_next_round_finds_all_known(
    committed_world: World, broker: Broker, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    refuse(broker)
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "um"})
    given_up(broker, 2)
    listed = len(events(broker))
    before = counted()
    with Wire(500, {"error": "internal_server_error"}) as broken:
        real = get_adapter().ack_events

        def ack(**more: Any) -> None:
            settings.WHATSAPP_BROKER_URL = broken.url
            real(**more)

        monkeypatch.setattr(get_adapter(), "ack_events", ack)
        request_gap_fills(now=timezone.now())
        assert fill_gap(session_id=committed_world.line.pk) == 2
        assert [path for _, path, _, _ in broken.asked] == ["/instances/ipe-01/events/ack"]
    monkeypatch.undo()
    settings.WHATSAPP_BROKER_URL = broker.url
    assert len(events(broker)) == listed
    assert (counted() - before)["failed"] == listed
    assert fill(committed_world) in {0, 1}  # the raw copy has no identity of its own
    assert (texts(committed_world), events(broker)) == (["um"], [])


def test_a_broker_that_is_away_is_asked_again_within_seconds(committed_world: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = f"http://127.0.0.1:{closed_port()}"
    request_gap_fills(now=timezone.now())
    assert fill_gap(session_id=committed_world.line.pk) == 0
    with tenant_scope(committed_world.ipe.pk):
        row = GapFill.objects.get()
        assert (row.failures, row.lease_until, row.filled_at) == (1, None, None)
        assert row.due_at - timezone.now() < timedelta(seconds=4)


def test_due_is_what_is_connected_once_per_interval(committed_world: World, broker: Broker, settings: Any) -> None:
    client().set("gap-fill:looked", timezone.now().timestamp())
    both = {committed_world.line.pk, committed_world.foreign_line.pk}
    now = timezone.now()
    assert set(find_due(now=now)) == both  # never read before
    for session_id in both:
        fill_gap(session_id=session_id)
    assert find_due(now=now + timedelta(seconds=2)) == []
    assert set(_due_later(61)) == {committed_world.line.pk, committed_world.foreign_line.pk}
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=committed_world.foreign_line.pk).update(status="disconnected")
    assert _due_later(62) == [committed_world.line.pk]
    with service_scope("test"), saving():  # it comes back: read at once, not at the end of its interval
        WhatsAppSession.objects.filter(pk=committed_world.foreign_line.pk).update(
            status="connected", connected_at=timezone.now()
        )
        GapFill.objects.update(due_at=now + timedelta(hours=1))
    assert _due_later(1) == [committed_world.foreign_line.pk]


def _due_later(seconds: float) -> list[UUID]:
    at = timezone.now() + timedelta(seconds=seconds)
    client().set("gap-fill:looked", (at - timedelta(seconds=2)).timestamp())
    return find_due(now=at)


def test_after_an_outage_of_ours_or_of_the_broker_everything_is_due(committed_world: World, broker: Broker) -> None:
    both = {committed_world.line.pk, committed_world.foreign_line.pk}
    _read_all(both)
    assert _due_later(2) == []
    at = timezone.now() + timedelta(seconds=20)
    assert set(find_due(now=at)) == both  # nobody looked for 18 s: we were away
    _read_all(both)
    client().delete("gap-fill:looked")  # Redis was away: nobody knows
    assert set(find_due(now=timezone.now())) == both
    _read_all(both)
    for _ in range(3):
        record_failure("BROKER_UNREACHABLE", now=timezone.now())
    assert _due_later(4) == []
    record_success(now=timezone.now())
    assert set(_due_later(6)) == both


def _read_all(sessions: set[UUID]) -> None:
    request_gap_fills(now=timezone.now())
    for session_id in sessions:
        fill_gap(session_id=session_id)


def test_one_reads_at_a_time_and_a_lost_reader_is_followed(committed_world: World, broker: Broker) -> None:
    refuse(broker)
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "um"})
    given_up(broker, 2)
    inside, go_on = threading.Event(), threading.Event()
    adapter = get_adapter()
    real = adapter.pull_events

    def slow(**more: Any) -> Any:
        page = real(**more)
        inside.set()
        assert go_on.wait(10)
        return page

    adapter.pull_events = slow  # type: ignore[method-assign]
    try:
        request_gap_fills(now=timezone.now())
        thread = threading.Thread(target=_fill_and_close, args=[committed_world.line.pk])
        thread.start()
        assert inside.wait(10)
        adapter.pull_events = real  # type: ignore[method-assign]
        request_gap_fills(now=timezone.now(), session_id=committed_world.line.pk)
        assert fill_gap(session_id=committed_world.line.pk) == 0  # somebody reads it
        with service_scope("test"):
            GapFill.objects.update(lease_until=timezone.now() - LEASE)  # he is thought to be dead
        assert fill_gap(session_id=committed_world.line.pk) == 2
    finally:
        adapter.pull_events = real  # type: ignore[method-assign]
        go_on.set()
    thread.join(10)
    drain_inbox()
    assert len(pulled()) == 2  # the one who came back stored nothing
    assert texts(committed_world) == ["um"]


def test_no_call_inside_a_transaction_and_other_lines_are_not_held_up(committed_world: World, broker: Broker) -> None:
    """The client itself refuses to be called inside one; a slow reading of one line holds no lock of another."""
    inside, go_on = threading.Event(), threading.Event()
    adapter = get_adapter()
    real = adapter.pull_events

    def slow(*, instance: str, **more: Any) -> Any:
        if instance == "ipe-01":
            inside.set()
            assert go_on.wait(10)
        return real(instance=instance, **more)

    adapter.pull_events = slow  # type: ignore[method-assign]
    try:
        request_gap_fills(now=timezone.now())
        thread = threading.Thread(target=_fill_and_close, args=[committed_world.line.pk])
        thread.start()
        assert inside.wait(10)
        began = time.monotonic()
        fill_gap(session_id=committed_world.foreign_line.pk)
        assert time.monotonic() - began < 2
        with service_scope("test"):
            rows = dict(GapFill.objects.values_list("session_id", "filled_at"))
        assert rows[committed_world.foreign_line.pk] is not None and rows[committed_world.line.pk] is None
    finally:
        go_on.set()
        adapter.pull_events = real  # type: ignore[method-assign]
    thread.join(10)


def test_a_large_backlog_is_waited_for(committed_world: World, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whatsapp.services.gap_fill_news._MOST_WAITING", 2)
    broker.control("ipe-01/inbound", [{"from": MARIA, "text": f"{n}"} for n in range(3)])
    delivered(broker, 4)
    store(*broker.hook.bodies)
    broker.hook.bodies.clear()
    request_gap_fills(now=timezone.now())
    assert fill_gap(session_id=committed_world.line.pk) == 0
    assert [one["type"] for one in events(broker)] == ["MESSAGE_INBOUND"] * 3  # not acknowledged yet
    drain_inbox()
    assert fill(committed_world) == 0
    assert (events(broker), pulled()) == ([], [])


def test_pulled_events_carry_the_time_of_the_message(committed_world: World, broker: Broker) -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    refuse(broker)
    broker.control("ipe-01/inbound", {"from": MARIA, "text": "antiga", "timestamp": int(at.timestamp())})
    given_up(broker, 2)
    fill(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        message = Message.objects.get()
        assert message.sent_at == at
        assert message.received_at is not None and message.received_at > at


def _fill_and_close(session_id: UUID) -> None:
    try:
        fill_gap(session_id=session_id)
    finally:
        connection.close()
