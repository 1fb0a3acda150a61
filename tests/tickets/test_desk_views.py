"""The desk's pages and fragments: status, one happy case and each refusal (browsers: tests/e2e)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.urls import reverse

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope, user_scope
from tests.conftest import World
from tests.outbound import queue
from tests.whatsapp.inbound import receive, text_event
from tickets.models import Message, MessageMedia, Note, ReadMarker, Ticket
from tickets.services.lifecycle import add_note, take_ticket
from tickets.services.outbox.circuit import record_call
from tickets.views.shown import state_of

FETCH = {"X-Requested-With": "fetch"}


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def world(committed_world: World) -> World:
    """Committed, since the inbox of webhooks has a connection of its own."""
    return committed_world


@pytest.fixture
def ticket(world: World) -> Ticket:
    receive(text_event("Oi"), text_event("Tudo bem?"))
    with service_scope("test"):
        return Ticket.objects.get()


def url(name: str, ticket_id: UUID | str) -> str:
    return reverse(f"desk:{name}", args=[ticket_id])


PARTS = ("ticket", "thread", "header", "context", "notices")
ACTIONS = ("send", "take", "close", "reopen", "read", "unread", "draft")


def test_a_foreign_an_invisible_and_an_unknown_ticket_are_404_everywhere(world: World, ticket: Ticket) -> None:
    with user_scope(world.agent2):
        take_ticket(actor=world.agent2, ticket_id=ticket.pk, now=datetime.now(UTC))
    unknown = UUID(int=7)
    for user, ticket_id in ((world.outsider, ticket.pk), (world.agent, ticket.pk), (world.agent2, unknown)):
        client = signed_in(user)
        for part in PARTS:
            for headers in ({}, FETCH):
                answer = client.get(url(part, ticket_id), headers=headers)
                assert answer.status_code == 404, (part, user)
                assert "Oi" not in answer.content.decode()
        for action in ACTIONS:
            form = {"text": "x", "reason": "SOLVED", "position": "1", "kind": "REPLY", "body": "x"}
            # Whoever would see it, if nobody had it, learns that a colleague has it.
            expected = {404, 409} if action == "take" and user == world.agent else {404}
            assert client.post(url(action, ticket_id), form, headers=FETCH).status_code in expected, (action, user)


def test_nobody_signs_in_first(world: World, ticket: Ticket) -> None:
    client = Client()
    assert client.get("/inbox/")["Location"] == "/login/?next=/inbox/"
    assert client.get(url("thread", ticket.pk), headers=FETCH).status_code == 401
    assert client.post(url("take", ticket.pk)).status_code == 302
    world.agent.is_active = False
    with service_scope("test"):
        world.agent.save()
    assert signed_in(world.agent).get("/inbox/").status_code == 302


def test_the_page_is_whole_and_the_pane_alone(world: World, ticket: Ticket) -> None:
    client = signed_in(world.agent)
    whole = client.get(url("ticket", ticket.pk))
    pane = client.get(url("ticket", ticket.pk), headers={"HX-Request": "true"})
    assert b"<html" in whole.content
    assert b"<html" not in pane.content
    for answer in (whole, pane):
        assert b"Tudo bem?" in answer.content
        assert b"style=" not in answer.content
        assert "no-store" in answer["Cache-Control"]


def test_catch_up_gives_what_came_after_a_cursor_and_states_on_screen(world: World, ticket: Ticket) -> None:
    client = signed_in(world.agent)
    new = client.get(url("thread", ticket.pk) + "?after=1.1", headers=FETCH).content.decode()
    assert "Tudo bem?" in new
    assert ">Oi<" not in new
    assert 'data-cursor="2.1"' in new
    states = client.get(url("thread", ticket.pk) + "?states=1..1", headers=FETCH).content.decode()
    assert ">Oi<" in states
    assert "Tudo bem?" not in states
    assert client.get(url("thread", ticket.pk) + "?before=nonsense", headers=FETCH).status_code == 404


def test_a_bubble_that_waits_says_until_when_and_can_be_taken_back(world: World, ticket: Ticket) -> None:
    client, now = signed_in(world.agent), datetime.now(UTC)
    at = now.replace(month=3, day=14, hour=12, minute=0, second=0, microsecond=0)
    message = queue(world, ticket, "depois", scheduled_at=now + timedelta(hours=1))
    with service_scope("test"):
        Message.objects.filter(pk=message.pk).update(scheduled_at=at, sent_at=at)

    def bubble() -> str:
        page = client.get(url("thread", ticket.pk) + f"?states={message.position}..{message.position}", headers=FETCH)
        return page.content.decode()

    cancel, shown = reverse("desk:cancel", args=[message.pk]), bubble()
    assert 'data-status="SCHEDULED"' in shown
    assert "14/03 09:00" in shown  # São Paulo
    assert (cancel in shown, "state-waiting" in shown) == (True, True)
    with service_scope("test"):
        waiting = {"status": "QUEUED", "wait_reason": "UNDO_WINDOW", "not_before": now + timedelta(seconds=9)}
        Message.objects.filter(pk=message.pk).update(**waiting)
        row = Message.objects.get(pk=message.pk)
    state = state_of(row, world.agent)
    assert (state and state.actions, cancel in bubble()) == (("undo",), True)
    said = set()
    for why in ({}, {"canceledBy": "CUSTOMER_REPLY"}, {"canceledBy": "TICKET_CLOSED"}):
        row.status, row.metadata = "CANCELED", why
        state = state_of(row, world.agent)
        assert state is not None
        assert (state.tone, state.actions) == ("canceled", ("copy",))
        said.add(state.words)
    assert len(said) == 3
    assert client.post(cancel, headers=FETCH).status_code == 200
    assert cancel not in bubble()


def test_a_private_note_is_in_no_html_of_another_agent(world: World, ticket: Ticket) -> None:
    with user_scope(world.agent):
        private, now = Note.Visibility.PRIVATE, datetime.now(UTC)
        add_note(actor=world.agent, ticket_id=ticket.pk, body="só entre nós", visibility=private, now=now)
    for user, shown in ((world.agent, True), (world.agent2, False), (world.supervisor, True)):
        client = signed_in(user)
        pages = [client.get(url(part, ticket.pk)).content.decode() for part in ("ticket", "thread", "context")]
        assert ["só entre nós" in page for page in pages] == [shown] * 3


def test_a_deleted_message_keeps_its_text_for_supervisors_only(world: World, ticket: Ticket) -> None:
    with service_scope("test"):
        Message.objects.filter(content="Oi").update(revoked_at=datetime.now(UTC))
    for user, shown in ((world.agent, False), (world.supervisor, True)):
        page = signed_in(user).get(url("thread", ticket.pk)).content.decode()
        assert "apagada pelo contato" in page
        assert (">Oi<" in page) is shown


def test_reading_and_unreading_move_only_ones_own_marker(world: World, ticket: Ticket) -> None:
    client = signed_in(world.agent)
    assert client.post(url("read", ticket.pk), {"position": "2"}, headers=FETCH).status_code == 204
    assert client.post(url("read", ticket.pk), {"position": "-1"}, headers=FETCH).status_code == 400
    with service_scope("test"):
        assert list(ReadMarker.objects.values_list("user_id", "last_position")) == [(world.agent.pk, 2)]
    assert client.post(url("unread", ticket.pk), headers=FETCH).status_code == 204
    assert "1 não lida" in client.get("/inbox/list/?tab=queue", headers=FETCH).content.decode()


def test_a_thumbnail_is_for_those_who_see_its_ticket(world: World, ticket: Ticket) -> None:
    with service_scope("test"):
        message: Any = Message.objects.get(content="Oi")
        MessageMedia.objects.create(
            tenant=world.ipe, message=message, media_type="image", mime_type="image/jpeg", thumbnail=b"\xff\xd8jpeg"
        )
    answer = signed_in(world.agent).get(reverse("desk:thumbnail", args=[message.pk]))
    assert (answer.status_code, answer.content, answer["Content-Type"]) == (200, b"\xff\xd8jpeg", "image/jpeg")
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert signed_in(world.outsider).get(reverse("desk:thumbnail", args=[message.pk])).status_code == 404
    assert signed_in(world.agent).get(reverse("desk:thumbnail", args=[UUID(int=9)])).status_code == 404


def test_a_refusal_has_the_headers_that_its_error_asks_for(world: World, ticket: Ticket, settings: Any) -> None:
    settings.WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES = 5
    for _ in range(5):
        record_call(session_id=world.line.pk, token=uuid4(), outcome="bad", probe=False, now=datetime.now(UTC))
    refused = signed_in(world.agent).post(url("send", ticket.pk), {"kind": "REPLY", "text": "Oi"}, headers=FETCH)
    assert (refused.status_code, refused.json()["error"]["code"]) == (423, "WHATSAPP_CIRCUIT_OPEN")
    assert 100 <= int(refused["Retry-After"]) <= 120


def test_a_form_that_is_refused_keeps_its_text(world: World, ticket: Ticket) -> None:
    client = signed_in(world.agent)
    answer = client.post(url("send", ticket.pk), {"kind": "REPLY", "text": "x" * 5000})
    assert answer.status_code == 400
    assert "x" * 5000 in answer.content.decode()
    refused = client.post(url("send", ticket.pk), {"kind": "REPLY", "text": "x" * 5000}, headers=FETCH)
    assert refused.json()["error"]["code"] == "VALIDATION_ERROR"


def test_a_page_costs_the_same_whatever_the_number_of_rows(
    world: World, ticket: Ticket, django_assert_max_num_queries: Any
) -> None:
    client = signed_in(world.agent)
    receive(*(text_event(f"oi {n}", phone=f"+55119888{n:05d}", name=f"Pessoa {n}") for n in range(30)))
    with django_assert_max_num_queries(24):
        assert client.get("/inbox/list/?tab=all", headers=FETCH).status_code == 200
    with django_assert_max_num_queries(52):
        assert client.get(url("ticket", ticket.pk)).status_code == 200


def test_the_platforms_superuser_has_no_desk(world: World) -> None:
    assert signed_in(world.superuser).get("/inbox/")["Location"] == "/admin/"
