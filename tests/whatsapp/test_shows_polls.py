"""Polls: line 15 of spec/inbound.md section 17."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from django.urls import reverse

from leadengine.accounts.scopes import tenant_scope
from leadengine.sealing import unseal
from tests.api import by_cookie, send
from tests.conftest import World
from tests.whatsapp.test_shows_people import deliver, deliver_at_once
from tests.whatsapp.wire_talk import (
    GROUP,
    JOAO,
    LID,
    MARIA,
    asks,
    canonical,
    choice,
    raw,
    says,
    votes,
)
from tickets.models import Message, Poll, PollVote, Ticket
from whatsapp.models import WebhookItem

pytestmark = pytest.mark.django_db(transaction=True)


def card(world: World) -> dict[str, Any]:
    with tenant_scope(world.ipe.pk):
        shown: dict[str, Any] = Message.objects.get(type="POLL").metadata["poll"]
        return shown


def totals(world: World) -> dict[str, int]:
    return {total["text"]: total["votes"] for total in card(world)["totals"]}


def test_inbound_15_vote_changed_and_withdrawn(committed_world: World) -> None:
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
def test_inbound_15_choice_and_its_twins_are_one_row_in_every_order(
    committed_world: World, order: tuple[int, ...]
) -> None:
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


def test_inbound_15_twins_at_once_and_in_one_body(committed_world: World) -> None:
    world, poll = committed_world, asks("Qual turno?", "Manhã", "Tarde")
    vote, other = votes(poll, at=1), votes(poll, at=2)
    deliver(raw(poll))
    deliver_at_once(choice(vote, poll, "Tarde"), canonical(vote), raw(vote))
    deliver([raw(other), choice(other, poll, "Manhã"), canonical(other)])
    assert totals(world) == {"Manhã": 1, "Tarde": 0}
    with tenant_scope(world.ipe.pk):
        assert sorted(Message.objects.filter(type="POLL_VOTE").values_list("content", flat=True)) == ["Manhã", "Tarde"]


@pytest.mark.parametrize("as_map", [False, True])
def test_inbound_15_vote_before_its_poll_and_votes_out_of_order(committed_world: World, as_map: bool) -> None:
    world, poll = committed_world, asks("Qual turno?", "Manhã", "Tarde")
    newer, older = votes(poll, at=30), votes(poll, at=5)
    deliver(choice(newer, poll, "Tarde", as_map=as_map), choice(older, poll, "Manhã", as_map=as_map))
    with tenant_scope(world.ipe.pk):
        made = Poll.objects.get()
        assert (made.question, made.options) == ("Qual turno?", ["Manhã", "Tarde"])
        assert PollVote.objects.get().options == ["Tarde"]
    deliver(raw(poll))
    assert totals(world) == {"Manhã": 0, "Tarde": 1}


def test_inbound_15_voters_of_a_group_and_one_who_is_known_by_two_addresses(committed_world: World) -> None:
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


def test_inbound_15_poll_secret_is_sealed_and_shown_nowhere(committed_world: World) -> None:
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


def test_inbound_15_card_in_the_thread_shows_totals_and_votes(committed_world: World) -> None:
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


def test_inbound_15_poll_of_ours_counts_its_votes(committed_world: World) -> None:
    world = committed_world
    ours = asks("Confirma?", "Sim", "Não", from_me=True)
    deliver(raw(ours), choice(votes(ours, at=3), ours, "Sim"))
    assert totals(world) == {"Sim": 1, "Não": 0}
