"""The pace of a line, over all senders and without Redis (spec/outbound.md section 9)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from redis import Connection, Redis

from leadengine import redis as redis_module
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.celery import app
from leadengine.wake import wake
from tests.api import by_key
from tests.conftest import World
from tests.outbound import (
    Broker,
    answering_never,
    at_once,
    broker_running,
    claim_due,
    conversation,
    due_now,
    events_of,
    queue,
    reload,
    send,
    until,
)
from tests.samples import sample
from tickets.models import Message, OutboundAttempt, Ticket
from tickets.services.outbox import claiming, pacing, sweep_outbox
from tickets.transports import get_transport
from whatsapp.models import WhatsAppSession
from whatsapp.services.lines import _tell
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        running.behave(rate={"max": 10_000})
        yield running


@pytest.fixture
def without_redis(committed_world: World, settings: Any) -> Iterator[None]:
    """Nobody listens where Redis should be: for wake-ups, pace and breaker."""
    present = settings.REDIS_URL
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    redis_module.client.cache_clear()
    yield
    settings.REDIS_URL = present
    redis_module.client.cache_clear()


def customers(world: World, many: int) -> list[Ticket]:
    return [conversation(world, phone=f"+55119888800{n:02}") for n in range(many)]


def declare(world: World, most: int, window_ms: int) -> None:
    """What the line's channel allows."""
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=world.line.pk).update(
            capabilities={"rate": {"max": most, "windowMs": window_ms}}
        )


def limited(where: str) -> float:
    return sample("whatsapp_outbound_rate_limited_total", where=where)


def test_over_the_pace_a_message_waits_and_says_until_when(
    committed_world: World, broker: Broker, settings: Any
) -> None:
    settings.OUTBOUND_TPS_BY_INSTANCE = {"inst-ipe-01": 2}
    rows = [queue(committed_world, ticket, str(n)) for n, ticket in enumerate(customers(committed_world, 5))]
    before = limited("pace")
    with events_of(committed_world) as events:
        due = send(committed_world)
        told = [data for name, data in events() if name == "message.updated" and "waitReason" in data["changes"]]
    states = [reload(row) for row in rows]
    assert [row.status for row in states] == ["SENT", "SENT", "QUEUED", "QUEUED", "QUEUED"]
    assert {(row.wait_reason, row.attempts, row.error and row.error["code"]) for row in states[2:]} == {
        ("PACING", 0, None)
    }
    waits = [row.not_before - states[0].claimed_at for row in states[2:] if row.not_before and states[0].claimed_at]
    assert all(0.9 < wait.total_seconds() < 1.5 for wait in waits[:2])
    assert 1.9 < waits[2].total_seconds() < 2.5  # two in each second
    assert due == states[2].not_before
    paced = [data for data in told if data["changes"]["waitReason"] == "PACING"]
    assert sorted(data["messageId"] for data in paced) == sorted(str(row.pk) for row in rows[2:])
    assert all(data["changes"]["notBefore"] for data in paced)
    assert limited("pace") == before + 3
    due_now(committed_world)
    send(committed_world)
    assert len(broker.sent()) == 2  # a time that was brought forward is no turn
    assert reload(rows[2]).wait_reason == "PACING"


@pytest.mark.parametrize("name", ["ipe-01", "inst-ipe-01", "id"])
def test_a_session_is_paced_by_any_of_its_names(committed_world: World, settings: Any, name: str) -> None:
    own = str(committed_world.line.pk) if name == "id" else name
    settings.OUTBOUND_TPS_BY_INSTANCE = {own: 1, "another": 9}
    line = pacing._windows_of(find_line(committed_world))
    assert line == [(1, 1.0)]


def find_line(world: World) -> Any:
    with tenant_scope(world.ipe.pk):
        return get_transport("WHATSAPP").line(world.line.pk)


def test_two_senders_keep_the_window_that_the_channel_declares(committed_world: World, broker: Broker) -> None:
    """The broker counts as strictly as it says: it never has to refuse one."""
    broker.behave(rate={"max": 4, "windowMs": 300})
    declare(committed_world, 4, 300)
    rows = [queue(committed_world, ticket, f"{n:02}") for n, ticket in enumerate(customers(committed_world, 10))]
    before = limited("broker")

    def work() -> None:
        while any(reload(row).status in {"QUEUED", "SENDING"} for row in rows):
            send(committed_world)

    assert at_once(work, work) == [None, None]
    assert {reload(row).status for row in rows} == {"SENT"}
    assert limited("broker") == before
    with tenant_scope(committed_world.ipe.pk):
        tries = OutboundAttempt.objects.order_by("claimed_at", "message_id")
        assert list(tries.values_list("message_id", flat=True)) == [row.pk for row in rows]
        times = list(tries.values_list("claimed_at", flat=True))
    assert all(times[n + 4] - times[n] >= timedelta(milliseconds=300) for n in range(6))


