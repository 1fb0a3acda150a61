"""What keeps connections alive: the journal of facts, runs of recovery, duties that one process does, maintenance."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import TenantOwned


class PersistenceJournal(TenantOwned):
    """A fact that could not be saved when it happened, and what became of it. `line_id` makes a replay harmless."""

    class Status(models.TextChoices):
        APPLIED = "applied", _("applied")
        SUPERSEDED = "superseded", _("superseded")
        FAILED = "failed", _("failed")

    line_id = models.UUIDField()
    session_id = models.UUIDField(null=True)
    operation = models.CharField(max_length=40)
    entry = models.JSONField(db_default={})
    status = models.CharField(_("status"), max_length=12, choices=Status)
    reason = models.CharField(max_length=200, blank=True, default="", db_default="")
    recorded_at = models.DateTimeField()
    replayed_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = _("journal entry")
        verbose_name_plural = _("persistence journal")
        constraints: ClassVar = [models.UniqueConstraint(fields=["line_id"], name="persistence_journal_line")]
        indexes: ClassVar = [models.Index(fields=["tenant", "-replayed_at"], name="persistence_journal_recent")]

    def __str__(self) -> str:
        return f"{self.operation} {self.status}"


class RecoveryRun(TenantOwned):
    """One bringing back of a tenant's connections: how many were expected, came back, and how long the slowest took."""

    trigger = models.CharField(max_length=20)  # start, command, admin
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    expected = models.IntegerField(db_default=0, default=0)
    reconnected = models.IntegerField(db_default=0, default=0)
    lost = models.IntegerField(db_default=0, default=0)
    slowest_seconds = models.FloatField(null=True)

    class Meta:
        verbose_name = _("recovery")
        verbose_name_plural = _("recoveries")
        indexes: ClassVar = [models.Index(fields=["tenant", "-started_at"], name="recovery_run_recent")]

    def __str__(self) -> str:
        return f"{self.started_at:%F %T} {self.reconnected}/{self.expected}"


class Duty(models.Model):
    """Work that one process at a time does for all tenants; the lease is the lock, `done_at` when it was last done."""

    name = models.CharField(max_length=40, primary_key=True)
    holder: models.UUIDField[UUID | None, UUID | None] = models.UUIDField(null=True)
    until = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name


class Maintenance(models.Model):
    """The one row that says whether connections are left alone, or the product is closed."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    is_on = models.BooleanField(db_default=False, default=False)
    closed = models.BooleanField(db_default=False, default=False)
    reason = models.CharField(max_length=200, blank=True, default="", db_default="")
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [models.CheckConstraint(condition=models.Q(id=1), name="maintenance_one_row")]

    def __str__(self) -> str:
        return "on" if self.is_on else "off"
