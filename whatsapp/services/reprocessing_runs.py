"""Which stored events a run of `reprocess_webhook_events` takes, batch by batch, and how they ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Count, Exists, OuterRef, Q

from leadengine.accounts.scopes import service_scope
from leadengine.accounts.services import write_audit
from whatsapp.models import WebhookEvent, WebhookItem
from whatsapp.services.reprocessing import requeue_events

BATCH = 200
_OWNED = ("PROCESSED", "FAILED", "PENDING")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events; None does not narrow. `fate` and `reason` are those of an item, `reason` also of the event."""

    ids: tuple[UUID, ...] = ()
    fate: str | None = None
    reason: str | None = None
    status: str | None = None
    session_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


def find_events(selection: Selection, *, after: UUID | None, most: int) -> list[UUID]:
    """The next events of a selection, oldest first, over all tenants."""
    with service_scope("reprocess webhook events"):
        rows = WebhookEvent.objects.order_by("pk")
        if selection.ids:
            rows = rows.filter(pk__in=selection.ids)
        elif selection.status is None and selection.reason is None:
            rows = rows.filter(status__in=_OWNED, session__isnull=False)
        items = WebhookItem.objects.filter(event=OuterRef("pk"))
        if selection.fate:
            rows = rows.filter(Exists(items.filter(fate=selection.fate)))
        if selection.reason:
            rows = rows.filter(Q(reason=selection.reason) | Exists(items.filter(reason=selection.reason)))
        same = {
            "status": selection.status, "session_id": selection.session_id, "received_at__gte": selection.since,
            "received_at__lt": selection.until, "pk__gt": after,
        }  # fmt: skip
        rows = rows.filter(**{name: value for name, value in same.items() if value is not None})
        return list(rows.values_list("pk", flat=True)[:most])


def run_again(*, ids: list[UUID], now: datetime) -> Counter[str]:
    """Queue these events again in one transaction, with one line in the audit log; returns why some will not run."""
    with service_scope("reprocess webhook events"):
        done = requeue_events(ids=ids, actor=None, now=now)
        if done.run:
            changes = {"events": len(done.run), "first": str(done.run[0]), "last": str(done.run[-1])}
            write_audit(tenant_id=None, actor=None, action="webhook_event.requeued", changes=changes)
        return done.left


def is_waiting(ids: list[UUID], *, now: datetime) -> bool:
    """Whether one of these is still due."""
    with service_scope("reprocess webhook events"):
        return WebhookEvent.objects.filter(pk__in=ids, status="PENDING", due_at__lte=now).exists()


def count_fates(ids: list[UUID]) -> Counter[str]:
    """How the items of these events stand now; an event without items counts under its status."""
    with service_scope("reprocess webhook events"):
        items = WebhookItem.objects.filter(event_id__in=ids).order_by().values("fate").annotate(n=Count("pk"))
        fates = Counter({row["fate"]: row["n"] for row in items})
        bare = WebhookEvent.objects.filter(pk__in=ids).exclude(Exists(WebhookItem.objects.filter(event=OuterRef("pk"))))
        for row in bare.order_by().values("status").annotate(n=Count("pk")):
            fates["empty" if row["status"] == "PROCESSED" else row["status"].lower()] += row["n"]
    return fates
