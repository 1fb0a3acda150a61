"""The nightly reconciliation: once per tenant and night, at its own local time (spec/tickets-leads.md section 7)."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.db import connection

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.ids import uuid7
from tickets.models import TimelineRun
from tickets.services.timeline_runs import Result, reconcile_timelines

log = structlog.get_logger(__name__)
# Later than this it is day: the next night looks back far enough to make up for one that was missed.
WINDOW = timedelta(hours=2)
LEASE = timedelta(minutes=10)  # a run that has not moved for so long has lost its worker


def reconcile_nightly(*, now: datetime) -> list[Result]:
    """Reconcile each tenant whose night has come and whose run is not done or under way. A failure costs one tenant."""
    results = []
    for tenant_id, night in _due(now):
        run = _claim(tenant_id, night, now)
        if run is None:
            continue
        since = now - timedelta(hours=settings.TIMELINE_RECONCILE_SINCE_HOURS)
        try:
            results.append(reconcile_timelines(tenant_id=tenant_id, since=since, run=run))
        except Exception:
            log.exception("timeline_reconcile_failed", tenant_id=str(tenant_id))
    return results


def night_of(*, now: datetime, zone: ZoneInfo) -> date | None:
    """The local date of the night whose run is due now; None by day."""
    today = now.astimezone(zone).date()
    for night in (today, today - timedelta(days=1)):
        start = datetime.combine(night, settings.TIMELINE_RECONCILE_AT, zone)
        if start <= now < start + WINDOW:
            return night
    return None


def _due(now: datetime) -> list[tuple[UUID, date]]:
    with service_scope("find tenants whose timelines are due"):
        tenants = list(Tenant.objects.filter(is_active=True).order_by("slug").values_list("pk", "timezone"))
        nights = [(pk, night_of(now=now, zone=ZoneInfo(name))) for pk, name in tenants]
        done = set(
            TimelineRun.objects.filter(night__gte=(now - timedelta(days=2)).date())
            .exclude(finished_at__isnull=True, alive_at__lt=now - LEASE)
            .values_list("tenant_id", "night")
        )
    return [(pk, night) for pk, night in nights if night is not None and (pk, night) not in done]


def _claim(tenant_id: UUID, night: date, now: datetime) -> TimelineRun | None:
    """Take the night's run, or take it over from a worker that is gone. None: somebody else has it."""
    with tenant_scope(tenant_id), connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO tickets_timelinerun AS r (id, tenant_id, trigger, night, started_at, alive_at)
               VALUES (%s, %s, 'nightly', %s, %s, %s)
               ON CONFLICT (tenant_id, night) DO UPDATE SET started_at = excluded.started_at,
                   alive_at = excluded.alive_at
               WHERE r.finished_at IS NULL AND r.alive_at < %s
               RETURNING r.id""",
            [uuid7(), tenant_id, night, now, now, now - LEASE],
        )
        row = cursor.fetchone()
        return None if row is None else TimelineRun.objects.get(pk=row[0])
