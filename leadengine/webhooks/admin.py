"""Back office of outgoing webhooks: where events go and how that is, each delivery with its tries, and the way again.

The secret is in no screen: the API shows it once.
"""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from leadengine.accounts.models import User
from leadengine.admin_site.base import BackOfficeAdmin, ReadOnlyInline, dialog, paired, rows_of_tenant
from leadengine.admin_site.display import EMPTY, chip, code, column, link, moment, pretty, screen, status_chip, when
from leadengine.admin_site.filters import choices_of, pick, rows_of
from leadengine.admin_site.site import person
from leadengine.webhooks.models import EVENTS, TEST_EVENT, Attempt, Delivery, Endpoint
from leadengine.webhooks.services.endpoints import change_endpoint
from leadengine.webhooks.services.replaying import replay_deliveries, replay_delivery, send_test

_TONES = {"PENDING": "info", "SENDING": "warn", "DELIVERED": "good", "DEAD": "bad"}
_NAMES = [(name, name) for name in (*EVENTS, TEST_EVENT)]
_MOST = 1000  # deliveries replayed by one action


def _may(user: User) -> bool:
    return user.may("webhooks:write")


def _endpoints(request: HttpRequest) -> QuerySet[Any]:
    return rows_of_tenant(Endpoint.objects.filter(deleted_at=None).order_by("description", "url"), request)


@admin.register(Endpoint)
class EndpointAdmin(BackOfficeAdmin):
    reads = "webhooks:write"
    plural = _("Webhooks")
    newest = ("-pk",)
    list_display = ("address", "description", "gets", "state", "trouble", "made")
    list_filter = (pick("state", _("status"), {"on": (_("on"), Q(enabled=True)), "off": (_("off"), Q(enabled=False))}),)
    fieldsets = (
        (None, {"fields": paired("address", "state", "description", "made", "trouble", "off_since", "both_sign")}),
        (_("Events"), {"fields": ("gets", "log")}),
    )
    actions_detail = ("switch_on", "switch_off", "send_test")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).filter(deleted_at=None)
        return rows.defer("secret", "previous_secret")

    @column(_("address"))
    def address(self, endpoint: Endpoint) -> SafeString:
        return format_html('<code class="le-word">{}</code>', endpoint.url)

    @column(_("events"))
    def gets(self, endpoint: Endpoint) -> str:
        return ", ".join(endpoint.events)

    @column(_("status"))
    def state(self, endpoint: Endpoint) -> SafeString:
        if endpoint.enabled:
            return chip("warn", _("failing")) if endpoint.failures else chip("good", _("on"))
        tone = "calm" if endpoint.disabled_reason == Endpoint.Off.BY_HAND else "bad"
        return chip(tone, endpoint.get_disabled_reason_display())

    @column(_("failures in a row"))
    def trouble(self, endpoint: Endpoint) -> Any:
        if not endpoint.failures:
            return EMPTY
        return format_html("{} · {}", endpoint.failures, when(endpoint.failing_since))

    @column(_("created"))
    def made(self, endpoint: Endpoint) -> Any:
        return moment(endpoint.created_at)

    @column(_("switched off"))
    def off_since(self, endpoint: Endpoint) -> Any:
        return moment(endpoint.disabled_at)

    @column(_("the secret before this one signs until"))
    def both_sign(self, endpoint: Endpoint) -> Any:
        return moment(endpoint.previous_until)

    @column(_("deliveries"))
    def log(self, endpoint: Endpoint) -> Any:
        there = screen(Delivery, endpoint=endpoint.pk)
        return format_html('<a class="le-link" href="{}">{}</a>', there, _("Show the deliveries"))

    # --- What may be done ----------------------------------------------------------------------------------------

    @dialog(
        title=_("Switch on"),
        ask=_("What waited for it leaves now. What happened while it was off can be replayed by the API."),
        icon="play_arrow",
        fits=lambda user, endpoint: _may(user) and not endpoint.enabled,
    )
    def switch_on(self, request: HttpRequest, endpoint: Endpoint, form: Any) -> Any:
        change_endpoint(actor=person(request), endpoint=endpoint, enabled=True, now=timezone.now())
        return _("The webhook is on.")

    @dialog(
        title=_("Switch off"),
        ask=_("Nothing is sent to it until it is switched on again."),
        icon="pause",
        fits=lambda user, endpoint: _may(user) and endpoint.enabled,
    )
    def switch_off(self, request: HttpRequest, endpoint: Endpoint, form: Any) -> Any:
        change_endpoint(actor=person(request), endpoint=endpoint, enabled=False, now=timezone.now())
        return _("The webhook is off.")

    @dialog(
        title=_("Send a test"),
        ask=_("It gets an event webhook.test; its deliveries say what came of it."),
        icon="science",
        fits=lambda user, endpoint: _may(user) and endpoint.enabled,
    )
    def send_test(self, request: HttpRequest, endpoint: Endpoint, form: Any) -> Any:
        send_test(actor=person(request), endpoint=endpoint, now=timezone.now())
        return _("The test is on its way.")


