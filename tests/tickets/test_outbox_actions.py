"""Cancel, resend, dismiss; settling by ack, echo and late answers (spec/outbound.md section 10)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import tenant_scope, user_scope
from leadengine.errors import NotFound
from tests.conftest import World
from tests.outbound import Broker, broker_running, claim_due, conversation, queue, reload, send
from tests.whatsapp.inbound import receive, text_event
from tests.whatsapp.wire import closed_port
from tickets.models import Message, MessageReaction, OutboundAttempt, QueueMembership, Ticket
from tickets.services.lifecycle import NotAllowed
from tickets.services.outbox import (
    cancel_message,
    dismiss_message,
    find_own_message,
    resend_message,
    sweep_outbox,
)
from tickets.services.outbox.claiming import Claim
from tickets.services.outbox.refusals import AlreadySending, IdempotencyKeyReused, ResendNotAllowed, TicketClosed
from tickets.services.outbox.settling import Try, settle
from tickets.transports import OutcomeUnknown, Refused, Retryable, Sent, get_transport
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        yield running


def claim(world: World) -> Claim:
    """Claim the one due row, as a sender would."""
    transport = get_transport("WHATSAPP")
    with tenant_scope(world.ipe.pk):
        line = transport.line(world.line.pk)
    assert line is not None
    (found,) = claim_due(line=line, now=timezone.now())
    return found


def answer(claimed: Claim, result: Any) -> None:
    tried = Try(result, timezone.now(), 5)
    settle(transport=get_transport("WHATSAPP"), claim=claimed, tried=tried)


def lose_worker() -> None:
    sweep_outbox(now=timezone.now() + timedelta(minutes=2))


def act(world: World, action: Any, message: Message, *, actor: Any = None, **more: Any) -> Any:
    actor = actor or world.agent
    with user_scope(actor):
        return action(actor=actor, message_id=message.pk, now=timezone.now(), **more)


def echo(text: str, external_id: str, sent_at: datetime | None = None) -> dict[str, Any]:
    """A raw echo of a message that left, as the broker posts it."""
    at = int((sent_at or datetime.now(UTC)).timestamp())
    key = {"remoteJid": "5511988887777@s.whatsapp.net", "fromMe": True, "id": external_id}
    message = {"key": key, "messageTimestamp": str(at), "message": {"conversation": text}, "status": "PENDING"}
    payload = {"iid": "ipe-01", "raw": {"messages": [message], "type": "append"}}
    return {"event": "WHATSAPP_MESSAGES_UPSERT", "instanceId": "ipe-01", "timestamp": at, "payload": payload}


def ack(external_id: str, status: int) -> dict[str, Any]:
    key = {"remoteJid": "5511988887777@s.whatsapp.net", "fromMe": True, "id": external_id}
    updates = {"updates": [{"key": key, "update": {"status": status}}]}
    return {"event": "WHATSAPP_MESSAGES_UPDATE", "instanceId": "ipe-01", "payload": {"iid": "ipe-01", "raw": updates}}


def test_cancel_before_the_claim_sends_nothing(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    message, other = queue(committed_world, ticket), queue(committed_world, ticket, "outra")
    assert act(committed_world, cancel_message, message).status == "CANCELED"
    assert act(committed_world, cancel_message, message).status == "CANCELED"
    send(committed_world)
    assert broker.texts() == ["outra"]
    with pytest.raises(AlreadySending) as refused:
        act(committed_world, cancel_message, other)
    assert refused.value.details == {"status": "SENT"}


def test_outbound_18_cancel_after_the_claim_is_refused(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world))
    claim(committed_world)
    with pytest.raises(AlreadySending):
        act(committed_world, cancel_message, message)
    assert reload(message).status == "SENDING"


def test_only_author_and_supervisor_act_and_only_where_they_see(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world))
    with pytest.raises(NotAllowed):
        act(committed_world, cancel_message, message, actor=committed_world.agent2)
    with pytest.raises(NotFound):
        act(committed_world, cancel_message, message, actor=committed_world.outsider)
    with tenant_scope(committed_world.ipe.pk):
        QueueMembership.objects.all().delete()
    with pytest.raises(NotFound):
        act(committed_world, cancel_message, message)
    assert act(committed_world, cancel_message, message, actor=committed_world.supervisor).status == "CANCELED"


def test_failed_row_that_never_left_goes_again_itself(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    message = queue(committed_world, ticket)
    answer(claim(committed_world), Refused("INVALID_TO", "x"))
    assert reload(message).status == "FAILED"
    queued = act(committed_world, resend_message, message, confirm_duplicate=False)
    assert (queued.message.pk, queued.replayed) == (message.pk, False)
    row = reload(message)
    assert (row.status, row.attempts, row.error, row.failed_at) == ("QUEUED", 0, None, None)
    send(committed_world)
    assert reload(message).status == "SENT"
    assert len(broker.sent()) == 1


def test_outbound_20_resend_of_what_may_have_left_needs_a_word_and_makes_one_new_row(
    committed_world: World, broker: Broker
) -> None:
    ticket = conversation(committed_world)
    message = queue(committed_world, ticket, "talvez")
    answer(claim(committed_world), OutcomeUnknown("BROKER_TIMEOUT", "x"))
    with pytest.raises(ResendNotAllowed):
        act(committed_world, resend_message, message, confirm_duplicate=False)
    first = act(committed_world, resend_message, message, confirm_duplicate=True)
    second = act(committed_world, resend_message, message, confirm_duplicate=True)
    assert (first.message.pk, second.replayed) == (second.message.pk, True)
    assert (first.message.resend_of_id, first.message.position, first.message.content) == (message.pk, 3, "talvez")
    send(committed_world)
    assert reload(message).status == "UNCONFIRMED"
    assert broker.texts() == ["talvez"]
    with pytest.raises(ResendNotAllowed):
        act(committed_world, resend_message, first.message, confirm_duplicate=True)  # it is SENT


def test_outbound_20_a_copy_that_was_canceled_does_not_keep_the_next_from_being_made(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world), "talvez")
    answer(claim(committed_world), OutcomeUnknown("BROKER_TIMEOUT", "x"))
    for _ in range(2):
        copy = act(committed_world, resend_message, message, confirm_duplicate=True)
        assert (copy.replayed, copy.message.status) == (False, "QUEUED")
        act(committed_world, cancel_message, copy.message)
    last = act(committed_world, resend_message, message, confirm_duplicate=True).message
    again = act(committed_world, resend_message, message, confirm_duplicate=True)
    assert (again.message.pk, again.replayed) == (last.pk, True)


def test_outbound_20_resend_decides_on_what_the_row_is_once_the_ticket_is_locked(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two who read the row FAILED, the one who waited for the lock finds it QUEUED; an ack may have come, too."""
    message = queue(committed_world, conversation(committed_world))
    answer(claim(committed_world), Refused("INVALID_TO", "x"))
    find = find_own_message

    def read_early(*given: Any) -> Message:
        found = find(*given)
        Message.objects.filter(pk=found.pk).update(external_id="X1")
        return found

    monkeypatch.setattr("tickets.services.outbox.actions.find_own_message", read_early)
    with pytest.raises(ResendNotAllowed):
        act(committed_world, resend_message, message, confirm_duplicate=False)
    assert reload(message).status == "FAILED"


