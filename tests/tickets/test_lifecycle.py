"""Take, assign, unassign, close, reopen, edit: every transition, each refusal, and the races."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from leadengine.accounts.models import AuditLog, User
from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.errors import DomainError, NotFound, ValidationFailed
from tests.conftest import World
from tests.tickets.desk import arrive, give, phone
from tickets.models import CloseReason, Message, Note, Queue, QueueMembership, Ticket, TicketEvent
from tickets.services import lifecycle
from tickets.services.lifecycle import (
    NotAllowed,
    UnableToAct,
    UnableToAssign,
    UnableToReopen,
    UnableToTake,
    VersionConflict,
    add_note,
    assign_ticket,
    close_ticket,
    edit_ticket,
    reopen_ticket,
    take_ticket,
    unassign_ticket,
)

NOW = datetime(2026, 3, 12, 14, 30, tzinfo=UTC)


def act(actor: User, service: Callable[..., Any], **arguments: Any) -> Any:
    """Call a service as the edges do: in the actor's scope."""
    with user_scope(actor):
        return service(actor=actor, now=NOW, **arguments)


def events(ticket: Ticket) -> list[tuple[str, str, str, str]]:
    with tenant_scope(ticket.tenant_id):
        rows = TicketEvent.objects.filter(ticket=ticket).order_by("seq")
        return list(rows.values_list("kind", "from_value", "to_value", "reason"))


def audit(action: str) -> list[dict[str, Any]]:
    with service_scope("test"):
        return list(AuditLog.objects.filter(action=action).values_list("changes", flat=True))


def test_take_assigns_writes_an_event_and_is_harmless_twice(world: World) -> None:
    ticket = arrive(world)
    taken = act(world.agent, take_ticket, ticket_id=ticket.pk, version=ticket.version)
    assert (taken.status, taken.assignee, taken.version) == ("ASSIGNED", world.agent, ticket.version + 1)
    assert events(ticket)[-1] == ("ASSIGNED", "", "Ana", "")
    assert act(world.agent, take_ticket, ticket_id=ticket.pk).version == taken.version
    assert not audit("ticket.assigned")


def test_loser_of_a_take_learns_who_won_although_the_ticket_left_their_sight(world: World) -> None:
    ticket = arrive(world)
    act(world.agent, take_ticket, ticket_id=ticket.pk)
    with pytest.raises(UnableToTake) as refused:
        act(world.agent2, take_ticket, ticket_id=ticket.pk, version=ticket.version)
    assert refused.value.details == {
        "assignee": {"id": str(world.agent.pk), "name": "Ana"}, "assignedAt": NOW.isoformat()
    }  # fmt: skip
    with pytest.raises(UnableToTake):
        act(world.agent2, assign_ticket, ticket_id=ticket.pk, user_id=world.agent2.pk)
    with pytest.raises(NotFound):
        act(world.agent2, close_ticket, ticket_id=ticket.pk, reason_code="SOLVED")


@pytest.mark.parametrize("visibility", ["OWN", None])
def test_agent_without_sight_of_the_queue_finds_nothing(world: World, visibility: str | None) -> None:
    ticket = arrive(world)
    with tenant_scope(world.ipe.pk):
        memberships = QueueMembership.objects.filter(user=world.agent2)
        memberships.update(visibility=visibility) if visibility else memberships.delete()
    for service, more in ((take_ticket, {}), (close_ticket, {"reason_code": "SOLVED"}), (unassign_ticket, {})):
        with pytest.raises(NotFound):
            act(world.agent2, service, ticket_id=ticket.pk, **more)
        with pytest.raises(NotFound):
            act(world.outsider, service, ticket_id=ticket.pk, **more)


def test_tenant_may_reserve_distribution_to_supervisors(world: World) -> None:
    world.ipe.settings = {"agentsMayTake": False}
    world.ipe.save()
    ticket = arrive(world)
    agent = User.objects.select_related("tenant").get(pk=world.agent.pk)
    with pytest.raises(NotAllowed):
        act(agent, take_ticket, ticket_id=ticket.pk)
    assert act(world.supervisor, take_ticket, ticket_id=ticket.pk).assignee == world.supervisor


