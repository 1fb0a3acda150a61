"""Tickets: the list by state, the page with its thread and history, and what a supervisor may do with one."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from leadengine.accounts.admin import people
from leadengine.accounts.models import User
from leadengine.admin_site.base import BackOfficeAdmin, DialogForm, dialog, paired, rows_of_tenant
from leadengine.admin_site.display import (
    EMPTY,
    called,
    column,
    last_message,
    lasting,
    link,
    moment,
    screen,
    status_chip,
    swatch,
    waiting,
)
from leadengine.admin_site.filters import arriving, choices_of, pick, rows_of
from leadengine.admin_site.site import person
from leads.admin import find_contact_ids, number_of
from leads.models import Contact
from tickets.admin.words import MERGED, MESSAGE, PRIORITY, TICKET
from tickets.models import CloseReason, Message, Note, Queue, Ticket, TicketEvent
from tickets.models.tickets import ENDED, LIVE
from tickets.services.lifecycle import assign_ticket, close_ticket, reopen_ticket, take_ticket, unassign_ticket

_LAST_MESSAGES = 20
_LAST_ENTRIES = 30
_STATES = {
    "live": (_("live"), Q(status__in=LIVE)),
    "waiting": (_("waiting"), Q(status__in=LIVE, waiting_since__isnull=False)),
    "open": (_("in the queue"), Q(status="OPEN")),
    "assigned": (_("in service"), Q(status="ASSIGNED")),
    "pending": (_("on hold"), Q(status="PENDING")),
    "ended": (_("finished"), Q(status__in=ENDED)),
}


def queues(request: HttpRequest) -> QuerySet[Any]:
    """The queues of the tenant, for filters."""
    return rows_of_tenant(Queue.objects.all(), request)


class AssignForm(DialogForm):
    """To whom."""

    user = forms.ModelChoiceField(User.objects.none(), label=capfirst(_("user")), widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, row: Ticket, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        members = User.objects.filter(tenant_id=row.tenant_id, is_active=True).order_by("name")
        self.fields["user"].queryset = members.exclude(pk=row.assignee_id) if row.assignee_id else members


class CloseForm(DialogForm):
    """Why, and a note where the reason asks for one (the service decides)."""

    reason = forms.ModelChoiceField(
        CloseReason.objects.none(), to_field_name="code", label=capfirst(_("reason")), widget=UnfoldAdminSelectWidget
    )
    note = forms.CharField(max_length=2000, required=False, label=capfirst(_("note")), widget=UnfoldAdminTextareaWidget)

    def __init__(self, *args: Any, row: Ticket, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.fields["reason"].queryset = CloseReason.objects.for_tenant(row.tenant_id).filter(is_active=True)


def _member(user: User, ticket: Ticket) -> bool:
    """A superuser looks on: in conversations only members of the tenant act."""
    return user.tenant_id == ticket.tenant_id and user.may("tickets:write")


def _author(message: Message, ticket: Ticket) -> str:
    if message.direction == "INBOUND":
        return called((message.sender or {}).get("name") or ticket.contact.name)
    return message.author.name if message.author else str(message.get_source_display())


@admin.register(Ticket)
class TicketAdmin(BackOfficeAdmin):
    reads = "tickets:read"
    labels = {"close_note": _("closing note"), "reopened_count": _("times reopened")}
    newest = ("-number",)
    tabs = (("", _("Everything")), *((value, word) for value, (word, _condition) in _STATES.items()))
    list_display = ("about", "who", "queue_swatch", "held", "state_chip", "urgency", "wait", "latest")
    list_select_related = ("contact", "queue", "assignee")
    list_filter = (
        pick("state", _("state"), _STATES),
        rows_of("queue", _("queue"), "queue_id", queues),
        rows_of("assignee", _("assignee"), "assignee_id", people),
        choices_of("priority", _("priority"), Ticket.Priority.choices),
        arriving("contact", _("contact"), "contact_id", Contact),
    )
    search_fields = ("protocol",)
    search_help_text = _("Protocol, number, name or phone")
    change_form_outer_after_template = "admin/thread.html"
    actions_detail = ("take", "assign", "unassign", "close", "reopen")

    def get_ordering(self, request: HttpRequest) -> Any:
        # Who waits longest comes first: the partial index of live tickets holds that order.
        return ("waiting_key", "pk") if request.GET.get("state") == "waiting" else super().get_ordering(request)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).defer("metadata")
        return rows

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Any:
        """A protocol or number finds one ticket by index; anything else goes through the contacts."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q(contact_id__in=find_contact_ids(request, term))
        if re.fullmatch(r"#?\d{1,9}", term):
            found |= Q(number=int(term.removeprefix("#")))
        elif re.fullmatch(r"\d{14,20}", term):  # the local date, then the number on six digits or more
            found |= Q(number=int(term[8:]), protocol=term)
        return queryset.filter(found), False

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        facts = ("protocol", "state_chip", "contact_link", "queue_swatch", "held", "urgency", "wait", "line", "subject")
        times = ("opened", "answered", "heard", "spoken", "counts", "reopened_count")
        ending = ("reason", "close_note", "ended", "ender")
        made = [(None, {"fields": paired(*facts)}), (_("Timeline"), {"fields": paired(*times)})]
        return [*made, (_("End"), {"fields": paired(*ending)})] if obj and not obj.is_live else made

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        ticket = context.get("original")
        messages = Message.objects.filter(ticket=ticket).exclude(MERGED).select_related("author", "media")
        latest = messages.order_by("-position")
        notes = Note.objects.filter(ticket=ticket).select_related("author").order_by("-seq")
        entries = TicketEvent.objects.filter(ticket=ticket).select_related("actor").order_by("-seq")
        shown = sorted(latest[:_LAST_MESSAGES], key=lambda message: (message.sent_at, message.position))
        context["thread"] = [
            {"message": message, "chip": status_chip(MESSAGE, message), "author": _author(message, ticket)}
            for message in shown
        ]
        context["all_messages"] = screen(Message, ticket=ticket.pk)
        context["entries"] = entries[:_LAST_ENTRIES]
        context["notes"] = notes[:_LAST_ENTRIES]
        return super().render_change_form(request, context, *args, **kwargs)

    # --- Values --------------------------------------------------------------------------------------------------

    @column(_("ticket"), header=True)
    def about(self, ticket: Ticket) -> list[str]:
        return [f"#{ticket.number}", ticket.protocol]

    @column(_("contact"))
    def who(self, ticket: Ticket) -> Any:
        return link(Contact, ticket.contact_id, called(ticket.contact.name))

    @column(_("contact"))
    def contact_link(self, ticket: Ticket) -> SafeString:
        name = link(Contact, ticket.contact_id, called(ticket.contact.name))
        return format_html('{} <span class="le-muted">{}</span>', name, number_of(ticket.contact))

    @column(_("queue"))
    def queue_swatch(self, ticket: Ticket) -> SafeString:
        return swatch(ticket.queue.colour, link(Queue, ticket.queue_id, ticket.queue.name))

    @column(_("assignee"))
    def held(self, ticket: Ticket) -> Any:
        return link(User, ticket.assignee_id, ticket.assignee.name) if ticket.assignee else EMPTY

    @column(_("status"))
    def state_chip(self, ticket: Ticket) -> SafeString:
        return status_chip(TICKET, ticket)

    @column(_("priority"))
    def urgency(self, ticket: Ticket) -> Any:
        return EMPTY if ticket.priority == "NORMAL" else status_chip(PRIORITY, ticket, "priority")

    @column(_("waiting"))
    def wait(self, ticket: Ticket) -> Any:
        return waiting(ticket.waiting_since if ticket.is_live else None, ticket.queue.response_target_minutes)

    @column(_("last message"))
    def latest(self, ticket: Ticket) -> SafeString:
        return last_message(ticket.last_message_preview, ticket.last_message_at)

    @column(_("session"))
    def line(self, ticket: Ticket) -> Any:
        if ticket.session_id is None:
            return EMPTY
        address = reverse("admin:whatsapp_whatsappsession_change", args=[ticket.session_id])
        return format_html('<a class="le-link" href="{}">{}</a>', address, _("Show the session"))

    @column(_("opened"))
    def opened(self, ticket: Ticket) -> Any:
        return moment(ticket.created_at)

    @column(_("first response after"))
    def answered(self, ticket: Ticket) -> str:
        return lasting(ticket.first_response_seconds)

    @column(_("last received"))
    def heard(self, ticket: Ticket) -> Any:
        return moment(ticket.last_inbound_at)

    @column(_("last sent"))
    def spoken(self, ticket: Ticket) -> Any:
        return moment(ticket.last_outbound_at)

    @column(_("messages"))
    def counts(self, ticket: Ticket) -> str:
        return _("%(inbound)s received, %(outbound)s sent") % {
            "inbound": ticket.inbound_count,
            "outbound": ticket.outbound_count,
        }

    @column(_("close reason"))
    def reason(self, ticket: Ticket) -> Any:
        return ticket.close_reason or EMPTY

    @column(_("closed"))
    def ended(self, ticket: Ticket) -> Any:
        return moment(ticket.closed_at)

    @column(_("closed by"))
    def ender(self, ticket: Ticket) -> Any:
        return link(User, ticket.closed_by_id, ticket.closed_by.name) if ticket.closed_by else _("system")

    # --- What may be done ----------------------------------------------------------------------------------------

    @dialog(
        title=_("Take"),
        ask=_("The ticket becomes yours."),
        icon="back_hand",
        variant=ActionVariant.PRIMARY,
        fits=lambda user, ticket: _member(user, ticket) and ticket.status == "OPEN",
    )
    def take(self, request: HttpRequest, ticket: Ticket, form: Any) -> Any:
        take_ticket(actor=person(request), ticket_id=ticket.pk, now=timezone.now())
        return _("The ticket is yours.")

    @dialog(
        title=_("Assign"),
        icon="person_add",
        form_class=AssignForm,
        fits=lambda user, ticket: _member(user, ticket) and ticket.status in {"OPEN", "ASSIGNED"},
    )
    def assign(self, request: HttpRequest, ticket: Ticket, form: Any) -> Any:
        to = form.cleaned_data["user"]
        assign_ticket(
            actor=person(request), ticket_id=ticket.pk, user_id=to.pk, expected_assignee_id=ticket.assignee_id,
            now=timezone.now(),
        )  # fmt: skip
        return _("Assigned to %s.") % to.name

    @dialog(
        title=_("Back to the queue"),
        ask=_("Nobody holds the ticket afterwards."),
        icon="undo",
        fits=lambda user, ticket: _member(user, ticket) and ticket.status == "ASSIGNED",
    )
    def unassign(self, request: HttpRequest, ticket: Ticket, form: Any) -> Any:
        unassign_ticket(actor=person(request), ticket_id=ticket.pk, now=timezone.now())
        return _("The ticket is back in its queue.")

    @dialog(
        title=_("Close ticket"),
        icon="task_alt",
        form_class=CloseForm,
        fits=lambda user, ticket: _member(user, ticket) and ticket.is_live,
    )
    def close(self, request: HttpRequest, ticket: Ticket, form: Any) -> Any:
        close_ticket(
            actor=person(request), ticket_id=ticket.pk, reason_code=form.cleaned_data["reason"].code,
            note=form.cleaned_data["note"], now=timezone.now(),
        )  # fmt: skip
        return _("The ticket was closed.")

    @dialog(
        title=_("Reopen"),
        ask=_("It goes back to who held it, else to its queue."),
        icon="restart_alt",
        fits=lambda user, ticket: _member(user, ticket) and not ticket.is_live,
    )
    def reopen(self, request: HttpRequest, ticket: Ticket, form: Any) -> Any:
        reopen_ticket(actor=person(request), ticket_id=ticket.pk, now=timezone.now())
        return _("The ticket is open again.")
