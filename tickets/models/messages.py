"""Messages and what hangs on them. The outbox is the message row itself (spec/outbound.md section 1)."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import TenantOwned, User
from leads.models import Contact
from tickets.models.tickets import Ticket


class Message(TenantOwned):
    """One message of a ticket.

    `position` is the order of arrival in the ticket, gapless from 1 and taken under the ticket's row lock: order, gap
    detector and catch-up cursor in one. People see messages sorted by (sent_at, position).
    """

    class Direction(models.TextChoices):
        INBOUND = "INBOUND", _("received")
        OUTBOUND = "OUTBOUND", _("sent")

    class Type(models.TextChoices):
        TEXT = "TEXT", _("text")
        IMAGE = "IMAGE", _("image")
        VIDEO = "VIDEO", _("video")
        AUDIO = "AUDIO", _("audio")
        DOCUMENT = "DOCUMENT", _("document")
        STICKER = "STICKER", _("sticker")
        LOCATION = "LOCATION", _("location")
        CONTACT = "CONTACT", _("contact")
        TEMPLATE = "TEMPLATE", _("template")
        POLL = "POLL", _("poll")
        POLL_VOTE = "POLL_VOTE", _("poll vote")
        UNKNOWN = "UNKNOWN", _("unknown")

    class Status(models.TextChoices):
        RECEIVED = "RECEIVED", _("received")
        SCHEDULED = "SCHEDULED", _("scheduled")
        QUEUED = "QUEUED", _("queued")
        SENDING = "SENDING", _("sending")
        UNCONFIRMED = "UNCONFIRMED", _("not confirmed")
        SENT = "SENT", _("sent")
        DELIVERED = "DELIVERED", _("delivered")
        READ = "READ", _("read")
        FAILED = "FAILED", _("failed")
        CANCELED = "CANCELED", _("canceled")

    class Source(models.TextChoices):
        CUSTOMER = "CUSTOMER", _("customer")
        AGENT = "AGENT", _("agent")
        API = "API", _("API")
        PHONE = "PHONE", _("phone")
        SCHEDULED = "SCHEDULED", _("scheduled")
        AUTOMATION = "AUTOMATION", _("automation")

    ticket = models.ForeignKey(
        Ticket, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="messages"
    )
    contact = models.ForeignKey(
        Contact, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="messages"
    )
    session_id = models.UUIDField(null=True, blank=True)
    position = models.BigIntegerField()
    direction = models.CharField(max_length=8, choices=Direction)
    type = models.CharField(max_length=10, choices=Type, default=Type.TEXT, db_default="TEXT")
    content = models.TextField(blank=True, default="", db_default="")
    caption = models.TextField(blank=True, default="", db_default="")
    version = models.BigIntegerField(default=0, db_default=0)
    status = models.CharField(max_length=12, choices=Status)
    source = models.CharField(max_length=10, choices=Source)
    author = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, db_index=False, related_name="+")
    sender = models.JSONField(null=True, blank=True)  # groups: {name, phone, jid}
    reply_to = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, db_constraint=False, db_index=False,
        related_name="+",
    )  # fmt: skip
    resend_of = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, db_constraint=False, db_index=False,
        related_name="+",
    )  # fmt: skip
    external_id = models.CharField(max_length=255, null=True, blank=True)
    metadata = models.JSONField(default=dict, db_default={})
    sent_at = models.DateTimeField()
    received_at = models.DateTimeField(null=True, blank=True)
    processed_at = models.DateTimeField(null=True, blank=True)
    delivered_at = models.DateTimeField(null=True, blank=True)
    read_at = models.DateTimeField(null=True, blank=True)
    played_at = models.DateTimeField(null=True, blank=True)
    edited_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    # The outbox.
    payload = models.JSONField(null=True, blank=True)  # what the door accepted, as the transport needs it
    idempotency_key = models.CharField(max_length=128, null=True, blank=True)
    request_hash = models.CharField(max_length=64, null=True, blank=True)
    external_reference = models.CharField(max_length=128, null=True, blank=True)  # the caller's externalId
    scheduled_at = models.DateTimeField(null=True, blank=True)
    cancel_if_customer_replies = models.BooleanField(default=False, db_default=False)
    cancelable_until = models.DateTimeField(null=True, blank=True)
    not_before = models.DateTimeField(null=True, blank=True)
    wait_reason = models.CharField(max_length=24, null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0, db_default=0)
    claim_token = models.UUIDField(null=True, blank=True)
    claimed_at = models.DateTimeField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)  # {code, message, retryable, cause?}
    dismissed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["ticket", "position"], name="message_position_unique"),
            models.UniqueConstraint(fields=["session_id", "external_id"], name="message_identity_unique"),
            models.UniqueConstraint(
                fields=["tenant", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="message_idempotency_unique",
            ),
            models.CheckConstraint(condition=Q(position__gte=1), name="message_position_from_one"),
            models.CheckConstraint(
                condition=Q(direction="INBOUND", status="RECEIVED")
                | Q(
                    direction="OUTBOUND",
                    status__in=[
                        "SCHEDULED",
                        "QUEUED",
                        "SENDING",
                        "UNCONFIRMED",
                        "SENT",
                        "DELIVERED",
                        "READ",
                        "FAILED",
                        "CANCELED",
                    ],
                ),
                name="message_status_of_direction",
            ),
            models.CheckConstraint(
                condition=~Q(status="SENDING") | Q(claim_token__isnull=False, lease_until__isnull=False),
                name="message_sending_has_a_claim",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["contact", "-sent_at", "-position"], name="message_history"),
            # The outbox: what a line may send next, what a ticket still has to send, what is in flight, what waits for
            # a time, and what ended badly. Each holds few rows, however many messages there are.
            models.Index(fields=["session_id", "id"], name="message_due", condition=Q(status="QUEUED")),
            models.Index(
                fields=["ticket", "position"], name="message_live", condition=Q(status__in=["QUEUED", "SENDING"])
            ),
            models.Index(
                fields=["session_id", "lease_until"], name="message_in_flight", condition=Q(status="SENDING")
            ),
            models.Index(
                fields=["session_id", "not_before"], name="message_waiting",
                condition=Q(status="QUEUED", not_before__isnull=False),
            ),
            models.Index(
                fields=["scheduled_at"], name="message_scheduled",
                condition=Q(status__in=["SCHEDULED", "QUEUED"], scheduled_at__isnull=False),
            ),
            models.Index(
                fields=["contact"], name="message_scheduled_for",
                condition=Q(status__in=["SCHEDULED", "QUEUED"], scheduled_at__isnull=False),
            ),
            # For lists. Whoever does not ask for the direction cannot use it: a claim would read past all other lines.
            models.Index(
                fields=["tenant", "id"], name="message_outbox",
                condition=Q(direction="OUTBOUND", status__in=["SCHEDULED", "QUEUED", "SENDING"]),
            ),
            models.Index(
                fields=["tenant", "id"], name="message_dead_letters",
                condition=Q(status__in=["FAILED", "UNCONFIRMED"]),
            ),
            models.Index(
                fields=["session_id", "status", "sent_at"], name="message_unsettled",
                condition=Q(status__in=["SCHEDULED", "UNCONFIRMED"]) | Q(status="SENT", external_id__isnull=True),
            ),
            # What a line has sent in a time, by state (tickets/queries/sends.py); read from the index alone.
            models.Index(
                fields=["session_id", "sent_at"], include=["status", "tenant"], name="message_sends_of_line",
                condition=Q(direction="OUTBOUND") & ~Q(source="PHONE"),
            ),
            models.Index(
                fields=["ticket", "position"], name="message_trouble",
                condition=Q(status__in=["FAILED", "UNCONFIRMED"], dismissed_at__isnull=True),
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"#{self.position}"


class MessageMedia(TenantOwned):
    """The file of a message, with a life of its own: the text never waits for it."""

    class State(models.TextChoices):
        PENDING = "pending", _("pending")
        DOWNLOADING = "downloading", _("downloading")
        READY = "ready", _("ready")
        FAILED = "failed", _("failed")
        EXPIRED = "expired", _("expired")

    message = models.OneToOneField(Message, on_delete=models.CASCADE, db_constraint=False, related_name="media")
    state = models.CharField(max_length=12, choices=State, default=State.PENDING, db_default="pending")
    reason = models.CharField(max_length=60, blank=True, default="", db_default="")
    media_type = models.CharField(max_length=10)
    mime_type = models.CharField(max_length=120, blank=True, default="", db_default="")
    file_name = models.CharField(max_length=255, blank=True, default="", db_default="")
    size = models.BigIntegerField(null=True, blank=True)
    seconds = models.PositiveIntegerField(null=True, blank=True)
    width = models.PositiveIntegerField(null=True, blank=True)
    height = models.PositiveIntegerField(null=True, blank=True)
    page_count = models.PositiveIntegerField(null=True, blank=True)
    voice = models.BooleanField(default=False, db_default=False)
    thumbnail = models.BinaryField(null=True, blank=True, editable=False)  # <= 64 KB
    # What the transport needs to fetch the file (addresses and keys); opaque to this app, never serialised.
    source = models.JSONField(default=dict, db_default={}, editable=False)
    sha256 = models.CharField(max_length=64, blank=True, default="", db_default="")
    storage_key = models.CharField(max_length=400, blank=True, default="", db_default="")
    upload_id = models.UUIDField(null=True, blank=True)  # of an outgoing file that the channel keeps
    attempts = models.PositiveSmallIntegerField(default=0, db_default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("media file")
        verbose_name_plural = _("media files")
        indexes: ClassVar = [
            models.Index(
                fields=["next_attempt_at"], name="media_due", condition=Q(state__in=["pending", "downloading"])
            ),
            models.Index(fields=["upload_id"], name="media_of_upload", condition=Q(upload_id__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.media_type} {self.state}"


class MessageReaction(TenantOwned):
    """One person's emoji on a message."""

    message = models.ForeignKey(
        Message, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="reactions"
    )
    actor = models.CharField(max_length=255)  # `me`, or the address of the person
    emoji = models.CharField(max_length=32)
    at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["message", "actor"], name="reaction_one_per_actor")]

    def __str__(self) -> str:
        return self.emoji


class MessageRevision(TenantOwned):
    """An earlier text of an edited message."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, db_constraint=False, related_name="revisions")
    content = models.TextField()
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.message_id} {self.at:%F %T}"


class OutboundAttempt(TenantOwned):
    """One try to send a message; survives restarts, shown to supervisors."""

    message = models.ForeignKey(
        Message, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="attempt_rows"
    )
    number = models.PositiveSmallIntegerField()
    claim_token = models.UUIDField()
    claimed_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=20, blank=True, default="", db_default="")
    code = models.CharField(max_length=40, blank=True, default="", db_default="")
    broker_status = models.PositiveSmallIntegerField(null=True, blank=True)
    broker_answer = models.TextField(blank=True, default="", db_default="")  # first 2 KB, without keys
    latency_ms = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        verbose_name = _("attempt to send")
        verbose_name_plural = _("attempts to send")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["message", "claim_token"], name="attempt_claim_unique")
        ]

    def __str__(self) -> str:
        return f"{self.message_id} #{self.number}"