def test_outbound_20_resend_after_a_refused_connection_reuses_the_row(committed_world: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL, settings.OUTBOUND_MAX_ATTEMPTS = f"http://127.0.0.1:{closed_port()}", 1
    message = queue(committed_world, conversation(committed_world))
    send(committed_world)
    row = reload(message)
    assert (row.status, (row.error or {})["cause"], row.attempts) == ("FAILED", "BROKER_UNREACHABLE", 1)
    again = act(committed_world, resend_message, message, confirm_duplicate=False)
    assert (again.message.pk, reload(message).status, reload(message).attempts) == (message.pk, "QUEUED", 0)


def test_a_resent_message_leaves_through_the_line_that_replaced_its_own(committed_world: World) -> None:
    ticket = conversation(committed_world)
    message, doubtful = queue(committed_world, ticket, "um"), queue(committed_world, ticket, "dois")
    answer(claim(committed_world), Refused("INVALID_TO", "x"))
    answer(claim(committed_world), OutcomeUnknown("BROKER_TIMEOUT", "x"))
    with tenant_scope(committed_world.ipe.pk), saving():
        newer = WhatsAppSession.objects.create(
            tenant=committed_world.ipe, owner=committed_world.admin, session_name="Nova", connection_id="nova",
            status="connected",
        )  # fmt: skip
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(replaced_by=newer.pk, status="disconnected")
    for one in (message, doubtful):
        again = act(committed_world, resend_message, one, confirm_duplicate=True)
        assert reload(again.message).session_id == newer.pk


def test_resend_gives_what_was_asked_where_the_broker_had_altered_it(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world), "{oi|olá}")
    answer(claim(committed_world), OutcomeUnknown("BROKER_TIMEOUT", "x"))
    with tenant_scope(committed_world.ipe.pk):
        asked = {"requestedText": "{oi|olá}", "settledBy": "echo", "client": {"a": 1}}
        Message.objects.filter(pk=message.pk).update(content="olá", metadata=asked)
    copy = reload(act(committed_world, resend_message, message, confirm_duplicate=True).message)
    assert (copy.content, copy.metadata) == ("{oi|olá}", {"client": {"a": 1}})