def test_assigning_others_is_for_supervisors_and_giving_away_for_the_assignee(world: World) -> None:
    ticket = arrive(world)
    with pytest.raises(NotAllowed):
        act(world.agent, assign_ticket, ticket_id=ticket.pk, user_id=world.agent2.pk)
    assert act(world.supervisor, assign_ticket, ticket_id=ticket.pk, user_id=world.agent.pk).assignee == world.agent
    assert act(world.agent, assign_ticket, ticket_id=ticket.pk, user_id=world.agent2.pk).assignee == world.agent2
    given = act(
        world.supervisor, assign_ticket, ticket_id=ticket.pk, user_id=world.agent.pk,
        expected_assignee_id=world.agent2.pk,
    )  # fmt: skip
    assert given.assignee == world.agent
    assert events(ticket)[-3:] == [
        ("ASSIGNED", "", "Ana", ""), ("ASSIGNED", "Ana", "Bruno", ""), ("ASSIGNED", "Bruno", "Ana", "")
    ]  # fmt: skip
    assert [change["assigneeId"][1] for change in audit("ticket.assigned")] == [
        str(world.agent.pk), str(world.agent2.pk), str(world.agent.pk)
    ]  # fmt: skip


def test_expected_assignee_that_is_no_longer_right_is_refused(world: World) -> None:
    ticket = give(arrive(world), world.agent)
    for expected in (None, world.agent2.pk):
        with pytest.raises(UnableToTake) as refused:
            act(
                world.supervisor, assign_ticket, ticket_id=ticket.pk, user_id=world.agent2.pk,
                expected_assignee_id=expected,
            )  # fmt: skip
        assert refused.value.details["assignee"]["name"] == "Ana"


def test_target_must_be_an_active_member_who_may_see_the_queue(world: World) -> None:
    ticket = arrive(world)
    with service_scope("test"):
        stranger = User.objects.create(tenant=world.ipe, email="eva@example.test", name="Eva", password="!")
        gone = User.objects.create(
            tenant=world.ipe, email="gil@example.test", name="Gil", password="!", is_active=False
        )
        QueueMembership.objects.create(tenant=world.ipe, user=gone, queue=world.queue)
    for target in (stranger, gone, world.outsider, world.superuser):
        with pytest.raises(UnableToAssign):
            act(world.supervisor, assign_ticket, ticket_id=ticket.pk, user_id=target.pk)
    assert act(world.supervisor, assign_ticket, ticket_id=ticket.pk, user_id=world.admin.pk).assignee == world.admin


def test_superuser_acts_in_the_tenant_of_the_ticket_but_takes_nothing(world: World) -> None:
    ticket = arrive(world)
    with pytest.raises(UnableToAssign):
        act(world.superuser, take_ticket, ticket_id=ticket.pk)
    assert act(world.superuser, assign_ticket, ticket_id=ticket.pk, user_id=world.agent.pk).assignee == world.agent
    assert act(world.superuser, close_ticket, ticket_id=ticket.pk, reason_code="SPAM").status == "CLOSED"


def test_unassign_returns_a_ticket_to_its_queue(world: World) -> None:
    ticket = give(arrive(world), world.agent)
    returned = act(world.agent, unassign_ticket, ticket_id=ticket.pk)
    assert (returned.status, returned.assignee) == ("OPEN", None)
    assert not audit("ticket.unassigned")
    give(ticket, world.agent)
    act(world.supervisor, unassign_ticket, ticket_id=ticket.pk)
    assert audit("ticket.unassigned") == [{"assigneeId": [str(world.agent.pk), None]}]
    give(ticket, world.agent)
    with tenant_scope(world.ipe.pk):
        QueueMembership.objects.filter(user=world.agent2).update(visibility="QUEUE")
    with pytest.raises(NotAllowed):
        act(world.agent2, unassign_ticket, ticket_id=ticket.pk)


