"""From an event to the integrator: signed, tried again with the same id, given up, nobody in another's way."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from leadengine import metrics
from leadengine.accounts.models import AuditLog, User
from leadengine.accounts.scopes import service_scope, user_scope
from leadengine.ids import uuid7
from leadengine.redis import client
from leadengine.ssrf import Limits
from leadengine.webhooks.models import Delivery, Endpoint, OutgoingEvent
from leadengine.webhooks.services import calling, claiming, delivering
from leadengine.webhooks.services.calling import Outcome
from leadengine.webhooks.services.claiming import PER_ENDPOINT, PER_TENANT, Claim, Due, Hands, claim_due, share_out
from leadengine.webhooks.services.delivering import deliver_due
from leadengine.webhooks.services.endpoints import EndpointOff, change_endpoint, rotate_secret, switch_off
from leadengine.webhooks.services.replaying import replay_delivery, replay_period, send_test
from leadengine.webhooks.services.settling import FAILING_FOR, MOST_FAILURES, PAUSES, settle
from leadengine.webhooks.tasks import deliver_due as task
from tests.conftest import World
from tests.outbound import until
from tests.tickets.desk import arrive
from tests.webhooks.receiver import Got, Receiver, attempts, connect, deliveries, due_now, now_of, receiving
from tests.webhooks.test_signing import documented

ALL = Hands(free=100, troubled=100)


def counted(result: str, event: str = "messages.new") -> float:
    return float(metrics.webhook_deliveries.labels(event=event, result=result)._value.get())


def probe(actor: User, endpoint: Endpoint, times: int = 1) -> None:
    """So many deliveries to one endpoint."""
    with user_scope(actor):
        for _ in range(times):
            send_test(actor=actor, endpoint=endpoint, now=timezone.now())


def test_outbound_27_a_500_is_retried_with_the_same_id_and_the_example_verifies(
    committed_world: World, receiver: Receiver
) -> None:
    world, verify, before = committed_world, documented(), counted("delivered")
    endpoint, secret = connect(world.admin, receiver.url + "/hook?a=1", "messages.new")
    receiver.answer = lambda _: (500, {}, b"x" * 5000) if len(receiver.got) < 3 else 204
    ticket = arrive(world, "Olá, açaí")
    for number in (1, 2, 3):
        assert deliver_due() == 1
        assert deliver_due() == 0, "not due yet" if number < 3 else "done"
        due_now()
    (row,) = deliveries(endpoint)
    assert (row.status, row.attempts, row.code, row.response_status) == ("DELIVERED", 3, "OK", 204)
    assert row.next_attempt_at is None
    assert receiver.ids() == [str(row.event_id)] * 3
    assert {one.body for one in receiver.got} == {row.event.body.encode()}
    for got in receiver.got:
        assert verify(secret, got.headers, got.body)
        assert got.path == "/hook?a=1"
        assert got.headers["content-type"] == "application/json"
    assert receiver.got[0].json["data"]["ticketId"] == str(ticket.pk)
    log = attempts()
    assert [(one.number, one.code, one.status) for one in log] == [
        (1, "HTTP_ERROR", 500), (2, "HTTP_ERROR", 500), (3, "OK", 204),
    ]  # fmt: skip
    assert log[0].answer == "x" * 4096
    assert log[0].headers["webhook-signature"] == receiver.got[0].headers["webhook-signature"]
    assert (now_of(endpoint).failures, now_of(endpoint).failing_since) == (0, None)
    assert counted("delivered") == before + 1


def test_outbound_27_a_replay_delivers_again_with_the_same_id(committed_world: World, receiver: Receiver) -> None:
    world = committed_world
    began = timezone.now()
    endpoint, _ = connect(world.admin, receiver.url, "messages.new", "ticket.message")
    arrive(world)
    assert deliver_due() == 2
    row = deliveries(endpoint)[0]
    with user_scope(world.admin):
        delivery = Delivery.objects.select_related("endpoint").get(pk=row.pk)
        replay_delivery(actor=world.admin, delivery=delivery, now=timezone.now())
    assert deliver_due() == 1
    assert receiver.ids().count(str(row.event_id)) == 2
    with user_scope(world.admin):
        done = replay_period(
            actor=world.admin, endpoint=endpoint, since=began, until=timezone.now(), events=["messages.new"],
            now=timezone.now(),
        )  # fmt: skip
    assert (done.count, done.last) == (1, None)
    assert deliver_due() == 1
    again = deliveries(endpoint)
    assert sorted(one.attempts for one in again) in ([1, 3], [2, 2])
    assert {one.status for one in again} == {"DELIVERED"}
    assert len(set(receiver.ids())) == 2


def test_a_replay_brings_what_was_missed_while_the_endpoint_was_off(committed_world: World, receiver: Receiver) -> None:
    world, began = committed_world, timezone.now()
    endpoint, _ = connect(world.admin, receiver.url, "messages.new", enabled=False)
    arrive(world, "um", "dois")
    assert deliver_due() == 0
    with user_scope(world.admin):
        change_endpoint(actor=world.admin, endpoint=endpoint, enabled=True, now=timezone.now())
        row = now_of(endpoint)
        for _ in range(2):  # what is on its way already is not made twice
            replay_period(
                actor=world.admin, endpoint=row, since=began, until=timezone.now(), events=None, now=timezone.now()
            )
    assert deliver_due() == 2
    assert [one.json["data"]["preview"] for one in sorted(receiver.got, key=lambda got: got.id)] == ["um", "dois"]


def test_the_pauses_grow_for_a_day_and_then_it_is_given_up(committed_world: World, receiver: Receiver) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, receiver.url)
    receiver.answer = lambda _: (302, {"Location": receiver.url + "/else"}, b"")  # a redirect is no 2xx
    probe(world.admin, endpoint)
    for pause in PAUSES:
        assert deliver_due() == 1
        (row,) = deliveries()
        assert row.status == "PENDING"
        assert row.next_attempt_at is not None
        waits = (row.next_attempt_at - timezone.now()).total_seconds()
        assert pause * 0.8 - 2 <= waits <= pause * 1.2
        due_now()
    assert deliver_due() == 1
    (row,) = deliveries()
    assert (row.status, row.attempts, row.code) == ("DEAD", 8, "HTTP_ERROR")
    assert row.finished_at is not None
    assert [one.path for one in receiver.got] == ["/"] * 8
    with user_scope(world.admin):
        delivery = Delivery.objects.select_related("endpoint").get()
        replay_delivery(actor=world.admin, delivery=delivery, now=timezone.now())
    receiver.answer = lambda _: 200
    assert deliver_due() == 1
    assert [(row.status, row.attempts, row.tries) for row in deliveries()] == [("DELIVERED", 9, 1)]


def test_410_switches_the_endpoint_off_and_what_waits_for_it_waits_on(
    committed_world: World, receiver: Receiver
) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, receiver.url, "ticket.updated")
    receiver.answer = lambda _: 410
    arrive(world)
    assert deliver_due() == 1
    stored = now_of(endpoint)
    assert (stored.enabled, stored.disabled_reason) == (False, "GONE")
    assert [row.status for row in deliveries()] == ["DEAD"]
    with service_scope("test"):
        line = AuditLog.objects.get(action="webhook.disabled")
    assert (line.actor_id, line.object_id, line.changes["reason"]) == (None, str(endpoint.pk), [None, "GONE"])
    assert "hook" not in str(line.changes["url"])
    arrive(world)
    assert deliver_due() == 0


def failed(endpoint: Endpoint, row: Delivery, at: Any) -> None:
    """One more failure of an endpoint, at that time."""
    with service_scope("test"):
        Delivery.objects.filter(pk=row.pk).update(
            status="SENDING", next_attempt_at=at, claim_token=row.pk, tries=1, attempts=1
        )
    claim = Claim(
        row.pk, endpoint.tenant_id, endpoint.pk, row.event_id, row.pk, 1, 1, row.type, endpoint.url, (), "{}", False
    )
    settle(claim=claim, outcome=Outcome("TIMEOUT", at, 10_000))


def test_fifty_failures_in_a_row_over_an_hour_switch_it_off(committed_world: World, receiver: Receiver) -> None:
    world, now = committed_world, timezone.now()
    endpoint, _ = connect(world.admin, receiver.url)
    probe(world.admin, endpoint)
    (row,) = deliveries()
    for _ in range(MOST_FAILURES):
        failed(endpoint, row, now)
    assert now_of(endpoint).enabled, "fifty within the hour may be a restart of theirs"
    failed(endpoint, row, now + FAILING_FOR)
    stored = now_of(endpoint)
    assert (stored.enabled, stored.disabled_reason, stored.failures) == (False, "FAILING", 51)
    due_now()
    assert deliver_due() == 0
    with user_scope(world.admin):
        change_endpoint(actor=world.admin, endpoint=endpoint, enabled=True, now=timezone.now())
    assert (now_of(endpoint).failures, now_of(endpoint).failing_since) == (0, None)
    due_now()
    assert deliver_due() == 1, "switched on again, what waited leaves"


def test_a_slow_endpoint_never_delays_another(committed_world: World, receiver: Receiver) -> None:
    world, free = committed_world, threading.Event()
    slow, _ = connect(world.admin, receiver.url)
    in_flight: list[int] = []

    def hang(_: Got) -> int:
        in_flight.append(1)
        free.wait(20)
        return 200

    def run() -> None:
        deliver_due()
        connection.close()

    receiver.answer = hang
    with receiving() as quick:
        fast, _ = connect(world.outsider, quick.url)
        probe(world.admin, slow, 12)
        loop = threading.Thread(target=run)
        loop.start()
        try:
            until(lambda: len(in_flight) == PER_ENDPOINT)
            probe(world.outsider, fast, 3)
            assert task() == 0, "the loop runs in this process: it is told to look again"
            until(lambda: [row.status for row in deliveries(fast)] == ["DELIVERED"] * 3, 5)
            assert len(in_flight) == PER_ENDPOINT, "a few at once to one endpoint"
        finally:
            free.set()
            loop.join(20)
    assert [row.status for row in deliveries(slow)] == ["DELIVERED"] * 12


def test_hands_are_shared_out_fairly() -> None:
    ids = [uuid7() for _ in range(40)]

    def due(number: int, in_flight: int = 0, *, failing: bool = False) -> Due:
        """An endpoint of a tenant of its own."""
        return Due(ids[number], ids[-number], failing, in_flight)

    healthy, failing, slow = due(0), due(1, failing=True), due(2)
    assert share_out([failing, slow, healthy], Hands(100, 100, {ids[2]})) == {ids[0]: 4, ids[1]: 1, ids[2]: 1}
    assert share_out([due(0, 3)], ALL) == {ids[0]: 1}
    assert share_out([due(0, 4), due(1, 1, failing=True)], ALL) == {}
    # However many fail, half of the hands are for those that do not.
    crowd = [due(number, failing=True) for number in range(1, 40)]
    shares = share_out([*crowd, healthy], Hands(32, 16))
    assert (sum(shares.values()), shares[ids[0]]) == (20, 4)
    # Few hands: one each before anybody gets a second one.
    assert set(share_out([due(number) for number in range(40)], Hands(40, 16)).values()) == {1}


def test_a_tenant_never_has_more_than_half_of_the_hands() -> None:
    """However many of its endpoints hang, and however often the loop looks."""
    mine, other = uuid7(), uuid7()
    crowd = [Due(uuid7(), mine, False, 0) for _ in range(10)]
    shares = share_out(crowd, Hands(32, 16))
    assert sum(shares.values()) == PER_TENANT
    assert share_out(crowd, Hands(16, 16, busy={mine: PER_TENANT})) == {}
    last = Due(uuid7(), other, False, 0)
    assert share_out([*crowd, last], Hands(16, 16, busy={mine: PER_TENANT - 1}))[last.endpoint_id] == PER_ENDPOINT


def test_an_endpoint_stays_slow_for_a_minute(
    committed_world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, receiver.url)
    probe(world.admin, endpoint)
    with monkeypatch.context() as patch:
        patch.setattr(delivering, "SLOW_MS", -1)
        assert deliver_due() == 1
    probe(world.admin, endpoint, 3)
    assert deliver_due() == 3
    assert list(delivering._slow) == [endpoint.pk], "a quick answer does not clear its name"
    monkeypatch.setattr(time, "monotonic", partial(lambda now: now() + delivering.SLOW_SECONDS, time.monotonic))
    assert deliver_due() == 0
    assert delivering._slow == {}


def test_a_test_of_an_endpoint_that_was_switched_off_meanwhile_is_refused(
    committed_world: World, receiver: Receiver
) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, receiver.url)
    with service_scope("test"):
        switch_off(endpoint_id=endpoint.pk, reason=Endpoint.Off.GONE, now=timezone.now())
    with pytest.raises(EndpointOff):
        probe(world.admin, endpoint)
    with service_scope("test"):
        assert not OutgoingEvent.objects.exists()


def test_a_change_of_an_endpoint_keeps_no_event_waiting(committed_world: World, receiver: Receiver) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, receiver.url, "messages.new")

    def happen() -> None:
        arrive(world)
        connection.close()

    with user_scope(world.admin):
        change_endpoint(actor=world.admin, endpoint=endpoint, description="ERP", now=timezone.now())
        connect(world.admin, receiver.url, "lead.updated")
        thread = threading.Thread(target=happen)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
    thread.join()
    assert len(deliveries(endpoint)) == 1


def test_two_claimers_keep_within_the_cap_and_never_share_a_delivery(
    committed_world: World, receiver: Receiver
) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, receiver.url)
    probe(world.admin, endpoint, 10)
    claims: list[Claim] = []
    gate = threading.Barrier(3)

    def claim() -> None:
        gate.wait()
        claims.extend(claim_due(now=timezone.now(), hands=ALL))
        connection.close()

    threads = [threading.Thread(target=claim) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == len({one.delivery_id for one in claims}) == PER_ENDPOINT


def test_a_lost_lease_is_noted_and_a_late_answer_changes_only_the_log(
    committed_world: World, receiver: Receiver
) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, receiver.url)
    probe(world.admin, endpoint)
    (lost,) = claim_due(now=timezone.now(), hands=ALL)
    assert claim_due(now=timezone.now(), hands=ALL) == []
    (again,) = claim_due(now=timezone.now() + claiming.LEASE + timedelta(seconds=1), hands=ALL)
    assert (again.event_id, again.number) == (lost.event_id, 2)
    assert [(one.number, one.code) for one in attempts()] == [(1, "WORKER_LOST")]
    settle(claim=lost, outcome=Outcome("OK", timezone.now(), 5, 200))
    assert [row.status for row in deliveries()] == ["SENDING"], "the second try decides"
    settle(claim=again, outcome=Outcome("OK", timezone.now(), 5, 200))
    assert [row.status for row in deliveries()] == ["DELIVERED"]
    assert [(one.number, one.code) for one in attempts()] == [(1, "OK"), (2, "OK")]


def test_outbound_27_valkey_flushed_nothing_is_forgotten(committed_world: World, receiver: Receiver) -> None:
    world = committed_world
    connect(world.admin, receiver.url, "messages.new")
    for number in range(5):
        arrive(world, f"mensagem {number}")
        client().flushdb()
    assert task() == 5, "the beat finds it in PostgreSQL"
    assert len(set(receiver.ids())) == 5


def test_after_a_rotation_both_secrets_sign_for_a_day(committed_world: World, receiver: Receiver) -> None:
    world, verify = committed_world, documented()
    endpoint, old = connect(world.admin, receiver.url)
    with user_scope(world.admin):
        _, new = rotate_secret(actor=world.admin, endpoint=endpoint, now=timezone.now())
    probe(world.admin, endpoint)
    deliver_due()
    with service_scope("test"):
        Endpoint.objects.update(previous_until=timezone.now() - timedelta(seconds=1))
    probe(world.admin, endpoint)
    deliver_due()
    both, only_new = receiver.got
    assert [verify(one, both.headers, both.body) for one in (old, new)] == [True, True]
    assert [verify(one, only_new.headers, only_new.body) for one in (old, new)] == [False, True]


def test_the_secret_is_sealed_and_one_that_cannot_be_opened_is_not_called(
    committed_world: World, receiver: Receiver, settings: Any
) -> None:
    world = committed_world
    endpoint, secret = connect(world.admin, receiver.url)
    assert secret.removeprefix("whsec_") not in now_of(endpoint).secret
    probe(world.admin, endpoint)
    settings.SECRET_KEY = "another-" + "x" * 50
    deliver_due()
    assert [(row.status, row.code) for row in deliveries()] == [("PENDING", "NO_SECRET")]
    assert receiver.got == []


@pytest.mark.parametrize("drip", ["head", "body"])
def test_a_server_that_drips_is_left_when_its_time_is_over(
    committed_world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, drip: str
) -> None:
    """Each byte would begin the time-out of a socket anew. What answers 200 before it drips has answered."""
    world, ended = committed_world, threading.Event()
    monkeypatch.setattr(calling, "LIMITS", Limits(connect=3, read=10, total=0.6))

    class Dripping(receiver.server.RequestHandlerClass):  # type: ignore[name-defined]
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: " if drip == "head" else b"HTTP/1.1 200 OK\r\n\r\nok")
            while not ended.wait(0.05):
                self.wfile.write(b"x")
                self.wfile.flush()

    receiver.server.RequestHandlerClass = Dripping
    endpoint, _ = connect(world.admin, receiver.url)
    probe(world.admin, endpoint)
    try:
        assert deliver_due() == 1
    finally:
        ended.set()
    (row,) = deliveries()
    expected = ("PENDING", "TIMEOUT") if drip == "head" else ("DELIVERED", "OK")
    assert (row.status, row.code) == expected
    assert row.latency_ms is not None
    assert 500 <= row.latency_ms < 2000


def test_nobody_listens(committed_world: World, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    world = committed_world
    endpoint, _ = connect(world.admin, "http://127.0.0.1:9/")
    probe(world.admin, endpoint)
    deliver_due()
    assert [(row.status, row.code) for row in deliveries()] == [("PENDING", "UNREACHABLE")]
    assert now_of(endpoint).failures == 1


def test_told_to_stop_it_takes_nothing_more(committed_world: World, receiver: Receiver) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, receiver.url)
    probe(world.admin, endpoint)
    delivering.stopping.set()
    try:
        assert deliver_due() == 0
    finally:
        delivering.stopping.clear()
    assert deliver_due() == 1
