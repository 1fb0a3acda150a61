"""Messages across tickets: what came and went lately, what needs a person, and the tries to send one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import DropdownFilter
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldBooleanSwitchWidget

from leadengine.accounts.models import User
from leadengine.admin_site.base import BackOfficeAdmin, DialogForm, ReadOnlyInline, dialog, paired
from leadengine.admin_site.display import (
    EMPTY,
    called,
    chip,
    code,
    column,
    link,
    mask_numbers,
    moment,
    phone,
    sees_phones,
    status_chip,
)
from leadengine.admin_site.filters import arriving, pick
from leadengine.admin_site.site import person, tenant_of
from leads.models import Contact
from tickets.admin.words import MERGED, MESSAGE
from tickets.models import Message, OutboundAttempt, Ticket
from tickets.services.outbox import cancel_message, dismiss_message, resend_message
from tickets.services.shapes import preview_of

LEFT = ["SENT", "DELIVERED", "READ"]
_STATES = {
    "received": (_("received"), Q(direction="INBOUND")),
    "sent": (_("sent"), Q(direction="OUTBOUND", status__in=LEFT)),
    "waiting": (_("on their way"), Q(status__in=["SCHEDULED", "QUEUED", "SENDING"])),
    "unconfirmed": (_("not confirmed"), Q(status="UNCONFIRMED", dismissed_at__isnull=True)),
    "failed": (_("failed"), Q(status="FAILED")),
}
# A message moves its ticket when it comes, and may wait in the outbox before it leaves.
SLACK = timedelta(hours=6)


class Period(DropdownFilter):
    """How far back the list reaches. Without a choice, a day; all of it for one ticket or contact."""

    title = capfirst(_("period"))
    parameter_name = "when"
    all_option = ("", _("last 24 hours"))

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("today", _("today")), ("7d", _("last 7 days"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        narrow = any(request.GET.get(name) for name in ("ticket", "contact"))
        if self.value() is None and (narrow or request.GET.get("state") == "unconfirmed"):
            return queryset
        return sent_since(queryset, period_start(self.value() or ""), tenant_of(request))


def period_start(name: str) -> datetime:
    """When a period of the list began: `today` in the tenant's zone, `7d`, else a day ago."""
    if name == "today":
        return timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    return timezone.now() - timedelta(days=7 if name == "7d" else 1)


def sent_since(rows: QuerySet[Any], since: datetime, tenant_id: UUID | None) -> QuerySet[Any]:
    """Messages from a moment on. No index holds a tenant's messages by time, but one its tickets by last change."""
    rows = rows.filter(sent_at__gte=since, pk__gte=first_id(since - SLACK))
    if tenant_id is None:
        return rows
    return rows.filter(ticket__tenant_id=tenant_id, ticket__updated_at__gte=since - SLACK)


