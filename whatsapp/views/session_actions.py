"""What people do with a connection: the wish is stored, brought to the broker, and the page shows what came of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.forms import Form
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from leadengine.accounts.models import User
from leadengine.accounts.scopes import user_scope
from leadengine.envelope import sentence_of
from leadengine.errors import DomainError, ValidationFailed
from tickets.views.access import DeskRequest, by_script, desk
from whatsapp.forms import NameForm, PhoneForm
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.acting import carry_out, pair_phone, release_session, renew_qr
from whatsapp.services.sessions.wishes import (
    Asker,
    NewSession,
    connect_session,
    create_session,
    delete_session,
    disconnect_session,
    edit_session,
)
from whatsapp.views.sessions import answer_live, answer_qr, find_session, list_context, show_page
from whatsapp.views.shown import ShownSession

_SHOWN_IN_PLACE = frozenset({400, 409, 422})  # what htmx swaps in (its configuration on the page)


class UnableToEnd(DomainError):
    """Só o dono da conexão ou um administrador pode fazer isto."""

    code = "FORBIDDEN"
    status = 403


@require_http_methods(["GET", "POST"])
@desk(scoped=False)
def new_session(request: DeskRequest) -> HttpResponse:
    """Make a connection and go to its page, where its QR code appears; a refusal stays in the form."""
    form = NameForm(request.POST if request.method == "POST" else None)
    refusal = ""
    if request.method == "POST" and form.is_valid():
        try:
            made = _create(request.user, form.cleaned_data["name"])
        except DomainError as error:
            refusal = sentence_of(error)
        else:
            return _go(request, reverse("session", args=[made.pk]))
    context = list_context(request, form, refusal)
    status = 422 if request.method == "POST" else 200
    if by_script(request):
        return render(request, "whatsapp/_session_form.html", context, status=status)
    return render(request, "whatsapp/sessions.html", {**context, "asked": True}, status=status)


@require_POST
@desk(scoped=False)
def act(request: DeskRequest, session_id: UUID, action: str) -> HttpResponse:
    """Do one of _ACTIONS, then show the connection as it is."""
    shown = find_session(request, session_id)
    return _acted(request, shown, partial(_ACTIONS[action], request, shown))


@require_POST
@desk(scoped=False)
def edit(request: DeskRequest, session_id: UUID) -> HttpResponse:
    """Rename a connection, or let it be reconnected by itself or not."""
    shown = find_session(request, session_id)

    def change() -> None:
        changes: dict[str, Any] = {}
        if "name" in request.POST:
            changes["name"] = _valid(NameForm(request.POST))["name"]
        if "auto_reconnect" in request.POST:
            changes["auto_reconnect"] = request.POST.getlist("auto_reconnect")[-1] == "on"
        edit_session(session=shown.session, asker=_asker(request.user), now=timezone.now(), **changes)

    return _acted(request, shown, change)


@require_POST
@desk(scoped=False)
def pair(request: DeskRequest, session_id: UUID) -> HttpResponse:
    """A code to type on the phone, instead of scanning."""
    shown = find_session(request, session_id)
    context: dict[str, Any] = {"shown": shown, "session": shown.session, "phone": request.POST.get("phone", "")}
    status = 200
    try:
        number = _valid(PhoneForm(request.POST))["phone"]
        code = pair_phone(session=shown.session, phone=number, asker=_asker(request.user))
        context["code"] = f"{code[:4]} {code[4:]}" if len(code) == 8 else code
    except DomainError as error:
        context["pair_refusal"], status = sentence_of(error), error.status
    if by_script(request):
        return render(request, "whatsapp/_pair.html", context, status=status if status in _SHOWN_IN_PLACE else 200)
    return show_page(request, shown, status=status, **context)


@require_POST
@desk(scoped=False)
def renew(request: DeskRequest, session_id: UUID) -> HttpResponse:
    """A newer QR code than the one on the page, which has been there for long."""
    shown = find_session(request, session_id)
    renew_qr(session=shown.session, asker=_asker(request.user))
    return answer_qr(request, find_session(request, session_id))


# --- One action each ----------------------------------------------------------------------------------------------


def _connect(request: DeskRequest, shown: ShownSession) -> None:
    session, asker = shown.session, _asker(request.user)
    carry_out(session=connect_session(session=session, asker=asker, now=timezone.now()), asker=asker)


def _new_qr(request: DeskRequest, shown: ShownSession) -> None:
    if shown.session.status == WhatsAppSession.Status.QRCODE:
        renew_qr(session=shown.session, asker=_asker(request.user))
    else:
        _connect(request, shown)


def _disconnect(request: DeskRequest, shown: ShownSession, *, wipe: bool = False) -> None:
    session, asker = shown.session, _asker(request.user)
    carry_out(session=disconnect_session(session=session, asker=asker, now=timezone.now(), wipe=wipe), asker=asker)


def _wipe(request: DeskRequest, shown: ShownSession) -> None:
    if not shown.may_end:
        raise UnableToEnd
    _disconnect(request, shown, wipe=True)


def _release(request: DeskRequest, shown: ShownSession) -> None:
    if not shown.may_release:
        raise UnableToEnd(_("A supervisor can release it."))
    release_session(session=shown.session, asker=_asker(request.user))


def _delete(request: DeskRequest, shown: ShownSession) -> None:
    if not shown.may_end:
        raise UnableToEnd
    session, asker = shown.session, _asker(request.user)
    carry_out(session=delete_session(session=session, asker=asker, now=timezone.now()), asker=asker)
    messages.success(request, _("%s was deleted. An administrator can restore it.") % session.session_name)


_ACTIONS: dict[str, Callable[[DeskRequest, ShownSession], None]] = {
    "connect": _connect, "new-qr": _new_qr, "disconnect": _disconnect, "wipe": _wipe, "release": _release,
    "delete": _delete,
}  # fmt: skip
ACTIONS = tuple(_ACTIONS)


# --- Steps --------------------------------------------------------------------------------------------------------


def _acted(request: DeskRequest, shown: ShownSession, act: Callable[[], None]) -> HttpResponse:
    """Do it and show the connection; a refusal stands on the page as a sentence."""
    refusal, status = "", 200
    try:
        act()
    except DomainError as error:
        if by_script(request) and error.status not in _SHOWN_IN_PLACE:
            raise
        refusal, status = sentence_of(error), error.status
    with user_scope(request.user):
        gone = not WhatsAppSession.objects.filter(pk=shown.session.pk, deleted_at=None).exists()
    if gone:
        return _go(request, reverse("sessions"))
    shown = find_session(request, shown.session.pk)
    if by_script(request):
        return answer_live(request, shown, status=status, refusal=refusal)
    if not refusal:
        return redirect("session", shown.session.pk)
    return show_page(request, shown, status=status, refusal=refusal)


def _create(user: User, name: str) -> WhatsAppSession:
    assert user.tenant_id is not None  # noqa: S101 - the gate lets members of a tenant in only
    asker = _asker(user)
    wish = NewSession(tenant_id=user.tenant_id, owner=user, name=name)
    created = create_session(wish=wish, asker=asker, now=timezone.now())
    return carry_out(session=created.session, asker=asker).session


def _asker(user: User) -> Asker:
    return Asker(user, partial(user_scope, user))


def _go(request: DeskRequest, address: str) -> HttpResponse:
    return HttpResponse(headers={"HX-Redirect": address}) if by_script(request) else redirect(address)


def _valid(form: Form) -> dict[str, Any]:
    """What was typed. Raises: ValidationFailed, in the form's words."""
    if not form.is_valid():
        said = [{"field": field, "message": str(words[0])} for field, words in form.errors.items()]
        raise ValidationFailed(said, message=said[0]["message"])
    return form.cleaned_data
