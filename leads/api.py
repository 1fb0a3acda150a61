"""REST of contacts, leads and stages (spec/tickets-leads.md section 8)."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from pydantic import Field, JsonValue
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Query, ScopedAPIView, answer, describe
from leadengine.errors import NotFound, ValidationFailed
from leads.models import Contact, ContactMerge, Lead, PipelineStage
from leads.serializers import (
    ContactShape,
    LeadShape,
    MergedShape,
    MergeShape,
    StageShape,
    contact_json,
    lead_json,
    merge_json,
    stage_json,
)
from leads.services import Preserved, edit_contact, find_current, merge_contacts, undo_merge

MOST_SOURCES = 20


class ContactBody(Body):
    """`customFields` is changed by key; null removes one."""

    name: str | None = Field(None, min_length=1, max_length=255)
    notes: str | None = Field(None, max_length=20_000)
    custom_fields: dict[str, JsonValue] | None = None
    is_blocked: bool | None = None
    version: int | None = None


class MergeBody(Body):
    """`preserve` names fields and the contact (target or source) whose value stays; else the target's does."""

    target_id: UUID
    source_ids: list[UUID] = Field(min_length=1, max_length=MOST_SOURCES)
    preserve: dict[Preserved, UUID] = Field(default_factory=dict)


class LeadQuery(Query):
    stage: UUID | None = None


class ContactListView(ScopedAPIView):
    permissions: ClassVar = {"GET": "contacts:read"}

    @describe(ContactShape, many=True, query=Query)
    def get(self, request: Request) -> Response:
        """Contacts, the newest first."""
        contacts = self.of_tenant(Contact.objects.filter(merged_into=None)).prefetch_related("identities", "tags")
        return self.answer_page(contacts, self.read_query(Query), contact_json, descending=True)


class ContactView(ScopedAPIView):
    permissions: ClassVar = {"GET": "contacts:read", "PATCH": "contacts:write"}

    @describe(ContactShape)
    def get(self, request: Request, contact_id: UUID) -> Response:
        """One contact; an id from before a merge answers as the contact it became part of."""
        return answer(contact_json(self._find(contact_id)))

    @describe(ContactShape, body=ContactBody)
    def patch(self, request: Request, contact_id: UUID) -> Response:
        """Correct a contact. A name given here is never overwritten by the broker."""
        body = self.read_body(ContactBody)
        contact_id = self._find(contact_id).pk
        edit_contact(
            actor=self.user, contact_id=contact_id, name=body.name, notes=body.notes,
            custom_fields=body.custom_fields, is_blocked=body.is_blocked, version=body.version,
        )  # fmt: skip
        return answer(contact_json(self._find(contact_id)))

    def _find(self, contact_id: UUID) -> Contact:
        contacts = self.of_tenant(Contact.objects.all()).prefetch_related("identities", "tags")
        contact: Contact | None = contacts.filter(pk=find_current(ids=[contact_id]).get(contact_id)).first()
        if contact is None:
            raise NotFound("Contato não encontrado.")
        return contact


class MergeView(ScopedAPIView):
    permissions: ClassVar = {"POST": "contacts:merge"}

    @describe(MergedShape, body=MergeBody)
    def post(self, request: Request) -> Response:
        """Merge contacts into one: addresses, tickets, messages, tags and leads move. Can be undone for 30 days."""
        body = self.read_body(MergeBody)
        wanted = {body.target_id, *body.source_ids}
        if self.of_tenant(Contact.objects.filter(pk__in=wanted)).count() < len(wanted):
            raise NotFound("Contato não encontrado.")
        if any(contact_id not in wanted for contact_id in body.preserve.values()):
            raise ValidationFailed([{"field": "preserve", "message": "Indique o contato de destino ou um de origem."}])
        merges = merge_contacts(
            actor=self.user, target_id=body.target_id, source_ids=body.source_ids, preserve=body.preserve,
            now=timezone.now(),
        )  # fmt: skip
        contact = Contact.objects.prefetch_related("identities", "tags").get(pk=body.target_id)
        shown = _merges(ContactMerge.objects.filter(pk__in=[merge.pk for merge in merges]).order_by("pk"))
        return answer({"contact": contact_json(contact), "merges": [merge_json(merge) for merge in shown]})


class MergeListView(ScopedAPIView):
    permissions: ClassVar = {"GET": "contacts:merge"}

    @describe(MergeShape, many=True, query=Query)
    def get(self, request: Request) -> Response:
        """Merges with their evidence, the newest first, undone ones too."""
        merges = _merges(self.of_tenant(ContactMerge.objects.all()))
        return self.answer_page(merges, self.read_query(Query), merge_json, descending=True)


class MergeUndoView(ScopedAPIView):
    permissions: ClassVar = {"POST": "contacts:merge"}

    @describe(MergeShape)
    def post(self, request: Request, merge_id: UUID) -> Response:
        """Give the source back what was its own. The two are never merged again by the system."""
        if not self.of_tenant(ContactMerge.objects.filter(pk=merge_id)).exists():
            raise NotFound("União não encontrada.")
        undo_merge(actor=self.user, merge_id=merge_id, now=timezone.now())
        return answer(merge_json(_merges(ContactMerge.objects.filter(pk=merge_id)).get()))


def _merges(rows: QuerySet[ContactMerge]) -> QuerySet[ContactMerge]:
    return rows.select_related("target", "source", "actor", "undone_by")


class LeadListView(ScopedAPIView):
    permissions: ClassVar = {"GET": "leads:read"}

    @describe(LeadShape, many=True, query=LeadQuery)
    def get(self, request: Request) -> Response:
        """Leads, the newest first; those of a stage in the order of the board."""
        query = self.read_query(LeadQuery)
        leads: QuerySet[Lead] = self.of_tenant(Lead.objects.filter(merged_into=None))
        leads = leads.select_related("contact", "stage")
        if query.stage is None:
            return self.answer_page(leads, query, lead_json, descending=True)
        return self.answer_page(leads.filter(stage_id=query.stage), query, lead_json, keys=("rank", "id"))


class LeadView(ScopedAPIView):
    permissions: ClassVar = {"GET": "leads:read"}

    @describe(LeadShape)
    def get(self, request: Request, lead_id: UUID) -> Response:
        """One lead; the id of one that was merged answers as the lead it became part of."""
        leads = self.of_tenant(Lead.objects.all()).select_related("contact", "stage")
        lead = leads.filter(pk=lead_id).first()
        while lead is not None and lead.merged_into_id is not None:
            lead = leads.filter(pk=lead.merged_into_id).first()
        if lead is None:
            raise NotFound("Lead não encontrado.")
        return answer(lead_json(lead))


class StageListView(ScopedAPIView):
    permissions: ClassVar = {"GET": "leads:read"}

    @describe(StageShape, many=True, query=Query)
    def get(self, request: Request) -> Response:
        """The stages of the pipeline, in the order of the board."""
        stages = self.of_tenant(PipelineStage.objects.all())
        return self.answer_page(stages, self.read_query(Query), stage_json, keys=("order_index", "id"))
