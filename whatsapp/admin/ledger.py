"""The ledger of webhook events: what came, and what became of each thing in it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from leadengine.admin_site.base import BackOfficeAdmin, ReadOnlyInline, paired
from leadengine.admin_site.display import (
    EMPTY,
    code,
    column,
    link,
    mask_numbers,
    moment,
    sees_phones,
    status_chip,
)
from leadengine.admin_site.filters import Words, pick, rows_of, since
from leadengine.admin_site.site import tenant_of
from tickets.models import Message
from whatsapp.admin.payload import read_payload
from whatsapp.admin.sessions import sessions
from whatsapp.models import WebhookEvent, WebhookItem, WhatsAppSession

EVENT = {"PENDING": "warn", "PROCESSED": "good", "ORPHAN": "bad", "FAILED": "bad", "REJECTED": "bad"}
_ITEM = {
    "pending": "warn", "stored": "good", "enriched": "good", "duplicate": "calm", "applied": "good",
    "ignored": "calm", "parked": "info", "failed": "bad", "discarded": "calm",
}  # fmt: skip
_ITEM_WORDS: dict[str, Words] = {
    "index": "#", "kind": _("kind"), "payload_type": _("content"), "reason": _("reason"), "attempts": _("attempts"),
}  # fmt: skip


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
        return error_box(item.error)


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
        return status_chip(EVENT, event)

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
        return error_box(event.error)

    @column(_("body"))
    def payload(self, event: WebhookEvent) -> SafeString:
        return code(read_payload(event.body))


def error_box(words: str) -> SafeString:
    """An error as it is stored, its numbers masked for those who may not see phones."""
    return code(words if sees_phones() else mask_numbers(words))
