"""What may be done with a connection in the back office. Each calls a service, outside any transaction: a broker is
asked, too. The services write the audit log."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from leadengine.accounts.models import User
from leadengine.accounts.permissions import Role
from leadengine.admin_site.base import DialogForm, dialog
from leadengine.admin_site.display import screen
from leadengine.admin_site.site import person, scope_of, tenant_of
from leadengine.errors import DomainError, ValidationFailed
from tickets.services.outbox.circuit import read_circuits
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.acting import carry_out, find_unclaimed, release_session, renew_qr
from whatsapp.services.sessions.looking import load_session
from whatsapp.services.sessions.reconnecting import reconnect_all
from whatsapp.services.sessions.wishes import (
    NAME_MAX,
    Asker,
    NewSession,
    connect_session,
    create_session,
    delete_session,
    disconnect_session,
    edit_session,
    restore_session,
    transfer_session,
)

Status = WhatsAppSession.Status
ACTIONS = (
    "connect", "new_qr", "reconnect", "disconnect", "pause_reconnect", "resume_reconnect", "release", "transfer",
    "wipe", "remove", "restore",
)  # fmt: skip


def _here(user: User, session: Any) -> bool:
    return user.may("sessions:read") and session.deleted_at is None


def _may_end(user: User, session: Any) -> bool:
    """What ends a connection for good is for its owner and for administrators (spec/sessions.md section 5)."""
    return user.is_superuser or user.role == Role.ADMIN or session.owner_id == user.pk


def _is_admin(user: User) -> bool:
    return user.is_superuser or user.role == Role.ADMIN


class CreateForm(DialogForm):
    """A new connection; administrators choose whose it is."""

    name = forms.CharField(label=_("Name"), max_length=NAME_MAX, widget=UnfoldAdminTextInputWidget)
    owner: Any = forms.ModelChoiceField(User.objects.none(), label=capfirst(_("owner")), widget=UnfoldAdminSelectWidget)
    connect_now = forms.BooleanField(
        label=_("Connect at once"), required=False, initial=True, widget=UnfoldBooleanSwitchWidget
    )

    def __init__(self, *args: Any, row: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        user = person(self.request)
        if _is_admin(user):
            self.fields["owner"].queryset = _members(tenant_of(self.request))
            self.fields["owner"].initial = user.pk
        else:
            del self.fields["owner"]


class TransferForm(DialogForm):
    """The new owner."""

    owner: Any = forms.ModelChoiceField(User.objects.none(), label=capfirst(_("owner")), widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.fields["owner"].queryset = _members(row.tenant_id).exclude(pk=row.owner_id)


class SessionActions:
    """The buttons of a connection's page, and those over the list."""

    actions_detail = (*ACTIONS[:4], {"title": _("More"), "icon": "more_horiz", "items": list(ACTIONS[4:])})
    actions_list = ("create", "reconnect_all", "unclaimed")

    # --- Its link ------------------------------------------------------------------------------------------------

    @dialog(
        title=_("Connect"),
        ask=_("It is wanted from now on. A number that was never paired shows a QR code."),
        icon="power_settings_new",
        variant=ActionVariant.PRIMARY,
        outside=True,
        fits=lambda user, one: (
            _here(user, one) and one.status in {Status.DISCONNECTED, Status.LOGGED_OUT, Status.DUPLICATE}
        ),
    )
    def connect(self, request: HttpRequest, session: Any, form: Any) -> Any:
        return _connect(request, session)

    @dialog(
        title=_("New QR code"),
        ask=_("The present code ends; the phone scans the new one."),
        icon="qr_code_2",
        outside=True,
        fits=lambda user, one: _here(user, one) and one.status != Status.CONNECTED,
    )
    def new_qr(self, request: HttpRequest, session: Any, form: Any) -> Any:
        if session.status != Status.QRCODE:
            return _connect(request, session)
        # The screens leave secret columns in the database; outside a scope they cannot be fetched later.
        renew_qr(session=load_session(session.pk) or session, asker=_asker(request))
        return _("There is a new QR code.")

    @dialog(
        title=_("Reconnect"),
        ask=_("It is tried at once, without waiting for the next attempt."),
        icon="sync",
        outside=True,
        fits=lambda user, one: _here(user, one) and one.status in {Status.CONNECTING, Status.ERROR},
    )
    def reconnect(self, request: HttpRequest, session: Any, form: Any) -> Any:
        return _connect(request, session)

    @dialog(
        title=_("Disconnect"),
        ask=_("The number is logged out. To use it again it scans a QR code."),
        icon="power_off",
        outside=True,
        fits=lambda user, one: _here(user, one) and one.status != Status.DISCONNECTED,
    )
    def disconnect(self, request: HttpRequest, session: Any, form: Any) -> Any:
        return _disconnect(request, session)

    # --- Its settings --------------------------------------------------------------------------------------------

    @dialog(
        title=_("Pause reconnecting"),
        ask=_("A lost link stays lost until somebody connects it."),
        icon="sync_disabled",
        outside=True,
        fits=lambda user, one: _here(user, one) and one.auto_reconnect,
    )
    def pause_reconnect(self, request: HttpRequest, session: Any, form: Any) -> Any:
        edit_session(session=session, asker=_asker(request), now=timezone.now(), auto_reconnect=False)
        return _("It is not reconnected by itself any more.")

    @dialog(
        title=_("Resume reconnecting"),
        ask=_("A lost link is tried again until it is back."),
        icon="sync",
        outside=True,
        fits=lambda user, one: _here(user, one) and not one.auto_reconnect,
    )
    def resume_reconnect(self, request: HttpRequest, session: Any, form: Any) -> Any:
        edit_session(session=session, asker=_asker(request), now=timezone.now(), auto_reconnect=True)
        return _("It is reconnected by itself again.")

    @dialog(
        title=_("Release"),
        ask=_("WhatsApp saw a risk, or did not answer, and sending waits. What waits leaves at once."),
        icon="lock_open",
        outside=True,
        fits=lambda user, one: _here(user, one) and (one.risk_paused or one.pk in read_circuits(now=timezone.now())),
    )
    def release(self, request: HttpRequest, session: Any, form: Any) -> Any:
        release_session(session=session, asker=_asker(request))
        return _("The pause was lifted.")

    @dialog(
        title=_("Transfer owner"),
        ask=_("The new owner sees it and acts on it; the former one does not any more."),
        icon="swap_horiz",
        form_class=TransferForm,
        outside=True,
        fits=lambda user, one: _here(user, one) and _is_admin(user),
    )
    def transfer(self, request: HttpRequest, session: Any, form: Any) -> Any:
        owner = form.cleaned_data["owner"]
        transfer_session(session=session, owner=owner, asker=_asker(request), now=timezone.now())
        return _("It belongs to %s now.") % owner.name

    # --- Its end -------------------------------------------------------------------------------------------------

    @dialog(
        title=_("Wipe"),
        ask=_("The number is logged out and its keys are erased at the WhatsApp service. This cannot be undone."),
        icon="delete_forever",
        variant=ActionVariant.DANGER,
        outside=True,
        fits=lambda user, one: _here(user, one) and _may_end(user, one),
    )
    def wipe(self, request: HttpRequest, session: Any, form: Any) -> Any:
        return _disconnect(request, session, wipe=True)

    @dialog(
        title=_("Delete"),
        ask=_("It leaves the WhatsApp service and the lists. The row stays and can be restored."),
        icon="delete",
        variant=ActionVariant.DANGER,
        outside=True,
        fits=lambda user, one: _here(user, one) and _may_end(user, one),
    )
    def remove(self, request: HttpRequest, session: Any, form: Any) -> Any:
        asker = _asker(request)
        deleted = delete_session(session=session, asker=asker, now=timezone.now())
        return _("It was deleted.") if not carry_out(session=deleted, asker=asker).pending else _PENDING

    @dialog(
        title=_("Restore"),
        ask=_("It comes back disconnected."),
        icon="restore_from_trash",
        outside=True,
        fits=lambda user, one: one.deleted_at is not None and _may_end(user, one),
    )
    def restore(self, request: HttpRequest, session: Any, form: Any) -> Any:
        restore_session(session=session, asker=_asker(request), now=timezone.now())
        return _("It is back, disconnected.")

    # --- Over the list -------------------------------------------------------------------------------------------

    @dialog(
        title=_("New connection"),
        icon="add",
        variant=ActionVariant.PRIMARY,
        form_class=CreateForm,
        outside=True,
        fits=lambda user, _row: user.may("sessions:read"),
    )
    def create(self, request: HttpRequest, _row: None, form: Any) -> Any:
        tenant_id, user = tenant_of(request), person(request)
        if tenant_id is None:
            raise ValidationFailed([{"field": "", "message": str(_("Choose a tenant first."))}])
        asker = _asker(request)
        wish = NewSession(
            tenant_id=tenant_id, owner=form.cleaned_data.get("owner") or user, name=form.cleaned_data["name"],
            auto_connect=form.cleaned_data["connect_now"], exempt=user.is_superuser,
        )  # fmt: skip
        made = create_session(wish=wish, asker=asker, now=timezone.now()).session
        pending = wish.auto_connect and carry_out(session=made, asker=asker).pending
        return _PENDING if pending else _("%s was made.") % made.session_name

    @dialog(
        title=_("Reconnect all"),
        ask=_("Everything that is wanted and not connected is tried at once."),
        icon="sync",
        outside=True,
        fits=lambda user, _row: user.may("sessions:read"),
    )
    def reconnect_all(self, request: HttpRequest, _row: None, form: Any) -> Any:
        number = len(reconnect_all(asker=_asker(request), now=timezone.now(), tenant_id=tenant_of(request)))
        return ngettext("%d connection is tried.", "%d connections are tried.", number) % number

    @action(description=_("Unclaimed instances"), icon="help_center", url_path="unclaimed")  # type: ignore[untyped-decorator]
    def unclaimed(self, request: HttpRequest) -> HttpResponse:
        """What the broker has and no session of ours names; for superusers, since it may be anybody's."""
        if not person(request).is_superuser:
            raise PermissionDenied
        try:
            found = find_unclaimed()
        except DomainError as error:
            messages.error(request, error.message)
            return redirect(screen(WhatsAppSession))
        with scope_of(request):
            words = {
                **self.admin_site.each_context(request),  # type: ignore[attr-defined]
                "title": _("Unclaimed instances"), "opts": self.opts, "found": found,  # type: ignore[attr-defined]
            }  # fmt: skip
            return render(request, "admin/unclaimed.html", words)

    unclaimed.outside = True
    unclaimed.fits = lambda user, _row: user.is_superuser


_PENDING = _("It is noted. The WhatsApp service has not answered yet; it is asked again by itself.")


def _connect(request: HttpRequest, session: Any) -> Any:
    asker = _asker(request)
    wished = connect_session(session=session, asker=asker, now=timezone.now())
    return _PENDING if carry_out(session=wished, asker=asker).pending else _("It is connecting.")


def _disconnect(request: HttpRequest, session: Any, *, wipe: bool = False) -> Any:
    asker = _asker(request)
    wished = disconnect_session(session=session, asker=asker, now=timezone.now(), wipe=wipe)
    return _PENDING if carry_out(session=wished, asker=asker).pending else _("It is disconnected.")


def _asker(request: HttpRequest) -> Asker:
    return Asker(person(request), partial(scope_of, request), "admin")


def _members(tenant_id: UUID | None) -> Any:
    if tenant_id is None:
        return User.objects.none()
    return User.objects.filter(tenant_id=tenant_id, is_active=True).order_by("name")
