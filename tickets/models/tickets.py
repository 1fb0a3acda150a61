"""The ticket: one episode of one contact on one session, with its stored counters and timeline."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import TenantOwned, User
from leads.models import Contact, Tag
from tickets.models.queues import CloseReason, Queue

LIVE = ["OPEN", "PENDING", "ASSIGNED"]
ENDED = ["RESOLVED", "CLOSED"]
NEVER = datetime(9999, 1, 1, tzinfo=UTC)  # sorts who waits for nobody last, in one index


class Ticket(TenantOwned):
    """Counters and timeline are written with the message, under the row lock (spec/tickets-leads.md section 4)."""

    class Status(models.TextChoices):
        OPEN = "OPEN", _("open")
        ASSIGNED = "ASSIGNED", _("assigned")
        PENDING = "PENDING", _("pending")
        RESOLVED = "RESOLVED", _("resolved")
        CLOSED = "CLOSED", _("closed")

    class Priority(models.TextChoices):
        LOW = "LOW", _("low")
        NORMAL = "NORMAL", _("normal")
        HIGH = "HIGH", _("high")
        URGENT = "URGENT", _("urgent")

    number = models.BigIntegerField(_("number"))
    protocol = models.CharField(_("protocol"), max_length=20)
    contact = models.ForeignKey(
        Contact, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="tickets"
    )
    queue = models.ForeignKey(
        Queue, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="tickets"
    )
    assignee = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.PROTECT, db_index=False, related_name="tickets"
    )
    status = models.CharField(_("status"), max_length=10, choices=Status, default=Status.OPEN, db_default="OPEN")
    priority = models.CharField(
        _("priority"), max_length=8, choices=Priority, default=Priority.NORMAL, db_default="NORMAL"
    )
    channel = models.CharField(max_length=20, default="WHATSAPP", db_default="WHATSAPP")
    session_id = models.UUIDField(null=True, blank=True)  # the transport's session; its app adds the foreign key
    subject = models.CharField(_("subject"), max_length=200, blank=True, default="", db_default="")
    pending_reason = models.CharField(max_length=20, null=True, blank=True)
    snoozed_until = models.DateTimeField(null=True, blank=True)
    close_reason = models.ForeignKey(
        CloseReason, null=True, blank=True, on_delete=models.PROTECT, db_constraint=False, db_index=False,
        related_name="+",
    )  # fmt: skip
    close_note = models.TextField(blank=True, default="", db_default="")
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.PROTECT, db_index=False, related_name="+"
    )
    reopened_count = models.PositiveIntegerField(default=0, db_default=0)
    metadata = models.JSONField(default=dict, db_default={})
    version = models.BigIntegerField(default=0, db_default=0)

    # Stored counters and timeline (section 7).
    last_position = models.BigIntegerField(default=0, db_default=0)
    last_event_seq = models.BigIntegerField(default=0, db_default=0)
    message_count = models.PositiveIntegerField(default=0, db_default=0)
    inbound_count = models.PositiveIntegerField(default=0, db_default=0)
    outbound_count = models.PositiveIntegerField(default=0, db_default=0)
    unanswered_count = models.PositiveIntegerField(default=0, db_default=0)
    waiting_since = models.DateTimeField(null=True, blank=True)
    first_inbound_at = models.DateTimeField(null=True, blank=True)
    last_inbound_at = models.DateTimeField(null=True, blank=True)
    first_outbound_at = models.DateTimeField(null=True, blank=True)
    last_outbound_at = models.DateTimeField(null=True, blank=True)
    last_direction = models.CharField(max_length=8, null=True, blank=True)
    last_message_at = models.DateTimeField(null=True, blank=True)
    last_message_id = models.UUIDField(null=True, blank=True)
    last_message_preview = models.CharField(max_length=280, blank=True, default="", db_default="")
    first_response_seconds = models.PositiveIntegerField(null=True, blank=True)

    # What lists sort by: never null, and plain columns, because under row level security the planner takes no function
    # into an index condition. Who waits for nobody comes last, by id (made in time order).
    waiting_key = models.GeneratedField(
        expression=Coalesce("waiting_since", models.Value(NEVER)), output_field=models.DateTimeField(), db_persist=True
    )
    active_at = models.GeneratedField(
        expression=Coalesce("last_message_at", "created_at"), output_field=models.DateTimeField(), db_persist=True
    )

    tags: models.ManyToManyField[Any, Any] = models.ManyToManyField(Tag, blank=True, through="tickets.TicketTag")

    class Meta:
        verbose_name = _("ticket")
        verbose_name_plural = _("tickets")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "number"], name="ticket_number_unique"),
            models.UniqueConstraint(
                fields=["contact", "session_id"], condition=Q(status__in=LIVE), name="ticket_one_open"
            ),
            models.CheckConstraint(condition=Q(status__in=LIVE + ENDED), name="ticket_status_known"),
            models.CheckConstraint(
                condition=~Q(status="OPEN") | Q(assignee__isnull=True), name="ticket_open_has_no_assignee"
            ),
            models.CheckConstraint(
                condition=~Q(status="ASSIGNED") | Q(assignee__isnull=False), name="ticket_assigned_has_assignee"
            ),
            models.CheckConstraint(
                condition=Q(pending_reason__isnull=True) & ~Q(status="PENDING")
                # IS NOT NULL: a check that comes out as NULL passes.
                | Q(pending_reason__isnull=False, pending_reason="SNOOZED", status="PENDING")
                & Q(snoozed_until__isnull=False)
                | Q(pending_reason__isnull=False, pending_reason="WAITING_CUSTOMER", status="PENDING")
                & Q(snoozed_until__isnull=True),
                name="ticket_pending_has_reason",
            ),
            models.CheckConstraint(
                condition=Q(status__in=ENDED, closed_at__isnull=False, close_reason__isnull=False)
                | Q(status__in=LIVE, closed_at__isnull=True, close_reason__isnull=True),
                name="ticket_end_has_reason",
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["tenant", "waiting_key", "id"], name="ticket_live_waiting", condition=Q(status__in=LIVE)
            ),
            models.Index(
                fields=["assignee", "waiting_key", "id"], name="ticket_mine_waiting",
                condition=Q(status__in=LIVE, assignee__isnull=False),
            ),
            models.Index(
                fields=["queue", "waiting_key", "id"], name="ticket_queue_waiting", condition=Q(status="OPEN")
            ),
            models.Index(fields=["tenant", "active_at", "id"], name="ticket_live_recent", condition=Q(status__in=LIVE)),
            models.Index(
                fields=["tenant", "active_at", "id"], name="ticket_ended_recent", condition=Q(status__in=ENDED)
            ),
            models.Index(
                fields=["assignee", "active_at", "id"], name="ticket_mine_ended",
                condition=Q(status__in=ENDED, assignee__isnull=False),
            ),
            models.Index(fields=["contact", "session_id", "-number"], name="ticket_by_contact"),
            models.Index(fields=["tenant", "-updated_at"], name="ticket_changed"),
            models.Index(fields=["snoozed_until"], name="ticket_snoozed", condition=Q(pending_reason="SNOOZED")),
        ]  # fmt: skip

    def __str__(self) -> str:
        return self.protocol

    @property
    def is_live(self) -> bool:
        """Not ended: somebody still has to care for it."""
        return self.status in LIVE


class TicketCounter(models.Model):
    """The last ticket number of a tenant. Its row lock makes numbers ascend without gaps in order."""

    tenant = models.OneToOneField("accounts.Tenant", primary_key=True, on_delete=models.PROTECT, related_name="+")
    last_number = models.BigIntegerField(default=0, db_default=0)

    def __str__(self) -> str:
        return str(self.last_number)


class TicketTag(TenantOwned):
    ticket = models.ForeignKey(Ticket, on_delete=models.CASCADE, db_constraint=False)
    tag = models.ForeignKey(Tag, on_delete=models.CASCADE, db_constraint=False)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["ticket", "tag"], name="ticket_tag_unique")]

    def __str__(self) -> str:
        return f"{self.ticket_id} {self.tag_id}"


class TicketEvent(TenantOwned):
    """What happened to a ticket, in the ticket's own sequence (shared with notes). Append-only."""

    class Kind(models.TextChoices):
        OPENED = "OPENED", _("opened")
        ASSIGNED = "ASSIGNED", _("assigned")
        UNASSIGNED = "UNASSIGNED", _("unassigned")
        TRANSFERRED = "TRANSFERRED", _("transferred")
        SNOOZED = "SNOOZED", _("snoozed")
        WOKEN = "WOKEN", _("woken")
        CLOSED = "CLOSED", _("closed")
        REOPENED = "REOPENED", _("reopened")
        QUEUE_CHANGED = "QUEUE_CHANGED", _("queue changed")
        PRIORITY_CHANGED = "PRIORITY_CHANGED", _("priority changed")
        TAGGED = "TAGGED", _("tagged")
        LEAD_STAGE_CHANGED = "LEAD_STAGE_CHANGED", _("lead stage changed")
        CONTACT_MERGED = "CONTACT_MERGED", _("contact merged")
        SLA_BREACHED = "SLA_BREACHED", _("target missed")
        CSAT_ANSWERED = "CSAT_ANSWERED", _("rated")

    ticket = models.ForeignKey(
        Ticket, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="events"
    )
    seq = models.BigIntegerField()
    kind = models.CharField(max_length=20, choices=Kind)
    actor = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, db_index=False, related_name="+")
    actor_kind = models.CharField(max_length=8, default="system", db_default="system")  # user, rule or system
    from_value = models.CharField(max_length=120, blank=True, default="", db_default="")
    to_value = models.CharField(max_length=120, blank=True, default="", db_default="")
    reason = models.CharField(max_length=500, blank=True, default="", db_default="")
    at = models.DateTimeField()

    class Meta:
        verbose_name = _("ticket event")
        verbose_name_plural = _("ticket events")
        constraints: ClassVar = [models.UniqueConstraint(fields=["ticket", "seq"], name="ticket_event_seq_unique")]

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"


