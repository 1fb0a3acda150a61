"""Webhooks of integrators: where events go, what has happened, who gets it, and each try (spec/outbound.md 14)."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import TenantOwned

# Decision D21, without presence: who looks at what leaves the house to nobody.
EVENTS = (
    "messages.new", "message.updated", "ticket.message", "ticket.updated", "lead.updated", "whatsapp.session.updated",
    "whatsapp.queue.missing", "whatsapp.timeline.reconciled",
)  # fmt: skip
TEST_EVENT = "webhook.test"


class Endpoint(TenantOwned):
    """An address of an integrator and the events that it gets. The secrets are sealed; after a rotation both sign."""

    class Off(models.TextChoices):
        BY_HAND = "BY_HAND", _("switched off")
        GONE = "GONE", _("it answered 410")
        FAILING = "FAILING", _("too many failures")

    url = models.TextField(_("address"))
    description = models.CharField(_("description"), max_length=200, blank=True, default="", db_default="")
    events = ArrayField(models.CharField(max_length=40))
    enabled = models.BooleanField(default=True, db_default=True)
    disabled_reason = models.CharField(max_length=8, choices=Off, blank=True, default="", db_default="")
    disabled_at = models.DateTimeField(null=True, blank=True)
    secret = models.TextField(editable=False)
    previous_secret = models.TextField(blank=True, default="", db_default="", editable=False)
    previous_until = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0, db_default=0)  # tries in a row that failed
    failing_since = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("webhook")
        verbose_name_plural = _("webhooks")
        indexes: ClassVar = [
            models.Index(fields=["tenant", "id"], condition=Q(deleted_at=None), name="webhook_endpoint_of_tenant"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(enabled=True, disabled_at=None, disabled_reason="")
                | Q(enabled=False, disabled_at__isnull=False, disabled_reason__in=["BY_HAND", "GONE", "FAILING"]),
                name="webhook_endpoint_off_has_a_reason",
            ),
            models.CheckConstraint(
                condition=Q(failures=0, failing_since=None) | Q(failures__gt=0, failing_since__isnull=False),
                name="webhook_endpoint_failing_since",
            ),
            models.CheckConstraint(
                condition=Q(previous_secret="", previous_until=None)
                | (~Q(previous_secret="") & Q(previous_until__isnull=False)),
                name="webhook_endpoint_previous_secret",
            ),
        ]

    def __str__(self) -> str:
        return self.description or self.url


class OutgoingEvent(TenantOwned):
    """What has happened, as every endpoint gets it: the body is kept once, and signed as it stands here.

    The id is that of the socket event, and the `webhook-id` of each delivery.
    """

    type = models.CharField(max_length=40)
    at = models.DateTimeField()
    body = models.TextField()

    class Meta:
        indexes: ClassVar = [models.Index(fields=["tenant", "at"], name="webhook_event_in_time")]

    def __str__(self) -> str:
        return self.type


class Delivery(TenantOwned):
    """One event on its way to one endpoint. `next_attempt_at` is when it is due; while SENDING, when its lease ends."""

    class Status(models.TextChoices):
        PENDING = "PENDING", _("waiting")
        SENDING = "SENDING", _("sending")
        DELIVERED = "DELIVERED", _("delivered")
        DEAD = "DEAD", _("given up")

    endpoint = models.ForeignKey(
        Endpoint, on_delete=models.CASCADE, db_index=False, db_constraint=False, related_name="+"
    )
    event = models.ForeignKey(
        OutgoingEvent, on_delete=models.CASCADE, db_index=False, db_constraint=False, related_name="+"
    )
    type = models.CharField(max_length=40)  # the event's, for lists
    status = models.CharField(max_length=9, choices=Status, default=Status.PENDING, db_default="PENDING")
    tries = models.PositiveSmallIntegerField(default=0, db_default=0)  # since it was made or replayed
    attempts = models.PositiveIntegerField(default=0, db_default=0)  # in all
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    claim_token = models.UUIDField(null=True, blank=True, editable=False)
    # What the last try brought.
    code = models.CharField(max_length=20, blank=True, default="", db_default="")
    response_status = models.PositiveSmallIntegerField(null=True, blank=True)
    latency_ms = models.PositiveIntegerField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        indexes: ClassVar = [
            models.Index(fields=["endpoint", "id"], name="webhook_delivery_log"),
            models.Index(fields=["endpoint", "status", "id"], name="webhook_delivery_by_status"),
            models.Index(fields=["tenant", "-id"], name="webhook_delivery_of_tenant"),
            models.Index(
                fields=["endpoint", "next_attempt_at", "id"], condition=Q(status__in=["PENDING", "SENDING"]),
                name="webhook_delivery_due",
            ),
            models.Index(fields=["tenant", "-id"], condition=Q(status="DEAD"), name="webhook_delivery_dead"),
            models.Index(fields=["endpoint"], condition=Q(status="SENDING"), name="webhook_delivery_in_flight"),
        ]  # fmt: skip
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["event", "endpoint"], name="webhook_delivery_once"),
            models.CheckConstraint(
                condition=Q(status__in=["PENDING", "SENDING"], next_attempt_at__isnull=False)
                | Q(status__in=["DELIVERED", "DEAD"], next_attempt_at=None),
                name="webhook_delivery_due_while_live",
            ),
            models.CheckConstraint(
                condition=Q(status="SENDING", claim_token__isnull=False) | (~Q(status="SENDING") & Q(claim_token=None)),
                name="webhook_delivery_claimed_while_sending",
            ),
            models.CheckConstraint(condition=Q(tries__lte=F("attempts")), name="webhook_delivery_tries"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.status}"


class Attempt(TenantOwned):
    """One try: what went out beside the body, and what came back."""

    delivery = models.ForeignKey(
        Delivery, on_delete=models.CASCADE, db_index=False, db_constraint=False, related_name="log"
    )
    number = models.PositiveIntegerField()
    at = models.DateTimeField()
    code = models.CharField(max_length=20)
    status = models.PositiveSmallIntegerField(null=True, blank=True)
    headers = models.JSONField(default=dict)
    answer = models.TextField(blank=True, default="")
    latency_ms = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["delivery", "number"], name="webhook_attempt_number_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.number} {self.code}"
