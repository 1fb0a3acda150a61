"""Connections, their episodes of service (the two protected tables), and what is noted of a connection."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.functions import Lower, Now
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import Tenant, TenantOwned, TenantQuerySet, User

# The defaults as seed 002 spells them; Django's Now() would be statement_timestamp().
RANDOM_UUID = Func(function="gen_random_uuid", output_field=models.UUIDField())
NOW = Func(function="now", output_field=models.DateTimeField())


class WhatsAppSession(models.Model):
    """One row = one WhatsApp connection. The first block is frozen by seed 002: columns are only ever added.

    Every added column is nullable or has a database default, so that an INSERT that names only the NOT NULL columns
    of the frozen block keeps working (spec/sessions.md section 1).
    """

    class Status(models.TextChoices):
        DISCONNECTED = "disconnected", _("disconnected")
        CONNECTING = "connecting", _("connecting")
        QRCODE = "qrcode", _("waiting for the QR code")
        CONNECTED = "connected", _("connected")
        ERROR = "error", _("error")
        DUPLICATE = "duplicate", _("duplicate")
        LOGGED_OUT = "logged_out", _("logged out")

    class Wish(models.TextChoices):
        CONNECT = "connect", _("connect")
        LOGOUT = "logout", _("log out")
        WIPE = "wipe", _("wipe")
        DELETE = "delete", _("delete")

    id = models.UUIDField(primary_key=True, db_default=RANDOM_UUID, editable=False)
    owner = models.ForeignKey(User, on_delete=models.PROTECT, db_constraint=False, related_name="whatsapp_sessions")
    session_name = models.CharField(_("name"), max_length=255)
    status = models.CharField(_("status"), max_length=50, choices=Status, db_default="disconnected")
    connection_id = models.CharField(max_length=255, unique=True)
    qr_code = models.TextField(null=True, blank=True)
    phone_number = models.CharField(_("phone"), max_length=20, null=True, blank=True)
    whatsapp_id = models.CharField(max_length=255, null=True, blank=True)
    whatsapp_info = models.JSONField(null=True, blank=True)
    connected_at = models.DateTimeField(null=True, blank=True)
    disconnected_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=NOW, null=True, editable=False)
    updated_at = models.DateTimeField(db_default=NOW, null=True, editable=False)  # kept by a trigger
    duplicate_reason = models.CharField(max_length=100, null=True, blank=True)

    # Added. The database default of tenant_id is the scope's tenant (migration).
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False, related_name="+")
    broker_instance_id = models.CharField(max_length=255, null=True, blank=True, unique=True)
    broker_confirmed_at = models.DateTimeField(null=True, blank=True)
    desired_state = models.CharField(max_length=20, db_default="disconnected")
    auto_reconnect = models.BooleanField(db_default=True)
    version = models.BigIntegerField(db_default=0)
    state_changed_at = models.DateTimeField(null=True, blank=True)
    qr_raw = models.TextField(null=True, blank=True)
    qr_version = models.IntegerField(db_default=0)
    qr_expires_at = models.DateTimeField(null=True, blank=True)
    qr_viewed_at = models.DateTimeField(null=True, blank=True)
    profile_name = models.CharField(max_length=255, null=True, blank=True)
    profile_pic = models.TextField(null=True, blank=True)
    capabilities = models.JSONField(db_default={}, blank=True)
    last_inbound_at = models.DateTimeField(null=True, blank=True)
    last_ack_at = models.DateTimeField(null=True, blank=True)
    last_probe_at = models.DateTimeField(null=True, blank=True)
    last_synced_at = models.DateTimeField(null=True, blank=True)
    last_activity_at = models.DateTimeField(null=True, blank=True)
    strikes = models.IntegerField(db_default=0)
    reconnect_attempts = models.IntegerField(db_default=0)
    reconnect_started_at = models.DateTimeField(null=True, blank=True)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    last_error = models.JSONField(null=True, blank=True)
    reauth_reason = models.CharField(max_length=40, null=True, blank=True)
    replaced_by = models.UUIDField(null=True, blank=True)
    risk_paused = models.BooleanField(db_default=False)
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    default_queue_id = models.UUIDField(null=True, blank=True)
    # Nothing has come since then, though it should have; null while the line is as busy as it usually is.
    silent_since = models.DateTimeField(null=True, blank=True)
    # What the broker has not been brought to do yet; the sync goes on until it has.
    pending_wish = models.CharField(max_length=20, choices=Wish, null=True, blank=True)
    metadata = models.JSONField(db_default={}, blank=True)

    objects: ClassVar = TenantQuerySet.as_manager()

    class Meta:
        db_table = "whatsapp_sessions"
        verbose_name = _("WhatsApp session")
        verbose_name_plural = _("WhatsApp sessions")
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(
                    status__in=[
                        "disconnected",
                        "connecting",
                        "qrcode",
                        "connected",
                        "error",
                        "duplicate",
                        "logged_out",
                    ]
                ),
                name="whatsapp_sessions_status_known",
            ),
            models.UniqueConstraint(
                fields=["owner", "phone_number"],
                condition=Q(status="connected"),
                name="whatsapp_sessions_one_phone_per_owner",
            ),
            models.UniqueConstraint(
                F("owner"),
                Lower("session_name"),
                condition=Q(deleted_at__isnull=True),
                name="whatsapp_sessions_name_per_owner",
            ),
            models.UniqueConstraint(fields=["owner", "idempotency_key"], name="whatsapp_sessions_idempotency"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "owner"], name="whatsapp_sessions_tenant"),
            models.Index(fields=["status"], name="whatsapp_sessions_status"),
            models.Index(fields=["desired_state", "next_attempt_at"], name="whatsapp_sessions_wanted"),
        ]  # fmt: skip

    def __str__(self) -> str:
        return self.session_name

    @property
    def connected(self) -> bool:
        """Whether the broker last said that the line is open."""
        return self.status == self.Status.CONNECTED


class WhatsAppAtendimento(models.Model):
    """One episode of service in one chat; follows its ticket. The first block is frozen by seed 002."""

    class Status(models.TextChoices):
        ATIVO = "ATIVO", _("active")
        PAUSADO = "PAUSADO", _("paused")
        FECHADO = "FECHADO", _("closed")

    class Priority(models.TextChoices):
        BAIXA = "BAIXA", _("low")
        NORMAL = "NORMAL", _("normal")
        ALTA = "ALTA", _("high")
        URGENTE = "URGENTE", _("urgent")

    id = models.UUIDField(primary_key=True, db_default=RANDOM_UUID, editable=False)
    chat_id = models.CharField(max_length=255)
    status = models.CharField(_("status"), max_length=50, choices=Status, db_default="ATIVO")
    owner = models.ForeignKey(User, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="+")
    connection_id = models.CharField(max_length=255)
    created_at = models.DateTimeField(db_default=NOW, null=True, editable=False)
    updated_at = models.DateTimeField(db_default=NOW, null=True, editable=False)  # kept by a trigger

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, db_index=False, related_name="+")
    ticket_id = models.UUIDField(null=True, blank=True, db_index=True)
    assigned_to = models.UUIDField(null=True, blank=True)
    priority = models.CharField(max_length=20, choices=Priority, db_default="NORMAL")
    tags = ArrayField(models.TextField(), db_default=[], blank=True)
    notes = models.TextField(db_default="", blank=True)
    attendance_mode = models.CharField(max_length=10, db_default="human")
    last_message_preview = models.CharField(max_length=280, null=True, blank=True)
    last_message_at = models.DateTimeField(null=True, blank=True)
    unread_count = models.IntegerField(db_default=0)
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_by = models.UUIDField(null=True, blank=True)

    objects: ClassVar = TenantQuerySet.as_manager()

    class Meta:
        db_table = "whatsapp_atendimentos"
        verbose_name = _("atendimento")
        verbose_name_plural = _("atendimentos")
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(status__in=["ATIVO", "PAUSADO", "FECHADO"]), name="whatsapp_atendimentos_status_known"
            ),
            models.UniqueConstraint(
                fields=["owner", "connection_id", "chat_id"],
                condition=Q(status="ATIVO"),
                name="whatsapp_atendimentos_one_active",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "-last_message_at"], name="whatsapp_atendimentos_recent"),
        ]  # fmt: skip

    def __str__(self) -> str:
        return self.get_status_display()


class SessionEvent(TenantOwned):
    """A change of a session's state. Append-only."""

    session = models.ForeignKey(
        WhatsAppSession, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="events"
    )
    old_status = models.CharField(max_length=50, blank=True, default="", db_default="")
    new_status = models.CharField(max_length=50)
    reason = models.CharField(max_length=200, blank=True, default="", db_default="")
    source = models.CharField(max_length=10)  # user, sync, sse, recovery, admin, api
    actor_id = models.UUIDField(null=True, blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = _("session event")
        verbose_name_plural = _("session events")
        indexes: ClassVar = [models.Index(fields=["session", "-at"], name="session_event_recent")]

    def __str__(self) -> str:
        return f"{self.old_status} → {self.new_status}"


class GapFill(TenantOwned):
    """When a session's event list at the broker is read next, and who is reading it now (the lease is the lock)."""

    session = models.OneToOneField(WhatsAppSession, on_delete=models.CASCADE, db_constraint=False, related_name="+")
    due_at = models.DateTimeField(db_default=Now())
    holder = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    filled_at = models.DateTimeField(null=True)
    failures = models.IntegerField(db_default=0)  # in a row

    def __str__(self) -> str:
        return f"{self.session_id}"


class InboundHour(TenantOwned):
    """How many messages a session received in one hour: what tells a quiet line from a dead one. Kept four weeks."""

    session = models.ForeignKey(
        WhatsAppSession, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )
    hour = models.DateTimeField()  # its first moment
    received = models.IntegerField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["session", "hour"], name="inbound_hour_unique")]

    def __str__(self) -> str:
        return f"{self.hour:%F %H}h {self.received}"
