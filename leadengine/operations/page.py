"""The operations page of the back office: health, whom to call, runbooks, last recoveries, the journal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leadengine import health
from leadengine.admin_site.base import rows_of_tenant
from leadengine.admin_site.site import person
from leadengine.operations.models import EmergencyContact
from whatsapp.models import PersistenceJournal, RecoveryRun
from whatsapp.services.journal import pending_lines

RUNBOOKS = settings.BASE_DIR / "docs" / "runbooks"
_ROWS = 10
_TONES = {"ok": "good", "degraded": "warn", "down": "bad"}
_JOURNAL = {"applied": "good", "superseded": "calm", "failed": "bad"}


@require_safe
def operations(request: HttpRequest) -> HttpResponse:
    """What an operator looks at first. Administrators see their tenant's rows, superusers all of them."""
    _require_administrator(request)
    report = health.examine()
    contacts = list(EmergencyContact.objects.order_by("pk"))
    journal = rows_of_tenant(PersistenceJournal.objects.order_by("-replayed_at"), request)
    context = {
        "title": _("Operations"),
        "status": (_TONES[report.status], report.status),
        "checks": sorted(
            (name, "good" if facts["ok"] else "bad", _figures(facts)) for name, facts in report.checks.items()
        ),
        "people": [one for one in contacts if not one.action],
        "situations": [one for one in contacts if one.action],
        "may_edit": person(request).is_superuser,
        "runbooks": [(path.stem, _title(path)) for path in sorted(RUNBOOKS.glob("*.md"))],
        "recoveries": rows_of_tenant(RecoveryRun.objects.order_by("-started_at"), request)[:_ROWS],
        "journal": [(_JOURNAL[row.status], row) for row in journal[:_ROWS]],
        "waiting": pending_lines(),
    }
    return render(request, "admin/operations.html", admin.site.each_context(request) | context)


@require_safe
def runbook(request: HttpRequest, name: str) -> HttpResponse:
    """One page of docs/runbooks, as it is written."""
    _require_administrator(request)
    path = RUNBOOKS / f"{name}.md"
    if not re.fullmatch(r"[\w-]+", name) or not path.exists():
        raise Http404
    context = {"title": _title(path), "text": path.read_text(encoding="utf-8")}
    return render(request, "admin/runbook.html", admin.site.each_context(request) | context)


def _require_administrator(request: HttpRequest) -> None:
    if not person(request).may("settings:write"):
        raise PermissionDenied


def _title(path: Path) -> str:
    """The first line: `# Name: what is wrong`."""
    with path.open(encoding="utf-8") as page:
        return page.readline().removeprefix("#").partition(":")[2].strip() or path.stem


def _figures(facts: dict[str, Any]) -> str:
    return " · ".join(f"{name} {value}" for name, value in facts.items() if name != "ok" and value is not None)
