"""A session that is replaced while messages are on their way, or come back from it (spec/sessions.md section 8)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import tenant_scope, user_scope
from leadengine.redis import client
from tests.api import by_cookie
from tests.conftest import World
from tests.outbound import claim_due, conversation, events_of, queue, reload, send
from tests.whatsapp.inbound import receive, text_event
from tickets.models import Message
from tickets.services.outbox import cancel_message, release_scheduled
from tickets.services.outbox.settling import Try, settle
from tickets.transports import LineOffline, Retryable, Sent, get_transport
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)


def line_of(world: World, session_id: Any = None) -> Any:
    with tenant_scope(world.ipe.pk):
        return get_transport("WHATSAPP").line(session_id or world.line.pk)


def make_line(world: World, name: str = "nova") -> WhatsAppSession:
    with tenant_scope(world.ipe.pk), saving():
        made: WhatsAppSession = WhatsAppSession.objects.create(
            tenant=world.ipe, owner=world.admin, session_name=name, connection_id=name, broker_instance_id=name,
            status="connected", desired_state="connected", capabilities={"rate": None},
        )  # fmt: skip
        return made


def change(world: World, **columns: Any) -> None:
    with tenant_scope(world.ipe.pk), saving():
        WhatsAppSession.objects.filter(pk=world.line.pk).update(**columns)


def replace(world: World, newer: WhatsAppSession) -> None:
    """As a transaction does that a door or a sender does not wait for: what waits has been moved before."""
    change(world, status="disconnected", replaced_by=newer.pk)


def answer(claim: Any, result: Any) -> None:
    settle(transport=get_transport("WHATSAPP"), claim=claim, tried=Try(result, timezone.now(), 5))


def ids(claims: list[Any]) -> list[Any]:
    return [claim.order.message_id for claim in claims]


def test_what_is_accepted_onto_a_replaced_line_leaves_through_its_last_replacement(committed_world: World) -> None:
    ticket = conversation(committed_world)
    between, last = make_line(committed_world, "b"), make_line(committed_world, "c")
    late = queue(committed_world, ticket, "um")
    planned = queue(committed_world, ticket, "dois", scheduled_at=timezone.now() + timedelta(hours=1))
    replace(committed_world, between)
    with tenant_scope(committed_world.ipe.pk), saving():
        WhatsAppSession.objects.filter(pk=between.pk).update(replaced_by=last.pk, status="disconnected")
    client().flushdb()
    with events_of(committed_world) as events:
        assert send(committed_world) is None
        moved = {data["messageId"] for name, data in events() if data.get("changes", {}).get("sessionId")}
    assert moved == {str(late.pk), str(planned.pk)}
    assert client().exists(f"wake:send:{last.pk}")
    assert ids(claim_due(line=line_of(committed_world, last.pk), now=timezone.now())) == [late.pk]
    assert reload(planned).session_id == last.pk


def test_a_door_that_names_a_replaced_line_uses_what_replaced_it(committed_world: World) -> None:
    ticket = conversation(committed_world)
    newer = make_line(committed_world)
    replace(committed_world, newer)
    person = by_cookie(committed_world.agent)

    def ask(path: str, **body: Any) -> Message:
        answer = person.post(path, {"text": "x", **body}, "application/json")
        assert answer.status_code == 202, answer.content
        with tenant_scope(committed_world.ipe.pk):
            found: Message = Message.objects.select_related("ticket").get(pk=answer.json()["data"]["messageId"])
            return found

    named = "/api/integrations/whatsapp/instances/inst-ipe-01/messages"
    rows = [
        ask(f"/api/tickets/{ticket.pk}/messages", instanceId="inst-ipe-01"),
        ask(named, to="+5511988887777"),
        ask(named, to="+5511977776666"),
    ]
    assert {row.session_id for row in rows} == {newer.pk}
    assert [row.ticket_id for row in rows[:2]] == [ticket.pk] * 2  # its ticket is open still
    assert rows[2].ticket.session_id == newer.pk


def test_what_comes_back_to_a_line_that_was_replaced_meanwhile_moves_on(committed_world: World) -> None:
    ticket, line = conversation(committed_world), line_of(committed_world)
    row = queue(committed_world, ticket)
    (claim,) = claim_due(line=line, now=timezone.now())
    newer = make_line(committed_world)
    replace(committed_world, newer)
    answer(claim, LineOffline("INSTANCE_DISCONNECTED", ""))
    assert reload(row).wait_reason == "SESSION_OFFLINE"
    assert claim_due(line=line, now=timezone.now()) == []  # the sender still has the line as it was
    moved = reload(row)
    assert (moved.session_id, moved.wait_reason, moved.not_before) == (newer.pk, None, None)


def test_a_replacement_that_is_gone_leaves_its_rows_where_they_are(committed_world: World) -> None:
    row = queue(committed_world, conversation(committed_world))
    newer = make_line(committed_world)
    replace(committed_world, newer)
    with tenant_scope(committed_world.ipe.pk), saving():
        WhatsAppSession.objects.filter(pk=newer.pk).update(deleted_at=timezone.now())
    assert send(committed_world) is None
    assert (reload(row).session_id, reload(row).status) == (committed_world.line.pk, "QUEUED")


def test_a_busy_sender_uses_the_line_as_it_is_now(committed_world: World) -> None:
    line = line_of(committed_world)
    queue(committed_world, conversation(committed_world))
    change(committed_world, broker_instance_id="renamed")
    (claim,) = claim_due(line=line, now=timezone.now())
    assert claim.order.line.reference == "renamed"


def test_an_offline_answer_that_comes_after_the_reconnect_holds_back_nobody(committed_world: World) -> None:
    first, second = conversation(committed_world), conversation(committed_world, phone="+5511977776666")
    rows = [queue(committed_world, first), queue(committed_world, second)]
    line, now = line_of(committed_world), timezone.now()
    change(committed_world, connected_at=now - timedelta(hours=1))
    claims = claim_due(line=line, now=now)
    answer(claims[0], LineOffline("INSTANCE_DISCONNECTED", ""))
    answer(claims[1], LineOffline("INSTANCE_DISCONNECTED", ""))
    assert claim_due(line=line, now=now + timedelta(seconds=1)) == []
    change(committed_world, connected_at=now + timedelta(seconds=2))
    again = claim_due(line=line, now=now + timedelta(seconds=3))
    assert ids(again) == [row.pk for row in rows]
    answer(again[0], LineOffline("INSTANCE_DISCONNECTED", ""))  # it is offline anew
    answer(again[1], Sent("X1", 200, ""))
    assert claim_due(line=line, now=now + timedelta(seconds=5)) == []


def on_two_lines(world: World) -> tuple[Message, Message, WhatsAppSession]:
    """Two replies of one ticket; the one behind leaves through another line."""
    ticket, other = conversation(world), make_line(world, "outra")
    at = timezone.now()
    first = queue(world, ticket, "um", scheduled_at=at + timedelta(seconds=60), now=at)
    release_scheduled(now=at + timedelta(minutes=2))
    second = queue(world, ticket, "dois", session=line_of(world, other.pk))
    assert claim_due(line=line_of(world, other.pk), now=timezone.now()) == []
    client().flushdb()
    return first, second, other


def test_the_line_of_the_next_in_a_ticket_wakes_when_what_stood_before_it_has_left(committed_world: World) -> None:
    _, second, other = on_two_lines(committed_world)
    (claim,) = claim_due(line=line_of(committed_world), now=timezone.now())
    answer(claim, Retryable("BROKER_UNREACHABLE", ""))
    assert not client().exists(f"wake:send:{other.pk}")  # it comes first still
    with tenant_scope(committed_world.ipe.pk):
        Message.objects.filter(pk=claim.order.message_id).update(not_before=None)
    (claim,) = claim_due(line=line_of(committed_world), now=timezone.now())
    answer(claim, Sent("X1", 200, ""))
    assert client().exists(f"wake:send:{other.pk}")
    assert ids(claim_due(line=line_of(committed_world, other.pk), now=timezone.now())) == [second.pk]


@pytest.mark.parametrize("by", ["the customer", "its author"])
def test_the_line_of_the_next_in_a_ticket_wakes_when_what_stood_before_it_is_withdrawn(
    committed_world: World, by: str
) -> None:
    first, _, other = on_two_lines(committed_world)
    if by == "its author":
        with user_scope(committed_world.agent):
            cancel_message(actor=committed_world.agent, message_id=first.pk, now=timezone.now())
    else:
        receive(text_event("Já resolvi"))
    assert reload(first).status == "CANCELED"
    assert client().exists(f"wake:send:{other.pk}")
