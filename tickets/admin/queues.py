"""Queues with their members, and close reasons."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from leadengine.admin_site.base import BackOfficeAdmin, ReadOnlyInline
from leadengine.admin_site.display import EMPTY, chip, column, lasting, swatch
from leadengine.admin_site.filters import active_or_not
from leadengine.admin_site.site import person
from leads.admin import ColourForm
from tickets.models import CloseReason, Queue, QueueMembership, Ticket
from tickets.models.tickets import LIVE
from tickets.services.queues import remove_membership, save_close_reason, save_membership, save_queue


def count_of(rows: QuerySet[Any], field: str) -> Coalesce:
    """How many of `rows` hang on the outer row, in one sub-select that an index answers."""
    counted = rows.filter(**{field: OuterRef("pk")}).order_by().values(field).annotate(n=Count("pk")).values("n")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


class Members(ReadOnlyInline):
    """Who works in the queue; administrators change it."""

    model = QueueMembership
    fields = ("user", "visibility")
    labels = {"user": _("user"), "visibility": _("sees")}
    verbose_name, verbose_name_plural = _("member"), _("members")
    can_delete = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).select_related("user").order_by("user__name")
        return rows

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return person(request).may("queues:write")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return person(request).may("queues:write")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return person(request).may("queues:write")


@admin.register(Queue)
class QueueAdmin(BackOfficeAdmin):
    form = ColourForm
    writes, creates = "queues:write", True
    editable = (
        "name", "description", "colour", "is_active", "is_default", "order_index", "reopen_window_minutes",
        "response_target_minutes", "require_close_reason",
    )  # fmt: skip
    newest = ("order_index", "name", "pk")
    list_display = ("labelled", "state", "members", "live", "waiting_now", "target")
    fieldsets = (
        (None, {"fields": ("name", "description", "colour", "is_active", "is_default", "order_index")}),
        (_("Rules"), {"fields": ("response_target_minutes", "reopen_window_minutes", "require_close_reason")}),
    )
    inlines = (Members,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        live = Ticket.objects.filter(status__in=LIVE)
        rows: QuerySet[Any] = (
            super()
            .get_queryset(request)
            .annotate(
                member_count=count_of(QueueMembership.objects.all(), "queue"),
                live_count=count_of(live, "queue"),
                waiting_count=count_of(live.filter(waiting_since__isnull=False), "queue"),
            )
        )
        return rows

    def store(self, request: HttpRequest, row: Queue, form: Any) -> None:
        save_queue(actor=person(request), queue=row, now=timezone.now())

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        for membership in formset.save(commit=False):
            membership.tenant_id = form.instance.tenant_id
            save_membership(actor=person(request), membership=membership)
        for membership in formset.deleted_objects:
            remove_membership(actor=person(request), membership=membership)

    @column(_("name"))
    def labelled(self, queue: Any) -> SafeString:
        return swatch(queue.colour, queue.name)

    @column(_("status"))
    def state(self, queue: Any) -> SafeString:
        if not queue.is_active:
            return chip("calm", _("inactive"))
        return chip("brand", _("default")) if queue.is_default else chip("good", _("active"))

    @column(_("members"))
    def members(self, queue: Any) -> int:
        return int(queue.member_count)

    @column(_("live tickets"))
    def live(self, queue: Any) -> int:
        return int(queue.live_count)

    @column(_("waiting"))
    def waiting_now(self, queue: Any) -> Any:
        return chip("warn", queue.waiting_count) if queue.waiting_count else EMPTY

    @column(_("response target"))
    def target(self, queue: Any) -> str:
        return lasting(queue.response_target_minutes * 60)


@admin.register(CloseReason)
class CloseReasonAdmin(BackOfficeAdmin):
    writes, creates = "queues:write", True
    editable = ("label", "allows_reopen", "requires_note", "is_active", "order_index")
    once = ("code", "outcome")
    labels = {
        "label": _("name"), "code": _("code"), "outcome": _("outcome"), "allows_reopen": _("may be reopened"),
        "requires_note": _("asks for a note"), "is_active": _("active"), "order_index": _("order"),
    }  # fmt: skip
    newest = ("order_index", "label", "pk")
    list_display = ("label", "code", "outcome_chip", "reopens", "note_needed", "state")
    list_filter = (active_or_not(),)
    fieldsets = (
        (None, {"fields": ("label", "code", "outcome", "order_index")}),
        (_("Rules"), {"fields": ("allows_reopen", "requires_note", "is_active")}),
    )

    def store(self, request: HttpRequest, row: CloseReason, form: Any) -> None:
        save_close_reason(actor=person(request), reason=row)

    @column(_("outcome"))
    def outcome_chip(self, reason: CloseReason) -> SafeString:
        return chip("good" if reason.outcome == "RESOLVED" else "calm", reason.get_outcome_display())

    @column(_("reopens"))
    def reopens(self, reason: CloseReason) -> Any:
        return _("yes") if reason.allows_reopen else _("no")

    @column(_("asks for a note"))
    def note_needed(self, reason: CloseReason) -> Any:
        return _("yes") if reason.requires_note else _("no")

    @column(_("status"))
    def state(self, reason: CloseReason) -> SafeString:
        return chip("good", _("active")) if reason.is_active else chip("calm", _("inactive"))