def first_id(at: datetime) -> UUID:
    """The lowest id that a row made at this moment could have: ids are made in time order (uuid7)."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


class Attempts(ReadOnlyInline):
    """The tries to send a message."""

    model = OutboundAttempt
    fields = ("number", "began", "result", "code", "broker_status", "took", "answer")
    readonly_fields = fields
    labels = {"number": _("attempt"), "code": _("error"), "broker_status": _("HTTP status")}
    ordering = ("number",)

    @column(_("time"))
    def began(self, attempt: OutboundAttempt) -> Any:
        return moment(attempt.claimed_at)

    @column(_("outcome"))
    def result(self, attempt: OutboundAttempt) -> SafeString:
        if not attempt.finished_at:
            return chip("warn", _("under way"))
        return chip("bad" if attempt.code else "good", attempt.outcome or _("sent"))

    @column(_("took"))
    def took(self, attempt: OutboundAttempt) -> str:
        return EMPTY if attempt.latency_ms is None else f"{attempt.latency_ms} ms"

    @column(_("broker's answer"))
    def answer(self, attempt: OutboundAttempt) -> SafeString:
        return code(attempt.broker_answer if sees_phones() else mask_numbers(attempt.broker_answer))


class ResendForm(DialogForm):
    """A message that may have left is sent again only by somebody who knows that it may arrive twice."""

    confirm = forms.BooleanField(label=_("Send it all the same"), widget=UnfoldBooleanSwitchWidget)

    def __init__(self, *args: Any, row: Message, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        if row.status == Message.Status.FAILED and row.external_id is None:  # proved not to have left
            del self.fields["confirm"]
        else:
            self.fields["confirm"].help_text = _("It may have arrived already: the contact could get it twice.")


def _ours(user: User, message: Message) -> bool:
    return message.direction == "OUTBOUND" and user.tenant_id == message.tenant_id and user.may("messages:send")


@admin.register(Message)
class MessageAdmin(BackOfficeAdmin):
    reads = "tickets:read"
    labels = {"wait_reason": _("waits because of")}
    newest = ("-sent_at", "-position", "-pk")
    tabs = (("", _("Everything")), *((value, word) for value, (word, _condition) in _STATES.items()))
    list_display = ("sent", "direction_word", "who", "conversation", "text", "status_word", "trouble", "tries")
    list_display_links = ("sent",)
    list_select_related = ("ticket", "contact")
    list_filter = (
        Period,
        pick("state", _("state"), _STATES),
        arriving("ticket", _("ticket"), "ticket_id", Ticket),
        arriving("contact", _("contact"), "contact_id", Contact),
    )
    fieldsets = (
        (None, {"fields": paired("conversation", "who", "direction_word", "status_word", "written", "sent")}),
        (_("Text"), {"fields": ("whole_text", "earlier")}),
        (_("Times"), {"fields": paired("received", "delivered", "seen", "edited", "revoked", "message_id")}),
        (_("Delivery"), {"fields": paired("wait_reason", "trouble")}),
    )
    inlines = (Attempts,)
    actions_detail = ("resend", "cancel", "dismiss")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).exclude(MERGED).defer("payload", "metadata", "request_hash")
        return rows

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj and obj.direction == "OUTBOUND" else ()

    # --- Values --------------------------------------------------------------------------------------------------

    @column(_("time"))
    def sent(self, message: Message) -> Any:
        return moment(message.sent_at)

    @column(_("direction"))
    def direction_word(self, message: Message) -> SafeString:
        inbound = message.direction == "INBOUND"
        arrow = "south_west" if inbound else "north_east"
        word = message.get_direction_display()
        return format_html(
            '<span class="le-way"><span class="material-symbols-outlined">{}</span>{}</span>', arrow, word
        )

    @column(_("contact"))
    def who(self, message: Message) -> Any:
        name = link(Contact, message.contact_id, called(message.contact.name))
        sender = message.sender or {}
        if not sender.get("name"):
            return name
        return format_html(
            '{} <span class="le-muted">{} {}</span>', name, called(sender["name"]), phone(sender.get("phone"))
        )

    @column(_("ticket"))
    def conversation(self, message: Message) -> Any:
        return link(Ticket, message.ticket_id, f"#{message.ticket.number}")

    @column(_("text"))
    def text(self, message: Message) -> SafeString:
        return format_html(
            '<span class="le-last">{}</span>', preview_of(message.type, message.content or message.caption)
        )

    @column(_("text"))
    def whole_text(self, message: Message) -> SafeString:
        words = message.content or message.caption or preview_of(message.type, "")
        return format_html('<div class="le-text">{}</div>', words)

    @column(_("earlier texts"))
    def earlier(self, message: Message) -> Any:
        rows = [(moment(one.at), one.content) for one in message.revisions.order_by("at")[:20]]
        body = format_html_join("", "<tr><td>{}</td><td>{}</td></tr>", rows)
        return format_html('<table class="le-table"><tbody>{}</tbody></table>', body) if rows else EMPTY

    @column(_("status"))
    def status_word(self, message: Message) -> SafeString:
        return status_chip(MESSAGE, message)

    @column(_("error"))
    def trouble(self, message: Message) -> Any:
        error = message.error or {}
        if not error.get("code"):
            return EMPTY
        return format_html('<code class="le-word" title="{}">{}</code>', error.get("message", ""), error["code"])

    @column(_("attempts"))
    def tries(self, message: Message) -> Any:
        return message.attempts or EMPTY

    @column(_("written by"))
    def written(self, message: Message) -> Any:
        source = message.get_source_display()
        if message.author is None:
            return source
        return format_html('{} <span class="le-muted">{}</span>', message.author.name, source)

    @column(_("received"))
    def received(self, message: Message) -> Any:
        return moment(message.received_at)

    @column(_("delivered"))
    def delivered(self, message: Message) -> Any:
        return moment(message.delivered_at)

    @column(_("read"))
    def seen(self, message: Message) -> Any:
        return moment(message.read_at)

    @column(_("edited"))
    def edited(self, message: Message) -> Any:
        return moment(message.edited_at)

    @column(_("revoked"))
    def revoked(self, message: Message) -> Any:
        return moment(message.revoked_at)

    @column(_("id at WhatsApp"))
    def message_id(self, message: Message) -> str:
        value = message.external_id or EMPTY
        return value if sees_phones() else mask_numbers(value)

    # --- What may be done ----------------------------------------------------------------------------------------

    @dialog(
        title=_("Resend"),
        ask=_("It takes its turn again in the conversation."),
        icon="send",
        form_class=ResendForm,
        variant=ActionVariant.PRIMARY,
        fits=lambda user, message: _ours(user, message) and message.status in {"FAILED", "UNCONFIRMED"},
    )
    def resend(self, request: HttpRequest, message: Message, form: Any) -> Any:
        resend_message(
            actor=person(request), message_id=message.pk, confirm_duplicate="confirm" in form.fields,
            now=timezone.now(),
        )  # fmt: skip
        return _("The message is on its way again.")

    @dialog(
        title=_("Withdraw"),
        ask=_("It has not left yet, and will not."),
        icon="cancel_schedule_send",
        fits=lambda user, message: _ours(user, message) and message.status in {"QUEUED", "SCHEDULED"},
    )
    def cancel(self, request: HttpRequest, message: Message, form: Any) -> Any:
        cancel_message(actor=person(request), message_id=message.pk, now=timezone.now())
        return _("The message was withdrawn.")

    @dialog(
        title=_("Dismiss"),
        ask=_("It no longer counts among what needs somebody."),
        icon="done",
        fits=lambda user, message: (
            _ours(user, message) and message.status in {"FAILED", "UNCONFIRMED"} and message.dismissed_at is None
        ),
    )
    def dismiss(self, request: HttpRequest, message: Message, form: Any) -> Any:
        dismiss_message(actor=person(request), message_id=message.pk, now=timezone.now())
        return _("The notice was dismissed.")