def test_outcome_of_the_reason_decides_how_a_ticket_ends(world: World) -> None:
    for number, (code, status) in enumerate((("SOLVED", "RESOLVED"), ("NO_ANSWER", "CLOSED"))):
        ticket = give(arrive(world, phone=phone(number)), world.agent)
        ended = act(world.agent, close_ticket, ticket_id=ticket.pk, reason_code=code)
        assert (ended.status, ended.close_reason.code, ended.closed_by, ended.closed_at) == (
            status,
            code,
            world.agent,
            NOW,
        )
        assert ended.assignee == world.agent
        assert events(ticket)[-1] == ("CLOSED", "ASSIGNED", status, code)
    assert audit("ticket.closed")[0] == {"status": ["ASSIGNED", "RESOLVED"], "closeReason": [None, "SOLVED"]}


def test_reasons_that_are_unknown_inactive_foreign_or_without_their_note_are_refused(world: World) -> None:
    ticket = arrive(world)
    with tenant_scope(world.ipe.pk):
        CloseReason.objects.filter(code="NO_ANSWER").update(is_active=False)
    with tenant_scope(world.cedro.pk):
        CloseReason.objects.create(tenant=world.cedro, code="THEIRS", label="x", outcome="CLOSED")
    for code, note, field in (
        ("", "", "reasonCode"), ("NOPE", "", "reasonCode"), ("NO_ANSWER", "", "reasonCode"),
        ("THEIRS", "", "reasonCode"), ("OTHER", " ", "note"),
    ):  # fmt: skip
        with pytest.raises(ValidationFailed) as refused:
            act(world.agent, close_ticket, ticket_id=ticket.pk, reason_code=code, note=note)
        assert refused.value.details["errors"][0]["field"] == field
    ended = act(world.agent, close_ticket, ticket_id=ticket.pk, reason_code="OTHER", note="mudou de ideia")
    assert ended.close_note == "mudou de ideia"
    assert events(ticket)[-1][3] == "OTHER: mudou de ideia"


def test_queue_that_requires_no_reason_takes_the_first_plain_one(world: World) -> None:
    ticket = arrive(world)
    with tenant_scope(world.ipe.pk):
        Queue.objects.update(require_close_reason=False)
    assert act(world.agent, close_ticket, ticket_id=ticket.pk, reason_code="").close_reason.code == "SOLVED"


def test_reopen_keeps_number_and_assignee_and_clears_the_end(world: World) -> None:
    ticket = give(arrive(world), world.agent)
    act(world.agent, close_ticket, ticket_id=ticket.pk, reason_code="OTHER", note="x")
    again = act(world.agent, reopen_ticket, ticket_id=ticket.pk)
    assert (again.status, again.assignee, again.number) == ("ASSIGNED", world.agent, ticket.number)
    assert (again.closed_at, again.closed_by, again.close_reason, again.close_note) == (None, None, None, "")
    assert again.reopened_count == 1
    assert events(ticket)[-1][:2] == ("REOPENED", "CLOSED")


def test_reopened_ticket_goes_to_its_queue_when_its_assignee_has_left(world: World) -> None:
    ticket = give(arrive(world), world.agent)
    act(world.agent, close_ticket, ticket_id=ticket.pk, reason_code="SPAM")
    User.objects.filter(pk=world.agent.pk).update(is_active=False)
    again = act(world.supervisor, reopen_ticket, ticket_id=ticket.pk)
    assert (again.status, again.assignee) == ("OPEN", None)


def test_reopen_beside_another_open_ticket_names_it(world: World) -> None:
    ticket = arrive(world, at=NOW - timedelta(days=2))
    with user_scope(world.agent):
        close_ticket(actor=world.agent, ticket_id=ticket.pk, reason_code="SOLVED", now=NOW - timedelta(days=1))
    other = arrive(world, at=NOW)
    assert other.pk != ticket.pk
    with pytest.raises(UnableToReopen) as refused:
        act(world.supervisor, reopen_ticket, ticket_id=ticket.pk)
    assert refused.value.details == {"existingTicketId": str(other.pk)}


SERVICES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "take": (take_ticket, {}),
    "unassign": (unassign_ticket, {}),
    "close": (close_ticket, {"reason_code": "SOLVED"}),
    "reopen": (reopen_ticket, {}),
}


