"""The dashboard of the back office: what needs somebody now, what happened today, and five charts.

Each number is a query inside the scope of the person and opens the list that it counts
(spec/tickets-leads.md section 13, spec/inbox.md section 15).
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone

from leadengine.accounts.models import Tenant
from leadengine.admin_site.site import person, tenant_of
from leadengine.operations.dashboard.figures import count_webhooks_off, read_figures
from leadengine.operations.dashboard.panels import make_charts, make_tiles, webhooks_off


def show(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add tiles and charts to the first page of the back office (settings.UNFOLD names this function)."""
    tenant_id = tenant_of(request)
    tenants = [tenant_id] if tenant_id else list(Tenant.objects.filter(is_active=True).values_list("pk", flat=True))
    now = timezone.localtime()
    figures = read_figures(tenants=tenants, now=now)
    groups = make_tiles(figures, now)
    if person(request).may("webhooks:write") and (off := count_webhooks_off(tenants=tenants)):
        groups[0][1].append(webhooks_off(off))
    return {**context, "tile_groups": groups, "charts": make_charts(figures), "read_at": now}
