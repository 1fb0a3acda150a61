"""REST of contacts, leads and stages."""

from __future__ import annotations

import json
from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext
from pydantic import BaseModel, TypeAdapter

from leadengine.accounts.models import AuditLog
from leadengine.accounts.scopes import tenant_scope
from leads.models import Contact, ContactTag, Lead, PipelineStage, Tag
from leads.serializers import ContactShape, LeadShape, StageShape
from tests.api import by_cookie, refused, send
from tests.conftest import World
from tests.tickets.desk import arrive, nobody_id, phone


def fits(shape: type[BaseModel], data: Any) -> Any:
    kind: Any = list[shape] if isinstance(data, list) else shape  # type: ignore[valid-type]
    TypeAdapter(kind).validate_json(json.dumps(data))
    return data


def test_contacts_are_listed_newest_first_with_identities_and_tags(world: World) -> None:
    tickets = [arrive(world, phone=phone(n), name=f"C{n}") for n in range(5)]
    arrive(world, tenant=world.cedro)
    with tenant_scope(world.ipe.pk):
        tag = Tag.objects.create(tenant=world.ipe, name="vip")
        ContactTag.objects.create(tenant=world.ipe, contact_id=tickets[4].contact_id, tag=tag)
    client, names, cursor = by_cookie(world.agent), [], ""
    while cursor is not None:
        body = send(client, "get", f"/api/contacts?limit=2&cursor={cursor}")[1]
        names += [row["name"] for row in fits(ContactShape, body["data"])]
        cursor = body["meta"]["nextCursor"]
    assert names == ["C4", "C3", "C2", "C1", "C0"]
    row = send(client, "get", f"/api/contacts/{tickets[4].contact_id}")[1]["data"]
    assert (row["phone"], row["tags"][0]["name"], row["nameSource"]) == (phone(4), "vip", "BROKER")
    costs = []
    for limit in (1, 5):
        with CaptureQueriesContext(connection) as captured:
            send(client, "get", f"/api/contacts?limit={limit}")
        costs.append(len(captured))
    assert costs[0] == costs[1]


def test_correcting_a_name_keeps_the_broker_out(world: World) -> None:
    ticket = arrive(world, name="maria s2")
    client, url = by_cookie(world.agent), f"/api/contacts/{ticket.contact_id}"
    body = {
        "name": "Maria Souza",
        "notes": "prefere manhã",
        "customFields": {"cpf": "1", "vip": True},
        "isBlocked": True,
    }
    data = fits(ContactShape, send(client, "patch", url, body)[1]["data"])
    assert (data["name"], data["nameSource"], data["isBlocked"], data["version"]) == ("Maria Souza", "AGENT", True, 1)
    arrive(world, name="maria s2")
    data = send(client, "patch", url, {"customFields": {"vip": None, "x": [1]}})[1]["data"]
    assert (data["name"], data["notes"]) == ("Maria Souza", "prefere manhã")
    assert data["customFields"] == {"cpf": "1", "x": [1]}
    with tenant_scope(world.ipe.pk):
        assert AuditLog.objects.filter(action="contact.saved").count() == 2


def test_confirming_the_brokers_name_makes_it_the_agents(world: World) -> None:
    ticket = arrive(world, name="Maria")
    url = f"/api/contacts/{ticket.contact_id}"
    assert send(by_cookie(world.agent), "patch", url, {"name": "Maria"})[1]["data"]["nameSource"] == "AGENT"


def test_refusals_of_contacts(world: World) -> None:
    ticket, foreign = arrive(world), arrive(world, tenant=world.cedro)
    client, url = by_cookie(world.agent), f"/api/contacts/{ticket.contact_id}"
    bodies: list[dict[str, Any]] = [
        {"name": ""}, {"name": None, "phone": "x"}, {"nameSource": "BROKER"}, {"isBlocked": "yes"}, {"notes": 1},
        {"customFields": []}, {"customFields": {"x": "y" * 70_000}},
    ]  # fmt: skip
    for body in bodies:
        assert refused(send(client, "patch", url, body)) == (400, "VALIDATION_ERROR"), body
    assert refused(send(client, "patch", url, {"notes": "x", "version": 9})) == (409, "VERSION_CONFLICT")
    for contact_id in (foreign.contact_id, nobody_id()):
        for method, sent in (("get", None), ("patch", {"name": "x"})):
            assert refused(send(client, method, f"/api/contacts/{contact_id}", sent)) == (404, "NOT_FOUND")
    with tenant_scope(world.cedro.pk):
        assert Contact.objects.get().name == "Maria"


def test_leads_of_all_and_of_a_stage(world: World) -> None:
    tickets = [arrive(world, phone=phone(n), name=f"C{n}") for n in range(4)]
    with tenant_scope(world.ipe.pk):
        stage = PipelineStage.objects.get(status="QUALIFIED")
        Lead.objects.filter(contact_id=tickets[1].contact_id).update(stage=stage, status="QUALIFIED", value="1234.50")
        new = PipelineStage.objects.get(status="NEW")
        # The board's order, not that of creation.
        Lead.objects.filter(contact_id=tickets[0].contact_id).update(rank="zz")
    client = by_cookie(world.agent)

    def names(query: str) -> list[str]:
        got: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            body: dict[str, Any] = send(client, "get", f"/api/leads?limit=2&cursor={cursor}&{query}")[1]
            got += [row["contact"]["name"] for row in fits(LeadShape, body["data"])]
            cursor = body["meta"]["nextCursor"]
        return got

    assert sorted(names("")) == ["C0", "C1", "C2", "C3"]
    assert names(f"stage={new.pk}") == ["C2", "C3", "C0"]
    assert names(f"stage={stage.pk}") == ["C1"]
    with tenant_scope(world.ipe.pk):
        lead = Lead.objects.get(stage=stage)
    data = fits(LeadShape, send(client, "get", f"/api/leads/{lead.pk}")[1]["data"])
    assert (data["stageName"], data["status"], data["value"]) == ("Qualificado", "QUALIFIED", "1234.50")
    assert refused(send(by_cookie(world.outsider), "get", f"/api/leads/{lead.pk}")) == (404, "NOT_FOUND")
    assert send(by_cookie(world.outsider), "get", f"/api/leads?stage={stage.pk}")[1]["data"] == []


def test_stages_in_the_order_of_the_board(world: World) -> None:
    data = fits(StageShape, send(by_cookie(world.agent), "get", "/api/pipeline-stages")[1]["data"])
    assert [stage["status"] for stage in data] == [
        "NEW", "CONTACTED", "QUALIFIED", "PROPOSAL", "NEGOTIATION", "CONVERTED", "LOST"
    ]  # fmt: skip
