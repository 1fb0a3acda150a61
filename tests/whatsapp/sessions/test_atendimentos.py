"""Atendimentos follow their tickets and their actions lead them; answers on a replaced line find the new one."""

from __future__ import annotations

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, user_scope
from tests.conftest import World
from tests.outbound import Broker, conversation, queue, reload, send, until
from tests.whatsapp.inbound import receive, text_event
from tests.whatsapp.sessions.conftest import asker, fresh, sync
from tickets.models import Ticket
from tickets.services.lifecycle import UnableToAct, close_ticket, snooze_ticket, take_ticket, wake_ticket
from tickets.services.outbox import send_due
from whatsapp.models import WhatsAppAtendimento
from whatsapp.services.atendimento_actions import (
    UnableToFollow,
    close_atendimento,
    pause_atendimento,
    resume_atendimento,
)
from whatsapp.services.sessions.acting import carry_out
from whatsapp.services.sessions.wishes import NewSession, create_session

pytestmark = pytest.mark.django_db(transaction=True)


def rows() -> list[str]:
    """The states of all atendimentos, oldest first."""
    with service_scope("test"):
        return list(WhatsAppAtendimento.objects.order_by("created_at", "id").values_list("status", flat=True))


def ticket_now(ticket: Ticket) -> str:
    with service_scope("test"):
        return str(Ticket.objects.values_list("status", flat=True).get(pk=ticket.pk))


def test_session_n14_the_row_follows_its_ticket_and_a_later_episode_is_a_new_row(committed_world: World) -> None:
    agent, ticket = committed_world.agent, conversation(committed_world)
    assert rows() == ["ATIVO"]
    with user_scope(agent):
        take_ticket(actor=agent, ticket_id=ticket.pk, now=timezone.now())
        snooze_ticket(actor=agent, ticket_id=ticket.pk, until=None, now=timezone.now())
    assert rows() == ["PAUSADO"]
    receive(text_event("voltei"))  # the customer's word wakes it
    assert (rows(), ticket_now(ticket)) == (["ATIVO"], "ASSIGNED")
    with user_scope(agent):
        close_ticket(actor=agent, ticket_id=ticket.pk, reason_code="SOLVED", now=timezone.now())
    assert rows() == ["FECHADO"]
    receive(text_event("mais uma coisa"))  # inside the reopen window: the same ticket, another episode
    assert (rows(), ticket_now(ticket)) == (["FECHADO", "ATIVO"], "ASSIGNED")


def test_session_n14_an_action_on_the_row_leads_its_ticket(committed_world: World) -> None:
    supervisor, ticket = committed_world.supervisor, conversation(committed_world)
    with service_scope("test"):
        row = WhatsAppAtendimento.objects.get(ticket_id=ticket.pk)
    with user_scope(supervisor):
        pause_atendimento(atendimento_id=row.pk, actor=supervisor, now=timezone.now())
    assert (rows(), ticket_now(ticket)) == (["PAUSADO"], "PENDING")
    with user_scope(supervisor):
        resume_atendimento(atendimento_id=row.pk, actor=supervisor, now=timezone.now())
    assert (rows(), ticket_now(ticket)) == (["ATIVO"], "OPEN")
    with user_scope(supervisor), pytest.raises(UnableToAct):
        wake_ticket(actor=supervisor, ticket_id=ticket.pk, now=timezone.now())
    with user_scope(supervisor):
        close_atendimento(atendimento_id=row.pk, actor=supervisor, now=timezone.now())
    assert (rows(), ticket_now(ticket)) == (["FECHADO"], "RESOLVED")
    with user_scope(supervisor), pytest.raises(UnableToFollow):
        resume_atendimento(atendimento_id=row.pk, actor=supervisor, now=timezone.now())


def test_session_n11_after_the_same_phone_pairs_anew_answers_leave_through_the_new_line(
    committed_world: World, broker: Broker
) -> None:
    owner, old = committed_world.admin, committed_world.line
    broker.control("ipe-01/open", {"phone": "5511912345678"})
    sync()
    until(lambda: [sync(), fresh(old).phone_number][1] == "+5511912345678")
    message = queue(committed_world, conversation(committed_world), "pela nova")
    assert owner.tenant_id is not None
    wish = NewSession(tenant_id=owner.tenant_id, owner=owner, name="Nova")
    new = create_session(wish=wish, asker=asker(owner), now=timezone.now()).session
    new = carry_out(session=new, asker=asker(owner)).session
    broker.control(f"{new.broker_instance_id}/open", {"phone": "5511912345678"})
    until(lambda: [sync(), fresh(new).connected][1])
    row = fresh(old)
    assert (row.status, row.duplicate_reason, row.replaced_by) == (
        "disconnected", "REPLACED_BY_NEW_CONNECTION", new.pk,
    )  # fmt: skip
    second = queue(committed_world, conversation(committed_world, "de novo"), "também")
    send(committed_world)
    send_due(session_id=new.pk)
    assert {reload(message).status, reload(second).status} == {"SENT"}
    assert broker.texts(new.broker_instance_id or "") == ["pela nova", "também"]
