"""Queues, who works in them, and why a ticket may end."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import TenantOwned, User


class Queue(TenantOwned):
    """Where tickets wait for an agent (spec/tickets-leads.md section 2)."""

    name = models.CharField(_("name"), max_length=80)
    description = models.CharField(_("description"), max_length=280, blank=True, default="", db_default="")
    colour = models.CharField(_("colour"), max_length=7, default="#0B6E4F")
    is_active = models.BooleanField(_("active"), default=True, db_default=True)
    order_index = models.PositiveSmallIntegerField(_("order"), default=0, db_default=0)
    is_default = models.BooleanField(_("default"), default=False, db_default=False)
    reopen_window_minutes = models.PositiveIntegerField(_("reopen window (min)"), default=120, db_default=120)
    response_target_minutes = models.PositiveIntegerField(_("response target (min)"), default=15, db_default=15)
    require_close_reason = models.BooleanField(_("require a close reason"), default=True, db_default=True)

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        ordering: ClassVar = ["order_index", "name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "name"], name="queue_name_unique"),
            models.UniqueConstraint(fields=["tenant"], condition=Q(is_default=True), name="queue_one_default"),
        ]

    def __str__(self) -> str:
        return self.name


class QueueMembership(TenantOwned):
    """An agent's place in a queue and how much of it they see."""

    class Visibility(models.TextChoices):
        OWN = "OWN", _("own tickets")
        OWN_UNASSIGNED = "OWN_UNASSIGNED", _("own and unassigned")
        QUEUE = "QUEUE", _("the whole queue")
        ALL = "ALL", _("every ticket")

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="queue_memberships")
    queue = models.ForeignKey(Queue, on_delete=models.CASCADE, db_constraint=False, related_name="memberships")
    visibility = models.CharField(
        max_length=14,
        choices=Visibility,
        default=Visibility.OWN_UNASSIGNED,
        db_default="OWN_UNASSIGNED",
    )

    class Meta:
        verbose_name = _("queue membership")
        verbose_name_plural = _("queue memberships")
        constraints: ClassVar = [models.UniqueConstraint(fields=["user", "queue"], name="queue_membership_unique")]

    def __str__(self) -> str:
        return f"{self.user} · {self.queue}"


class CloseReason(TenantOwned):
    """Why a ticket ended; its outcome decides the ticket's final status."""

    class Outcome(models.TextChoices):
        RESOLVED = "RESOLVED", _("resolved")
        CLOSED = "CLOSED", _("closed")

    code = models.CharField(max_length=40)
    label = models.CharField(max_length=80)
    outcome = models.CharField(max_length=8, choices=Outcome)
    allows_reopen = models.BooleanField(default=True, db_default=True)
    requires_note = models.BooleanField(default=False, db_default=False)
    is_active = models.BooleanField(default=True, db_default=True)
    order_index = models.PositiveSmallIntegerField(default=0, db_default=0)

    class Meta:
        verbose_name = _("close reason")
        verbose_name_plural = _("close reasons")
        ordering: ClassVar = ["order_index", "label"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["tenant", "code"], name="close_reason_code_unique")]

    def __str__(self) -> str:
        return self.label