class Attempts(ReadOnlyInline):
    """Each try of a delivery."""

    model = Attempt
    verbose_name_plural = _("Tries")
    fields = ("number", "time", "outcome", "latency", "sent", "said")
    readonly_fields = fields
    ordering = ("number",)

    @column(_("time"))
    def time(self, attempt: Attempt) -> Any:
        return moment(attempt.at)

    @column(_("outcome"))
    def outcome(self, attempt: Attempt) -> SafeString:
        tone = "good" if attempt.code == "OK" else "bad"
        return chip(tone, f"{attempt.code} {attempt.status or ''}".strip())

    @column(_("latency"))
    def latency(self, attempt: Attempt) -> str:
        return EMPTY if attempt.latency_ms is None else f"{attempt.latency_ms} ms"

    @column(_("headers"))
    def sent(self, attempt: Attempt) -> SafeString:
        return pretty(attempt.headers)

    @column(_("answer"))
    def said(self, attempt: Attempt) -> SafeString:
        return code(attempt.answer)


@admin.register(Delivery)
class DeliveryAdmin(BackOfficeAdmin):
    reads = "webhooks:write"
    plural = _("Deliveries of webhooks")
    newest = ("-pk",)
    list_display = ("time", "name", "where", "state", "tries_made", "outcome", "next_try")
    list_select_related = ("endpoint",)
    list_filter = (
        choices_of("status", _("status"), Delivery.Status.choices),
        choices_of("event", _("event"), _NAMES, "type"),
        rows_of("endpoint", _("webhook"), "endpoint_id", _endpoints),
    )
    fieldsets = (
        (
            None,
            {"fields": paired("time", "name", "endpoint_link", "state", "tries_made", "outcome", "next_try", "header")},
        ),
        (_("What is sent"), {"fields": ("body",)}),
    )
    inlines = (Attempts,)
    actions_detail = ("replay",)
    actions = ("replay_selected",)  # type: ignore[assignment]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.defer("endpoint__secret", "endpoint__previous_secret")

    @column(_("time"))
    def time(self, delivery: Delivery) -> Any:
        return moment(delivery.created_at)

    @column(_("event"))
    def name(self, delivery: Delivery) -> SafeString:
        return format_html('<code class="le-word">{}</code>', delivery.type)

    @column(_("webhook"))
    def where(self, delivery: Delivery) -> str:
        return str(delivery.endpoint)

    @column(_("webhook"))
    def endpoint_link(self, delivery: Delivery) -> Any:
        return link(Endpoint, delivery.endpoint_id, str(delivery.endpoint))

    @column(_("status"))
    def state(self, delivery: Delivery) -> SafeString:
        return status_chip(_TONES, delivery)

    @column(_("attempts"))
    def tries_made(self, delivery: Delivery) -> str:
        return str(delivery.attempts or EMPTY)

    @column(_("outcome"))
    def outcome(self, delivery: Delivery) -> str:
        return f"{delivery.code} {delivery.response_status or ''}".strip() or EMPTY

    @column(_("next attempt"))
    def next_try(self, delivery: Delivery) -> Any:
        return when(delivery.next_attempt_at) if delivery.status == Delivery.Status.PENDING else EMPTY

    @column("webhook-id")
    def header(self, delivery: Delivery) -> SafeString:
        return format_html('<code class="le-word">{}</code>', delivery.event_id)

    @column(_("body"))
    def body(self, delivery: Delivery) -> SafeString:
        return pretty(json.loads(delivery.event.body))

    # --- What may be done ----------------------------------------------------------------------------------------

    @dialog(
        title=_("Send again"),
        ask=_("It leaves at once, with the same webhook-id."),
        icon="replay",
        fits=lambda user, delivery: _may(user) and delivery.status in {"DELIVERED", "DEAD"},
    )
    def replay(self, request: HttpRequest, delivery: Delivery, form: Any) -> Any:
        replay_delivery(actor=person(request), delivery=delivery, now=timezone.now())
        return _("The delivery is on its way again.")

    def replay_selected(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        ids = list(rows.order_by("pk").values_list("pk", flat=True)[:_MOST])
        with transaction.atomic():
            number = replay_deliveries(actor=person(request), ids=ids, now=timezone.now())
        said = ngettext("%d delivery is on its way again.", "%d deliveries are on their way again.", number) % number
        messages.success(request, said)

    replay_selected.short_description = _("Send again")  # type: ignore[attr-defined]
