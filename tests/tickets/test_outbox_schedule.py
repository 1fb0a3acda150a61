"""Messages for later, and messages that may still be taken back (spec/outbound.md section 10)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.celery import SENDING, app
from leadengine.errors import NotFound, ValidationFailed
from leadengine.redis import client
from tests.conftest import World
from tests.environment import url
from tests.outbound import (
    Broker,
    accept,
    at_once,
    broker_running,
    claim_due,
    conversation,
    due_now,
    events_of,
    queue,
    reload,
    send,
)
from tests.samples import sample
from tests.tickets.desk import arrive
from tests.whatsapp.inbound import receive, text_event
from tickets.models import CloseReason, Message, Ticket
from tickets.services.lifecycle import NotAllowed, close_ticket, reopen_ticket
from tickets.services.outbox import (
    cancel_message,
    move_queued,
    release_scheduled,
    reschedule_message,
    resend_message,
    sweep_outbox,
)
from tickets.services.outbox.refusals import AlreadySending, NewerMessage
from tickets.services.outbox.scheduling import _COME
from tickets.services.withdrawing import _BY_END, _BY_REPLY, _WITHDRAW
from tickets.transports import Line, get_transport
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        yield running


def schedule(world: World, ticket: Ticket, text: str = "depois", ahead: timedelta = HOUR, **more: Any) -> Message:
    now = timezone.now()
    return queue(world, ticket, text, scheduled_at=now + ahead, now=now, **more)


def undo(world: World, seconds: Any) -> None:
    """Set the tenant's undo window, also on the people who were loaded before."""
    for person in (world.agent, world.agent2, world.supervisor):
        assert person.tenant is not None
        person.tenant.settings = {"undoSeconds": seconds}
    with service_scope("test"):
        Tenant.objects.filter(pk=world.ipe.pk).update(settings={"undoSeconds": seconds})


def act(world: World, action: Any, message: Message, *, actor: Any = None, **more: Any) -> Any:
    actor = actor or world.agent
    with user_scope(actor):
        return action(actor=actor, message_id=message.pk, **{"now": timezone.now(), **more})


def close(world: World, ticket: Ticket) -> None:
    with user_scope(world.supervisor):
        close_ticket(actor=world.supervisor, ticket_id=ticket.pk, reason_code="SOLVED", now=timezone.now())


def test_outbound_19_a_scheduled_message_leaves_within_seconds_of_its_time(
    committed_world: World, broker: Broker
) -> None:
    ticket = conversation(committed_world)
    message = schedule(committed_world, ticket)
    row = reload(message)
    assert (row.status, row.source, row.wait_reason, row.cancel_if_customer_replies) == (
        "SCHEDULED", "SCHEDULED", None, True,
    )  # fmt: skip
    assert row.scheduled_at is not None
    assert row.sent_at == row.scheduled_at  # the end of the thread
    other = queue(committed_world, ticket, "antes")
    assert release_scheduled(now=row.scheduled_at - timedelta(seconds=1)) == 0
    send(committed_world)
    assert (reload(message).status, reload(other).status) == ("SCHEDULED", "SENT")
    with events_of(committed_world) as events:
        assert release_scheduled(now=row.scheduled_at) == 1
        assert release_scheduled(now=row.scheduled_at) == 0
        (change,) = [data for name, data in events() if name == "message.updated"]
    assert (change["messageId"], change["changes"]["status"]) == (str(message.pk), "QUEUED")
    assert client().llen(SENDING) >= 1  # the sender was woken
    send(committed_world)
    assert (reload(message).status, broker.texts()) == ("SENT", ["antes", "depois"])
    assert reload(message).sent_at < row.scheduled_at
    # The clock asks each 2 s, on the workers that send.
    beat: Any = app.conf.beat_schedule["release-scheduled"]
    assert (beat["task"], beat["schedule"] <= 2) == ("tickets.release_scheduled", True)
    assert app.conf.task_routes["tickets.release_scheduled"] == SENDING


