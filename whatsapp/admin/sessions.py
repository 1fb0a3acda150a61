"""Sessions and atendimentos, to look at: their state fields have one writer each, and it is not a form."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.admin import people
from leadengine.accounts.models import User
from leadengine.admin_site.base import BackOfficeAdmin, paired, rows_of_tenant
from leadengine.admin_site.display import (
    EMPTY,
    called,
    chip,
    column,
    last_message,
    link,
    moment,
    phone,
    screen,
    status_chip,
    waiting,
    when,
)
from leadengine.admin_site.filters import pick, rows_of
from tickets.models import Queue, Ticket
from whatsapp.models import SessionEvent, WebhookEvent, WhatsAppAtendimento, WhatsAppSession

_SESSION = {
    "connected": "good", "connecting": "warn", "qrcode": "info", "disconnected": "calm", "error": "bad",
    "duplicate": "bad", "logged_out": "bad",
}  # fmt: skip
_ATENDIMENTO = {"ATIVO": "good", "PAUSADO": "warn", "FECHADO": "calm"}
_PRIORITY = {"BAIXA": "calm", "NORMAL": "calm", "ALTA": "warn", "URGENTE": "bad"}
_LAST_EVENTS = 20
# Wanted but not there, or there is something only a person can repair.
DOWN = Q(deleted_at=None) & (Q(desired_state="connected") & ~Q(status="connected") | Q(reauth_reason__isnull=False))
_STATES = {
    "connected": (_("connected"), Q(deleted_at=None, status="connected")),
    "down": (_("down"), DOWN),
    "reauth": (_("needs pairing"), Q(deleted_at=None, reauth_reason__isnull=False)),
    "duplicate": (_("duplicate"), Q(deleted_at=None, status="duplicate")),
    "deleted": (_("removed"), Q(deleted_at__isnull=False)),
}


def sessions(request: HttpRequest) -> QuerySet[Any]:
    """The sessions of the tenant, for filters."""
    return rows_of_tenant(WhatsAppSession.objects.order_by("session_name"), request)


@admin.register(WhatsAppSession)
class SessionAdmin(BackOfficeAdmin):
    reads = "sessions:read"
    labels = {"connection_id": _("connection id"), "broker_instance_id": _("instance at the broker")}
    newest = ("session_name", "pk")
    tabs = (("", _("Everything")), *((value, word) for value, (word, _condition) in _STATES.items()))
    list_display = ("label", "state", "number", "of", "heard", "acked", "probed", "needs")
    list_select_related = ("owner",)
    list_filter = (pick("state", _("state"), _STATES), rows_of("owner", _("owner"), "owner_id", people))
    search_fields = ("session_name", "connection_id")
    search_help_text = _("Name or connection id")
    fieldsets = (
        (None, {"fields": paired("session_name", "state", "number", "of", "profile", "queue_for_new")}),
        (
            _("Connection"),
            {"fields": paired("connection_id", "broker_instance_id", "wanted", "needs", "paused", "retries")},
        ),
        (_("Signs of life"), {"fields": paired("since", "ended", "heard", "acked", "probed", "synced", "trouble")}),
        (_("History"), {"fields": ("history", "webhooks")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        # The pairing code is the key to the line: it never leaves the database on these screens.
        secrets = ("qr_code", "qr_raw", "whatsapp_info", "profile_pic", "metadata")
        rows: QuerySet[Any] = super().get_queryset(request).defer(*secrets)
        return rows

    @column(_("name"), header=True)
    def label(self, session: WhatsAppSession) -> list[str]:
        return [session.session_name, session.connection_id]

    @column(_("status"))
    def state(self, session: WhatsAppSession) -> SafeString:
        return chip("calm", _("removed")) if session.deleted_at else status_chip(_SESSION, session)

    @column(_("phone number"))
    def number(self, session: WhatsAppSession) -> str:
        return phone(session.phone_number)

    @column(_("profile name"))
    def profile(self, session: WhatsAppSession) -> str:
        return session.profile_name or EMPTY

    @column(_("owner"))
    def of(self, session: WhatsAppSession) -> Any:
        return link(User, session.owner_id, session.owner.name)

    @column(_("last received"))
    def heard(self, session: WhatsAppSession) -> Any:
        return when(session.last_inbound_at)

    @column(_("last receipt"))
    def acked(self, session: WhatsAppSession) -> Any:
        return when(session.last_ack_at)

    @column(_("last check"))
    def probed(self, session: WhatsAppSession) -> Any:
        return when(session.last_probe_at)

    @column(_("last synchronised"))
    def synced(self, session: WhatsAppSession) -> Any:
        return when(session.last_synced_at)

    @column(_("pairing"))
    def needs(self, session: WhatsAppSession) -> Any:
        return chip("bad", session.reauth_reason) if session.reauth_reason else EMPTY

    @column(_("wanted"))
    def wanted(self, session: WhatsAppSession) -> Any:
        return _("connected") if session.desired_state == "connected" else _("disconnected")

    @column(_("sending paused"))
    def paused(self, session: WhatsAppSession) -> Any:
        return chip("bad", _("paused because of a risk")) if session.risk_paused else _("no")

    @column(_("attempts to reconnect"))
    def retries(self, session: WhatsAppSession) -> str:
        return str(session.reconnect_attempts)

    @column(_("last error"))
    def trouble(self, session: WhatsAppSession) -> Any:
        error = session.last_error or {}
        return f"{error.get('code', '')} {error.get('message', '')}".strip() or EMPTY

    @column(_("queue of new tickets"))
    def queue_for_new(self, session: WhatsAppSession) -> Any:
        queue = Queue.objects.filter(pk=session.default_queue_id).first() if session.default_queue_id else None
        return link(Queue, queue.pk, queue.name) if queue else _("the default queue")

    @column(_("connected since"))
    def since(self, session: WhatsAppSession) -> Any:
        return moment(session.connected_at)

    @column(_("disconnected"))
    def ended(self, session: WhatsAppSession) -> Any:
        return moment(session.disconnected_at)

    @column(_("state changes"))
    def history(self, session: WhatsAppSession) -> Any:
        latest = SessionEvent.objects.filter(session=session).order_by("-at")[:_LAST_EVENTS]
        rows = [(moment(one.at), one.old_status, one.new_status, one.reason, one.source) for one in latest]
        body = format_html_join("", "<tr><td>{}</td><td>{} → {}</td><td>{}</td><td>{}</td></tr>", rows)
        return format_html('<table class="le-table"><tbody>{}</tbody></table>', body) if rows else EMPTY

    @column(_("webhook events"))
    def webhooks(self, session: WhatsAppSession) -> SafeString:
        address = screen(WebhookEvent, session=session.pk)
        return format_html('<a class="le-link" href="{}">{}</a>', address, _("Show what the broker sent"))


@admin.register(WhatsAppAtendimento)
class AtendimentoAdmin(BackOfficeAdmin):
    reads = "tickets:read"
    labels = {"unread_count": _("unanswered messages")}
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
