"""Merges in the back office: the evidence is shown, and a supervisor merges and undoes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client

from leadengine.accounts.models import User
from leadengine.accounts.scopes import tenant_scope
from leads.models import Contact, ContactMerge
from tests.admin_site.conftest import address, audits
from tests.conftest import World
from tests.tickets.desk import arrive, phone

Enter = Callable[[User], Client]
SENT = {"_form_submitted": "1"}
pytestmark = pytest.mark.django_db


def test_supervisor_merges_and_undoes(world: World, enter: Enter) -> None:
    first, second = arrive(world, phone=phone(1), name="Maria"), arrive(world, phone=phone(2), name="Maria da loja")
    with tenant_scope(world.ipe.pk):
        target, source = Contact.objects.get(pk=first.contact_id), Contact.objects.get(pk=second.contact_id)
    client = enter(world.supervisor)
    arrive(world, phone=phone(3), name="Mariana")
    for wrong in ("ninguém", "Maria", phone(1)):  # nobody, two of that name, and the contact itself
        client.post(address(Contact, target, "merge"), {"term": wrong, **SENT})
        with tenant_scope(world.ipe.pk):
            assert not ContactMerge.objects.exists()
    assert client.post(address(Contact, target, "merge"), {"term": phone(2), **SENT}).status_code == 302
    with tenant_scope(world.ipe.pk):
        merge = ContactMerge.objects.get()
    assert (merge.target_id, merge.source_id, merge.actor_id) == (target.pk, source.pk, world.supervisor.pk)
    assert [line.actor_id for line in audits(world, "contact.merged")] == [world.supervisor.pk]
    # A merged contact is in no list, and a link to it leads to the contact of today.
    assert "Maria da loja" not in client.get(address(Contact)).content.decode()
    assert client.get(address(Contact, source)).headers["Location"] == address(Contact, target)
    assert "Maria da loja" in client.get(address(ContactMerge)).content.decode()
    assert client.post(address(ContactMerge, merge, "undo"), SENT).status_code == 302
    with tenant_scope(world.ipe.pk):
        assert ContactMerge.objects.get().undone_by_id == world.supervisor.pk
    assert client.post(address(ContactMerge, merge, "undo"), SENT).status_code == 403
    assert "Maria da loja" in client.get(address(Contact)).content.decode()


def test_outsider_finds_neither_the_merge_nor_its_contacts(world: World, enter: Enter) -> None:
    first, second = arrive(world, phone=phone(1)), arrive(world, phone=phone(2))
    with tenant_scope(world.ipe.pk):
        target, source = Contact.objects.get(pk=first.contact_id), Contact.objects.get(pk=second.contact_id)
    enter(world.supervisor).post(address(Contact, target, "merge"), {"term": phone(2), **SENT})
    with tenant_scope(world.ipe.pk):
        merge = ContactMerge.objects.get()
    client = enter(world.outsider)
    for where in (address(ContactMerge, merge), address(Contact, source), address(Contact, target)):
        assert client.get(where).status_code == 404
    assert client.post(address(ContactMerge, merge, "undo"), SENT).status_code == 404
