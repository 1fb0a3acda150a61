"""The breaker of a session: what opens it, who probes, what closes it, and who is told (spec/outbound.md section 9)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from leadengine.accounts.models import AuditLog
from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.operations.checks import describe_whatsapp
from leadengine.redis import client
from tests.api import by_cookie
from tests.conftest import World
from tests.outbound import (
    Broker,
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
from tests.samples import sample, scrape
from tests.whatsapp.wire import closed_port
from tickets.models import Message, OutboundAttempt, Ticket
from tickets.services.outbox import circuit, free_held, sweep_outbox
from tickets.services.outbox.breaking import note_call, outcome_of
from tickets.services.outbox.circuit import Outcome, read_circuits, record_call
from tickets.services.outbox.claiming import Claim
from tickets.services.outbox.settling import Try, settle
from tickets.transports import (
    Line,
    LineOffline,
    OperatorNeeded,
    OutcomeUnknown,
    RateLimited,
    Refused,
    Retryable,
    Sent,
    get_transport,
)
from whatsapp.services.lines import announce_late
from whatsapp.services.sessions.acting import release_session
from whatsapp.services.sessions.wishes import Asker

pytestmark = pytest.mark.django_db(transaction=True)
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
COOLDOWN = timedelta(minutes=2)
RESULTS: dict[Outcome, list[Any]] = {
    "bad": [Retryable("BROKER_UNREACHABLE", ""), Retryable("BROKER_AUTH", ""), OutcomeUnknown("BROKER_TIMEOUT", "")],
    "good": [
        Sent("X1", 200, ""), Refused("INVALID_TO", ""), LineOffline("INSTANCE_DISCONNECTED", ""),
        RateLimited("RATE_LIMITED", ""), OperatorNeeded("RISK_PAUSED", ""),
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def defaults(settings: Any) -> None:
    settings.WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES = 5


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        running.behave(rate={"max": 10_000})
        yield running


def customers(world: World, many: int) -> list[Ticket]:
    return [conversation(world, phone=f"+551198888000{n}") for n in range(many)]


def find_line(world: World) -> Line:
    with tenant_scope(world.ipe.pk):
        line = get_transport("WHATSAPP").line(world.line.pk)
    assert line is not None
    return line


def fail(world: World, many: int = 5, at: datetime = AT) -> None:
    for _ in range(many):
        record_call(session_id=world.line.pk, token=uuid4(), outcome="bad", probe=False, now=at)


def state_of(world: World, at: datetime = AT) -> str:
    return read_circuits(now=at).get(world.line.pk, circuit.CLOSED).state


def end(claim: Claim, result: Any, at: datetime, *, asked: bool = True) -> None:
    """What the sender does when a call has ended."""
    tried = Try(result, at, 1, asked)
    settle(transport=get_transport("WHATSAPP"), claim=claim, tried=tried)
    note_call(transport=get_transport("WHATSAPP"), claim=claim, tried=tried)


def test_outbound_10_five_bad_numbers_leave_it_closed(committed_world: World, broker: Broker) -> None:
    tickets = customers(committed_world, 5)
    broker.behave(exists=False)
    rows = [queue(committed_world, ticket, payload={"text": "Olá"}) for ticket in tickets]
    send(committed_world)
    assert {(reload(row).error or {}).get("code") for row in rows} == {"INVALID_TO"}
    assert state_of(committed_world, timezone.now()) == "closed"
    assert client().exists(f"circuit-failures:{committed_world.line.pk}") == 0


def test_outbound_10_five_timeouts_open_it_for_all_and_the_doors_say_until_when(
    committed_world: World, broker: Broker
) -> None:
    *tickets, other = customers(committed_world, 6)
    broker.behave(rate={"max": 10_000}, sendTimeout=True, sendTimeoutMs=10)
    rows = [queue(committed_world, ticket) for ticket in tickets]
    before = sample("whatsapp_circuit_transitions_total", to="open")
    with events_of(committed_world) as events:
        send(committed_world)
        (told,) = [data for name, data in events() if name == "whatsapp.session.updated"]
    assert {reload(row).status for row in rows} == {"UNCONFIRMED"}
    assert sample("whatsapp_circuit_transitions_total", to="open") == before + 1
    opened = read_circuits(now=timezone.now())[committed_world.line.pk]
    assert opened.retry_at is not None
    assert timedelta(seconds=110) < opened.retry_at - timezone.now() <= COOLDOWN
    assert (told["circuit"]["state"], told["circuit"]["retryAt"][:19]) == ("open", opened.retry_at.isoformat()[:19])
    agent, path = by_cookie(committed_world.agent), f"/api/tickets/{other.pk}/messages"
    refusal = agent.post(path, {"text": "x"}, "application/json")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (423, "WHATSAPP_CIRCUIT_OPEN")
    assert refusal.json()["error"]["details"] == {"retryAt": told["circuit"]["retryAt"]}
    assert 110 < int(refusal["Retry-After"]) <= 120
    accepted = agent.post(path, {"text": "x", "whenUnavailable": "queue"}, "application/json")
    data = accepted.json()["data"]
    assert (accepted.status_code, data["waitReason"], data["notBefore"]) == (
        202, "CIRCUIT_OPEN", told["circuit"]["retryAt"],
    )  # fmt: skip
    # The pages and the checks of every process read the same.
    shown = agent.get("/api/integrations/whatsapp/lines").json()["data"]
    assert [line["circuit"] for line in shown] == [{"state": "open"}]
    full = by_cookie(committed_world.supervisor).get(f"/api/integrations/whatsapp/instances/{committed_world.line.pk}")
    assert full.json()["data"]["circuit"] == told["circuit"]
    health = describe_whatsapp()["broker"]["circuit"]
    assert (health["state"], health["open"], health["retryAt"][:19]) == ("open", 1, told["circuit"]["retryAt"][:19])
    gauges = ("whatsapp_session_circuits_open", "whatsapp_outbound_unconfirmed", "whatsapp_outbound_pending")
    figures = scrape(*gauges, fresh=True)
    assert (figures[gauges[0],], figures[gauges[1],]) == (1, 5)
    assert (figures[gauges[2], "circuit_open"], figures[gauges[2], "none"]) == (1, 0)


def test_outbound_10_after_the_cooldown_exactly_one_of_many_workers_probes(committed_world: World) -> None:
    *tickets, newcomer = customers(committed_world, 5)
    rows = [queue(committed_world, ticket, now=AT) for ticket in tickets]
    line = find_line(committed_world)
    fail(committed_world)
    assert claim_due(line=line, now=AT) == []
    waiting = [reload(row) for row in rows]
    assert {(row.wait_reason, row.not_before, row.attempts) for row in waiting} == {("CIRCUIT_OPEN", AT + COOLDOWN, 0)}
    later = AT + COOLDOWN
    for round_ in range(3):
        found = at_once(*[partial(claim_due, line=line, now=later)] * 8)
        (probe,) = [claim for claims in found for claim in claims]
        assert probe.probe
        assert state_of(committed_world, later) == "half_open"
        queue(committed_world, newcomer, now=later)  # the doors are open again
        assert claim_due(line=line, now=later + timedelta(seconds=60)) == []  # and the probe may take its time
        end(probe, Retryable("BROKER_UNREACHABLE", ""), later)
        assert (state_of(committed_world, later), state_of(committed_world, later + COOLDOWN)) == ("open", "half_open")
        later += COOLDOWN + timedelta(seconds=round_)
        due_now(committed_world)
    # A worker that is lost with its probe keeps nobody waiting for long.
    (lost,) = claim_due(line=line, now=later)
    assert lost.probe
    after = later + timedelta(seconds=91)
    due_now(committed_world)
    (again,) = claim_due(line=line, now=after)
    assert again.probe
    assert again.order.message_id != lost.order.message_id


def test_a_probe_that_is_answered_closes_it_and_frees_what_waited(committed_world: World) -> None:
    rows = [queue(committed_world, ticket, now=AT) for ticket in customers(committed_world, 3)]
    line = find_line(committed_world)
    fail(committed_world)
    claim_due(line=line, now=AT)
    later = AT + COOLDOWN
    with events_of(committed_world) as events:
        (probe,) = claim_due(line=line, now=later)
        client().delete(f"wake:send:{line.id}", f"session-told:{line.id}")
        end(probe, LineOffline("INSTANCE_DISCONNECTED", ""), later)  # the way is there, and says that the line is not
        told = events()
    states = [data["circuit"]["state"] for name, data in told if name == "whatsapp.session.updated"]
    assert states == ["half_open", "closed"]
    freed = [
        d for name, d in told if name == "message.updated" and d["changes"] == {"waitReason": None, "notBefore": None}
    ]
    assert sorted(data["messageId"] for data in freed) == [str(row.pk) for row in rows[1:]]
    assert state_of(committed_world, later) == "closed"
    assert client().exists(f"wake:send:{line.id}")
    assert reload(rows[0]).wait_reason == "SESSION_OFFLINE"
    assert read_circuits(now=later) == {}


def test_real_senders_find_back_when_the_broker_is_there_again(
    committed_world: World, broker: Broker, settings: Any
) -> None:
    settings.WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES = 2
    settings.WHATSAPP_OUTBOUND_CIRCUIT_COOLDOWN_MS = 2000
    url, settings.WHATSAPP_BROKER_URL = settings.WHATSAPP_BROKER_URL, f"http://127.0.0.1:{closed_port()}"
    rows = [queue(committed_world, ticket, f"{n}") for n, ticket in enumerate(customers(committed_world, 4))]
    send(committed_world)
    assert state_of(committed_world, timezone.now()) == "open"
    due_now(committed_world)
    send(committed_world)
    assert {reload(row).wait_reason for row in rows} == {"CIRCUIT_OPEN"}
    tries = sum(reload(row).attempts for row in rows)
    settings.WHATSAPP_BROKER_URL = url
    until(lambda: state_of(committed_world, timezone.now()) == "half_open")
    due_now(committed_world)
    at_once(partial(send, committed_world), partial(send, committed_world))
    assert {reload(row).status for row in rows} == {"SENT"}
    assert sum(reload(row).attempts for row in rows) == tries + 4
    assert sorted(broker.texts()) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("outcome", "result"), [(outcome, one) for outcome in RESULTS for one in RESULTS[outcome]])
def test_what_counts_against_a_line(outcome: Outcome, result: Any) -> None:
    assert outcome_of(Try(result, AT, 1)) == outcome
    assert outcome_of(Try(result, AT, 1, asked=False)) == "neither"


def test_our_own_faults_do_not_count(committed_world: World, broker: Broker, settings: Any) -> None:
    settings.WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES = 1
    broken, unknown = customers(committed_world, 2)
    queue(committed_world, broken)
    with tenant_scope(committed_world.ipe.pk):
        Message.objects.filter(direction="OUTBOUND").update(payload=None)
    queue(committed_world, unknown, payload={"type": "image", "mediaUrl": "http://no-such-host.invalid/a.png"})
    send(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        assert set(OutboundAttempt.objects.values_list("code", flat=True)) == {"INTERNAL_ERROR", "INVALID_MEDIA"}
    assert state_of(committed_world, timezone.now()) == "closed"


def test_failures_must_be_half_of_the_calls_of_the_window(committed_world: World) -> None:
    def record(outcome: Outcome, many: int, at: datetime) -> list[Any]:
        line = committed_world.line.pk
        return [record_call(session_id=line, token=uuid4(), outcome=outcome, probe=False, now=at) for _ in range(many)]

    assert record("good", 6, AT) == [None] * 6
    assert record("bad", 5, AT) == [None] * 5  # five of eleven
    assert record("neither", 3, AT) == [None] * 3
    assert record("bad", 1, AT) == ["open"]
    client().flushdb()
    record("bad", 4, AT)
    assert record("bad", 4, AT + timedelta(seconds=61)) == [None] * 4  # the first four are long ago
    assert record("bad", 1, AT + timedelta(seconds=120)) == ["open"]
    assert record("good", 1, AT + timedelta(seconds=121)) == [None]  # an answer to an older call is no probe


def test_thirty_failures_at_once_open_it_once(committed_world: World) -> None:
    calls = [
        partial(record_call, session_id=committed_world.line.pk, token=uuid4(), outcome="bad", probe=False, now=AT)
        for _ in range(30)
    ]
    assert [state for state in at_once(*calls) if state] == ["open"]


def test_a_flush_closes_it_and_nothing_is_lost(committed_world: World) -> None:
    row = queue(committed_world, conversation(committed_world), now=AT)
    fail(committed_world)
    client().flushdb()
    assert state_of(committed_world) == "closed"
    assert [claim.order.message_id for claim in claim_due(line=find_line(committed_world), now=AT)] == [row.pk]


def test_what_waits_for_a_circuit_that_a_flush_has_closed_is_freed_by_the_sweeper(
    committed_world: World, settings: Any
) -> None:
    row = queue(committed_world, conversation(committed_world), now=AT)
    fail(committed_world)
    claim_due(line=find_line(committed_world), now=AT)
    soon = AT + timedelta(seconds=10)
    sweep_outbox(now=soon)
    assert reload(row).wait_reason == "CIRCUIT_OPEN"
    client().flushdb()
    present, settings.REDIS_URL = settings.REDIS_URL, "redis://127.0.0.1:9/0"
    client.cache_clear()
    try:
        sweep_outbox(now=soon)
        assert reload(row).wait_reason == "CIRCUIT_OPEN"  # who cannot ask does not know
    finally:
        settings.REDIS_URL = present
        client.cache_clear()
    sweep_outbox(now=soon)
    assert (reload(row).wait_reason, reload(row).not_before) == (None, None)
    assert client().exists(f"wake:send:{committed_world.line.pk}")


def test_a_probe_that_ended_in_our_own_house_lets_the_next_one_go(committed_world: World) -> None:
    rows = [queue(committed_world, ticket, now=AT) for ticket in customers(committed_world, 2)]
    line = find_line(committed_world)
    fail(committed_world)
    claim_due(line=line, now=AT)
    later = AT + COOLDOWN
    (probe,) = claim_due(line=line, now=later)
    assert reload(rows[1]).wait_reason == "CIRCUIT_OPEN"
    client().delete(f"wake:send:{line.id}")
    end(probe, Refused("INVALID_MEDIA", ""), later, asked=False)
    assert (reload(rows[1]).wait_reason, client().exists(f"wake:send:{line.id}")) == (None, 1)
    (again,) = claim_due(line=line, now=later)
    assert again.probe
    assert state_of(committed_world, later) == "half_open"


def test_a_configuration_that_is_missing_is_no_call(committed_world: World, settings: Any) -> None:
    settings.WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES = 1
    row = queue(committed_world, conversation(committed_world))
    settings.WHATSAPP_BROKER_API_KEY = []
    send(committed_world)
    waiting = reload(row)
    assert (waiting.wait_reason, (waiting.error or {})["code"]) == ("RETRY", "WHATSAPP_NOT_CONFIGURED")
    assert state_of(committed_world, timezone.now()) == "closed"


def test_a_circuit_that_closes_leaves_the_undo_window_open(committed_world: World) -> None:
    assert committed_world.agent.tenant is not None
    committed_world.agent.tenant.settings = {"undoSeconds": 20}
    fail(committed_world)
    row = queue(committed_world, conversation(committed_world), now=AT, when_unavailable="queue")
    assert (row.wait_reason, row.not_before) == ("CIRCUIT_OPEN", AT + COOLDOWN)
    with events_of(committed_world) as events:
        with tenant_scope(committed_world.ipe.pk):
            free_held(session_id=committed_world.line.pk, now=AT + timedelta(seconds=5))
        (told,) = [data["changes"] for name, data in events() if name == "message.updated"]
    assert told == {"waitReason": "UNDO_WINDOW", "notBefore": "2026-11-20T12:00:20Z"}
    freed = reload(row)
    assert (freed.wait_reason, freed.not_before) == ("UNDO_WINDOW", AT + timedelta(seconds=20))
    assert claim_due(line=find_line(committed_world), now=AT + timedelta(seconds=19)) == []


def test_a_supervisor_closes_it_and_what_waited_leaves(committed_world: World, broker: Broker) -> None:
    rows = [queue(committed_world, ticket, f"{n}") for n, ticket in enumerate(customers(committed_world, 2))]
    fail(committed_world, at=timezone.now())
    send(committed_world)
    assert {reload(row).wait_reason for row in rows} == {"CIRCUIT_OPEN"}
    supervisor = committed_world.supervisor
    with events_of(committed_world) as events:
        release_session(session=committed_world.line, asker=Asker(supervisor, lambda: user_scope(supervisor)))
        until(lambda: announce_late(now=timezone.now()) or events())
        shown = [data["circuit"] for name, data in events() if name == "whatsapp.session.updated"]
    assert shown[-1] == {"state": "closed", "retryAt": None}
    assert {reload(row).wait_reason for row in rows} == {None}
    send(committed_world)
    assert sorted(broker.texts()) == ["0", "1"]
    with service_scope("test"):
        assert AuditLog.objects.filter(action="session.release", actor=supervisor).count() == 1


def test_lists_read_all_circuits_at_once(committed_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def read(**more: Any) -> Any:
        asked.append(1)
        return read_circuits(**more)

    for module in ("whatsapp.serializers", "whatsapp.api.instances"):
        monkeypatch.setattr(f"{module}.read_circuits", read)
    fail(committed_world, at=timezone.now())
    answer = by_cookie(committed_world.supervisor).get("/api/integrations/whatsapp/instances?fields=full")
    assert [one["circuit"]["state"] for one in answer.json()["data"]] == ["open"]
    assert len(asked) == 1


def test_people_see_it_and_may_release_it(committed_world: World) -> None:
    page = f"/sessions/{committed_world.line.pk}/"
    supervisor, owner = by_cookie(committed_world.supervisor), by_cookie(committed_world.admin)
    assert "session-circuit" not in supervisor.get(page).content.decode()
    fail(committed_world, at=timezone.now())
    shown = supervisor.get(page).content.decode()
    assert "session-circuit" in shown
    assert "act-session-release" in shown
    assert "say-warning" in owner.get("/sessions/").content.decode()
