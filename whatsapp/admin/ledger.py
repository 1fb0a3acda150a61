"""Webhook events with their items, and the dead letters: items that failed, or that nobody looks at any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Count, Max, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import DropdownFilter

from leadengine.admin_site.base import BackOfficeAdmin, ReadOnlyInline, paired, rows_of_tenant
from leadengine.admin_site.display import (
    EMPTY,
    code,
    column,
    link,
    mask_numbers,
    moment,
    sees_phones,
    status_chip,
    when,
)
from leadengine.admin_site.filters import Words, pick, rows_of, since
from leadengine.admin_site.site import tenant_of
from tickets.models import Message
from whatsapp.admin.payload import read_payload
from whatsapp.admin.sessions import sessions
from whatsapp.models import WebhookEvent, WebhookItem, WhatsAppSession

_EVENT = {"PENDING": "warn", "PROCESSED": "good", "ORPHAN": "bad", "FAILED": "bad", "REJECTED": "bad"}
_ITEM = {
    "pending": "warn", "stored": "good", "enriched": "good", "duplicate": "calm", "applied": "good",
    "ignored": "calm", "parked": "info", "failed": "bad", "discarded": "calm",
}  # fmt: skip
_ITEM_WORDS: dict[str, Words] = {
    "index": "#", "kind": _("kind"), "payload_type": _("content"), "reason": _("reason"), "attempts": _("attempts"),
}  # fmt: skip
_OVERDUE = timedelta(minutes=10)  # the drain looks every second: what is due this long has been forgotten
_MOST_LETTERS = 10_000
_MOST_CAUSES = 12
_FATES = {
    "failed": (_("failed"), Q(fate="failed")),
    "overdue": (_("overdue"), Q(fate__in=["pending", "parked"])),
}


class Items(ReadOnlyInline):
    """What an event held, and what became of each thing."""

    model = WebhookItem
    fields = ("index", "kind", "payload_type", "fate_chip", "reason", "attempts", "went_to", "error_text")
    readonly_fields = fields
    labels = _ITEM_WORDS
    verbose_name_plural = _("items")
    ordering = ("index",)

    @column(_("fate"))
    def fate_chip(self, item: WebhookItem) -> SafeString:
        return status_chip(_ITEM, item, "fate")

    @column(_("message"))
    def went_to(self, item: WebhookItem) -> Any:
        return link(Message, item.message_id, _("Show"))

    @column(_("error"))
    def error_text(self, item: WebhookItem) -> Any:
        return _error(item.error)


@admin.register(WebhookEvent)
class WebhookEventAdmin(BackOfficeAdmin):
    reads = "sessions:read"
    labels = {
        "instance_id": _("instance"), "kind": _("event"), "reason": _("reason"), "attempts": _("attempts"),
        "source": _("source"), "request_id": _("request id"),
    }  # fmt: skip
    newest = ("-received_at", "-pk")
    tab_parameter = "status"
    list_display = ("received", "line", "kind", "status_word", "reason", "held", "took", "attempts")
    list_display_links = ("received",)
    list_select_related = ("session",)
    list_filter = (
        pick("status", _("status"), {v: (word, Q(status=v)) for v, word in WebhookEvent.Status.choices}),
        rows_of("session", _("session"), "session_id", sessions),
        since("age", "received_at"),
    )
    fieldsets = (
        (None, {"fields": paired("received", "status_word", "line", "reason", "kind", "instance_id")}),
        (
            _("Processing"),
            {"fields": (*paired("processed", "took", "held", "attempts", "source", "request_id"), "error_text")},
        ),
        (_("What came"), {"fields": ("payload",)}),
    )
    inlines = (Items,)

    def get_tabs(self, request: HttpRequest) -> list[tuple[str, Words]]:
        # Orphans and rejected bodies belong to no tenant: only a superuser can see any.
        nobodys = {"ORPHAN", "REJECTED"} if tenant_of(request) else set()
        return [("", _("Everything")), *((v, word) for v, word in WebhookEvent.Status.choices if v not in nobodys)]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).defer("body")  # read for one event, not for a list
        return rows

    @column(_("received"))
    def received(self, event: WebhookEvent) -> Any:
        return moment(event.received_at)

    @column(_("session"))
    def line(self, event: WebhookEvent) -> Any:
        return (
            link(WhatsAppSession, event.session_id, event.session.session_name)
            if event.session
            else event.instance_id or EMPTY
        )

    @column(_("status"))
    def status_word(self, event: WebhookEvent) -> SafeString:
        return status_chip(_EVENT, event)

    @column(_("items"))
    def held(self, event: WebhookEvent) -> str:
        return str(event.queued)

    @column(_("took"))
    def took(self, event: WebhookEvent) -> str:
        if event.processed_at is None:
            return EMPTY
        return f"{max(0, int((event.processed_at - event.received_at).total_seconds() * 1000))} ms"

    @column(_("processed"))
    def processed(self, event: WebhookEvent) -> Any:
        return moment(event.processed_at)

    @column(_("error"))
    def error_text(self, event: WebhookEvent) -> Any:
        return _error(event.error)

    @column(_("body"))
    def payload(self, event: WebhookEvent) -> SafeString:
        return code(read_payload(event.body))


class Cause(DropdownFilter):
    """The causes that there are now."""

    title = capfirst(_("cause"))
    parameter_name = "cause"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(cause["reason"], cause["reason"]) for cause in find_causes(request)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(reason=self.value()) if self.value() else queryset


@admin.register(WebhookItem)
class DeadLetterAdmin(BackOfficeAdmin):
    """Only the dead ones; all items of an event are on the event's page."""

    reads = "sessions:read"
    plural = _("Dead letters")
    labels = _ITEM_WORDS
    list_display = ("came", "cause", "kind", "payload_type", "fate_chip", "attempts", "event_link", "error_line")
    list_display_links = ("came",)
    list_select_related = ("event",)
    list_filter = (
        Cause,
        pick("fate", _("fate"), _FATES),
        since("age", "created_at"),
        rows_of("session", _("session"), "session_id", sessions),
    )
    list_before_template = "admin/dead_letters.html"
    fieldsets = (
        (
            None,
            {"fields": paired("came", "cause", "kind", "payload_type", "fate_chip", "attempts", "due", "event_link")},
        ),
        (_("Error"), {"fields": ("error_text",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return dead_letters(super().get_queryset(request))

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        title = {"title": _("Dead letters"), "causes": find_causes(request)}
        answer: HttpResponse = super().changelist_view(request, {**(extra_context or {}), **title})
        return answer

    @column(_("received"))
    def came(self, item: WebhookItem) -> Any:
        return when(item.created_at)

    @column(_("cause"))
    def cause(self, item: WebhookItem) -> SafeString:
        return format_html('<code class="le-word">{}</code>', item.reason or "–")

    @column(_("fate"))
    def fate_chip(self, item: WebhookItem) -> SafeString:
        return status_chip(_ITEM, item, "fate")

    @column(_("due"))
    def due(self, item: WebhookItem) -> Any:
        return moment(item.due_at)

    @column(_("event"))
    def event_link(self, item: WebhookItem) -> Any:
        return link(WebhookEvent, item.event_id, item.event.kind or _("Show"))

    @column(_("error"))
    def error_line(self, item: WebhookItem) -> SafeString:
        words = item.error if sees_phones() else mask_numbers(item.error)
        last = words.strip().splitlines()[-1:] or [EMPTY]  # of a traceback, the line that says what happened
        return format_html('<span class="le-last le-muted">{}</span>', last[0])

    @column(_("error"))
    def error_text(self, item: WebhookItem) -> Any:
        return _error(item.error)


def find_causes(request: HttpRequest) -> list[dict[str, Any]]:
    """The most frequent causes of the tenant's dead letters: [{reason, fate, n, latest}]."""
    groups = dead_letters(rows_of_tenant(WebhookItem.objects.all(), request)).values("reason", "fate")
    return list(groups.annotate(n=Count("pk"), latest=Max("created_at")).order_by("-n")[:_MOST_CAUSES])


def dead_letters(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Of `rows`, the items that failed and those that are long overdue; each half has an index of its own."""
    items = WebhookItem.objects.order_by()
    failed = items.filter(event__status="FAILED", fate="failed").values("pk")[:_MOST_LETTERS]
    overdue = items.filter(fate__in=["pending", "parked"], due_at__lt=timezone.now() - _OVERDUE).values("pk")
    return rows.filter(pk__in=failed.union(overdue[:_MOST_LETTERS], all=True))


def _error(words: str) -> SafeString:
    return code(words if sees_phones() else mask_numbers(words))
