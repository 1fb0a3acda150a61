"""Twins, addresses, order: lines 8 to 12 of spec/inbound.md section 17, through the real door and drain."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope
from leads.models import Contact, ContactIdentity, ContactMerge, Lead
from leads.services import undo_merge
from tests.conftest import World
from tests.whatsapp.door import post
from tests.whatsapp.inbound import text_event
from tests.whatsapp.wire_talk import GROUP, JOAO, LID, MARIA, NOW, canonical, raw, says
from tickets.models import Message, MessageMedia, Ticket, TicketEvent
from whatsapp.models import WebhookItem, WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.drain import drain_inbox
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)

IMAGE = {
    "imageMessage": {
        "url": "https://mmg.whatsapp.net/x.enc", "directPath": "/x",
        "mediaKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "mimetype": "image/jpeg", "fileLength": "12",
        "caption": "veja",
    }
}  # fmt: skip


def deliver(*bodies: Any) -> None:
    """Post each body to the door and drain after it."""
    for body in bodies:
        answer = post(body)
        assert answer.status in {202, 204}, answer.body
        drain_inbox()


def deliver_at_once(*bodies: Any) -> None:
    """Post the bodies from threads of their own, each of which drains."""
    barrier = threading.Barrier(len(bodies))

    def client(body: Any) -> None:
        try:
            barrier.wait()
            assert post(body).status in {202, 204}
            drain_inbox()
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=[body]) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drain_inbox()


ORDERS = ["canonical first", "raw first", "at once"]


def deliver_twins(order: str, first: Any, second: Any) -> None:
    if order == "at once":
        deliver_at_once(first, second)
    else:
        deliver(*((first, second) if order == "canonical first" else (second, first)))


# --- 8 ----------------------------------------------------------------------------------------------------------


def test_inbound_08_same_id_in_two_sessions_and_two_tenants_is_two_messages(committed_world: World) -> None:
    world = committed_world
    with service_scope("test"), saving():
        WhatsAppSession.objects.create(
            tenant=world.ipe, owner=world.admin, session_name="Filial", connection_id="inst-ipe-02",
            broker_instance_id="ipe-02", status="connected",
        )  # fmt: skip
    deliver(*(text_event(name, instance=name, external_id="SAME") for name in ("ipe-01", "ipe-02", "cedro-01")))
    for tenant, expected in ((world.ipe, ["ipe-01", "ipe-02"]), (world.cedro, ["cedro-01"])):
        with tenant_scope(tenant.pk):
            assert sorted(Message.objects.values_list("content", flat=True)) == expected
            assert Contact.objects.count() == 1 and Ticket.objects.count() == len(expected)


def test_inbound_08_same_event_three_times_over_25_hours_makes_one(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, real = text_event("uma vez", external_id="ONCE"), timezone.now
    for hours in (0, 12, 25):
        monkeypatch.setattr(timezone, "now", lambda hours=hours: real() + timedelta(hours=hours))
        deliver(body)
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 1
        fates = WebhookItem.objects.order_by("id").values_list("fate", flat=True)
        assert list(fates) == ["stored", "duplicate", "duplicate"]


# --- 9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_inbound_09_twins_make_one_message_and_media_gets_its_keys(committed_world: World, order: str) -> None:
    message = says(IMAGE)
    deliver_twins(order, canonical(message), raw(message))
    with tenant_scope(committed_world.ipe.pk):
        row = Message.objects.get()
        assert (row.type, row.caption) == ("IMAGE", "veja")
        assert MessageMedia.objects.get().source["mediaKey"]
        assert Ticket.objects.get().message_count == 1
        assert WebhookItem.objects.filter(fate__in=["pending", "parked", "failed"]).count() == 0


@pytest.mark.parametrize("order", ORDERS)
def test_inbound_09_hollow_gets_the_text_of_its_twin(committed_world: World, order: str) -> None:
    message = says({"ephemeralMessage": {"message": {"extendedTextMessage": {"text": "some logo"}}}})
    deliver_twins(order, canonical(message), raw(message))
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.get().content == "some logo"
        assert sorted(WebhookItem.objects.values_list("fate", flat=True)) == ["duplicate", "stored"]


def test_inbound_09_hollow_without_twin_is_unknown_after_the_grace(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = timezone.now
    deliver(canonical(says({"viewOnceMessage": {"message": IMAGE}})))
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 0
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(seconds=301))
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.get().type == "UNKNOWN"


# --- 10 ---------------------------------------------------------------------------------------------------------


def lid_only(text: str, **more: Any) -> Any:
    return says(text, lid=LID, lid_only=True, **more)


def test_inbound_10_lid_then_phone_then_both_are_one_and_undo_restores_two(committed_world: World) -> None:
    world = committed_world
    first, second = lid_only("pelo lid"), says("pelo telefone", timestamp=NOW + 1)
    deliver(canonical(first), raw(first), canonical(second), raw(second))
    with tenant_scope(world.ipe.pk):
        lid, number = Contact.objects.order_by("pk")
        assert Ticket.objects.filter(status="OPEN").count() == 2
        assert not ContactIdentity.objects.filter(contact=lid, kind="phone").exists()
    both = says("os dois", timestamp=NOW + 2, lid=LID)
    deliver(raw(both), canonical(both))
    with tenant_scope(world.ipe.pk):
        merge = ContactMerge.objects.get()
        assert (merge.target_id, merge.source_id, merge.evidence) == (lid.pk, number.pk, "lid_pair")
        assert set(Message.objects.values_list("contact_id", flat=True)) == {lid.pk}
        history = Message.objects.filter(contact=lid).order_by("sent_at", "position")
        assert list(history.values_list("content", flat=True)) == ["pelo lid", "pelo telefone", "os dois"]
        assert sorted(Ticket.objects.values_list("number", "status")) == [(1, "OPEN"), (2, "CLOSED")]
        assert Lead.objects.filter(merged_into=None).count() == 1
        assert TicketEvent.objects.filter(kind="CONTACT_MERGED").count() == 2
        assert list(WhatsAppAtendimento.objects.values_list("status", flat=True).order_by("status")) == [
            "ATIVO", "FECHADO",
        ]  # fmt: skip
        undo_merge(actor=world.supervisor, merge_id=merge.pk, now=timezone.now())
    texts = {lid.pk: ["os dois", "pelo lid"], number.pk: ["pelo telefone"]}
    with tenant_scope(world.ipe.pk):
        for contact_id, expected in texts.items():
            found = Message.objects.filter(contact=contact_id).values_list("content", flat=True)
            assert sorted(found) == expected
            assert Ticket.objects.get(contact=contact_id).status == "OPEN"
    deliver(raw(says("de novo", timestamp=NOW + 3, lid=LID)))
    with tenant_scope(world.ipe.pk):
        assert Contact.objects.filter(merged_into=None).count() == 2
        assert ContactMerge.objects.filter(undone_at=None).count() == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_inbound_10_lid_phone_and_both_in_every_order(committed_world: World, order: tuple[int, ...]) -> None:
    talk = [lid_only("lid"), says("phone", timestamp=NOW + 1), says("both", timestamp=NOW + 2, lid=LID)]
    deliver(*(raw(talk[index]) for index in order))
    one_person(committed_world, 3)


def test_inbound_10_lid_phone_and_both_in_one_body_and_at_once(committed_world: World) -> None:
    talk = [lid_only("lid"), says("phone", timestamp=NOW + 1), says("both", timestamp=NOW + 2, lid=LID)]
    deliver([raw(one) for one in talk])
    one_person(committed_world, 3)
    again = [
        says(text, chat=JOAO, timestamp=NOW, push_name="João", **more)
        for text, more in (("a", {"lid": "5@lid", "lid_only": True}), ("b", {}), ("c", {"lid": "5@lid"}), ("d", {}))
    ]
    deliver_at_once(*(raw(one) for one in again))
    with tenant_scope(committed_world.ipe.pk):
        assert Contact.objects.filter(merged_into=None).count() == 2
        assert Ticket.objects.filter(status="OPEN").count() == 2
        assert Message.objects.filter(contact__merged_into=None).count() == 7


def one_person(world: World, messages: int) -> UUID:
    with tenant_scope(world.ipe.pk):
        contact: UUID = Contact.objects.values_list("pk", flat=True).get(merged_into=None)
        assert Message.objects.filter(contact=contact).count() == Message.objects.count() == messages
        assert Ticket.objects.filter(contact=contact, status="OPEN").count() == 1
        assert Lead.objects.filter(contact=contact, merged_into=None).count() == 1
        kinds = ContactIdentity.objects.filter(contact=contact).values_list("kind", flat=True)
        assert {"phone", "lid"} <= set(kinds)
    return contact


def test_inbound_10_twin_that_brings_the_phone_merges_with_whom_it_belongs_to(committed_world: World) -> None:
    deliver(raw(says("primeiro")))
    message = lid_only("segundo", timestamp=NOW + 1)
    paired = says("segundo", timestamp=NOW + 1, id=message.id, lid=LID)
    deliver(canonical(message), raw(paired))
    one_person(committed_world, 2)


@pytest.mark.parametrize(
    ("numbers", "contacts"),
    [
        (("5511988887777", "551188887777"), 1),
        (("551188887777", "5511988887777"), 1),
        (("551133334444", "5511933334444"), 2),  # a landline and a mobile
        (("14155552671", "141955552671"), 2),
    ],
)
def test_inbound_10_ninth_digit(committed_world: World, numbers: tuple[str, str], contacts: int) -> None:
    deliver(*(raw(says(number, chat=f"{number}@s.whatsapp.net")) for number in numbers))
    with tenant_scope(committed_world.ipe.pk):
        assert Contact.objects.count() == contacts
        assert Message.objects.count() == 2


# --- 11 ---------------------------------------------------------------------------------------------------------


def test_inbound_11_what_is_no_conversation_leaves_nothing(committed_world: World) -> None:
    history = {"protocolMessage": {"type": "HISTORY_SYNC_NOTIFICATION", "historySyncNotification": {}}}
    nothing = [
        says("status", chat="status@broadcast", sender=MARIA), says("notícia", chat="1203630@newsletter"),
        says(history), says({}, stub="CIPHERTEXT"), says({"senderKeyDistributionMessage": {"groupId": GROUP}}),
    ]  # fmt: skip
    deliver(*(raw(one) for one in nothing), canonical(nothing[0]), canonical(nothing[1]))
    with tenant_scope(committed_world.ipe.pk):
        assert Contact.objects.count() == Ticket.objects.count() == Message.objects.count() == Lead.objects.count() == 0
        assert set(WebhookItem.objects.values_list("fate", flat=True)) == {"ignored"}
        assert WebhookItem.objects.count() == 7


# --- 12 ---------------------------------------------------------------------------------------------------------


def test_inbound_12_late_message_takes_its_place_and_one_second_keeps_the_order_of_arrival(
    committed_world: World,
) -> None:
    deliver(*(raw(says(text, timestamp=NOW)) for text in ("um", "dois", "três")))
    deliver(raw(says("atrasada", timestamp=NOW - 3600)))
    with tenant_scope(committed_world.ipe.pk):
        shown = Message.objects.order_by("sent_at", "position").values_list("content", flat=True)
        assert list(shown) == ["atrasada", "um", "dois", "três"]
        ticket = Ticket.objects.get()
        assert ticket.last_message_preview == "três"
        assert ticket.last_message_at == ticket.waiting_since == datetime.fromtimestamp(NOW, UTC)
        assert Message.objects.get(content="atrasada").metadata["lateBySeconds"] == 3600