class Note(TenantOwned):
    """What the team says among itself; a private one is for its author and supervisors."""

    class Visibility(models.TextChoices):
        TEAM = "TEAM", _("team")
        PRIVATE = "PRIVATE", _("private")

    ticket = models.ForeignKey(
        Ticket, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="notes"
    )
    seq = models.BigIntegerField()
    author = models.ForeignKey(User, on_delete=models.PROTECT, db_index=False, related_name="+")
    body = models.CharField(max_length=4000)
    visibility = models.CharField(max_length=8, choices=Visibility, default=Visibility.TEAM, db_default="TEAM")
    mentions = models.JSONField(default=list, db_default=[])
    edited_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("note")
        verbose_name_plural = _("notes")
        constraints: ClassVar = [models.UniqueConstraint(fields=["ticket", "seq"], name="note_seq_unique")]

    def __str__(self) -> str:
        return f"{self.seq}"


class ReadMarker(TenantOwned):
    """How far a user has read a ticket. Unread = ticket.inbound_count - inbound_seen, without counting rows."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, db_index=False, related_name="+")
    ticket = models.ForeignKey(Ticket, on_delete=models.CASCADE, db_constraint=False, related_name="+")
    last_position = models.BigIntegerField(default=0, db_default=0)
    inbound_seen = models.PositiveIntegerField(default=0, db_default=0)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["user", "ticket"], name="read_marker_unique")]

    def __str__(self) -> str:
        return f"{self.user_id} {self.ticket_id} {self.last_position}"


class Draft(TenantOwned):
    """What a user began to write in a ticket; kept on the server, removed when sent."""

    class Kind(models.TextChoices):
        REPLY = "REPLY"
        NOTE = "NOTE"

    user = models.ForeignKey(User, on_delete=models.CASCADE, db_index=False, related_name="+")
    ticket = models.ForeignKey(Ticket, on_delete=models.CASCADE, db_constraint=False, related_name="+")
    kind = models.CharField(max_length=5, choices=Kind, default=Kind.REPLY, db_default="REPLY")
    body = models.TextField(blank=True, default="", db_default="")
    upload_ids = models.JSONField(default=list, db_default=[])
    reply_to_id = models.UUIDField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["user", "ticket"], name="draft_unique")]

    def __str__(self) -> str:
        return f"{self.user_id} {self.ticket_id}"
