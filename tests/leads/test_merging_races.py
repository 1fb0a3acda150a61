"""Merges beside the drain, beside sends, and beside each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.test import Client

from leadengine.accounts.models import User
from leadengine.accounts.scopes import tenant_scope
from leads.models import (
    Contact,
    ContactIdentity,
)
from leads.services import merge_contacts, undo_merge
from tests.api import by_key, send
from tests.conftest import World
from tests.tickets.desk import nobody_id, phone
from tests.whatsapp.inbound import receive, store, text_event
from tickets.models import Message, Ticket
from tickets.services.state import lock_tickets
from whatsapp.models import WhatsAppAtendimento
from whatsapp.services.drain import drain_inbox

NOW = datetime.now(UTC).replace(microsecond=0)


def at_once(*jobs: Callable[[], Any]) -> list[BaseException]:
    errors: list[BaseException] = []

    def run(job: Callable[[], Any]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def consistent(world: World) -> None:
    """No row hangs on a merged contact, and every ticket says what its messages say."""
    with tenant_scope(world.ipe.pk):
        for model in (ContactIdentity, Ticket, Message):
            assert not model.objects.filter(contact__merged_into__isnull=False).exists()
        for ticket in Ticket.objects.all():
            positions = list(ticket.messages.order_by("position").values_list("position", flat=True))
            assert positions == list(range(1, ticket.last_position + 1))
            assert not ticket.messages.exclude(contact_id=ticket.contact_id).exists()


def test_merge_by_hand_beside_the_drain_loses_nothing(committed_world: World) -> None:
    world = committed_world
    numbers = [phone(n) for n in range(6)]
    receive(*(text_event(f"primeira {n}", phone=number) for n, number in enumerate(numbers)))
    with tenant_scope(world.ipe.pk):
        ids = list(Contact.objects.order_by("pk").values_list("pk", flat=True))

    def write() -> None:
        for turn in range(12):
            store(*(text_event(f"{turn} {number}", phone=number) for number in numbers))
            drain_inbox()

    def merge(target: UUID, source: UUID) -> Callable[[], None]:
        def run() -> None:
            with tenant_scope(world.ipe.pk):
                made = merge_contacts(actor=world.admin, target_id=target, source_ids=[source], now=NOW)
            with tenant_scope(world.ipe.pk):
                undo_merge(actor=world.admin, merge_id=made[0].pk, now=NOW)
            with tenant_scope(world.ipe.pk):
                merge_contacts(actor=world.admin, target_id=target, source_ids=[source], now=NOW)

        return run

    assert at_once(write, merge(ids[0], ids[1]), merge(ids[3], ids[2]), merge(ids[5], ids[4])) == []
    drain_inbox()
    consistent(world)
    with tenant_scope(world.ipe.pk):
        assert Message.objects.count() == 6 + 12 * 6
        assert Contact.objects.filter(merged_into=None).count() == 3
        assert Ticket.objects.filter(status="OPEN").count() == 3
        assert WhatsAppAtendimento.objects.filter(status="ATIVO").count() == 3


def test_merge_waits_for_a_send_that_is_being_settled(committed_world: World) -> None:
    """Who settles a send holds its row and then asks for the ticket: a merge must not come from the other side."""
    world = committed_world
    receive(text_event(phone=phone(1)), text_event(phone=phone(2)))
    with tenant_scope(world.ipe.pk):
        first, second = Ticket.objects.order_by("number")
        Ticket.objects.filter(pk=second.pk).update(last_position=2)
        sending = Message.objects.create(
            tenant=world.ipe, ticket=second, contact_id=second.contact_id, session_id=world.line.pk, position=2,
            direction="OUTBOUND", status="SENDING", source="AGENT", content="nossa", sent_at=NOW,
            claim_token=nobody_id(), lease_until=NOW + timedelta(hours=1),
        )  # fmt: skip
    held = threading.Event()

    def settle() -> None:
        with tenant_scope(world.ipe.pk), connection.cursor() as cursor:
            cursor.execute("SELECT id FROM tickets_message WHERE id = %s FOR UPDATE", [sending.pk])
            held.set()
            waiting = 0
            while not waiting:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                waiting = cursor.fetchone()[0]
            lock_tickets(tenant_id=world.ipe.pk, ids=[second.pk])
            cursor.execute("UPDATE tickets_message SET status = 'SENT' WHERE id = %s", [sending.pk])

    def merge() -> None:
        held.wait(20)
        with tenant_scope(world.ipe.pk):
            merge_contacts(
                actor=world.admin, target_id=first.contact_id, source_ids=[second.contact_id], now=NOW
            )  # fmt: skip

    assert at_once(settle, merge) == []
    with tenant_scope(world.ipe.pk):
        sending.refresh_from_db()
        assert (sending.status, sending.contact_id) == ("SENT", first.contact_id)


def test_one_pair_merged_by_two_people_at_once_is_merged_once(committed_world: World) -> None:
    world = committed_world
    receive(text_event(phone=phone(1)), text_event(phone=phone(2)))
    with tenant_scope(world.ipe.pk):
        ids = list(Contact.objects.order_by("pk").values_list("pk", flat=True))
    body = {"targetId": str(ids[0]), "sourceIds": [str(ids[1])]}
    crossed = {"targetId": str(ids[1]), "sourceIds": [str(ids[0])]}
    answers: list[int] = []

    def press(user: User, sent: dict[str, Any]) -> Callable[[], None]:
        client: Client = by_key(user)
        return lambda: answers.append(send(client, "post", "/api/contacts/merge", sent)[0])

    assert at_once(*(press(user, sent) for user in (world.admin, world.supervisor) for sent in (body, crossed))) == []
    assert sorted(answers) == [200, 409, 409, 409]
    consistent(world)
