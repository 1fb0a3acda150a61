"""Atendimentos: what they are follows their tickets, and what may be done with them is done to the ticket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelectWidget

from leadengine.accounts.admin import people
from leadengine.accounts.models import User
from leadengine.accounts.services import write_audit
from leadengine.admin_site.base import BackOfficeAdmin, DialogForm, dialog, paired
from leadengine.admin_site.display import EMPTY, called, column, last_message, link, moment, phone, status_chip, waiting
from leadengine.admin_site.filters import pick, rows_of
from leadengine.admin_site.site import person
from tickets.models import Ticket
from tickets.services.lifecycle import assign_ticket, edit_ticket
from whatsapp.models import WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.atendimento_actions import close_atendimento, pause_atendimento, resume_atendimento

Status = WhatsAppAtendimento.Status
_ATENDIMENTO = {"ATIVO": "good", "PAUSADO": "warn", "FECHADO": "calm"}
_PRIORITY = {"BAIXA": "calm", "NORMAL": "calm", "ALTA": "warn", "URGENTE": "bad"}


def _member(user: User, row: Any) -> bool:
    """A superuser looks on: in conversations only members of the tenant act."""
    return bool(user.tenant_id == row.tenant_id and user.may("tickets:write") and row.ticket_id)


def _live(user: User, row: Any) -> bool:
    return _member(user, row) and row.status != Status.FECHADO


class HolderForm(DialogForm):
    """Who gets it."""

    user = forms.ModelChoiceField(User.objects.none(), label=capfirst(_("user")), widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        members = User.objects.filter(tenant_id=row.tenant_id, is_active=True).order_by("name")
        self.fields["user"].queryset = members.exclude(pk=row.assigned_to) if row.assigned_to else members


class PriorityForm(DialogForm):
    """How urgent it is."""

    priority = forms.ChoiceField(
        choices=Ticket.Priority.choices, label=capfirst(_("priority")), widget=UnfoldAdminSelectWidget
    )


@admin.register(WhatsAppAtendimento)
class AtendimentoAdmin(BackOfficeAdmin):
    reads = "tickets:read"
    labels = {"unread_count": _("unanswered messages")}
    actions_detail = ("pause", "resume", "assign", "prioritise", "close")
    newest = ("-last_message_at", "-pk")
    tab_parameter = "status"
    tabs = (("", _("Everything")), *WhatsAppAtendimento.Status.choices)
    list_display = ("chat", "who", "line", "status_word", "holder", "urgency", "wait", "ticket", "latest")
    list_filter = (
        pick("status", _("status"), {v: (word, Q(status=v)) for v, word in WhatsAppAtendimento.Status.choices}),
        rows_of("owner", _("owner"), "owner_id", people),
    )
    list_select_related = ("owner",)
    fieldsets = (
        (None, {"fields": paired("chat", "who", "line", "status_word", "of", "holder", "urgency", "ticket")}),
        (_("Timeline"), {"fields": paired("begun", "latest", "wait", "unread_count", "closed")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        ticket = Ticket.objects.filter(pk=OuterRef("ticket_id"))
        line = WhatsAppSession.objects.filter(connection_id=OuterRef("connection_id"))
        rows: QuerySet[Any] = (
            super()
            .get_queryset(request)
            .annotate(
                ticket_number=Subquery(ticket.values("number")),
                contact_name=Subquery(ticket.values("contact__name")),
                waiting_since=Subquery(ticket.values("waiting_since")),
                target=Subquery(ticket.values("queue__response_target_minutes")),
                holder_name=Subquery(User.objects.filter(pk=OuterRef("assigned_to")).values("name")),
                line_id=Subquery(line.values("pk")),
                line_name=Subquery(line.values("session_name")),
            )
        )
        return rows

    @column(_("chat"))
    def chat(self, row: Any) -> str:
        return phone(row.chat_id)

    @column(_("contact"))
    def who(self, row: Any) -> str:
        return called(row.contact_name or EMPTY)

    @column(_("session"))
    def line(self, row: Any) -> Any:
        return link(WhatsAppSession, row.line_id, row.line_name)

    @column(_("status"))
    def status_word(self, row: Any) -> SafeString:
        return status_chip(_ATENDIMENTO, row)

    @column(_("owner"))
    def of(self, row: Any) -> Any:
        return link(User, row.owner_id, row.owner.name)

    @column(_("assignee"))
    def holder(self, row: Any) -> Any:
        return link(User, row.assigned_to, row.holder_name)

    @column(_("priority"))
    def urgency(self, row: Any) -> Any:
        return EMPTY if row.priority == "NORMAL" else status_chip(_PRIORITY, row, "priority")

    @column(_("waiting"))
    def wait(self, row: Any) -> Any:
        return waiting(row.waiting_since if row.status != "FECHADO" else None, row.target or 15)

    @column(_("ticket"))
    def ticket(self, row: Any) -> Any:
        return link(Ticket, row.ticket_id, f"#{row.ticket_number}")

    @column(_("last message"))
    def latest(self, row: Any) -> SafeString:
        return last_message(row.last_message_preview, row.last_message_at)

    @column(_("begun"))
    def begun(self, row: Any) -> Any:
        return moment(row.created_at)

    @column(_("closed"))
    def closed(self, row: Any) -> Any:
        return moment(row.closed_at)

    # --- What may be done ----------------------------------------------------------------------------------------

    @dialog(
        title=_("Pause"),
        ask=_("Its ticket rests until the customer writes again."),
        icon="snooze",
        fits=lambda user, row: _live(user, row) and row.status == Status.ATIVO,
    )
    def pause(self, request: HttpRequest, row: Any, form: Any) -> Any:
        _by_id(request, row, pause_atendimento, "pause")
        return _("It rests until the customer writes.")

    @dialog(
        title=_("Resume"),
        ask=_("Its ticket is in service again."),
        icon="play_arrow",
        variant=ActionVariant.PRIMARY,
        fits=lambda user, row: _live(user, row) and row.status == Status.PAUSADO,
    )
    def resume(self, request: HttpRequest, row: Any, form: Any) -> Any:
        _by_id(request, row, resume_atendimento, "resume")
        return _("It is in service again.")

    @dialog(
        title=_("Assign"),
        icon="person_add",
        form_class=HolderForm,
        fits=lambda user, row: _live(user, row) and user.may("tickets:assign-others"),
    )
    def assign(self, request: HttpRequest, row: Any, form: Any) -> Any:
        to = form.cleaned_data["user"]
        assign_ticket(actor=person(request), ticket_id=row.ticket_id, user_id=to.pk, now=timezone.now())
        _audit(request, row, "assign")
        return _("Assigned to %s.") % to.name

    @dialog(title=_("Set priority"), icon="flag", form_class=PriorityForm, fits=_live)
    def prioritise(self, request: HttpRequest, row: Any, form: Any) -> Any:
        chosen = form.cleaned_data["priority"]
        edit_ticket(actor=person(request), ticket_id=row.ticket_id, priority=chosen, now=timezone.now())
        _audit(request, row, "priority", priority=chosen)
        return _("The priority was set.")

    @dialog(
        title=_("Close"),
        ask=_("Its ticket ends with the first reason that asks for no note."),
        icon="task_alt",
        fits=_live,
    )
    def close(self, request: HttpRequest, row: Any, form: Any) -> Any:
        _by_id(request, row, close_atendimento, "close")
        return _("The ticket was closed.")


def _by_id(request: HttpRequest, row: Any, act: Callable[..., Ticket], action: str) -> None:
    act(atendimento_id=row.pk, actor=person(request), now=timezone.now())
    _audit(request, row, action)


def _audit(request: HttpRequest, row: Any, action: str, **changes: Any) -> None:
    tenant_id: UUID = row.tenant_id
    write_audit(tenant_id=tenant_id, actor=person(request), action=f"atendimento.{action}", target=row, changes=changes)
