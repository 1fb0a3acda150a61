"""Who: contacts with the addresses that identify them, tags, and one lead per contact."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import TenantOwned, User


class Contact(TenantOwned):
    """A person or a group that writes to the tenant (spec/tickets-leads.md section 3)."""

    class Kind(models.TextChoices):
        PERSON = "PERSON", _("person")
        GROUP = "GROUP", _("group")

    class NameSource(models.TextChoices):
        BROKER = "BROKER", _("WhatsApp")
        AGENT = "AGENT", _("agent")
        IMPORT = "IMPORT", _("import")

    kind = models.CharField(max_length=8, choices=Kind, default=Kind.PERSON, db_default="PERSON")
    name = models.CharField(_("name"), max_length=255)
    # A name set by an agent or an import is never overwritten by the broker (D10).
    name_source = models.CharField(max_length=8, choices=NameSource, default=NameSource.BROKER, db_default="BROKER")
    push_name = models.CharField(max_length=255, blank=True, default="", db_default="")
    document = models.CharField(_("document"), max_length=40, blank=True, default="", db_default="")
    registrations = ArrayField(models.CharField(max_length=120), default=list, db_default=[], blank=True)
    avatar_url = models.TextField(blank=True, default="", db_default="")
    is_blocked = models.BooleanField(_("blocked"), default=False, db_default=False)
    owner = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    notes = models.TextField(blank=True, default="", db_default="")
    custom_fields = models.JSONField(default=dict, db_default={}, blank=True)
    consent = models.JSONField(null=True, blank=True)
    source = models.CharField(max_length=20, default="WHATSAPP", db_default="WHATSAPP")
    last_interaction_at = models.DateTimeField(null=True, blank=True)
    merged_into = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, db_constraint=False, related_name="+"
    )
    anonymised_at = models.DateTimeField(null=True, blank=True)
    version = models.BigIntegerField(default=0, db_default=0)
    tags: models.ManyToManyField[Any, Any] = models.ManyToManyField("leads.Tag", blank=True, through="leads.ContactTag")

    class Meta:
        verbose_name = _("contact")
        verbose_name_plural = _("contacts")
        indexes: ClassVar = [models.Index(fields=["tenant", "name"], name="contact_by_name")]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(kind__in=["PERSON", "GROUP"]), name="contact_kind_known"),
        ]

    def __str__(self) -> str:
        return self.name


class ContactIdentity(TenantOwned):
    """An address that identifies one contact of the tenant. A LID is never read as a phone (D29)."""

    class Kind(models.TextChoices):
        PHONE = "phone"  # E.164; Brazilian mobiles with the ninth digit
        WA_ADDRESS = "wa_address"  # digits that WhatsApp answers to; never rewritten by a guess
        LID = "lid"
        JID = "jid"  # groups and opaque servers

    contact = models.ForeignKey(Contact, on_delete=models.CASCADE, db_constraint=False, related_name="identities")
    kind = models.CharField(max_length=10, choices=Kind)
    value = models.CharField(max_length=255)
    is_primary = models.BooleanField(default=False, db_default=False)
    label = models.CharField(max_length=60, blank=True, default="", db_default="")
    verified_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("contact identity")
        verbose_name_plural = _("contact identities")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "kind", "value"], name="contact_identity_unique"),
            models.CheckConstraint(
                condition=Q(kind__in=["phone", "wa_address", "lid", "jid"]), name="contact_identity_kind_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} …{self.value[-4:]}"


class Tag(TenantOwned):
    name = models.CharField(max_length=40)
    colour = models.CharField(max_length=7, default="#5B6875")

    class Meta:
        verbose_name = _("tag")
        verbose_name_plural = _("tags")
        constraints: ClassVar = [models.UniqueConstraint("tenant", Lower("name"), name="tag_name_unique")]

    def __str__(self) -> str:
        return self.name


class ContactTag(TenantOwned):
    contact = models.ForeignKey(Contact, on_delete=models.CASCADE, db_constraint=False)
    tag = models.ForeignKey(Tag, on_delete=models.CASCADE, db_constraint=False)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["contact", "tag"], name="contact_tag_unique")]

    def __str__(self) -> str:
        return f"{self.contact_id} {self.tag_id}"


class ContactMerge(TenantOwned):
    """One contact that became part of another: why, by whom, and every row that moved, so that it can be undone."""

    class Evidence(models.TextChoices):
        LID_PAIR = "lid_pair", _("one WhatsApp account")
        PHONE_VARIANT = "phone_variant", _("one number with and without the ninth digit")
        MANUAL = "manual", _("decided by a person")

    target = models.ForeignKey(Contact, on_delete=models.CASCADE, db_constraint=False, related_name="+")
    source = models.ForeignKey(Contact, on_delete=models.CASCADE, db_constraint=False, related_name="+")
    evidence = models.CharField(max_length=14, choices=Evidence)
    actor = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, db_index=False, related_name="+")
    # {identities: [[id, was primary]], tags: [id], lead: {…}, fields: {name: [before, after]}}, and of the followers.
    moved = models.JSONField(default=dict, db_default={})
    undone_at = models.DateTimeField(null=True, blank=True)
    undone_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, db_index=False, related_name="+"
    )

    class Meta:
        verbose_name = _("contact merge")
        verbose_name_plural = _("contact merges")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["source"], condition=Q(undone_at=None), name="contact_merge_one_at_a_time"),
            models.CheckConstraint(
                condition=Q(evidence__in=["lid_pair", "phone_variant", "manual"]), name="contact_merge_evidence_known"
            ),
            models.CheckConstraint(condition=~Q(source=models.F("target")), name="contact_merge_of_two"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "-id"], name="contact_merge_newest"),
            models.Index(fields=["tenant"], name="contact_merge_undone", condition=Q(undone_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.source_id} → {self.target_id}"


class LeadStatus(models.TextChoices):
    NEW = "NEW", _("New")
    CONTACTED = "CONTACTED", _("Contacted")
    ENGAGED = "ENGAGED", _("Engaged")
    QUALIFIED = "QUALIFIED", _("Qualified")
    PROPOSAL = "PROPOSAL", _("Proposal")
    NEGOTIATION = "NEGOTIATION", _("Negotiation")
    NURTURING = "NURTURING", _("Nurturing")
    CONVERTED = "CONVERTED", _("Converted")
    LOST = "LOST", _("Lost")


class PipelineStage(TenantOwned):
    """A column of the lead board; it stands for one lead status."""

    name = models.CharField(max_length=60)
    order_index = models.PositiveSmallIntegerField(default=0, db_default=0)
    colour = models.CharField(max_length=7, default="#5B6875")
    status = models.CharField(max_length=12, choices=LeadStatus)
    is_won = models.BooleanField(default=False, db_default=False)
    is_lost = models.BooleanField(default=False, db_default=False)

    class Meta:
        verbose_name = _("pipeline stage")
        verbose_name_plural = _("pipeline stages")
        ordering: ClassVar = ["order_index"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "status"], name="pipeline_stage_status_unique"),
            models.CheckConstraint(condition=Q(status__in=LeadStatus.values), name="pipeline_stage_status_known"),
        ]

    def __str__(self) -> str:
        return self.name


class Lead(TenantOwned):
    """One per contact (never per group): the sales side of a person."""

    contact = models.OneToOneField(Contact, on_delete=models.PROTECT, db_constraint=False, related_name="lead")
    stage = models.ForeignKey(PipelineStage, on_delete=models.PROTECT, db_constraint=False, related_name="leads")
    status = models.CharField(max_length=12, choices=LeadStatus, default=LeadStatus.NEW, db_default="NEW")
    source = models.CharField(max_length=12, default="WHATSAPP", db_default="WHATSAPP")
    owner = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    value = models.DecimalField(max_digits=14, decimal_places=2, null=True, blank=True)
    probability = models.PositiveSmallIntegerField(default=0, db_default=0)
    score = models.IntegerField(default=0, db_default=0)
    expected_close_date = models.DateField(null=True, blank=True)
    lost_reason = models.CharField(max_length=200, blank=True, default="", db_default="")
    custom_fields = models.JSONField(default=dict, db_default={}, blank=True)
    last_contact_at = models.DateTimeField(null=True, blank=True)
    next_follow_up_at = models.DateTimeField(null=True, blank=True)
    # A text key between its neighbours: a move writes one row (spec/tickets-leads.md section 6).
    rank = models.CharField(max_length=80, db_collation="C")
    version = models.BigIntegerField(default=0, db_default=0)
    # The lead of a merged contact whose target has one of its own: kept for the undo, and nobody is shown it.
    merged_into = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, db_constraint=False, related_name="+"
    )

    class Meta:
        verbose_name = _("lead")
        verbose_name_plural = _("leads")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["stage", "rank"], name="lead_rank_unique"),
            models.CheckConstraint(condition=Q(probability__lte=100), name="lead_probability_percent"),
            models.CheckConstraint(condition=Q(status__in=LeadStatus.values), name="lead_status_known"),
        ]

    def __str__(self) -> str:
        return str(self.contact)


class LeadActivity(TenantOwned):
    """What happened to a lead. Append-only."""

    class Kind(models.TextChoices):
        CREATED = "CREATED", _("created")
        STATUS_CHANGED = "STATUS_CHANGED", _("stage changed")
        CONTACTED = "CONTACTED", _("contacted")
        WHATSAPP_SENT = "WHATSAPP_SENT", _("message sent")
        WHATSAPP_REPLIED = "WHATSAPP_REPLIED", _("message received")
        CALL_MADE = "CALL_MADE", _("call made")
        CALL_ANSWERED = "CALL_ANSWERED", _("call answered")
        MEETING_SCHEDULED = "MEETING_SCHEDULED", _("meeting scheduled")
        MEETING_COMPLETED = "MEETING_COMPLETED", _("meeting held")
        PROPOSAL_SENT = "PROPOSAL_SENT", _("proposal sent")
        NOTE_ADDED = "NOTE_ADDED", _("note added")
        SCORE_UPDATED = "SCORE_UPDATED", _("score updated")
        ASSIGNED = "ASSIGNED", _("assigned")
        CONVERTED = "CONVERTED", _("converted")
        LOST = "LOST", _("lost")

    lead = models.ForeignKey(
        Lead, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="activities"
    )
    kind = models.CharField(max_length=20, choices=Kind)
    actor = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, db_index=False, related_name="+")
    at = models.DateTimeField()
    metadata = models.JSONField(default=dict, db_default={})

    class Meta:
        verbose_name = _("lead activity")
        verbose_name_plural = _("lead activities")
        indexes: ClassVar = [models.Index(fields=["lead", "-at"], name="lead_activity_by_lead")]

    def __str__(self) -> str:
        return f"{self.kind} {self.at:%F %T}"