def test_a_callers_key_is_never_taken_for_a_resend(committed_world: World) -> None:
    ticket = conversation(committed_world)
    message = queue(committed_world, ticket)
    answer(claim(committed_world), OutcomeUnknown("BROKER_TIMEOUT", "x"))
    queue(committed_world, ticket, "outra", idempotency_key=f"resend:{message.pk}:1")
    with pytest.raises(IdempotencyKeyReused):
        act(committed_world, resend_message, message, confirm_duplicate=True)


def test_outbound_20_resend_of_failed_after_acceptance_needs_a_word_too(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world))
    answer(claim(committed_world), Sent("X1", 200, "{}"))
    receive(ack("X1", 0))
    assert reload(message).status == "FAILED"
    with pytest.raises(ResendNotAllowed):
        act(committed_world, resend_message, message, confirm_duplicate=False)
    assert act(committed_world, resend_message, message, confirm_duplicate=True).message.pk != message.pk


def test_nothing_is_sent_again_into_an_ended_ticket(committed_world: World) -> None:
    from tickets.services.lifecycle import close_ticket

    ticket = conversation(committed_world)
    message = queue(committed_world, ticket)
    answer(claim(committed_world), Refused("INVALID_TO", "x"))
    with user_scope(committed_world.supervisor):
        close_ticket(actor=committed_world.supervisor, ticket_id=ticket.pk, reason_code="SOLVED", now=timezone.now())
    with pytest.raises(TicketClosed):
        act(committed_world, resend_message, message, confirm_duplicate=False)


def test_dismiss_hides_the_alert_and_changes_no_state(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world))
    assert act(committed_world, dismiss_message, message).dismissed_at is None  # nothing to hide yet
    answer(claim(committed_world), OutcomeUnknown("BROKER_TIMEOUT", "x"))
    row = act(committed_world, dismiss_message, message)
    assert row.dismissed_at is not None
    assert row.status == "UNCONFIRMED"


def test_lost_worker_is_settled_by_its_echo(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world), "oi")
    claim(committed_world)
    sweep_outbox(now=timezone.now() + timedelta(seconds=85))
    assert reload(message).status == "SENDING"
    lose_worker()
    row = reload(message)
    assert row.status == "UNCONFIRMED"
    assert row.error is not None
    assert row.error["code"] == "WORKER_LOST"
    with tenant_scope(committed_world.ipe.pk):
        assert OutboundAttempt.objects.values_list("outcome", "code").get() == ("UNCONFIRMED", "WORKER_LOST")
    receive(echo("oi", "X9"))
    row = reload(message)
    assert (row.status, row.external_id, row.error) == ("SENT", "X9", None)
    with tenant_scope(committed_world.ipe.pk):
        assert (Ticket.objects.get().outbound_count, Message.objects.count()) == (1, 2)


