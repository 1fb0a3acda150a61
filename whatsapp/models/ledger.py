"""The raw inbox and its ledger: what came, and what became of each thing in it."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import Tenant, TenantOwned, TenantQuerySet
from leadengine.ids import uuid7
from whatsapp.models.sessions import WhatsAppSession


class WebhookEvent(models.Model):
    """One delivered entry, as it came. A 2xx is answered only after this row is committed (D7).

    `tenant` is that of the session; null for orphans and rejected bodies, which only the service role sees.
    """

    class Status(models.TextChoices):
        PENDING = "PENDING", _("pending")
        PROCESSED = "PROCESSED", _("processed")
        ORPHAN = "ORPHAN", _("orphan")
        FAILED = "FAILED", _("failed")
        REJECTED = "REJECTED", _("rejected")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.PROTECT, db_index=False, related_name="+")
    session = models.ForeignKey(
        WhatsAppSession, null=True, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="+"
    )
    instance_id = models.CharField(max_length=255, blank=True, default="", db_default="")
    kind = models.CharField(max_length=40, blank=True, default="", db_default="")
    source = models.CharField(max_length=8, default="webhook", db_default="webhook")  # webhook, pull, replay
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING, db_default="PENDING")
    # Conversation slot 0..1023, so that drainers can share the work without reordering a conversation.
    slot = models.SmallIntegerField(default=0, db_default=0)
    body = models.BinaryField(null=True, editable=False)  # zlib; jsonb refuses U+0000 and lone surrogates
    original_body = models.BinaryField(null=True, editable=False)  # as it came, once a person has corrected `body`
    entries = models.IntegerField(default=1, db_default=1)  # how many the delivered body had, each a row like this
    note = models.TextField(blank=True, default="", db_default="")  # why a person discarded it
    queued = models.IntegerField(default=0, db_default=0)
    attempts = models.SmallIntegerField(default=0, db_default=0)
    due_at = models.DateTimeField(db_default=Now())
    reason = models.CharField(max_length=40, blank=True, default="", db_default="")
    error = models.TextField(blank=True, default="", db_default="")
    request_id = models.CharField(max_length=128, blank=True, default="", db_default="")
    received_at = models.DateTimeField(db_default=Now())
    processed_at = models.DateTimeField(null=True)

    objects: ClassVar = TenantQuerySet.as_manager()

    class Meta:
        verbose_name = _("webhook event")
        verbose_name_plural = _("webhook events")
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(status__in=["PENDING", "PROCESSED", "ORPHAN", "FAILED", "REJECTED"]),
                name="webhook_event_status_known",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["ORPHAN", "REJECTED", "PROCESSED"])
                | Q(tenant__isnull=False, session__isnull=False),
                name="webhook_event_has_a_session",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "id"], name="webhook_event_pending", condition=Q(status="PENDING")),
            models.Index(fields=["tenant", "-received_at"], name="webhook_event_ledger"),
            models.Index(
                fields=["status", "-received_at"], name="webhook_event_trouble",
                condition=Q(status__in=["ORPHAN", "FAILED", "REJECTED"]),
            ),
            # What retention has left to do: walking the table would cost more each night.
            models.Index(
                fields=["id"], name="webhook_event_bodies",
                condition=Q(body__isnull=False) & ~Q(status="PENDING"),
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.kind} {self.status}"


class DeadLetter(WebhookEvent):
    """An event that needs a person, as a screen of its own: `whatsapp.services.reprocessing` says which."""

    class Meta:
        proxy = True
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")


class WebhookItem(models.Model):
    """One thing an event held (message, echo, ack…) and its fate, which a person can read."""

    class Fate(models.TextChoices):
        PENDING = "pending", _("pending")
        STORED = "stored", _("stored")
        ENRICHED = "enriched", _("enriched")
        DUPLICATE = "duplicate", _("duplicate")
        APPLIED = "applied", _("applied")
        IGNORED = "ignored", _("ignored")
        PARKED = "parked", _("parked")
        FAILED = "failed", _("failed")
        DISCARDED = "discarded", _("discarded")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.PROTECT, db_index=False, related_name="+")
    event = models.ForeignKey(
        WebhookEvent, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="items"
    )
    session_id = models.UUIDField(null=True)
    index = models.IntegerField()
    kind = models.CharField(max_length=10)
    external_id = models.CharField(max_length=255, null=True)
    payload_type = models.CharField(max_length=20, default="none", db_default="none")
    fate = models.CharField(max_length=10, choices=Fate)
    reason = models.CharField(max_length=40, blank=True, default="", db_default="")
    message_id = models.UUIDField(null=True)
    attempts = models.SmallIntegerField(default=0, db_default=0)
    error = models.TextField(blank=True, default="", db_default="")
    due_at = models.DateTimeField(null=True)  # parked and pending items: when to look again
    expires_at = models.DateTimeField(null=True)  # parked items: when to give up waiting
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects: ClassVar = TenantQuerySet.as_manager()

    class Meta:
        verbose_name = _("webhook item")
        verbose_name_plural = _("webhook items")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["event", "index"], name="webhook_item_unique"),
            models.CheckConstraint(
                condition=Q(
                    fate__in=[
                        "pending",
                        "stored",
                        "enriched",
                        "duplicate",
                        "applied",
                        "ignored",
                        "parked",
                        "failed",
                        "discarded",
                    ]
                ),
                name="webhook_item_fate_known",
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["session_id", "external_id"], name="webhook_item_waiting",
                condition=Q(fate__in=["pending", "parked"]),
            ),
            models.Index(fields=["due_at"], name="webhook_item_due", condition=Q(fate__in=["pending", "parked"])),
            models.Index(
                fields=["expires_at"], name="webhook_item_expiry",
                condition=Q(fate="parked", expires_at__isnull=False),
            ),
            models.Index(
                fields=["tenant", "-id"], name="webhook_item_unread",
                condition=Q(fate="ignored", reason__in=["invalid_contract", "no_sender", "poll_choice_invalid"]),
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.kind} {self.fate}"


class ParkedEffect(TenantOwned):
    """An ack, reaction, edit, revoke or quote whose message is not here yet; applied when it comes."""

    session = models.ForeignKey(
        WhatsAppSession, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    external_id = models.CharField(max_length=255)  # of the message it is meant for
    kind = models.CharField(max_length=10)  # ack, reaction, edit, revoke, quote (by the message `actor`), twin
    actor = models.CharField(max_length=255, blank=True, default="", db_default="")
    data = models.JSONField()
    item_id = models.UUIDField(null=True)
    expires_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["session", "external_id", "kind", "actor"], name="parked_effect_unique"),
        ]
        indexes: ClassVar = [models.Index(fields=["expires_at"], name="parked_effect_expiry")]

    def __str__(self) -> str:
        return f"{self.kind}"
