"""Merging contacts and parting them again, with everything that hangs on them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import models

from leadengine.accounts.models import AuditLog
from leadengine.accounts.scopes import service_scope, tenant_scope
from leads.models import (
    Contact,
    ContactIdentity,
    ContactMerge,
    ContactTag,
    Lead,
    LeadActivity,
    PipelineStage,
    Tag,
)
from leads.services import Person, UnableToUndo, merge_contacts, undo_merge, upsert_contacts
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World
from tests.tickets.desk import arrive, give, nobody_id, phone
from tickets.models import Message, Ticket, TicketEvent

NOW = datetime.now(UTC).replace(microsecond=0)


def picture(world: World, *contacts: UUID) -> dict[str, Any]:
    """What hangs on contacts, without versions and histories."""
    with tenant_scope(world.ipe.pk):
        return {
            str(contact_id): {
                "identities": sorted(
                    ContactIdentity.objects.filter(contact=contact_id).values_list("kind", "value", "is_primary")
                ),
                "tags": sorted(ContactTag.objects.filter(contact=contact_id).values_list("tag__name", flat=True)),
                "tickets": sorted(Ticket.objects.filter(contact=contact_id).values_list("number", "status")),
                "messages": sorted(Message.objects.filter(contact=contact_id).values_list("content", flat=True)),
                "lead": list(Lead.objects.filter(contact=contact_id).values_list("status", "value", "merged_into")),
                "activities": sorted(
                    LeadActivity.objects.filter(lead__contact=contact_id)
                    .exclude(kind="STATUS_CHANGED")
                    .values_list("kind", flat=True)
                ),
                "name": Contact.objects.get(pk=contact_id).name,
                "document": Contact.objects.get(pk=contact_id).document,
            }
            for contact_id in contacts
        }


def two(world: World) -> tuple[Ticket, Ticket]:
    """Two contacts with an open ticket each; the second has a name of its own, a tag and the further lead."""
    first = arrive(world, "um", "dois", phone=phone(1), name="Maria", at=NOW - timedelta(hours=2))
    second = give(arrive(world, "três", phone=phone(2), name="Maria S.", at=NOW - timedelta(hours=1)), world.agent)
    with tenant_scope(world.ipe.pk):
        tag = Tag.objects.create(tenant=world.ipe, name="vip")
        ContactTag.objects.create(tenant=world.ipe, contact_id=second.contact_id, tag=tag)
        stage = PipelineStage.objects.get(status="PROPOSAL")
        Lead.objects.filter(contact_id=second.contact_id).update(stage=stage, status="PROPOSAL", value="90.00")
        Contact.objects.filter(pk=second.contact_id).update(document="123")
    return first, second


def join(world: World, target: Ticket, source: Ticket, **more: Any) -> ContactMerge:
    with tenant_scope(world.ipe.pk):
        return merge_contacts(
            actor=world.supervisor, target_id=target.contact_id, source_ids=[source.contact_id], now=NOW, **more
        )[0]


def part(world: World, merge: ContactMerge, now: datetime = NOW) -> None:
    with tenant_scope(world.ipe.pk):
        undo_merge(actor=world.supervisor, merge_id=merge.pk, now=now)


def test_everything_moves_and_the_later_ticket_ends(world: World) -> None:
    first, second = two(world)
    merge = join(world, first, second)
    seen = picture(world, first.contact_id, second.contact_id)
    target, source = seen[str(first.contact_id)], seen[str(second.contact_id)]
    assert target["messages"] == ["dois", "três", "um"] and source["messages"] == []
    assert target["tickets"] == [(1, "OPEN"), (2, "CLOSED")] and source["tickets"] == []
    assert len(target["identities"]) == 4 and source["identities"] == []
    assert target["tags"] == ["vip"] and target["document"] == "123" and target["name"] == "Maria"
    assert [lead[0] for lead in target["lead"]] == ["PROPOSAL"]
    assert target["activities"] == ["CREATED", "CREATED", *["WHATSAPP_REPLIED"] * 3] and source["activities"] == []
    with tenant_scope(world.ipe.pk):
        later = Ticket.objects.get(number=2)
        assert later.close_reason is not None and later.close_reason.code == "MERGED" and later.closed_at == NOW
        assert set(TicketEvent.objects.filter(kind="CONTACT_MERGED").values_list("ticket__number", flat=True)) == {1, 2}
        assert AuditLog.objects.get(action="contact.merged").changes["mergeId"] == str(merge.pk)
        assert Contact.objects.get(pk=second.contact_id).merged_into_id == first.contact_id
        assert Lead.objects.filter(merged_into=None).count() == 1


def test_no_table_that_points_to_a_contact_is_forgotten(world: World) -> None:
    """A new table that refers to contacts must move with a merge."""
    first, second = two(world)
    join(world, first, second)
    kept = {ContactMerge, Contact, Lead}  # the record itself, the chain of merges, and the lead kept for the undo
    with service_scope("test"):
        for relation in Contact._meta.get_fields(include_hidden=True):
            model = relation.related_model
            if not isinstance(relation, models.ForeignObjectRel) or not isinstance(model, type) or model in kept:
                continue
            left = model._default_manager.filter(**{f"{relation.field.name}_id": second.contact_id}).count()
            assert left == 0, model
            assert model._default_manager.filter(**{f"{relation.field.name}_id": first.contact_id}).exists(), model


@pytest.mark.parametrize("reverse", [False, True])
def test_undo_gives_back_what_was_the_sources_own(world: World, reverse: bool) -> None:
    target, source = reversed(two(world)) if reverse else two(world)
    before = picture(world, target.contact_id, source.contact_id)
    merge = join(world, target, source)
    name = "Maria S." if reverse else "Maria"  # the name of the contact that it is now
    later = arrive(world, "depois", phone=phone(1), name=name, at=NOW + timedelta(minutes=1))
    assert later.contact_id == target.contact_id and later.number == 1
    part(world, merge, NOW + timedelta(days=1))
    after = picture(world, target.contact_id, source.contact_id)
    owner = str(source.contact_id if reverse else target.contact_id)  # of ticket 1, in which it was written
    assert after[owner]["messages"] == sorted([*before[owner]["messages"], "depois"])
    for seen in (before, after):
        for one in seen.values():
            one.pop("messages"), one.pop("activities")
            one["tickets"] = [number for number, _ in one["tickets"]]
    assert after == before
    with tenant_scope(world.ipe.pk):
        assert not Ticket.objects.exclude(status__in=["OPEN", "ASSIGNED"]).exists()
        for message in Message.objects.select_related("ticket"):
            assert message.contact_id == message.ticket.contact_id
        assert Contact.objects.get(pk=source.contact_id).merged_into_id is None
        assert AuditLog.objects.filter(action="contact.merge_undone").count() == 1


def test_undo_has_an_end_and_an_order(world: World) -> None:
    first, second = two(world)
    third = arrive(world, "quatro", phone=phone(3), name="Ana")
    merge = join(world, first, second)
    with pytest.raises(UnableToUndo):
        part(world, merge, NOW + timedelta(days=30, seconds=1))
    later = join(world, third, first)
    with pytest.raises(UnableToUndo) as refusal:
        part(world, merge)
    assert refusal.value.details == {"mergeId": str(later.pk)}
    assert sorted(picture(world, third.contact_id)[str(third.contact_id)]["messages"])[-1] == "um"
    part(world, later)
    part(world, merge)
    with pytest.raises(UnableToUndo):
        part(world, merge)
    assert [len(one["messages"]) for one in picture(world, first.contact_id, second.contact_id).values()] == [2, 1]


def test_pair_that_was_parted_is_never_merged_again_by_itself(world: World) -> None:
    first, second = two(world)
    part(world, join(world, first, second))
    both = Person((("phone", phone(1)), ("lid", "777")))
    other = Person((("lid", "777"), ("phone", phone(2))))
    with tenant_scope(world.ipe.pk):
        found = upsert_contacts(tenant_id=world.ipe.pk, people=[both, other], now=NOW)
        assert [row.id for row in found] == [first.contact_id, second.contact_id]
        assert ContactMerge.objects.filter(undone_at=None).count() == 0
        # Nor by way of a third contact that one of them became part of.
    third = arrive(world, "x", phone=phone(3))
    join(world, third, second)
    with tenant_scope(world.ipe.pk):
        proof = Person((("phone", phone(1)), ("phone", phone(3))))
        upsert_contacts(tenant_id=world.ipe.pk, people=[proof], now=NOW)
        assert Contact.objects.get(pk=first.contact_id).merged_into_id is None
        assert Contact.objects.get(pk=third.contact_id).merged_into_id is None


def test_people_of_one_batch_who_share_an_address_are_one(world: World) -> None:
    known = arrive(world, phone=phone(1))
    people = [
        Person((("phone", phone(7)),)), Person((("lid", "9"),), name="Bia"),
        Person((("phone", phone(7)), ("lid", "9"))), Person((("lid", "8"),)),
        Person((("phone", phone(1)), ("lid", "8"))), Person((("jid", "x@y"),)),
    ]  # fmt: skip
    with tenant_scope(world.ipe.pk):
        found = upsert_contacts(tenant_id=world.ipe.pk, people=people, now=NOW)
        assert len({row.id for row in found}) == 3
        assert found[0].id == found[1].id == found[2].id
        assert found[3].id == found[4].id == known.contact_id
        assert Contact.objects.get(pk=found[0].id).name == "Bia"
        assert ContactMerge.objects.count() == 0


def test_ended_merged_ticket_is_not_where_the_conversation_goes_on(world: World) -> None:
    first, second = two(world)
    join(world, first, second)
    with tenant_scope(world.ipe.pk):
        from tickets.services.lifecycle import close_ticket

        close_ticket(actor=world.supervisor, ticket_id=first.pk, reason_code="SOLVED", now=NOW + timedelta(minutes=1))
    again = arrive(world, "voltei", phone=phone(2), at=NOW + timedelta(minutes=5))
    assert (again.number, again.reopened_count) == (1, 1)


def test_rest_merges_lists_and_undoes(world: World) -> None:
    first, second = two(world)
    client = by_cookie(world.supervisor)
    body = {
        "targetId": str(first.contact_id),
        "sourceIds": [str(second.contact_id)],
        "preserve": {"name": str(second.contact_id)},
    }
    assert refused(send(by_cookie(world.agent), "post", "/api/contacts/merge", body)) == (403, "FORBIDDEN")
    status, answer = send(client, "post", "/api/contacts/merge", body)
    assert status == 200, answer
    assert answer["data"]["contact"]["name"] == "Maria S."
    merge = answer["data"]["merges"][0]
    assert merge["moved"] == {
        "identities": 2, "tags": 1, "tickets": 1, "messages": 1, "activities": 2, "leads": 1, "ended": 1,
    }  # fmt: skip
    assert merge["actor"]["name"] == "Sofia" and merge["evidence"] == "manual"
    listed = send(client, "get", "/api/contacts")[1]["data"]
    assert [row["id"] for row in listed] == [str(first.contact_id)]
    assert [row["id"] for row in send(client, "get", "/api/leads")[1]["data"]] == [
        send(client, "get", f"/api/leads/{lead_of(world, second)}")[1]["data"]["id"]
    ]
    # A link from before the merge leads to the contact of today.
    assert send(client, "get", f"/api/contacts/{second.contact_id}")[1]["data"]["id"] == str(first.contact_id)
    assert [row["id"] for row in send(client, "get", "/api/contacts/merges")[1]["data"]] == [merge["id"]]
    undo = f"/api/contacts/merges/{merge['id']}/undo"
    assert refused(send(by_key(world.agent), "post", undo)) == (403, "FORBIDDEN")
    assert refused(send(by_cookie(world.outsider), "post", undo)) == (404, "NOT_FOUND")
    assert send(client, "post", undo)[1]["data"]["undoneBy"]["name"] == "Sofia"
    assert refused(send(client, "post", undo)) == (409, "UNDO_REFUSED")
    names = sorted(row["name"] for row in send(client, "get", "/api/contacts")[1]["data"])
    assert names == ["Maria", "Maria S."]


def lead_of(world: World, ticket: Ticket) -> UUID:
    with tenant_scope(world.ipe.pk):
        found: UUID = Lead.objects.values_list("pk", flat=True).get(contact_id=ticket.contact_id)
    return found


def test_rest_refusals(world: World) -> None:
    first, second = two(world)
    foreign = arrive(world, tenant=world.cedro)
    with tenant_scope(world.ipe.pk):
        group = Contact.objects.create(tenant=world.ipe, kind="GROUP", name="Obra")
    client, url = by_cookie(world.supervisor), "/api/contacts/merge"

    def body(*sources: Any, **more: Any) -> dict[str, Any]:
        return {"targetId": str(first.contact_id), "sourceIds": [str(one) for one in sources], **more}

    for sent in (body(), body("x"), body(second.contact_id, preserve={"x": str(second.contact_id)}), {}):
        assert refused(send(client, "post", url, sent)) == (400, "VALIDATION_ERROR"), sent
    strange = body(second.contact_id, preserve={"name": str(group.pk)})
    assert refused(send(client, "post", url, strange)) == (400, "VALIDATION_ERROR")
    for unknown in (foreign.contact_id, nobody_id()):
        assert refused(send(client, "post", url, body(unknown))) == (404, "NOT_FOUND")
    for sent in (body(first.contact_id), body(second.contact_id, second.contact_id), body(group.pk)):
        assert refused(send(client, "post", url, sent)) == (409, "MERGE_REFUSED"), sent
    join(world, second, first)
    assert refused(send(client, "post", url, body(second.contact_id))) == (409, "MERGE_REFUSED")
    assert refused(send(client, "post", f"/api/contacts/merges/{nobody_id()}/undo")) == (404, "NOT_FOUND")


# --- Variants of a number ---------------------------------------------------------------------------------------


def duplicates(world: World, number: str = "+5511988887777") -> tuple[UUID, UUID]:
    """A contact of before, known without the ninth digit, and one with it."""
    old = number[:5] + number[6:]
    with tenant_scope(world.ipe.pk):
        made = []
        for value in (old, number):
            contact = Contact.objects.create(tenant=world.ipe, name=value)
            ContactIdentity.objects.create(tenant=world.ipe, contact=contact, kind="phone", value=value)
            made.append(contact.pk)
    return made[0], made[1]


def test_message_joins_contacts_of_the_two_forms_of_a_number(world: World) -> None:
    oldest, other = duplicates(world)
    assert arrive(world, phone="+5511988887777").contact_id == oldest
    with tenant_scope(world.ipe.pk):
        merge = ContactMerge.objects.get()
        assert (merge.source_id, merge.evidence, merge.actor_id) == (other, "phone_variant", None)


def test_command_heals_duplicates_of_the_past(committed_world: World) -> None:
    world = committed_world
    pairs = [duplicates(world, f"+55119{n}88887777"[:14]) for n in (6, 7, 8)]
    with tenant_scope(world.ipe.pk):
        for number in ("+551133334444", "+14155552671"):  # a landline and a foreign number have no other form
            contact = Contact.objects.create(tenant=world.ipe, name=number)
            ContactIdentity.objects.create(tenant=world.ipe, contact=contact, kind="phone", value=number)
        parted = merge_contacts(actor=world.admin, target_id=pairs[2][0], source_ids=[pairs[2][1]], now=NOW)[0]
        undo_merge(actor=world.admin, merge_id=parted.pk, now=NOW)

    def run(*arguments: str) -> tuple[int, list[Any]]:
        out, code = StringIO(), 0
        try:
            call_command("merge_contacts", "--evidence", "phone_variant", "--json", *arguments, stdout=out)
        except SystemExit as stop:
            code = int(str(stop.code))
        return code, [json.loads(line) for line in out.getvalue().splitlines()]

    with tenant_scope(world.ipe.pk):
        before = list(Contact.objects.order_by("pk").values())
    code, lines = run("--dry-run")
    assert code == 1 and [line["result"] for line in lines] == ["would merge"] * 3
    with tenant_scope(world.ipe.pk):
        assert list(Contact.objects.order_by("pk").values()) == before
    code, lines = run()
    assert code == 1 and sorted(line["result"] for line in lines) == ["kept apart", "merged", "merged"]
    assert {line["target"] for line in lines} == {str(pair[0]) for pair in pairs}
    assert [line["result"] for line in run("--tenant", "ipe")[1]] == ["kept apart"]
    assert run("--tenant", "cedro") == (0, [])
    with pytest.raises(CommandError):
        call_command("merge_contacts", "--evidence", "phone_variant", "--tenant", "ninguem")
    with pytest.raises(CommandError):
        call_command("merge_contacts", "--evidence", "lid_pair")


def test_every_table_with_a_contact_of_its_own_is_known_to_a_merge() -> None:
    """A new one has to move with the others, and come back: see leads.services.merging.Follower."""
    tables = {f"{one.related_model._meta.label}.{one.field.name}" for one in Contact._meta.related_objects}
    assert tables == {
        "leads.ContactIdentity.contact", "leads.ContactTag.contact", "leads.Lead.contact", "tickets.Message.contact",
        "tickets.Ticket.contact",
    }  # fmt: skip