def test_a_slow_call_does_not_hold_up_whose_turn_comes(committed_world: World, broker: Broker, settings: Any) -> None:
    settings.OUTBOUND_TPS_BY_INSTANCE = {"ipe-01": 1}
    broker.behave(rate={"max": 10_000}, sendDelayMs=1500)
    rows = [queue(committed_world, ticket, str(n)) for n, ticket in enumerate(customers(committed_world, 2))]
    send(committed_world)
    first, second = (reload(row) for row in rows)
    assert (first.status, second.status) == ("SENT", "SENT")
    assert first.claimed_at is not None
    assert second.claimed_at is not None
    assert 0.9 < (second.claimed_at - first.claimed_at).total_seconds() < 1.4


def test_outbound_26_without_redis_doors_accept_and_a_running_sender_paces_itself(
    committed_world: World, broker: Broker, monkeypatch: pytest.MonkeyPatch, without_redis: None
) -> None:
    monkeypatch.setattr(pacing, "ALONE_SECONDS", 0.3)
    tickets, caller, before = customers(committed_world, 3), by_key(committed_world.agent), limited("local")
    for number, ticket in enumerate(tickets):
        body = {"text": str(number)}
        answer = caller.post(f"/api/tickets/{ticket.pk}/messages", body, "application/json")
        assert (answer.status_code, answer.json()["data"]["waitReason"]) == (202, None)
    with tenant_scope(committed_world.ipe.pk):
        rows = list(Message.objects.filter(direction="OUTBOUND").order_by("id"))
    send(committed_world)  # nobody could wake it again: it goes on until nothing is left
    times = [row.claimed_at for row in map(reload, rows) if row.claimed_at]
    assert broker.texts() == ["0", "1", "2"]
    assert all(0.29 <= (later - sooner).total_seconds() < 1 for sooner, later in pairwise(times))
    assert limited("local") >= before + 3


def test_outbound_26_redis_comes_back_and_everything_leaves_once_and_in_order(
    committed_world: World, broker: Broker, settings: Any, without_redis: None
) -> None:
    rows = [
        queue(committed_world, ticket, f"{ticket.number}-{n}")
        for ticket in customers(committed_world, 2)
        for n in (1, 2)
    ]
    settings.REDIS_URL = os.environ["REDIS_URL"]
    redis_module.client.cache_clear()
    assert sweep_outbox(now=timezone.now()) == 1
    assert redis_module.client().exists(f"wake:send:{committed_world.line.pk}")
    send(committed_world)
    assert {reload(row).status for row in rows} == {"SENT"}
    for ticket in {row.ticket_id for row in rows}:
        wanted = [row.content for row in rows if row.ticket_id == ticket]
        assert [text for text in broker.texts() if text in wanted] == wanted
    assert len(broker.sent()) == 4


def park(world: World, many: int, until_: datetime) -> None:
    """So many messages of people over their session's share, each told the minute that has room for it."""
    ticket = conversation(world, phone="+5511977776666")
    row = queue(world, ticket, "parada")
    with tenant_scope(world.ipe.pk):
        Message.objects.filter(pk=row.pk).update(wait_reason="PACING", not_before=until_)
        with connection.cursor() as cursor:
            cursor.execute(
                """INSERT INTO tickets_message (id, tenant_id, ticket_id, contact_id, session_id, position, direction,
                       type, content, status, source, sent_at, wait_reason, not_before, payload)
                   SELECT gen_random_uuid(), tenant_id, ticket_id, contact_id, session_id, position + g, direction,
                       type, content, status, source, sent_at, wait_reason, not_before, payload
                   FROM tickets_message, generate_series(2, %s) g WHERE id = %s""",
                [many, row.pk],
            )


