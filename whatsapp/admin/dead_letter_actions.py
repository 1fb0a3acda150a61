"""What may be done at the dead-letter desk, to one event or to many: run it again, correct it, claim it, discard it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from leadengine.accounts.models import User
from leadengine.admin_site.base import DialogForm, dialog
from leadengine.admin_site.site import person, tenant_of
from leadengine.errors import DomainError
from leadengine.wake import wake_on_commit
from whatsapp.models import WebhookEvent, WhatsAppSession
from whatsapp.services.reprocessing import MOST, BodyGone, Requeued, claim_orphans, requeue_events
from whatsapp.services.reprocessing_desk import body_text, correct_event, discard_events
from whatsapp.tasks import drain

ACTIONS = ("requeue_selected", "discard_selected", "claim_selected")
_LARGEST = 100_000  # bytes, compressed: what a person can still correct in a form
_LEFT = {
    "body_gone": _("whose body is gone"),
    "invalid_json": _("whose body is no JSON: correct it first"),
    "unknown_instance": _("whose instance is still unknown: claim them"),
}
_OPEN = {"FAILED", "ORPHAN", "REJECTED"}


def may_decide(request: HttpRequest) -> bool:
    """Whether the person may do more than look: administrators in their tenant, superusers."""
    user = person(request)
    return user.is_superuser or (user.may("settings:write") and tenant_of(request) == user.tenant_id)


def _may(user: User, event: Any) -> bool:
    return user.is_superuser or (user.may("settings:write") and user.tenant_id == event.tenant_id)


def _is_open(event: Any) -> bool:
    return event.status in _OPEN or bool(event.stuck_fate)


class CorrectForm(DialogForm):
    """The body as JSON, to be changed by hand."""

    text = forms.CharField(label=_("JSON"), widget=UnfoldAdminTextareaWidget(attrs={"rows": 18, "spellcheck": "false"}))

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.fields["text"].initial = _readable(body_text(row.body))


class ReasonForm(DialogForm):
    """Why an event is discarded; anybody who reads the ledger sees it."""

    reason = forms.CharField(label=_("Reason"), max_length=500, widget=UnfoldAdminTextInputWidget)


class ClaimForm(DialogForm):
    """The session that gets an orphan."""

    session: Any = forms.ModelChoiceField(label=_("Session"), queryset=None, widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, row: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        _offer_sessions(self.fields["session"])


class BulkReasonForm(forms.Form):
    """The reason for many at once."""

    reason = forms.CharField(label=_("Reason"), max_length=500, widget=UnfoldAdminTextInputWidget)


class BulkClaimForm(forms.Form):
    """The session for many at once."""

    session: Any = forms.ModelChoiceField(label=_("Session"), queryset=None, widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _offer_sessions(self.fields["session"])


class RowActions:
    """The buttons of an event's page, and the same for a selection or a whole cause."""

    actions_detail = ("requeue", "correct", "claim", "discard")

    # --- One event -----------------------------------------------------------------------------------------------

    @dialog(
        title=_("Run again"),
        ask=_("It is read once more from its stored body. What it did already is not done twice."),
        icon="replay",
        variant=ActionVariant.PRIMARY,
        fits=lambda user, event: _may(user, event) and event.body is not None and event.status != "PENDING",
    )
    def requeue(self, request: HttpRequest, event: Any, form: Any) -> Any:
        done = requeue_events(ids=[event.pk], actor=person(request), now=timezone.now())
        if not done.run:
            raise _refusal(done)
        wake_on_commit(drain, "inbound")
        return _("The event is in the queue again.")

    @dialog(
        title=_("Correct the JSON"),
        ask=_("The corrected event runs at once. The body as it came first is kept."),
        icon="edit_note",
        form_class=CorrectForm,
        fits=lambda user, event: (
            _may(user, event) and _is_open(event) and event.body is not None and len(event.body) < _LARGEST
        ),
    )
    def correct(self, request: HttpRequest, event: Any, form: Any) -> Any:
        text = form.cleaned_data["text"]
        status = correct_event(event_id=event.pk, text=text, actor=person(request), now=timezone.now())
        if status != WebhookEvent.Status.PENDING:
            return _("The JSON was corrected; its instance is unknown, so the event is an orphan.")
        wake_on_commit(drain, "inbound")
        return _("The corrected event is in the queue.")

    @dialog(
        title=_("Claim for a session"),
        ask=_("The event, and its message, will belong to the tenant of the session."),
        icon="link",
        form_class=ClaimForm,
        fits=lambda user, event: user.is_superuser and event.status == "ORPHAN" and event.body is not None,
    )
    def claim(self, request: HttpRequest, event: Any, form: Any) -> Any:
        session = form.cleaned_data["session"]
        claim_orphans(ids=[event.pk], session_id=session.pk, actor=person(request), now=timezone.now())
        wake_on_commit(drain, "inbound")
        return _("The event belongs to the session now and is in the queue.")

    @dialog(
        title=_("Discard"),
        ask=_("It will not be processed. The event stays in the ledger, with your reason."),
        icon="delete_sweep",
        form_class=ReasonForm,
        fits=lambda user, event: _may(user, event) and _is_open(event),
    )
    def discard(self, request: HttpRequest, event: Any, form: Any) -> Any:
        reason = form.cleaned_data["reason"]
        discard_events(ids=[event.pk], reason=reason, actor=person(request), now=timezone.now())
        return _("The event was discarded.")

    # --- Many ----------------------------------------------------------------------------------------------------

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Those that the person may use."""
        if not may_decide(request):
            return {}
        found: dict[str, Any] = super().get_actions(request)  # type: ignore[misc]
        names = set(ACTIONS) if person(request).is_superuser and not tenant_of(request) else {*ACTIONS[:2]}
        return {name: action for name, action in found.items() if name in names}

    def requeue_selected(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        with transaction.atomic():
            done = requeue_events(ids=_ids(rows), actor=person(request), now=timezone.now())
            wake_on_commit(drain, "inbound")
        number = len(done.run)
        said = ngettext("%d event is in the queue again.", "%d events are in the queue again.", number) % number
        messages.success(request, said) if number else None
        for cause, left in done.left.items():
            messages.warning(request, f"{left} {_LEFT[cause]}")

    def discard_selected(self, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse | None:
        form = BulkReasonForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            return self._ask(request, rows, form, _("Discard"), "discard_selected")
        with transaction.atomic():
            number = discard_events(
                ids=_ids(rows), reason=form.cleaned_data["reason"], actor=person(request), now=timezone.now()
            )
        messages.success(request, ngettext("%d event was discarded.", "%d events were discarded.", number) % number)
        return None

    def claim_selected(self, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse | None:
        if not person(request).is_superuser:
            raise PermissionDenied
        form = BulkClaimForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            return self._ask(request, rows, form, _("Claim for a session"), "claim_selected")
        with transaction.atomic():
            given = claim_orphans(
                ids=_ids(rows), session_id=form.cleaned_data["session"].pk, actor=person(request), now=timezone.now()
            )
            wake_on_commit(drain, "inbound")
        number = len(given)
        messages.success(request, ngettext("%d event was claimed.", "%d events were claimed.", number) % number)
        return None

    def _ask(self, request: HttpRequest, rows: QuerySet[Any], form: forms.Form, title: Any, name: str) -> HttpResponse:
        words = {
            **self.admin_site.each_context(request),  # type: ignore[attr-defined]
            "title": title, "form": form, "action": name, "opts": self.opts,  # type: ignore[attr-defined]
            "number": rows.count(), "most": MOST, "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "across": request.POST.get("select_across", "0"),
        }  # fmt: skip
        return TemplateResponse(request, "admin/dead_letter_action.html", words)

    requeue_selected.short_description = _("Run again")  # type: ignore[attr-defined]
    discard_selected.short_description = _("Discard")  # type: ignore[attr-defined]
    claim_selected.short_description = _("Claim for a session")  # type: ignore[attr-defined]


def _ids(rows: QuerySet[Any]) -> Sequence[UUID]:
    return list(rows.order_by("pk").values_list("pk", flat=True)[:MOST])


def _refusal(done: Requeued) -> DomainError:
    cause = next(iter(done.left), "body_gone")
    return BodyGone() if cause == "body_gone" else DomainError(str(_LEFT[cause]))


def _readable(text: str) -> str:
    """JSON indented for people, as it came where it is none."""
    try:
        shown = json.dumps(json.loads(text), ensure_ascii=False, indent=2)
        shown.encode()
    except UnicodeEncodeError:  # a lone surrogate can only be shown escaped
        return json.dumps(json.loads(text), indent=2)
    except ValueError:
        return text
    return shown


def _offer_sessions(field: Any) -> None:
    field.queryset = (
        WhatsAppSession.objects.filter(deleted_at=None)
        .select_related("tenant")
        .order_by("tenant__name", "session_name")
    )
    field.label_from_instance = lambda session: (
        f"{session.tenant.name} · {session.session_name} ({session.connection_id})"
    )
