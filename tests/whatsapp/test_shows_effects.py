"""Polls, reactions, edits, revokes, echoes, acks: lines 15 to 18 of spec/inbound.md section 17."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from leadengine import metrics
from leadengine.accounts.scopes import tenant_scope
from leadengine.sealing import unseal
from leads.models import Contact, ContactIdentity
from tests.api import by_cookie, send
from tests.conftest import World
from tests.tickets.desk import give
from tests.whatsapp.test_shows_people import deliver, deliver_at_once
from tests.whatsapp.wire_talk import (
    GROUP,
    JOAO,
    LID,
    MARIA,
    NOW,
    ack,
    asks,
    canonical,
    choice,
    edits,
    raw,
    reacts,
    revokes,
    says,
    votes,
)
from tickets.models import Message, MessageReaction, MessageRevision, Poll, PollVote, Ticket
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


# --- 15: polls --------------------------------------------------------------------------------------------------


def card(world: World) -> dict[str, Any]:
    with tenant_scope(world.ipe.pk):
        shown: dict[str, Any] = Message.objects.get(type="POLL").metadata["poll"]
        return shown


def totals(world: World) -> dict[str, int]:
    return {total["text"]: total["votes"] for total in card(world)["totals"]}


def test_15_vote_changed_and_withdrawn(committed_world: World) -> None:
    world, poll = committed_world, asks("Qual turno?", "Manhã", "Tarde")
    deliver(raw(poll))
    first, changed, withdrawn = votes(poll, at=1), votes(poll, at=6), votes(poll, at=11)
    deliver(choice(first, poll, "Manhã"))
    assert totals(world) == {"Manhã": 1, "Tarde": 0} and card(world)["voters"] == 1
    deliver(choice(changed, poll, "Tarde", as_map=True))
    assert totals(world) == {"Manhã": 0, "Tarde": 1}
    deliver(choice(first, poll, "Manhã"))  # once more, and late
    assert totals(world) == {"Manhã": 0, "Tarde": 1}
    deliver(choice(withdrawn, poll))
    assert totals(world) == {"Manhã": 0, "Tarde": 0} and card(world)["voters"] == 0
    with tenant_scope(world.ipe.pk):
        rows = Message.objects.filter(type="POLL_VOTE").order_by("position")
        assert list(rows.values_list("content", flat=True)) == ["Manhã", "Tarde", "retirou o voto"]
        assert PollVote.objects.get().options == []
        reasons = list(WebhookItem.objects.filter(kind="vote").order_by("id").values_list("fate", "reason"))
        assert reasons == [
            ("stored", "poll_choice"), ("stored", "poll_choice"), ("duplicate", "poll_choice_duplicate"),
            ("stored", "poll_choice"),
        ]  # fmt: skip


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_15_choice_and_its_twins_are_one_row_in_every_order(committed_world: World, order: tuple[int, ...]) -> None:
    world, poll = committed_world, asks("Qual turno?", "Manhã", "Tarde")
    vote = votes(poll, at=1)
    copies = [choice(vote, poll, "Tarde"), canonical(vote), raw(vote)]
    deliver(raw(poll), *(copies[index] for index in order))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get(type="POLL_VOTE")
        assert (row.content, row.external_id) == ("Tarde", vote.id)
        assert row.metadata["vote"]["options"] == ["Tarde"]
        assert WebhookItem.objects.filter(fate__in=["pending", "parked", "failed"]).count() == 0
        assert WebhookItem.objects.filter(reason="poll_choice").count() == 1
    assert totals(world) == {"Manhã": 0, "Tarde": 1}


def test_15_twins_at_once_and_in_one_body(committed_world: World) -> None:
    world, poll = committed_world, asks("Qual turno?", "Manhã", "Tarde")
    vote, other = votes(poll, at=1), votes(poll, at=2)
    deliver(raw(poll))
    deliver_at_once(choice(vote, poll, "Tarde"), canonical(vote), raw(vote))
    deliver([raw(other), choice(other, poll, "Manhã"), canonical(other)])
    assert totals(world) == {"Manhã": 1, "Tarde": 0}
    with tenant_scope(world.ipe.pk):
        assert sorted(Message.objects.filter(type="POLL_VOTE").values_list("content", flat=True)) == ["Manhã", "Tarde"]


@pytest.mark.parametrize("as_map", [False, True])
def test_15_vote_before_its_poll_and_votes_out_of_order(committed_world: World, as_map: bool) -> None:
    world, poll = committed_world, asks("Qual turno?", "Manhã", "Tarde")
    newer, older = votes(poll, at=30), votes(poll, at=5)
    deliver(choice(newer, poll, "Tarde", as_map=as_map), choice(older, poll, "Manhã", as_map=as_map))
    with tenant_scope(world.ipe.pk):
        made = Poll.objects.get()
        assert (made.question, made.options) == ("Qual turno?", ["Manhã", "Tarde"])
        assert PollVote.objects.get().options == ["Tarde"]
    deliver(raw(poll))
    assert totals(world) == {"Manhã": 0, "Tarde": 1}


def test_15_voters_of_a_group_and_one_who_is_known_by_two_addresses(committed_world: World) -> None:
    world = committed_world
    poll = asks("Qual turno?", "Manhã", "Tarde", chat=GROUP, sender=MARIA)
    one, two = (
        says({"pollUpdateMessage": {"pollCreationMessageKey": {"id": poll.id}}}, chat=GROUP, sender=sender)
        for sender in (MARIA, JOAO)
    )
    deliver(raw(poll), choice(one, poll, "Manhã"), choice(two, poll, "Tarde"))
    assert totals(world) == {"Manhã": 1, "Tarde": 1} and card(world)["voters"] == 2
    direct = asks("E agora?", "Sim", "Não")
    by_phone, by_lid = votes(direct, at=1), votes(direct, at=2)
    deliver(raw(direct), choice(by_phone, direct, "Sim"))
    voter = {**choice(by_lid, direct, "Não")}
    voter["payload"] = {**voter["payload"], "voterJid": LID, "chatId": LID}
    voter["payload"]["contact"] = {**voter["payload"]["contact"], "remoteJid": LID, "participant": LID}
    deliver(voter)
    with tenant_scope(world.ipe.pk):
        shown = Message.objects.get(content="E agora?").metadata["poll"]
        assert shown["totals"] == [{"text": "Sim", "votes": 0}, {"text": "Não", "votes": 1}]


def test_15_poll_secret_is_sealed_and_shown_nowhere(committed_world: World) -> None:
    world, poll = committed_world, asks("Qual turno?", "Manhã", "Tarde")
    secret = poll.content["messageContextInfo"]["messageSecret"]
    deliver(raw(poll))
    with tenant_scope(world.ipe.pk):
        stored = Poll.objects.get().secret
        assert stored and secret not in stored and unseal(stored) == secret
        assert secret not in str(list(Message.objects.values()))
        ticket = Ticket.objects.get()
    answer = send(by_cookie(world.supervisor), "get", f"/api/tickets/{ticket.pk}/messages")[1]
    assert secret not in str(answer) and "Qual turno?" in str(answer)


def test_15_card_in_the_thread_shows_totals_and_votes(committed_world: World) -> None:
    world, poll = committed_world, asks("Qual turno?", "Manhã", "Tarde")
    deliver(raw(poll))
    with tenant_scope(world.ipe.pk):
        before = Message.objects.get(type="POLL").version
        page = reverse("desk:ticket", args=[Ticket.objects.get().pk])
    assert "poll-share" not in by_cookie(world.supervisor).get(page).content.decode()
    vote, last = votes(poll, at=1), votes(poll, at=2)
    deliver(choice(vote, poll, "Tarde"), raw(vote), choice(last, poll))
    shown = by_cookie(world.supervisor).get(page).content.decode()
    assert shown.count('class="poll-share"') == 2 and "retirou o voto" in shown and shown.count("Tarde") >= 2
    with tenant_scope(world.ipe.pk):
        assert Message.objects.get(type="POLL").version == before + 2  # a client takes the newer one in its place


def test_15_poll_of_ours_counts_its_votes(committed_world: World) -> None:
    world = committed_world
    ours = asks("Confirma?", "Sim", "Não", from_me=True)
    deliver(raw(ours), choice(votes(ours, at=3), ours, "Sim"))
    assert totals(world) == {"Sim": 1, "Não": 0}


# --- 16: reactions, edits, revokes ------------------------------------------------------------------------------


def emojis(world: World) -> list[str]:
    with tenant_scope(world.ipe.pk):
        return list(MessageReaction.objects.exclude(emoji="").values_list("emoji", flat=True))


@pytest.mark.parametrize("target_last", [False, True])
def test_16_reaction_set_changed_and_removed(committed_world: World, target_last: bool) -> None:
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


def test_16_reactions_out_of_order_before_their_target(committed_world: World) -> None:
    message = says("oi")
    deliver(raw(reacts(message.id, "❤️", at=9)), raw(reacts(message.id, "👍", at=3)), raw(message))
    assert emojis(committed_world) == ["❤️"]


def test_16_one_person_by_lid_and_phone_has_one_reaction(committed_world: World) -> None:
    world, message = committed_world, says("oi", lid=LID)
    by_lid, by_phone = reacts(message.id, "👍", at=1, lid=LID, lid_only=True), reacts(message.id, "", at=2)
    deliver(raw(message), raw(by_lid), raw(by_phone))
    assert emojis(world) == []
    with tenant_scope(world.ipe.pk):
        assert MessageReaction.objects.count() == 1


def test_16_reaction_is_activity_and_reopens_nothing(committed_world: World) -> None:
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
def test_16_edits_keep_the_old_texts_in_every_order(committed_world: World, order: tuple[int, ...]) -> None:
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
def test_16_revoke_hides_the_text_from_agents(committed_world: World, target_last: bool) -> None:
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
def test_16_revoke_and_edit_by_another_participant_do_nothing(
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


def test_16_parked_effect_is_kept_seven_days_and_no_longer(
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


# --- 17: echoes -------------------------------------------------------------------------------------------------


def ours(world: World, status: str, text: str = "nossa", **more: Any) -> Message:
    """A message of ours to Maria in a state of the outbox."""
    with tenant_scope(world.ipe.pk):
        contact_id = ContactIdentity.objects.get(kind="phone").contact_id
        ticket = Ticket.objects.get(contact_id=contact_id)
        ticket.last_position += 1
        Ticket.objects.filter(pk=ticket.pk).update(last_position=ticket.last_position)
        row: Message = Message.objects.create(
            tenant=world.ipe, ticket=ticket, contact_id=contact_id, session_id=world.line.pk,
            position=ticket.last_position, direction="OUTBOUND", status=status, source="AGENT", author=world.agent,
            content=text, sent_at=datetime.fromtimestamp(NOW + 10, UTC), **more,
        )  # fmt: skip
    return row


def in_flight() -> dict[str, Any]:
    return {"claim_token": "0189c000-0000-7000-8000-000000000000", "lease_until": timezone.now() + timedelta(minutes=1)}


def test_17_echo_before_the_answer_waits_until_the_send_is_settled(committed_world: World) -> None:
    world = committed_world
    deliver(raw(says("oi")))
    row = ours(world, "SENDING", **in_flight())
    echo = says("nossa", from_me=True, timestamp=NOW + 11)
    deliver(raw(echo), canonical(echo))
    with tenant_scope(world.ipe.pk):
        assert Message.objects.count() == 2
        waiting = WebhookItem.objects.filter(kind="echo").values_list("fate", "reason").distinct()
        assert list(waiting) == [("parked", "awaiting_send")]
        Message.objects.filter(pk=row.pk).update(status="SENT", external_id=echo.id)
        WebhookItem.objects.filter(kind="echo").update(due_at=timezone.now())
    drain_inbox()
    with tenant_scope(world.ipe.pk):
        assert Message.objects.count() == 2
        fates = WebhookItem.objects.filter(kind="echo").values_list("fate", flat=True)
        assert list(fates) == ["duplicate", "duplicate"]


@pytest.mark.parametrize("hours", [0, 5])
@pytest.mark.parametrize("status", ["UNCONFIRMED", "SENT"])
def test_17_echo_settles_what_has_no_id(
    committed_world: World, status: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also long after: the broker may have been away when it came back."""
    world, real = committed_world, timezone.now
    deliver(raw(says("oi")))
    row = ours(world, status)
    twice = ours(world, status, "nossa")
    echo = says(" nossa ", from_me=True, timestamp=NOW + 12)
    deliver(ack(echo.id, 3))
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(hours=hours))
    deliver_at_once(raw(echo), canonical(echo))
    with tenant_scope(world.ipe.pk):
        row.refresh_from_db()
        twice.refresh_from_db()
        assert (row.external_id, row.status) == (echo.id, "DELIVERED")  # the oldest one, and its parked ack
        assert (twice.external_id, twice.status) == (None, status)
        assert Message.objects.filter(source="PHONE").count() == 0


