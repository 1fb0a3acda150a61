"""Fragments of the desk that speak of connections."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from leadengine.errors import NotFound
from tickets.views.access import DeskRequest, desk
from whatsapp.models import WhatsAppSession


@require_GET
@desk
def silent_lines(request: DeskRequest) -> HttpResponse:
    """The banner of connected lines that should have received something and have not; for supervisors."""
    if not request.user.is_supervisor:
        raise NotFound
    lines = WhatsAppSession.objects.for_tenant(request.user.tenant_id or "").filter(
        status=WhatsAppSession.Status.CONNECTED, silent_since__isnull=False, deleted_at__isnull=True
    )
    return render(request, "whatsapp/_silent_lines.html", {"lines": lines.order_by("session_name")})