@pytest.mark.parametrize("seconds", [600, 3], ids=["beyond the horizon", "within it"])
def test_who_is_parked_for_later_takes_no_turn_that_is_free_now(
    committed_world: World, settings: Any, seconds: int
) -> None:
    settings.OUTBOUND_TPS_DEFAULT = 2
    now = timezone.now()
    park(committed_world, 60, now + timedelta(seconds=seconds))
    rows = [queue(committed_world, ticket, str(n)) for n, ticket in enumerate(customers(committed_world, 5))]
    assert [claim.order.message_id for claim in claim_due(line=find_line(committed_world), now=now)] == [
        row.pk for row in rows[:2]
    ]
    waits = [(row.not_before - now).total_seconds() for row in map(reload, rows[2:]) if row.not_before]
    assert [round(wait) for wait in waits] == [1, 1, 2]


def test_a_turn_that_somebody_was_told_is_not_told_again() -> None:
    at = timezone.now()
    turns = [at + timedelta(seconds=n) for n in (1, 2, 3, 4)]
    told = [turns[0] + timedelta(milliseconds=5), turns[2]]
    assert claiming._queue_up(turns, told)[:3] == [turns[1], turns[3], turns[3]]
    assert set(claiming._queue_up(turns, turns)) == {turns[3]}


def test_when_its_time_is_over_one_of_many_asks_redis_again_and_the_others_are_spared(
    committed_world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that takes calls and never answers, for scripts, wake-ups and news of sessions alike."""
    present = settings.REDIS_URL
    monkeypatch.setattr(redis_module, "ANSWER_SECONDS", 0.2)
    with answering_never() as silent:
        settings.REDIS_URL = silent.replace("http", "redis") + "/0"
        redis_module.client.cache_clear()
        try:
            asked: list[Connection] = []
            connect: Any = Connection.connect

            def counted(server: Connection) -> None:
                asked.append(server)
                connect(server)

            monkeypatch.setattr(Connection, "connect", counted)
            task: Any = app.signature("tickets.send_due")
            assert wake(task, "x") is False
            assert len(asked) == 1
            announced = partial(_tell, SimpleNamespace(session_id=committed_world.line.pk), None)  # type: ignore[arg-type]
            assert (wake(task, "x"), announced()) == (False, None)
            with pytest.raises(redis_module.UNAVAILABLE):
                redis_module.run_script("return 1", [], [])
            assert len(asked) == 1
            redis_module._away_of(redis_module.client()).until = 0.0  # its time is over
            assert at_once(*[partial(wake, task, "x")] * 8) == [False] * 8
            assert len(asked) == 2
        finally:
            settings.REDIS_URL = present
            redis_module.client.cache_clear()
    redis_module._away_of(redis_module.client()).note(OSError())
    redis_module._away_of(redis_module.client()).until = 0.0
    assert redis_module.run_script("return 1", [], []) == 1
    assert redis_module._away_of(redis_module.client()).until is None


def test_a_redis_that_is_away_is_asked_once_and_then_spared(
    committed_world: World, monkeypatch: pytest.MonkeyPatch, without_redis: None
) -> None:
    asked: list[str] = []
    ask: Any = Redis.execute_command

    def counted(server: Redis, *words: Any, **more: Any) -> Any:
        asked.append(words[0])
        return ask(server, *words, **more)

    monkeypatch.setattr(Redis, "execute_command", counted)
    for _ in range(20):
        with pytest.raises(redis_module.UNAVAILABLE):
            redis_module.run_script("return 1", [], [])
    assert asked == ["EVALSHA"]
    redis_module._away_of(redis_module.client()).until = 0.0  # its time is over
    with pytest.raises(redis_module.UNAVAILABLE):
        redis_module.run_script("return 1", [], [])
    assert asked == ["EVALSHA"] * 2


def test_a_flush_amid_a_campaign_loses_and_doubles_nothing(
    committed_world: World, broker: Broker, settings: Any
) -> None:
    settings.OUTBOUND_TPS_BY_INSTANCE = {"ipe-01": 3}
    rows = [queue(committed_world, ticket, f"{n}") for n, ticket in enumerate(customers(committed_world, 8))]
    send(committed_world)
    assert len(broker.sent()) == 3
    redis_module.client().flushdb()

    def all_left() -> bool:
        due_now(committed_world)
        send(committed_world)
        return len(broker.sent()) == 8

    until(all_left, 6)
    assert sorted(broker.texts()) == [str(n) for n in range(8)]
    assert {reload(row).status for row in rows} == {"SENT"}