def test_echo_finds_a_row_that_had_waited_for_hours(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world), "oi")
    with tenant_scope(committed_world.ipe.pk):
        old = timezone.now() - timedelta(hours=5)
        Message.objects.filter(pk=message.pk).update(sent_at=old, received_at=old)
    claimed = claim(committed_world)
    receive(echo("oi", "X9"))  # it comes before the answer: parked
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 2
    answer(claimed, OutcomeUnknown("BROKER_TIMEOUT", "x"))
    receive(echo("oi", "X9"))
    assert reload(message).external_id == "X9"


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        (Sent("X1", 200, "{}"), ("SENT", None)),
        (Retryable("BROKER_UNREACHABLE", "x"), ("FAILED", "BROKER_UNREACHABLE")),
        (Refused("INVALID_TO", "x"), ("FAILED", "INVALID_TO")),
        (OutcomeUnknown("BROKER_TIMEOUT", "x"), ("UNCONFIRMED", "WORKER_LOST")),
    ],
)
def test_late_answer_moves_its_own_row_and_never_back_to_the_queue(
    committed_world: World, late: Any, expected: tuple[str, str | None]
) -> None:
    message = queue(committed_world, conversation(committed_world))
    claimed = claim(committed_world)
    lose_worker()
    answer(claimed, late)
    row = reload(message)
    assert (row.status, (row.error or {}).get("code")) == expected
    with tenant_scope(committed_world.ipe.pk):
        assert OutboundAttempt.objects.count() == 1
        assert Ticket.objects.get().outbound_count == (expected[0] == "SENT")


def test_answer_after_another_settled_the_row_changes_nothing(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world), "oi")
    claimed = claim(committed_world)
    lose_worker()
    receive(echo("oi", "X9"))
    answer(claimed, Refused("INVALID_TO", "x"))
    assert (reload(message).status, reload(message).external_id) == ("SENT", "X9")
    with tenant_scope(committed_world.ipe.pk):
        assert Ticket.objects.get().outbound_count == 1
        assert OutboundAttempt.objects.values_list("outcome", "code").get() == ("LATE", "INVALID_TO")


def test_acks_that_came_before_the_answer_are_applied_when_it_binds(committed_world: World) -> None:
    message = queue(committed_world, conversation(committed_world))
    claimed = claim(committed_world)
    receive(ack("X1", 4), ack("X1", 3))
    answer(claimed, Sent("X1", 200, "{}"))
    row = reload(message)
    assert row.status == "READ"
    assert row.delivered_at
    assert row.read_at
    receive(ack("X1", 0), ack("X1", 2), ack("X1", 3))
    assert reload(message).status == "READ"
    receive(ack("X1", 5))
    assert reload(message).played_at is not None


def test_answer_with_the_id_of_an_echo_row_makes_one_of_two(committed_world: World) -> None:
    ticket = conversation(committed_world)
    message = queue(committed_world, ticket, "{oi|olá}")
    claimed = claim(committed_world)
    lose_worker()
    left = datetime.now(UTC).replace(microsecond=0)
    receive(echo("olá", "X1", left), ack("X1", 3))  # the broker altered the text: it looks like typed on the phone
    conversation(committed_world, "e aí?")
    with tenant_scope(committed_world.ipe.pk):
        typed = Message.objects.get(external_id="X1")
        assert (typed.source, typed.status, typed.position) == ("PHONE", "DELIVERED", 3)
        MessageReaction.objects.create(
            tenant=committed_world.ipe, message=typed, actor="+5511988887777", emoji="👍", at=left
        )
        Message.objects.filter(content="e aí?").update(reply_to=typed)
        assert Ticket.objects.get().outbound_count == 1
    answer(claimed, Sent("X1", 200, "{}"))
    row = reload(message)
    assert (row.status, row.external_id, row.sent_at, row.content) == ("DELIVERED", "X1", left, "olá")
    assert row.delivered_at is not None
    assert row.metadata["requestedText"] == "{oi|olá}"
    with tenant_scope(committed_world.ipe.pk):
        gone = Message.objects.get(pk=typed.pk)
        assert (gone.status, gone.external_id, gone.metadata["mergedInto"]) == ("CANCELED", None, str(message.pk))
        positions = list(Message.objects.order_by("position").values_list("position", flat=True))
        after = Ticket.objects.get()
        assert positions == list(range(1, after.last_position + 1)) == [1, 2, 3, 4]
        assert (after.message_count, after.outbound_count, after.inbound_count) == (3, 1, 2)
        assert MessageReaction.objects.get().message_id == message.pk
        assert Message.objects.get(content="e aí?").reply_to_id == message.pk
    receive(ack("X1", 4))
    assert reload(message).status == "READ"
    receive(text_event("fim"))
    with tenant_scope(committed_world.ipe.pk):
        assert Ticket.objects.get().outbound_count == 1