def test_17_unconfirmed_is_settled_by_an_ack(committed_world: World) -> None:
    world = committed_world
    deliver(raw(says("oi")))
    row = ours(world, "UNCONFIRMED", external_id="KNOWN")
    deliver(ack("KNOWN", 1))
    with tenant_scope(world.ipe.pk):
        row.refresh_from_db()
        assert row.status == "UNCONFIRMED"
    deliver(ack("KNOWN", 2))
    with tenant_scope(world.ipe.pk):
        row.refresh_from_db()
        assert row.status == "SENT" and Ticket.objects.get().outbound_count == 1


@pytest.mark.parametrize("ended", [False, True])
def test_17_message_typed_on_the_phone_appears_once(committed_world: World, ended: bool) -> None:
    world = committed_world
    deliver(raw(says("oi", push_name="Maria")))
    if ended:
        with tenant_scope(world.ipe.pk):
            from tickets.services.lifecycle import close_ticket

            close_ticket(
                actor=world.supervisor, ticket_id=Ticket.objects.get().pk, reason_code="SOLVED", now=timezone.now()
            )
    echo = says("do celular", from_me=True, timestamp=NOW + 20)
    deliver(raw(echo), canonical(echo), raw(echo))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get(direction="OUTBOUND")
        assert (row.source, row.status, row.author_id, row.metadata["origin"]) == ("PHONE", "SENT", None, "phone")
        ticket = Ticket.objects.get()
        assert ticket.status == ("RESOLVED" if ended else "OPEN") and ticket.outbound_count == 1
        assert Contact.objects.get().name == "Maria"


