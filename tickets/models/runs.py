"""Runs over a whole tenant that leave a trace."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q

from leadengine.accounts.models import TenantOwned


class TimelineRun(TenantOwned):
    """One reconciliation of a tenant's timelines. A nightly one exists once per tenant and local date."""

    class Trigger(models.TextChoices):
        NIGHTLY = "nightly"
        MANUAL = "manual"

    trigger = models.CharField(max_length=8, choices=Trigger)
    night = models.DateField(null=True, blank=True)
    started_at = models.DateTimeField()
    alive_at = models.DateTimeField()  # moved on by each batch: a run that stands still has lost its worker
    finished_at = models.DateTimeField(null=True, blank=True)
    tickets_checked = models.PositiveIntegerField(default=0, db_default=0)
    tickets_changed = models.PositiveIntegerField(default=0, db_default=0)
    fields = models.JSONField(default=dict, db_default={})  # {name: in how many tickets it was wrong}

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "night"], name="timeline_run_one_a_night"),
            models.CheckConstraint(
                condition=Q(trigger="nightly", night__isnull=False) | Q(trigger="manual", night__isnull=True),
                name="timeline_run_nightly_has_a_night",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["tenant", "-started_at"], name="timeline_run_latest")]

    def __str__(self) -> str:
        return f"{self.trigger} {self.started_at:%F %T}"
