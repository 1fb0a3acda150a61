"""Sessions, to look at: their state fields have one writer each, and it is not a form. What may be done with them:
session_actions."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.admin import people
from leadengine.accounts.models import Tenant, User
from leadengine.admin_site.base import BackOfficeAdmin, paired, rows_of_tenant
from leadengine.admin_site.display import (
    EMPTY,
    chip,
    column,
    link,
    moment,
    phone,
    screen,
    status_chip,
    when,
)
from leadengine.admin_site.filters import pick, rows_of
from leadengine.admin_site.site import person, tenant_of
from tickets.models import Queue
from tickets.services.outbox.circuit import read_circuits
from whatsapp.admin.keeping import snapshot
from whatsapp.admin.session_actions import SessionActions
from whatsapp.models import PersistenceJournal, SessionEvent, WebhookEvent, WhatsAppSession
from whatsapp.services.lines import evidence_of
from whatsapp.services.sessions.qr import shown_qr

_SESSION = {
    "connected": "good", "connecting": "warn", "qrcode": "info", "disconnected": "calm", "error": "bad",
    "duplicate": "bad", "logged_out": "bad",
}  # fmt: skip
_LAST_EVENTS, _LAST_ENTRIES = 20, 10
# Wanted but not there, or there is something only a person can repair.
DOWN = Q(deleted_at=None) & (Q(desired_state="connected") & ~Q(status="connected") | Q(reauth_reason__isnull=False))
_STATES = {
    "connected": (_("connected"), Q(deleted_at=None, status="connected")),
    "down": (_("down"), DOWN),
    "reauth": (_("needs pairing"), Q(deleted_at=None, reauth_reason__isnull=False)),
    "duplicate": (_("duplicate"), Q(deleted_at=None, status="duplicate")),
    "deleted": (_("removed"), Q(deleted_at__isnull=False)),
}

_REAUTH = {
    "session_expired": _("logged out on the phone"), "suspicious_block": _("blocked by WhatsApp"),
    "client_update": _("service out of date"), "session_conflict": _("another client took over"),
    "broker_reset": _("lost by the service"), "idle_14d": _("no traffic for two weeks"),
}  # fmt: skip
_DUPLICATE = {
    "PHONE_NUMBER_ALREADY_CONNECTED": _("phone connected elsewhere"),
    "REPLACED_BY_NEW_CONNECTION": _("replaced by a newer one"),
}
_WANTED = {
    "connected": (_("connected"), Q(desired_state="connected")),
    "disconnected": (_("disconnected"), Q(desired_state="disconnected")),
}
_OWNED = {
    "inactive": (_("inactive"), Q(owner__is_active=False)), "active": (_("active"), Q(owner__is_active=True)),
}  # fmt: skip


def sessions(request: HttpRequest) -> QuerySet[Any]:
    """The sessions of the tenant, for filters."""
    return rows_of_tenant(WhatsAppSession.objects.order_by("session_name"), request)


def tenants(_request: HttpRequest) -> QuerySet[Any]:
    """All of them, for the filter of superusers."""
    return Tenant.objects.order_by("name")


def once(show: Callable[[Any, WhatsAppSession], Any]) -> Callable[[Any, WhatsAppSession], Any]:
    """The theme asks five times for each value of a page: what costs a query is made once for a row."""

    @wraps(show)
    def remembered(self: Any, session: WhatsAppSession) -> Any:
        key = f"_{show.__name__}_shown"
        if key not in session.__dict__:
            session.__dict__[key] = show(self, session)
        return session.__dict__[key]

    return remembered


@admin.register(WhatsAppSession)
class SessionAdmin(SessionActions, BackOfficeAdmin):
    reads = "sessions:read"
    labels = {"connection_id": _("connection id"), "broker_instance_id": _("instance at the broker")}
    newest = ("session_name", "pk")
    tabs = (("", _("Everything")), *((value, word) for value, (word, _condition) in _STATES.items()))
    list_display = ("label", "state", "number", "of", "heard", "acked", "synced", "needs")
    list_select_related = ("owner",)
    list_filter = (
        pick("state", _("state"), _STATES),
        pick("status", _("status"), {v: (word, Q(status=v)) for v, word in WhatsAppSession.Status.choices}),
        pick("reauth", _("pairing"), {v: (word, Q(reauth_reason=v)) for v, word in _REAUTH.items()}),
        pick("duplicate", _("duplicate"), {v: (word, Q(duplicate_reason=v)) for v, word in _DUPLICATE.items()}),
        pick("wanted", _("wanted"), _WANTED),
        pick("owned", _("owner's account"), _OWNED),
        rows_of("owner", _("owner"), "owner_id", people),
    )
    search_fields = ("session_name", "connection_id")
    search_help_text = _("Name or connection id")
    fieldsets = (
        (None, {"fields": [*paired("session_name", "state", "number", "of", "profile", "queue_for_new"), "code"]}),
        (
            _("Connection"),
            {
                "fields": paired(
                    "connection_id",
                    "broker_instance_id",
                    "wanted",
                    "pending",
                    "needs",
                    "double",
                    "paused",
                    "by_itself",
                    "retries",
                    "next_try",
                )
            },
        ),
        (_("Signs of life"), {"fields": paired("since", "ended", "heard", "acked", "probed", "synced", "trouble")}),
        (_("History"), {"fields": ("history", "journal", "webhooks", "last_snapshot")}),
    )

    def get_list_filter(self, request: HttpRequest) -> Any:
        everywhere = person(request).is_superuser and tenant_of(request) is None
        return (
            (*self.list_filter, rows_of("tenant", _("tenant"), "tenant_id", tenants))
            if everywhere
            else self.list_filter
        )

    def get_list_display(self, request: HttpRequest) -> Any:
        return self.list_display if tenant_of(request) is not None else (*self.list_display, "company")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        # The pairing code is the key to the line: it leaves the database only while it may be scanned, on its page.
        secrets = ("qr_code", "qr_raw", "whatsapp_info", "profile_pic", "metadata")
        rows: QuerySet[Any] = super().get_queryset(request).defer(*secrets)
        return rows.select_related("tenant") if tenant_of(request) is None else rows

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
        signs = evidence_of(session, timezone.now())
        if signs["silent"]:
            return chip("warn", _("silent"), str(_("Connected, but it has received nothing for unusually long.")))
        stale = signs["stale"] and (session.connected or session.desired_state == "connected")
        return chip("warn", when(session.last_synced_at)) if stale else when(session.last_synced_at)

    @column(_("tenant"))
    def company(self, session: WhatsAppSession) -> Any:
        return session.tenant.name

    @column(_("pairing"))
    def needs(self, session: WhatsAppSession) -> Any:
        reason = session.reauth_reason
        return chip("bad", _REAUTH.get(reason, reason)) if reason else EMPTY

    @column(_("duplicate"))
    def double(self, session: WhatsAppSession) -> Any:
        reason = session.duplicate_reason
        return chip("bad", _DUPLICATE.get(reason, reason)) if reason else EMPTY

    @column(_("not done yet"))
    def pending(self, session: WhatsAppSession) -> Any:
        return chip("warn", session.get_pending_wish_display()) if session.pending_wish else EMPTY

    @column(_("reconnects by itself"))
    def by_itself(self, session: WhatsAppSession) -> Any:
        return _("yes") if session.auto_reconnect else _("no")

    @column(_("next attempt"))
    def next_try(self, session: WhatsAppSession) -> Any:
        return when(session.next_attempt_at)

    @column(_("QR code"))
    def code(self, session: WhatsAppSession) -> Any:
        shown = shown_qr(session, timezone.now()) if session.status == WhatsAppSession.Status.QRCODE else None
        if shown is None or shown.picture is None:
            return EMPTY
        words = _("QR code that connects %s") % session.session_name
        return format_html('<img src="{}" width="240" height="240" alt="{}">', shown.picture, words)

    @column(_("wanted"))
    def wanted(self, session: WhatsAppSession) -> Any:
        return _("connected") if session.desired_state == "connected" else _("disconnected")

    @column(_("sending paused"))
    def paused(self, session: WhatsAppSession) -> Any:
        if session.risk_paused:
            return chip("bad", _("paused because of a risk"))
        return (
            chip("warn", _("no answer, tried again soon"))
            if session.pk in read_circuits(now=timezone.now())
            else _("no")
        )

    @column(_("attempts to reconnect"))
    def retries(self, session: WhatsAppSession) -> str:
        return str(session.reconnect_attempts)

    @column(_("last error"))
    def trouble(self, session: WhatsAppSession) -> Any:
        error = session.last_error or {}
        return " ".join(filter(None, (error.get(part) for part in ("code", "message", "action")))) or EMPTY

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
    @once
    def history(self, session: WhatsAppSession) -> Any:
        latest = SessionEvent.objects.filter(session=session).order_by("-at")[:_LAST_EVENTS]
        said = dict(WhatsAppSession.Status.choices)
        rows = [
            (moment(one.at), said.get(one.old_status, EMPTY), said.get(one.new_status), one.reason, one.source)
            for one in latest
        ]
        body = format_html_join("", "<tr><td>{}</td><td>{} → {}</td><td>{}</td><td>{}</td></tr>", rows)
        return format_html('<table class="le-table"><tbody>{}</tbody></table>', body) if rows else EMPTY

    @column(_("journal"))
    @once
    def journal(self, session: WhatsAppSession) -> Any:
        latest = PersistenceJournal.objects.filter(session_id=session.pk).order_by("-replayed_at")[:_LAST_ENTRIES]
        rows = [(moment(one.recorded_at), one.operation, one.get_status_display(), one.reason) for one in latest]
        body = format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", rows)
        return format_html('<table class="le-table"><tbody>{}</tbody></table>', body) if rows else EMPTY

    @column(_("what the broker last said"))
    def last_snapshot(self, session: WhatsAppSession) -> Any:
        return snapshot(session.whatsapp_info) if session.whatsapp_info else EMPTY

    @column(_("webhook events"))
    def webhooks(self, session: WhatsAppSession) -> SafeString:
        address = screen(WebhookEvent, session=session.pk)
        return format_html('<a class="le-link" href="{}">{}</a>', address, _("Show what the broker sent"))
