"""REST of contacts, leads and stages (spec/tickets-leads.md section 8)."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from django.db.models import QuerySet
from pydantic import Field, JsonValue
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Query, ScopedAPIView, answer, describe
from leadengine.errors import NotFound
from leads.models import Contact, Lead, PipelineStage
from leads.serializers import ContactShape, LeadShape, StageShape, contact_json, lead_json, stage_json
from leads.services import edit_contact


class ContactBody(Body):
    """`customFields` is changed by key; null removes one."""

    name: str | None = Field(None, min_length=1, max_length=255)
    notes: str | None = Field(None, max_length=20_000)
    custom_fields: dict[str, JsonValue] | None = None
    is_blocked: bool | None = None
    version: int | None = None


class LeadQuery(Query):
    stage: UUID | None = None


class ContactListView(ScopedAPIView):
    permissions: ClassVar = {"GET": "contacts:read"}

    @describe(ContactShape, many=True, query=Query)
    def get(self, request: Request) -> Response:
        """Contacts, the newest first."""
        contacts = self.of_tenant(Contact.objects.all()).prefetch_related("identities", "tags")
        return self.answer_page(contacts, self.read_query(Query), contact_json, descending=True)


class ContactView(ScopedAPIView):
    permissions: ClassVar = {"GET": "contacts:read", "PATCH": "contacts:write"}

    @describe(ContactShape)
    def get(self, request: Request, contact_id: UUID) -> Response:
        """One contact."""
        return answer(contact_json(self._find(contact_id)))

    @describe(ContactShape, body=ContactBody)
    def patch(self, request: Request, contact_id: UUID) -> Response:
        """Correct a contact. A name given here is never overwritten by the broker."""
        body = self.read_body(ContactBody)
        self._find(contact_id)
        edit_contact(
            actor=self.user, contact_id=contact_id, name=body.name, notes=body.notes,
            custom_fields=body.custom_fields, is_blocked=body.is_blocked, version=body.version,
        )  # fmt: skip
        return answer(contact_json(self._find(contact_id)))

    def _find(self, contact_id: UUID) -> Contact:
        contacts = self.of_tenant(Contact.objects.all()).prefetch_related("identities", "tags")
        contact: Contact | None = contacts.filter(pk=contact_id).first()
        if contact is None:
            raise NotFound("Contato não encontrado.")
        return contact


class LeadListView(ScopedAPIView):
    permissions: ClassVar = {"GET": "leads:read"}

    @describe(LeadShape, many=True, query=LeadQuery)
    def get(self, request: Request) -> Response:
        """Leads, the newest first; those of a stage in the order of the board."""
        query = self.read_query(LeadQuery)
        leads: QuerySet[Lead] = self.of_tenant(Lead.objects.all()).select_related("contact", "stage")
        if query.stage is None:
            return self.answer_page(leads, query, lead_json, descending=True)
        return self.answer_page(leads.filter(stage_id=query.stage), query, lead_json, keys=("rank", "id"))


class LeadView(ScopedAPIView):
    permissions: ClassVar = {"GET": "leads:read"}

    @describe(LeadShape)
    def get(self, request: Request, lead_id: UUID) -> Response:
        """One lead."""
        lead = self.of_tenant(Lead.objects.all()).select_related("contact", "stage").filter(pk=lead_id).first()
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
