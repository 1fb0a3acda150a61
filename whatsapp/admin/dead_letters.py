"""The dead-letter desk: events that need a person, by cause, with all that is known of why, and what may be done."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import DropdownFilter

from leadengine.admin_site.base import BackOfficeAdmin, paired
from leadengine.admin_site.display import (
    EMPTY,
    chip,
    code,
    column,
    link,
    mask_numbers,
    sees_phones,
    status_chip,
    when,
)
from leadengine.admin_site.filters import Words, rows_of, since
from leadengine.admin_site.site import tenant_of
from whatsapp.admin.causes import PARAMETER, find_causes, rows_of_cause, with_cause
from whatsapp.admin.dead_letter_actions import ACTIONS, RowActions, may_decide
from whatsapp.admin.ledger import EVENT, Items, error_box
from whatsapp.admin.payload import read_payload
from whatsapp.admin.sessions import sessions
from whatsapp.models import DeadLetter, WebhookEvent, WhatsAppSession
from whatsapp.normalizers.contract import find_breaches
from whatsapp.services.reprocessing_desk import body_text, dead_letters, overdue_letters, unread_letters

_STATES: dict[str, Words] = {
    "failed": _("failed"), "orphan": _("orphan"), "rejected": _("rejected"), "overdue": _("overdue"),
    "unread": _("contract broken"),
}  # fmt: skip
_NOBODYS = {"orphan", "rejected"}
_WANTED: dict[str, Words] = {
    "object": _("an object"), "list": _("a list"), "kind": _("a kind of event"), "known kind": _("a kind that we know"),
    "instance": _("the id of an instance"), "id": _("an id"), "address": _("a phone or an address"),
}  # fmt: skip
_LARGEST_CHECKED = 500_000  # characters
_FOUND = "dead_letter_causes"


class State(DropdownFilter):
    """Which letters; without a choice all that need a person."""

    title = capfirst(_("state"))
    parameter_name = "state"
    all_option = ("", _("Everything"))

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Words]]:
        return [(value, word) for value, word in _STATES.items() if not tenant_of(request) or value not in _NOBODYS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return letters(queryset, self.value() or "", tenant_of(request))


class Cause(DropdownFilter):
    """The causes that there are now."""

    title = capfirst(_("cause"))
    parameter_name = PARAMETER

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(cause.key, cause.words) for cause in _causes(request)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return rows_of_cause(queryset, self.value() or "")


def letters(rows: QuerySet[Any], state: str, tenant_id: UUID | None) -> QuerySet[Any]:
    """The events of one tab of the desk."""
    now = timezone.now()
    if state == "unread":
        return unread_letters(rows, tenant_id=tenant_id)
    if state == "overdue":
        return overdue_letters(rows, now=now)
    rows = dead_letters(rows, now=now)
    return rows.filter(status=state.upper()) if state in _STATES else rows


@admin.register(DeadLetter)
class DeadLetterAdmin(RowActions, BackOfficeAdmin):
    reads = "sessions:read"
    plural = _("Dead letters")
    newest = ("-received_at", "-pk")
    tab_parameter = "state"
    list_display = ("came", "cause", "line", "kind_word", "state_chip", "tries", "error_line")
    list_display_links = ("came",)
    list_select_related = ("session",)
    list_filter = (State, Cause, rows_of("session", _("session"), "session_id", sessions), since("age", "received_at"))
    list_before_template = "admin/dead_letters.html"
    actions = ACTIONS  # type: ignore[assignment]
    fieldsets = (
        (None, {"fields": paired("came", "state_chip", "cause", "line", "kind_word", "tries", "event_link", "said")}),
        (_("What breaks the contract"), {"fields": ("breaches",)}),
        (_("Error"), {"fields": ("error_text",)}),
        (_("What came"), {"fields": ("payload", "first_payload")}),
    )
    inlines = (Items,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = with_cause(super().get_queryset(request)).defer("body", "original_body")
        return rows

    def get_tabs(self, request: HttpRequest) -> list[tuple[str, Words]]:
        # Orphans and rejected bodies belong to no tenant: only a superuser can see any.
        hidden = _NOBODYS if tenant_of(request) else set()
        return [("", _("Everything")), *((value, word) for value, word in _STATES.items() if value not in hidden)]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        words = {
            "title": _("Dead letters"), "causes": _causes(request), "may_decide": may_decide(request),
            "chosen_state": request.GET.get("state", ""),
        }  # fmt: skip
        answer: HttpResponse = super().changelist_view(request, {**(extra_context or {}), **words})
        return answer

    @column(_("received"))
    def came(self, event: Any) -> Any:
        return when(event.received_at)

    @column(_("cause"))
    def cause(self, event: Any) -> SafeString:
        return format_html('<code class="le-word">{}</code>', event.cause_reason or EMPTY)

    @column(_("session"))
    def line(self, event: Any) -> Any:
        if event.session:
            return link(WhatsAppSession, event.session_id, event.session.session_name)
        return format_html('<code class="le-word">{}</code>', event.instance_id) if event.instance_id else EMPTY

    @column(_("event"))
    def kind_word(self, event: Any) -> str:
        return event.kind or EMPTY

    @column(_("state"))
    def state_chip(self, event: Any) -> SafeString:
        if event.status == WebhookEvent.Status.PROCESSED and event.stuck_fate in {"pending", "parked"}:
            return chip("warn", _("overdue"))
        return status_chip(EVENT, event)

    @column(_("attempts"))
    def tries(self, event: Any) -> str:
        return str(event.stuck_attempts or EMPTY)

    @column(_("ledger"))
    def event_link(self, event: Any) -> Any:
        return link(WebhookEvent, event.pk, _("Show the webhook event"))

    @column(_("discarded because"))
    def said(self, event: Any) -> str:
        return event.note or EMPTY

    @column(_("error"))
    def error_line(self, event: Any) -> SafeString:
        words = event.trouble if sees_phones() else mask_numbers(event.trouble)
        headline = words.partition("\n")[0] or EMPTY  # the traceback follows it
        return format_html('<span class="le-last le-muted le-error-line" title="{0}">{0}</span>', headline)

    @column(_("error"))
    def error_text(self, event: Any) -> Any:
        return error_box(event.trouble)

    @column(_("fields"))
    def breaches(self, event: Any) -> Any:
        """Which field of the contract is wrong, what should be there, and what came."""
        text = body_text(event.body)
        if len(text) > _LARGEST_CHECKED:
            return EMPTY
        try:
            entry = json.loads(text)
        except ValueError as error:
            return format_html('<span class="le-refused">{}</span>', error)
        found = find_breaches(entry, default_instance_id=settings.WHATSAPP_DEFAULT_INSTANCE_ID or None)
        rows = [
            (one.field, _WANTED[one.wanted], one.came if sees_phones() else mask_numbers(one.came)) for one in found
        ]
        if not rows:
            return _("Every field is as the contract wants it.")
        body = format_html_join("", "<tr><td><code>{}</code></td><td>{}</td><td><code>{}</code></td></tr>", rows)
        head = format_html("<tr><th>{}</th><th>{}</th><th>{}</th></tr>", _("field"), _("expected"), _("came"))
        return format_html('<table class="le-table"><thead>{}</thead><tbody>{}</tbody></table>', head, body)

    @column(_("body"))
    def payload(self, event: Any) -> SafeString:
        return code(read_payload(event.body))

    @column(_("body as it came first"))
    def first_payload(self, event: Any) -> SafeString:
        return code(read_payload(event.original_body))


def _causes(request: HttpRequest) -> list[Any]:
    """Of the tab that is shown; asked for by the cards and by the filter of one page."""
    if not hasattr(request, _FOUND):
        rows, tenant_id = WebhookEvent.objects.order_by(), tenant_of(request)
        rows = rows if tenant_id is None else rows.filter(tenant_id=tenant_id)
        setattr(request, _FOUND, find_causes(letters(rows, request.GET.get("state", ""), tenant_id)))
    return list(getattr(request, _FOUND))
