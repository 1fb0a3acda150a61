"""How contacts and leads look from outside. Fields are always listed."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from leadengine.accounts.api.schema import Shape
from leadengine.accounts.models import User
from leadengine.moments import iso
from leads.models import Contact, ContactMerge, Lead, PipelineStage, Tag
from leads.services import undo_until


class TagShape(Shape):
    id: UUID
    name: str
    colour: str


class IdentityShape(Shape):
    kind: str
    value: str
    is_primary: bool
    label: str


class ContactShape(Shape):
    id: UUID
    kind: str
    is_group: bool
    name: str
    name_source: str
    push_name: str
    phone: str | None
    identities: list[IdentityShape]
    document: str
    registrations: list[str]
    avatar_url: str
    is_blocked: bool
    owner_id: UUID | None
    notes: str
    custom_fields: dict[str, Any]
    consent: dict[str, Any] | None
    source: str
    tags: list[TagShape]
    last_interaction_at: datetime | None
    merged_into_id: UUID | None
    anonymised_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime


class LeadContactShape(Shape):
    id: UUID
    name: str


class LeadShape(Shape):
    id: UUID
    contact: LeadContactShape
    stage_id: UUID
    stage_name: str
    status: str
    source: str
    owner_id: UUID | None
    value: str | None
    probability: int
    score: int
    expected_close_date: date | None
    lost_reason: str
    custom_fields: dict[str, Any]
    last_contact_at: datetime | None
    next_follow_up_at: datetime | None
    rank: str
    version: int
    created_at: datetime
    updated_at: datetime


class MergePartyShape(Shape):
    id: UUID
    name: str


class MovedShape(Shape):
    """How many rows of each kind moved. `ended`: tickets that ended because the contact had an older open one."""

    identities: int
    tags: int
    tickets: int
    messages: int
    activities: int
    leads: int
    ended: int


class MergeShape(Shape):
    """`evidence`: lid_pair or phone_variant (found by the system), manual (by `actor`)."""

    id: UUID
    target: MergePartyShape
    source: MergePartyShape
    evidence: str
    actor: MergePartyShape | None
    at: datetime
    moved: MovedShape
    undo_until: datetime
    undone_at: datetime | None
    undone_by: MergePartyShape | None


class MergedShape(Shape):
    contact: ContactShape
    merges: list[MergeShape]


class StageShape(Shape):
    id: UUID
    name: str
    order_index: int
    colour: str
    status: str
    is_won: bool
    is_lost: bool


def contact_json(contact: Contact) -> dict[str, Any]:
    """A contact with identities and tags prefetched."""
    identities = sorted(contact.identities.all(), key=lambda one: (not one.is_primary, one.kind, one.value))
    return {
        "id": str(contact.pk),
        "kind": contact.kind,
        "isGroup": contact.kind == Contact.Kind.GROUP,
        "name": contact.name,
        "nameSource": contact.name_source,
        "pushName": contact.push_name,
        "phone": next((one.value for one in identities if one.kind == "phone"), None),
        "identities": [
            {"kind": one.kind, "value": one.value, "isPrimary": one.is_primary, "label": one.label}
            for one in identities
        ],
        "document": contact.document,
        "registrations": contact.registrations,
        "avatarUrl": contact.avatar_url,
        "isBlocked": contact.is_blocked,
        "ownerId": _id(contact.owner_id),
        "notes": contact.notes,
        "customFields": contact.custom_fields,
        "consent": contact.consent,
        "source": contact.source,
        "tags": [tag_json(tag) for tag in contact.tags.all()],
        "lastInteractionAt": iso(contact.last_interaction_at),
        "mergedIntoId": _id(contact.merged_into_id),
        "anonymisedAt": iso(contact.anonymised_at),
        "version": contact.version,
        "createdAt": iso(contact.created_at),
        "updatedAt": iso(contact.updated_at),
    }


def lead_json(lead: Lead) -> dict[str, Any]:
    """A lead with contact and stage selected."""
    return {
        "id": str(lead.pk),
        "contact": {"id": str(lead.contact_id), "name": lead.contact.name},
        "stageId": str(lead.stage_id),
        "stageName": lead.stage.name,
        "status": lead.status,
        "source": lead.source,
        "ownerId": _id(lead.owner_id),
        "value": None if lead.value is None else str(lead.value),
        "probability": lead.probability,
        "score": lead.score,
        "expectedCloseDate": lead.expected_close_date.isoformat() if lead.expected_close_date else None,
        "lostReason": lead.lost_reason,
        "customFields": lead.custom_fields,
        "lastContactAt": iso(lead.last_contact_at),
        "nextFollowUpAt": iso(lead.next_follow_up_at),
        "rank": lead.rank,
        "version": lead.version,
        "createdAt": iso(lead.created_at),
        "updatedAt": iso(lead.updated_at),
    }


def merge_json(merge: ContactMerge) -> dict[str, Any]:
    """A merge with its contacts and people selected."""
    moved = merge.moved
    lead = moved.get("lead") or {}
    return {
        "id": str(merge.pk),
        "target": {"id": str(merge.target_id), "name": merge.target.name},
        "source": {"id": str(merge.source_id), "name": merge.source.name},
        "evidence": merge.evidence,
        "actor": _person(merge.actor),
        "at": iso(merge.created_at),
        "moved": {
            "identities": len(moved.get("identities", ())),
            "tags": len(moved.get("tags", ())),
            "tickets": len(moved.get("tickets", ())),
            "messages": moved.get("messages", 0),
            "activities": len(lead.get("activities", ())),
            "leads": int("lead" in lead),
            "ended": len(moved.get("ended", ())),
        },
        "undoUntil": iso(undo_until(merge)),
        "undoneAt": iso(merge.undone_at),
        "undoneBy": _person(merge.undone_by),
    }


def stage_json(stage: PipelineStage) -> dict[str, Any]:
    """A column of the lead board."""
    return {
        "id": str(stage.pk),
        "name": stage.name,
        "orderIndex": stage.order_index,
        "colour": stage.colour,
        "status": stage.status,
        "isWon": stage.is_won,
        "isLost": stage.is_lost,
    }


def tag_json(tag: Tag) -> dict[str, Any]:
    """A tag."""
    return {"id": str(tag.pk), "name": tag.name, "colour": tag.colour}


def _person(user: User | None) -> dict[str, str] | None:
    return {"id": str(user.pk), "name": user.name} if user else None


def _id(value: UUID | None) -> str | None:
    return str(value) if value else None
