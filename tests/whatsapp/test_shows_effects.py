"""Reactions, edits, revokes: line 16 of spec/inbound.md section 17."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from leadengine import metrics
from leadengine.accounts.scopes import tenant_scope
from leads.models import Contact
from tests.api import by_cookie, send
from tests.conftest import World
from tests.tickets.desk import give
from tests.whatsapp.test_shows_people import deliver
from tests.whatsapp.wire_talk import (
    GROUP,
    JOAO,
    LID,
    MARIA,
    NOW,
    ack,
    canonical,
    edits,
    raw,
    reacts,
    revokes,
    says,
)
from tickets.models import Message, MessageReaction, MessageRevision, Ticket
from whatsapp.models import ParkedEffect, WebhookItem
from whatsapp.services.drain import drain_inbox

pytestmark = pytest.mark.django_db(transaction=True)


def reason_count(result: str, reason: str) -> float:
    total = 0.0
    for metric in metrics.webhook_events.collect():
        for sample in metric.samples:
            wanted = sample.labels.get("result") == result and sample.labels.get("reason") == reason
            total += sample.value if wanted and sample.name.endswith("_total") else 0
    return total


def emojis(world: World) -> list[str]:
    with tenant_scope(world.ipe.pk):
        return list(MessageReaction.objects.exclude(emoji="").values_list("emoji", flat=True))


@pytest.mark.parametrize("target_last", [False, True])
def test_inbound_16_reaction_set_changed_and_removed(committed_world: World, target_last: bool) -> None:
    world, message = committed_world, says("oi")
    steps = [("👍", ["👍"]), ("❤️", ["❤️"]), ("", [])]
    if not target_last:
        deliver(raw(message))
    for at, (emoji, expected) in enumerate(steps, 1):
        reaction = reacts(message.id, emoji, at=at)
        deliver(raw(reaction), canonical(reaction))
        if not target_last:
            assert emojis(world) == expected
    if target_last:
        with tenant_scope(world.ipe.pk):
            assert ParkedEffect.objects.filter(kind="reaction").count() == 1
            assert not Ticket.objects.exists() and not Contact.objects.exists()
        deliver(raw(message))
    assert emojis(world) == []
    with tenant_scope(world.ipe.pk):
        ticket = Ticket.objects.get()
        assert (ticket.message_count, ticket.unanswered_count) == (1, 1)
        applied = WebhookItem.objects.filter(kind="reaction").values_list("fate", "reason")
        assert set(applied) == {("applied", "reaction")}
        assert not ParkedEffect.objects.exclude(kind="twin").exists()


def test_inbound_16_reactions_out_of_order_before_their_target(committed_world: World) -> None:
    message = says("oi")
    deliver(raw(reacts(message.id, "❤️", at=9)), raw(reacts(message.id, "👍", at=3)), raw(message))
    assert emojis(committed_world) == ["❤️"]


def test_inbound_16_one_person_by_lid_and_phone_has_one_reaction(committed_world: World) -> None:
    world, message = committed_world, says("oi", lid=LID)
    by_lid, by_phone = reacts(message.id, "👍", at=1, lid=LID, lid_only=True), reacts(message.id, "", at=2)
    deliver(raw(message), raw(by_lid), raw(by_phone))
    assert emojis(world) == []
    with tenant_scope(world.ipe.pk):
        assert MessageReaction.objects.count() == 1


def test_inbound_16_reaction_is_activity_and_reopens_nothing(committed_world: World) -> None:
    world, message = committed_world, says("oi")
    deliver(raw(message))
    with tenant_scope(world.ipe.pk):
        from tickets.services.lifecycle import close_ticket

        old = datetime(2020, 1, 1, tzinfo=UTC)
        Contact.objects.update(last_interaction_at=old)
        close_ticket(
            actor=world.supervisor, ticket_id=Ticket.objects.get().pk, reason_code="SOLVED", now=timezone.now()
        )
    before = reason_count("accepted", "reaction")
    deliver(raw(reacts(message.id, "👍", at=5)))
    assert reason_count("accepted", "reaction") == before + 1
    with tenant_scope(world.ipe.pk):
        seen = Contact.objects.get().last_interaction_at
        assert seen is not None and seen > old
        ticket = Ticket.objects.get()
        assert (ticket.status, ticket.reopened_count, ticket.unanswered_count) == ("RESOLVED", 0, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_inbound_16_edits_keep_the_old_texts_in_every_order(committed_world: World, order: tuple[int, ...]) -> None:
    world, message = committed_world, says("versão um")
    talk = [message, edits(message.id, "versão dois", at=5), edits(message.id, "versão três", at=9)]
    deliver(*(raw(talk[index]) for index in order))
    deliver(*(raw(one) for one in talk))  # and all of it once more
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert row.content == "versão três" and row.edited_at == datetime.fromtimestamp(NOW + 9, UTC)
        texts = sorted(MessageRevision.objects.values_list("content", flat=True))
        assert texts == ["versão dois", "versão um"]
        assert Ticket.objects.get().last_message_preview == "versão três"
        assert set(WebhookItem.objects.filter(kind="edit").values_list("fate", flat=True)) == {"applied"}


@pytest.mark.parametrize("target_last", [False, True])
def test_inbound_16_revoke_hides_the_text_from_agents(committed_world: World, target_last: bool) -> None:
    world, message = committed_world, says("segredo meu")
    bodies = [raw(message), raw(revokes(message.id, at=4))]
    deliver(*(reversed(bodies) if target_last else bodies))
    deliver(raw(edits(message.id, "segredo novo", at=6)))  # nothing of it is told either
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert row.revoked_at is not None and row.content == "segredo novo"
        assert MessageRevision.objects.get().content == "segredo meu"
        ticket = give(Ticket.objects.get(), world.agent)
    assert "segredo" not in ticket.last_message_preview
    for url in (f"/api/tickets/{ticket.pk}/messages", f"/api/tickets/{ticket.pk}/thread?after=0.0", "/api/tickets"):
        seen = send(by_cookie(world.agent), "get", url)
        assert seen[0] == 200 and "segredo" not in str(seen[1]), url
    for page in (reverse("desk:ticket", args=[ticket.pk]), reverse("desk:inbox")):
        shown = by_cookie(world.agent).get(page)
        assert shown.status_code == 200 and "segredo" not in shown.content.decode(), page
    seen = send(by_cookie(world.supervisor), "get", f"/api/tickets/{ticket.pk}/messages")
    assert "segredo novo" in str(seen[1])
    assert "segredo novo" in by_cookie(world.supervisor).get(reverse("desk:ticket", args=[ticket.pk])).content.decode()


@pytest.mark.parametrize("target_last", [False, True])
@pytest.mark.parametrize("by", [{"sender": JOAO}, {"sender": MARIA, "from_me": True}])
def test_inbound_16_revoke_and_edit_by_another_participant_do_nothing(
    committed_world: World, target_last: bool, by: dict[str, Any]
) -> None:
    message = says("da Maria", chat=GROUP, sender=MARIA)
    others = [raw(revokes(message.id, chat=GROUP, **by)), raw(edits(message.id, "trocado", chat=GROUP, **by))]
    deliver(*((*others, raw(message)) if target_last else (raw(message), *others)))
    with tenant_scope(committed_world.ipe.pk):
        row = Message.objects.get()
        assert (row.content, row.revoked_at, row.edited_at) == ("da Maria", None, None)
    deliver(raw(revokes(message.id, chat=GROUP, sender=MARIA)))
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.get().revoked_at is not None


def test_inbound_16_parked_effect_is_kept_seven_days_and_no_longer(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, real = committed_world, timezone.now
    early, late = says("a tempo"), says("tarde demais")
    deliver(raw(edits(early.id, "editada", at=1)), raw(edits(late.id, "nunca", at=1)), ack("NUNCA", 3))
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(days=6, hours=23))
    deliver(raw(early))
    before = reason_count("ignored", "ack_message_not_found")
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(days=7, minutes=1))
    drain_inbox()
    deliver(raw(late))
    with tenant_scope(world.ipe.pk):
        assert sorted(Message.objects.values_list("content", flat=True)) == ["editada", "tarde demais"]
        fates = sorted(WebhookItem.objects.filter(kind="edit").values_list("fate", flat=True))
        assert fates == ["applied", "ignored"]
        item = WebhookItem.objects.get(kind="ack")
        assert (item.fate, item.reason) == ("ignored", "ack_message_not_found")
        assert not ParkedEffect.objects.exclude(kind="twin").exists()
        assert not WebhookItem.objects.filter(fate="parked").exists()
    assert reason_count("ignored", "ack_message_not_found") == before  # it was counted when it was parked
