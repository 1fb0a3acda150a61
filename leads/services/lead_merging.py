"""The leads of two contacts that become one: the further stage, all activities; and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from leadengine.accounts.models import User
from leadengine.realtime.broadcast import broadcast
from leads.events import LeadUpdated
from leads.models import Lead, LeadActivity
from leads.services.values import take_back, wire


def merge_leads(*, source_id: UUID, target_id: UUID, actor: User | None, now: datetime) -> dict[str, Any]:
    """Give the target the source's lead, or join it with the target's own; returns what `part_leads` needs.

    Of two stages the one further down the pipeline stays; a lost lead is behind every other. The source's row remains
    for the undo, without activities and hidden.
    """
    leads = Lead.objects.select_for_update(of=["self"]).select_related("stage").order_by("pk")
    rows = {lead.contact_id: lead for lead in leads.filter(contact_id__in=[source_id, target_id], merged_into=None)}
    source, target = rows.get(source_id), rows.get(target_id)
    if source is None:
        return {}
    if target is None:
        source.contact_id, source.version = target_id, source.version + 1
        source.save(update_fields=["contact_id", "version"])
        _announce(source, now)
        return {"lead": str(source.pk)}
    before = {name: getattr(target, name) for name in _FIELDS}
    stage_before = target.stage
    _take_over(target, source)
    target.version += 1
    target.save(update_fields=[*_FIELDS, "version"])
    source.merged_into = target
    source.save(update_fields=["merged_into"])
    activities = list(LeadActivity.objects.filter(lead=source).values_list("pk", flat=True))
    LeadActivity.objects.filter(pk__in=activities).update(lead=target)
    if target.stage_id != stage_before.pk:
        LeadActivity.objects.create(
            tenant_id=target.tenant_id, lead=target, kind=LeadActivity.Kind.STATUS_CHANGED, actor=actor, at=now,
            metadata={"from": stage_before.status, "to": target.status, "cause": "contact_merged"},
        )  # fmt: skip
    _announce(target, now, from_stage_id=stage_before.pk)
    changed = {name: [wire(old), wire(getattr(target, name))] for name, old in before.items()}
    return {
        "lead": str(source.pk),
        "into": str(target.pk),
        "activities": [str(pk) for pk in activities],
        "fields": {name: pair for name, pair in changed.items() if pair[0] != pair[1]},
    }


def part_leads(*, source_id: UUID, target_id: UUID, moved: Mapping[str, Any], now: datetime) -> None:
    """Give the source its lead and its own activities back; what came after the merge stays."""
    if not moved:
        return
    ids = [moved["lead"], *([moved["into"]] if "into" in moved else [])]
    rows = {
        str(lead.pk): lead for lead in Lead.objects.select_for_update(of=["self"]).filter(pk__in=ids).order_by("pk")
    }
    source = rows[moved["lead"]]
    if "into" not in moved:
        if source.contact_id == target_id:
            source.contact_id, source.version = source_id, source.version + 1
            source.save(update_fields=["contact_id", "version"])
            _announce(source, now)
        return
    target = rows[moved["into"]]
    LeadActivity.objects.filter(pk__in=moved["activities"], lead=target).update(lead=source)
    source.merged_into, source.version = None, source.version + 1
    source.save(update_fields=["merged_into", "version"])
    stage_before = target.stage_id
    fields = take_back(target, moved["fields"])
    if target.stage_id != stage_before:
        target.rank = target.pk.hex
        fields = [*fields, "rank"]
    target.version += 1
    target.save(update_fields=[*{*fields, "version"}])
    _announce(source, now)
    _announce(target, now, from_stage_id=stage_before)


_FIELDS = (
    "stage_id", "status", "rank", "owner_id", "value", "probability", "score", "expected_close_date", "lost_reason",
    "custom_fields", "last_contact_at", "next_follow_up_at",
)  # fmt: skip


def _take_over(target: Lead, source: Lead) -> None:
    """What the one lead knows from both."""
    if _furtherness(source) > _furtherness(target):
        target.stage, target.status, target.lost_reason = source.stage, source.status, source.lost_reason
        target.rank = target.pk.hex  # a key of its own in any stage, as a new lead gets it
    target.owner_id = target.owner_id or source.owner_id
    target.value = source.value if target.value is None else target.value
    target.probability, target.score = max(target.probability, source.probability), max(target.score, source.score)
    target.expected_close_date = target.expected_close_date or source.expected_close_date
    target.custom_fields = {**source.custom_fields, **target.custom_fields}
    target.last_contact_at = max(filter(None, (target.last_contact_at, source.last_contact_at)), default=None)
    target.next_follow_up_at = min(filter(None, (target.next_follow_up_at, source.next_follow_up_at)), default=None)


def _furtherness(lead: Lead) -> int:
    return -1 if lead.stage.is_lost else lead.stage.order_index


def _announce(lead: Lead, now: datetime, from_stage_id: UUID | None = None) -> None:
    broadcast(
        LeadUpdated(
            tenant_id=lead.tenant_id, at=now, lead_id=lead.pk, contact_id=lead.contact_id, change="updated",
            stage_id=lead.stage_id, from_stage_id=from_stage_id if from_stage_id != lead.stage_id else None,
            status=lead.status, rank=lead.rank, value=lead.value, owner_id=lead.owner_id,
            last_contact_at=lead.last_contact_at, version=lead.version,
        )
    )  # fmt: skip