@pytest.mark.parametrize("status", ["OPEN", "ASSIGNED", "PENDING", "RESOLVED", "CLOSED"])
@pytest.mark.parametrize("action", list(SERVICES))
def test_every_pair_of_state_and_action_does_it_or_refuses_it(world: World, status: str, action: str) -> None:
    ticket = arrive(world)
    with tenant_scope(world.ipe.pk):
        ended = status in {"RESOLVED", "CLOSED"}
        Ticket.objects.update(
            status=status,
            assignee=world.admin if status == "ASSIGNED" else None,
            pending_reason="WAITING_CUSTOMER" if status == "PENDING" else None,
            closed_at=NOW if ended else None,
            close_reason=CloseReason.objects.get(code="SOLVED") if ended else None,
        )
    service, more = SERVICES[action]
    if action in lifecycle.states.ACTIONS[status]:
        if (status, action) == ("ASSIGNED", "take"):
            with pytest.raises(UnableToTake):
                act(world.supervisor, service, ticket_id=ticket.pk, **more)
            return
        assert act(world.supervisor, service, ticket_id=ticket.pk, **more).status != status
        return
    before = _facts(ticket)
    with pytest.raises(UnableToAct) as refused:
        act(world.supervisor, service, ticket_id=ticket.pk, **more)
    assert refused.value.details == {"from": status, "action": action}
    assert _facts(ticket) == before


def test_stale_version_is_refused_and_changes_nothing(world: World) -> None:
    ticket = give(arrive(world), world.agent)
    stale = ticket.version - 1
    for service, more in (
        (unassign_ticket, {}), (close_ticket, {"reason_code": "SOLVED"}), (edit_ticket, {"subject": "x"}),
        (assign_ticket, {"user_id": world.agent2.pk}),
    ):  # fmt: skip
        with pytest.raises(VersionConflict) as refused:
            act(world.agent, service, ticket_id=ticket.pk, version=stale, **more)
        assert refused.value.details == {"version": ticket.version}
    assert _facts(ticket)["version"] == ticket.version


def test_edit_changes_what_is_named_and_metadata_by_key(world: World) -> None:
    ticket = arrive(world)
    act(world.agent, edit_ticket, ticket_id=ticket.pk, metadata={"a": 1, "b": {"c": [2]}})
    edited = act(world.agent, edit_ticket, ticket_id=ticket.pk, priority="HIGH", metadata={"a": None, "d": "x"})
    assert (edited.priority, edited.subject, edited.metadata) == ("HIGH", "", {"b": {"c": [2]}, "d": "x"})
    assert events(ticket)[-1][:3] == ("PRIORITY_CHANGED", "NORMAL", "HIGH")
    same = act(world.agent, edit_ticket, ticket_id=ticket.pk, priority="HIGH")
    assert same.version == edited.version
    for patch, field in (({"timeline": {}}, "metadata.timeline"), ({"big": "x" * 70_000}, "metadata")):
        with pytest.raises(ValidationFailed) as refused:
            act(world.agent, edit_ticket, ticket_id=ticket.pk, metadata=patch)
        assert refused.value.details["errors"][0]["field"] == field
    assert _facts(ticket)["metadata"] == edited.metadata


@pytest.mark.parametrize(
    "columns",
    [
        "status = 'ASSIGNED', assignee_id = NULL",
        "status = 'OPEN', assignee_id = (SELECT id FROM accounts_user WHERE name = 'Ana')",
        "status = 'RESOLVED'",
        "status = 'CLOSED', closed_at = now()",
        "closed_at = now()",
        "status = 'PENDING'",
        "status = 'PENDING', pending_reason = 'SNOOZED'",
        "status = 'GONE'",
    ],
)
def test_database_refuses_states_that_make_no_sense(world: World, columns: str) -> None:
    ticket = arrive(world)
    with tenant_scope(world.ipe.pk), pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE tickets_ticket SET {columns} WHERE id = %s", [ticket.pk])


# --- Races -------------------------------------------------------------------------------------------------------


