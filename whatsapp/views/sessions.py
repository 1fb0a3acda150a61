"""The page of connections, the page of one of them, and the parts of both that change by themselves.

None of it runs in a transaction: looking at a QR code may ask the broker for it.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from leadengine.accounts.scopes import user_scope
from leadengine.errors import NotConfigured
from tickets.queries import tab_counts
from tickets.services.outbox.circuit import read_circuits
from tickets.views.access import DeskRequest, by_script, desk
from whatsapp.adapters import get_adapter
from whatsapp.forms import NameForm
from whatsapp.models import SessionEvent, WhatsAppSession
from whatsapp.services.sessions.qr import read_qr
from whatsapp.services.sessions.wishes import InstanceNotFound
from whatsapp.views.shown import ShownSession, count_today, may_create, show_session, visible_sessions

_HISTORY = 12


@require_GET
@desk(scoped=False)
def sessions(request: DeskRequest) -> HttpResponse:
    """The connections; for a script only the cards."""
    template = "whatsapp/_sessions.html" if by_script(request) else "whatsapp/sessions.html"
    return render(request, template, list_context(request))


@require_GET
@desk(scoped=False)
def session(request: DeskRequest, session_id: UUID) -> HttpResponse:
    """One connection; for a script only the part that lives."""
    shown = find_session(request, session_id)
    return answer_live(request, shown) if by_script(request) else show_page(request, shown)


@require_GET
@desk(scoped=False)
def session_qr(request: DeskRequest, session_id: UUID) -> HttpResponse:
    """The QR code as it is now, checked with the broker; once there is none to scan, all that lives of the page."""
    shown = find_session(request, session_id)
    if shown.waits:
        read_qr(session_id=session_id, tenant_id=shown.session.tenant_id)
        shown = find_session(request, session_id)
    return answer_qr(request, shown)


def answer_qr(request: DeskRequest, shown: ShownSession) -> HttpResponse:
    """The picture alone, so that nothing else on the page moves; all that lives once there is another thing to show."""
    asked_beside_it = request.headers.get("HX-Target") == "session-qr"
    if asked_beside_it and shown.session.status == WhatsAppSession.Status.QRCODE:
        return render(request, "whatsapp/_qr.html", {"shown": shown})
    response = answer_live(request, shown)
    response["HX-Retarget"], response["HX-Reswap"] = "#session-live", "outerHTML"
    return response


def find_session(request: DeskRequest, session_id: UUID) -> ShownSession:
    """A connection that the person may see. Raises: InstanceNotFound, also for one of another owner (D26)."""
    with user_scope(request.user):
        found = visible_sessions(request.user).filter(pk=session_id).first()
        if found is None:
            raise InstanceNotFound
        today = count_today([found.pk]).get(found.pk)
    return show_session(found, request.user, timezone.now(), today)


def list_context(request: DeskRequest, form: NameForm | None = None, refusal: str = "") -> dict[str, Any]:
    """The cards, and the form of a new connection."""
    with user_scope(request.user):
        rows = list(visible_sessions(request.user).order_by("session_name", "pk"))
        today = count_today([row.pk for row in rows])
        context = _around(request)
    now = timezone.now()
    circuits = read_circuits(now=now)
    return {
        **context,
        "sessions": [show_session(row, request.user, now, today.get(row.pk), circuits) for row in rows],
        "may_create": may_create(request.user),
        "missing": _missing(),
        "form": form or NameForm(),
        "refusal": refusal,
    }


def answer_live(request: DeskRequest, shown: ShownSession, *, status: int = 200, refusal: str = "") -> HttpResponse:
    """The part of the page that changes by itself, with the history beside it."""
    context = {**_about(request, shown), "refusal": refusal, "beside": True}
    return render(request, "whatsapp/_session_live.html", context, status=status)


def show_page(request: DeskRequest, shown: ShownSession, *, status: int = 200, **more: Any) -> HttpResponse:
    """The whole page of a connection."""
    with user_scope(request.user):
        context = _around(request)
    context |= _about(request, shown) | {"missing": _missing(), **more}
    return render(request, "whatsapp/session.html", context, status=status)


def _about(request: DeskRequest, shown: ShownSession) -> dict[str, Any]:
    with user_scope(request.user):
        history = list(SessionEvent.objects.filter(session=shown.session).order_by("-at", "-pk")[:_HISTORY])
    names = dict(WhatsAppSession.Status.choices)
    return {
        "shown": shown,
        "session": shown.session,
        "view_seconds": settings.WHATSAPP_QR_VIEW_SECONDS,
        "history": [(one.at, names.get(one.new_status, one.new_status)) for one in history],
    }


def _around(request: DeskRequest) -> dict[str, Any]:
    return {"place": "sessions", "unread": tab_counts(request.viewer)["unread"]}


def _missing() -> list[str]:
    """The names of what is not configured."""
    try:
        get_adapter().require_configured()
    except NotConfigured as error:
        names: list[str] = error.details["missing"]
        return names
    return []