def test_outbound_19_a_customers_reply_cancels_it_and_tells_the_author(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    gone, stays = (
        schedule(committed_world, ticket, "vai?"),
        schedule(committed_world, ticket, "vai sim", cancel_if_customer_replies=False),
    )
    other = schedule(committed_world, conversation(committed_world, phone="+5511977776666"), "de outra")
    waiting = schedule(committed_world, ticket, "já devia ter saído", timedelta(minutes=1))
    release_scheduled(now=timezone.now() + timedelta(minutes=2))
    assert reload(waiting).status == "QUEUED"
    with events_of(committed_world) as events:
        receive(text_event("Já resolvi, obrigada"))
        told = {data["messageId"]: data["changes"] for name, data in events() if name == "message.updated"}
    assert {str(gone.pk), str(waiting.pk)} == set(told)
    assert told[str(gone.pk)]["status"] == "CANCELED"
    assert told[str(gone.pk)]["metadata"] == {"canceledBy": "CUSTOMER_REPLY"}
    row = reload(gone)
    assert (row.status, row.metadata["canceledBy"], row.sent_at <= timezone.now()) == (
        "CANCELED", "CUSTOMER_REPLY", True,
    )  # fmt: skip
    assert [reload(one).status for one in (waiting, stays, other)] == ["CANCELED", "SCHEDULED", "SCHEDULED"]
    release_scheduled(now=timezone.now() + HOUR + timedelta(minutes=1))
    send(committed_world)
    assert sorted(broker.texts()) == ["de outra", "vai sim"]


def test_an_answer_from_the_phone_does_not_cancel_it(committed_world: World) -> None:
    ticket = conversation(committed_world)
    message = schedule(committed_world, ticket)
    arrive(committed_world, "do celular", direction="OUTBOUND")
    assert reload(message).status == "SCHEDULED"


def test_outbound_19_two_hours_of_downtime_give_schedule_missed_and_no_send(
    committed_world: World, broker: Broker
) -> None:
    ticket = conversation(committed_world)
    missed = schedule(committed_world, ticket, "bom dia")
    late = schedule(committed_world, ticket, "boa tarde", 2 * HOUR)
    failed = sample(
        "turbozap_messages_failed_total", instance_name="inst-ipe-01", type="text", reason="SCHEDULE_MISSED"
    )
    release_scheduled(now=timezone.now() + 3 * HOUR - timedelta(minutes=1))
    row = reload(missed)
    assert (row.status, (row.error or {})["code"], (row.error or {})["retryable"]) == (
        "FAILED",
        "SCHEDULE_MISSED",
        True,
    )
    assert row.failed_at is not None
    assert reload(late).status == "QUEUED"  # an hour may pass
    send(committed_world)
    assert broker.texts() == ["boa tarde"]
    labels = {"instance_name": "inst-ipe-01", "type": "text", "reason": "SCHEDULE_MISSED"}
    assert sample("turbozap_messages_failed_total", **labels) == failed + 1
    # A person may still send it: at once.
    again = act(committed_world, resend_message, missed, confirm_duplicate=False)
    assert (again.message.pk, reload(missed).scheduled_at) == (missed.pk, None)
    sweep_outbox(now=timezone.now() + 3 * HOUR)
    send(committed_world)
    assert broker.texts() == ["boa tarde", "bom dia"]


def test_a_line_that_is_away_for_too_long_misses_the_schedule_too(committed_world: World, broker: Broker) -> None:
    message = schedule(committed_world, conversation(committed_world))
    broker.behave(offline=True)
    now = timezone.now() + HOUR
    release_scheduled(now=now)
    send(committed_world)
    assert reload(message).wait_reason == "SESSION_OFFLINE"
    line = _line(committed_world)
    assert claim_due(line=line, now=now + HOUR + timedelta(minutes=1)) == []  # before the sweeper was there
    sweep_outbox(now=now + HOUR - timedelta(minutes=1))
    assert reload(message).status == "QUEUED"
    sweep_outbox(now=now + HOUR + timedelta(minutes=1))
    assert (reload(message).status, (reload(message).error or {})["code"]) == ("FAILED", "SCHEDULE_MISSED")
    broker.behave()
    due_now(committed_world)
    send(committed_world)
    assert broker.texts() == []


def test_the_end_of_its_ticket_cancels_it_and_a_reopening_does_not_bring_it_back(committed_world: World) -> None:
    ticket = conversation(committed_world)
    message = schedule(committed_world, ticket, cancel_if_customer_replies=False)
    with events_of(committed_world) as events:
        close(committed_world, ticket)
        (change,) = [data["changes"] for name, data in events() if name == "message.updated"]
    assert (change["status"], change["metadata"]) == ("CANCELED", {"canceledBy": "TICKET_CLOSED"})
    with user_scope(committed_world.supervisor):
        reopen_ticket(actor=committed_world.supervisor, ticket_id=ticket.pk, now=timezone.now())
    release_scheduled(now=timezone.now() + HOUR)
    assert reload(message).status == "CANCELED"


def test_the_end_of_its_ticket_cancels_also_what_is_due_and_waits(committed_world: World, broker: Broker) -> None:
    broker.behave(offline=True)
    ticket = conversation(committed_world)
    message = schedule(committed_world, ticket, cancel_if_customer_replies=False)
    plain = queue(committed_world, ticket, "de agora")
    release_scheduled(now=timezone.now() + HOUR)
    assert reload(message).status == "QUEUED"
    close(committed_world, ticket)
    row = reload(message)
    assert (row.status, row.metadata["canceledBy"]) == ("CANCELED", "TICKET_CLOSED")
    assert reload(plain).status == "QUEUED"


def test_a_ticket_that_ended_in_another_way_is_seen_when_the_time_comes(committed_world: World) -> None:
    message = schedule(committed_world, conversation(committed_world))
    with tenant_scope(committed_world.ipe.pk):
        Ticket.objects.update(
            status="CLOSED",
            closed_at=timezone.now(),
            close_reason=CloseReason.objects.get(code="SOLVED"),
            assignee=None,
        )
    release_scheduled(now=timezone.now() + HOUR)
    row = reload(message)
    assert (row.status, row.metadata["canceledBy"]) == ("CANCELED", "TICKET_CLOSED")


def test_times_that_are_allowed(committed_world: World) -> None:
    ticket = conversation(committed_world)
    for ahead in (timedelta(seconds=59), timedelta(days=90, seconds=1), -HOUR):
        with pytest.raises(ValidationFailed) as refused:
            schedule(committed_world, ticket, ahead=ahead)
        assert refused.value.details["errors"][0]["field"] == "scheduledAt"
    row = schedule(committed_world, ticket, ahead=timedelta(seconds=60), idempotency_key="k")
    again = accept(
        committed_world, ticket, "depois", idempotency_key="k", scheduled_at=row.scheduled_at,
        now=timezone.now() + timedelta(seconds=59),
    )  # fmt: skip
    assert (again.message.pk, again.replayed) == (row.pk, True)
    with pytest.raises(ValidationFailed):
        act(committed_world, reschedule_message, row, scheduled_at=timezone.now())
    far = timezone.now() + timedelta(days=89)
    with events_of(committed_world) as events:
        assert act(committed_world, reschedule_message, row, scheduled_at=far).scheduled_at == far
        (change,) = [data["changes"] for name, data in events() if name == "message.updated"]
    assert datetime.fromisoformat(change["scheduledAt"]) == datetime.fromisoformat(change["sentAt"]) == far
    assert release_scheduled(now=timezone.now() + HOUR) == 0
    with pytest.raises(NotAllowed):
        act(committed_world, reschedule_message, row, scheduled_at=far, actor=committed_world.agent2)
    with pytest.raises(NotFound):
        act(committed_world, reschedule_message, row, scheduled_at=far, actor=committed_world.outsider)
    assert act(committed_world, cancel_message, row).status == "CANCELED"
    assert reload(row).sent_at <= timezone.now()
    with pytest.raises(AlreadySending):
        act(committed_world, reschedule_message, row, scheduled_at=far)


def test_a_message_for_later_is_accepted_whatever_its_line_does_now(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk), saving():
        seen = Message.objects.get().pk
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(status="disconnected")
        newer = WhatsAppSession.objects.create(
            tenant=committed_world.ipe, owner=committed_world.admin, session_name="Nova", connection_id="nova",
            status="connected",
        )  # fmt: skip
    message = schedule(committed_world, ticket)
    assert reload(message).status == "SCHEDULED"
    # What is only scheduled has not been said: it is no collision.
    accept(
        committed_world, ticket, author=committed_world.agent2, expected_last_message_id=seen, when_unavailable="queue"
    )  # fmt: skip
    with pytest.raises(NewerMessage):
        accept(committed_world, ticket, expected_last_message_id=seen, when_unavailable="queue")
    with tenant_scope(committed_world.ipe.pk):
        move_queued(old_id=committed_world.line.pk, new_id=newer.pk, now=timezone.now())
        assert set(Message.objects.filter(direction="OUTBOUND").values_list("session_id", flat=True)) == {newer.pk}


def test_release_against_reply_has_one_winner(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    for round_ in range(6):
        message = schedule(committed_world, ticket, str(round_))

        def reply() -> None:
            receive(text_event("espere"))

        def release() -> None:
            release_scheduled(now=timezone.now() + HOUR)
            send(committed_world)

        assert at_once(reply, release) == [None, None]
        assert (reload(message).status == "CANCELED") == (str(round_) not in broker.texts())
        assert reload(message).status in {"CANCELED", "SENT"}


def test_outbound_18_what_is_canceled_within_the_undo_window_never_leaves(
    committed_world: World, broker: Broker
) -> None:
    undo(committed_world, 10)
    ticket = conversation(committed_world)
    now = timezone.now()
    rows = [queue(committed_world, ticket, text, now=now) for text in ("um", "dois", "três")]
    row = reload(rows[0])
    assert (row.status, row.wait_reason, row.cancelable_until, row.not_before) == (
        "QUEUED", "UNDO_WINDOW", now + timedelta(seconds=10), now + timedelta(seconds=10),
    )  # fmt: skip
    send(committed_world)
    assert broker.texts() == []
    assert act(committed_world, cancel_message, rows[0]).status == "CANCELED"
    due_now(committed_world)
    send(committed_world)
    assert broker.texts() == ["dois", "três"]


def test_replies_keep_their_order_while_one_may_be_undone(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    undo(committed_world, 30)
    first = queue(committed_world, ticket, "um")
    undo(committed_world, 0)
    second = queue(committed_world, ticket, "dois")
    assert (reload(second).wait_reason, reload(second).cancelable_until) == ("ORDER", None)
    send(committed_world)
    assert broker.texts() == []
    act(committed_world, cancel_message, first)
    send(committed_world)
    assert broker.texts() == ["dois"]


@pytest.mark.parametrize(("setting", "seconds"), [(99, 30), (-5, None), ("5", None), (None, None)])
def test_an_undo_window_is_never_longer_than_half_a_minute(
    committed_world: World, setting: Any, seconds: int | None
) -> None:
    undo(committed_world, setting)
    now = timezone.now()
    ticket = conversation(committed_world)
    row = reload(queue(committed_world, ticket, now=now))
    assert row.cancelable_until == (seconds and now + timedelta(seconds=seconds))
    assert reload(queue(committed_world, ticket, now=now, scheduled_at=now + HOUR)).cancelable_until is None


def test_the_sender_is_woken_at_the_end_of_the_undo_window(committed_world: World) -> None:
    undo(committed_world, 5)
    ticket = conversation(committed_world)
    now = timezone.now().replace(microsecond=0)
    client().delete(SENDING)
    for _ in range(3):
        queue(committed_world, ticket, now=now)
    assert client().llen(SENDING) == 1  # one task for all that may leave in that second, and it runs then
    raw: Any = client().lindex(SENDING, 0)
    assert b'"eta"' in raw
    assert b'"eta": null' not in raw


def test_a_line_that_is_replaced_keeps_the_undo_window(committed_world: World) -> None:
    undo(committed_world, 20)
    message = queue(committed_world, conversation(committed_world))
    line = committed_world.line.pk
    with events_of(committed_world) as events:
        with tenant_scope(committed_world.ipe.pk):
            move_queued(old_id=line, new_id=line, now=timezone.now())
        assert [data["changes"]["sessionId"] for name, data in events() if name == "message.updated"] == [str(line)]
    row = reload(message)
    assert (row.wait_reason, row.not_before) == ("UNDO_WINDOW", row.cancelable_until)
    with tenant_scope(committed_world.ipe.pk):  # what waits for something else waits for that only
        Message.objects.update(wait_reason="CIRCUIT_OPEN", not_before=timezone.now() + HOUR)
        move_queued(old_id=line, new_id=line, now=timezone.now())
    row = reload(message)
    assert (row.wait_reason, row.not_before) == ("UNDO_WINDOW", row.cancelable_until)


def test_schedules_are_found_without_reading_what_was_said(committed_world: World) -> None:
    """Both ask often: one with every batch that arrives, one each 2 s."""
    ticket, other = conversation(committed_world), conversation(committed_world, phone="+5511977776666")
    schedule(committed_world, ticket)
    with service_scope("test"), connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO tickets_message (id, tenant_id, ticket_id, contact_id, session_id, position, direction,
                   type, content, status, source, sent_at, scheduled_at)
               SELECT gen_random_uuid(), %s, %s, %s, %s, g + 10, 'OUTBOUND', 'TEXT', 'x',
                   CASE g %% 10 WHEN 0 THEN 'QUEUED' WHEN 1 THEN 'SCHEDULED' ELSE 'READ' END, 'AGENT', now(),
                   CASE g %% 10 WHEN 1 THEN now() + g * interval '1 hour' END
               FROM generate_series(1, 5000) g""",
            [other.tenant_id, other.pk, other.contact_id, other.session_id],
        )
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        owner.execute("ANALYZE tickets_message")
    now = timezone.now()
    asked: dict[str, Any] = {
        "now": now, "late": now - HOUR, "live": ["OPEN"], "most": 500, "missed": "{}", "why": "{}",
        "tenant": ticket.tenant_id, "contacts": [ticket.contact_id], "tickets": [ticket.pk],
    }  # fmt: skip
    for statement, scope, index in (
        (_COME, service_scope("test"), "message_scheduled"),
        (_WITHDRAW.format(rule=_BY_REPLY), tenant_scope(ticket.tenant_id), "message_scheduled_for"),
        (_WITHDRAW.format(rule=_BY_END), tenant_scope(ticket.tenant_id), "message_scheduled_for"),
    ):
        with scope, connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + statement, asked)
            plan = "\n".join(row[0] for row in cursor.fetchall())
        assert f"using {index} " in plan or f"on {index} " in plan, plan
        assert "Seq Scan on tickets_message" not in plan


def _line(world: World) -> Line:
    with tenant_scope(world.ipe.pk):
        line = get_transport("WHATSAPP").line(world.line.pk)
    assert line is not None
    return line