def race(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls in threads of their own at one moment; each gives its result or the DomainError it raised."""
    gate = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(index: int, call: Callable[[], Any]) -> None:
        try:
            gate.wait()
            results[index] = call()
        except DomainError as error:
            results[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.django_db(transaction=True)
def test_two_agents_take_at_once_and_one_wins(committed_world: World) -> None:
    world = committed_world
    for number in range(10):
        ticket = arrive(world, phone=phone(number))
        people = [world.agent, world.agent2]
        results = race(*(partial(act, who, take_ticket, ticket_id=ticket.pk) for who in people))
        winners = [result for result in results if isinstance(result, Ticket)]
        losers = [result for result in results if isinstance(result, UnableToTake)]
        assert len(winners) == len(losers) == 1
        assert losers[0].details["assignee"]["id"] == str(winners[0].assignee_id)
        assert [kind for kind, *_ in events(ticket)] == ["OPENED", "ASSIGNED"]


@pytest.mark.django_db(transaction=True)
def test_two_changes_of_one_version_at_once_and_one_lands(committed_world: World) -> None:
    world = committed_world
    ticket = give(arrive(world), world.agent)
    results = race(
        lambda: act(world.agent, close_ticket, ticket_id=ticket.pk, reason_code="SOLVED", version=ticket.version),
        lambda: act(world.supervisor, unassign_ticket, ticket_id=ticket.pk, version=ticket.version),
    )
    assert sum(isinstance(result, Ticket) for result in results) == 1
    refused = next(result for result in results if isinstance(result, DomainError))
    # Who comes second finds another version, or a state that the action does not start from.
    assert isinstance(refused, VersionConflict | UnableToAct)


@pytest.mark.django_db(transaction=True)
def test_close_and_an_inbound_message_at_once_lose_neither(committed_world: World) -> None:
    world = committed_world
    for number in range(10):
        ticket = give(arrive(world, phone=phone(number), at=NOW - timedelta(minutes=5)), world.agent)
        race(
            partial(act, world.agent, close_ticket, ticket_id=ticket.pk, reason_code="SOLVED"),
            partial(arrive, world, "mais uma", phone=phone(number), at=NOW + timedelta(seconds=1)),
        )
        with tenant_scope(world.ipe.pk):
            row = Ticket.objects.get(contact_id=ticket.contact_id)
            assert row.message_count == row.inbound_count == Message.objects.filter(ticket=row).count() == 2
            # Closed first: the message, sent later, reopened it. Message first: the close ended it, message and all.
            kinds = [kind for kind, *_ in events(ticket)]
            assert (row.status, kinds[1:]) in [("ASSIGNED", ["CLOSED", "REOPENED"]), ("RESOLVED", ["CLOSED"])]


@pytest.mark.django_db(transaction=True)
def test_reopen_and_a_new_ticket_at_once_leave_one_open(committed_world: World) -> None:
    world = committed_world
    for number in range(10):
        ticket = arrive(world, phone=phone(number), at=NOW - timedelta(days=3))
        with user_scope(world.agent):
            close_ticket(actor=world.agent, ticket_id=ticket.pk, reason_code="SOLVED", now=NOW - timedelta(days=2))
        race(
            partial(act, world.supervisor, reopen_ticket, ticket_id=ticket.pk),
            partial(arrive, world, "voltei", phone=phone(number), at=NOW),
        )
        with tenant_scope(world.ipe.pk):
            rows = Ticket.objects.filter(contact_id=ticket.contact_id)
            assert sum(row.is_live for row in rows) == 1
            assert sum(row.message_count for row in rows) == 2


def _facts(ticket: Ticket) -> dict[str, Any]:
    with tenant_scope(ticket.tenant_id):
        return Ticket.objects.filter(pk=ticket.pk).values("status", "assignee_id", "version", "metadata").get()


def test_a_note_sent_again_after_a_lost_answer_is_there_once(world: World) -> None:
    ticket, key = give(arrive(world), world.agent), uuid4()
    with user_scope(world.agent):
        for _ in range(2):
            add_note(actor=world.agent, ticket_id=ticket.pk, body="ligar amanhã", note_id=key, now=timezone.now())
        assert list(Note.objects.values_list("pk", flat=True)) == [key]