def test_17_first_word_from_the_phone_opens_a_ticket_that_waits_for_nobody(committed_world: World) -> None:
    deliver(raw(says("olá, aqui é da loja", from_me=True)))
    with tenant_scope(committed_world.ipe.pk):
        ticket = Ticket.objects.get()
        assert (ticket.unanswered_count, ticket.waiting_since, ticket.inbound_count) == (0, None, 0)
        assert Contact.objects.get().name == "+5511988887777"


# --- 18: acks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3, 4, 5]))[::7])
@pytest.mark.parametrize("parked", [False, True])
def test_18_acks_in_every_order_end_in_the_highest(
    committed_world: World, order: tuple[int, ...], parked: bool
) -> None:
    world, echo = committed_world, says("nossa", from_me=True)
    if not parked:
        deliver(raw(echo))
    deliver(*(ack(echo.id, status) for status in order))
    if parked:
        deliver(raw(echo))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert row.status == "READ" and row.played_at and row.read_at and row.delivered_at
        assert not ParkedEffect.objects.exists()
        assert not WebhookItem.objects.filter(fate__in=["parked", "pending", "failed"]).exists()


def test_18_error_stands_between_sent_and_delivered(committed_world: World) -> None:
    world, echo = committed_world, says("nossa", from_me=True)
    deliver(raw(echo), ack(echo.id, 2), ack(echo.id, 0, messageStubParameters=["463"]))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert row.status == "FAILED" and row.error is not None and row.error["code"] == "463"
        assert Ticket.objects.get().outbound_count == 0
    deliver(ack(echo.id, 2))
    with tenant_scope(world.ipe.pk):
        assert Message.objects.get().status == "FAILED"
    deliver(ack(echo.id, 3))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert (row.status, row.error, row.failed_at) == ("DELIVERED", None, None)
        assert Ticket.objects.get().outbound_count == 1


def test_18_delivered_and_read_in_one_second_give_read(committed_world: World) -> None:
    world, echo = committed_world, says("nossa", from_me=True)
    deliver(raw(echo))
    deliver_at_once(*(ack(echo.id, status, messageTimestamp=NOW + 5) for status in (3, 4)))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert row.status == "READ" and row.read_at == row.delivered_at == datetime.fromtimestamp(NOW + 5, UTC)


def test_18_acks_of_other_people_and_unknown_words_change_nothing(committed_world: World) -> None:
    echo = says("nossa", from_me=True)
    deliver(raw(echo), ack(echo.id, 9))
    foreign = ack(echo.id, 4)
    foreign["payload"]["raw"]["updates"][0]["key"]["fromMe"] = False
    deliver(foreign, ack(echo.id, 1), ack(echo.id, 2))
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.get().status == "SENT"
        reasons = WebhookItem.objects.filter(fate="ignored").order_by("id").values_list("reason", flat=True)
        assert list(reasons) == ["ack_unknown_status", "ack_not_outgoing", "ack_regression", "ack_noop"]
