"""Signs of life of the processes, whom to call, what was changed in protected files, backups, configuration.

No row here belongs to a tenant.
"""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from leadengine.ids import uuid7


class Heartbeat(models.Model):
    """One row per running process, written every 10 s; alive = seen within 30 s. Holds no tenant's data."""

    name = models.CharField(max_length=80, primary_key=True)
    kind = models.CharField(max_length=10)  # worker, sender, beat, web
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name


class Lease(models.Model):
    """Who does what only one process may do at a time (`beat`), and until when. Holds no tenant's data."""

    name = models.CharField(max_length=40, primary_key=True)
    holder = models.CharField(max_length=200)
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} {self.until:%F %T}"


class ProtectedChange(models.Model):
    """An approved change of a protected file (docs/protected.toml): one line of the change log of seed 002."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    date = models.DateField(_("date"))
    version = models.CharField(_("version"), max_length=20)
    change = models.CharField(_("change"), max_length=200)
    approved_by = ArrayField(
        models.CharField(max_length=120), verbose_name=_("approved by"), blank=True, default=list, db_default=[],
        help_text=_("Names, separated by commas."),
    )  # fmt: skip
    status = models.CharField(_("status"), max_length=20, default="Ativo", db_default="Ativo")

    class Meta:
        verbose_name = _("protected change")
        verbose_name_plural = _("protected changes")
        constraints: ClassVar = [models.UniqueConstraint(fields=["version"], name="protected_change_version")]

    def __str__(self) -> str:
        return f"{self.version} {self.change}"


class EmergencyContact(models.Model):
    """Whom to call: for a role (Tech Lead), or in a situation (API indisponível), then with what to do first."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    role = models.CharField(_("role or situation"), max_length=60)
    action = models.CharField(_("first action"), max_length=120, blank=True, default="", db_default="")
    team = models.CharField(_("team"), max_length=60, blank=True, default="", db_default="")
    name = models.CharField(_("name"), max_length=120, blank=True, default="", db_default="")
    email = models.EmailField(_("e-mail"), blank=True, default="", db_default="")
    phone = models.CharField(_("phone"), max_length=20, blank=True, default="", db_default="")

    class Meta:
        verbose_name = _("emergency contact")
        verbose_name_plural = _("emergency contacts")
        constraints: ClassVar = [models.UniqueConstraint(fields=["role"], name="emergency_contact_role")]

    def __str__(self) -> str:
        return self.role


class BackupRecord(models.Model):
    """A backup that was made: its file, what stands in it, and whether it was restored to see that it can be."""

    class Kind(models.TextChoices):
        DAILY = "daily", _("daily")
        PRE_UPGRADE = "pre_upgrade", _("before an upgrade")
        PRE_RESTORE = "pre_restore", _("before a restore")
        MANUAL = "manual", _("by hand")

    class Part(models.TextChoices):
        WHOLE = "whole", _("everything")
        PROTECTED = "protected", _("the protected tables")
        SETTINGS = "settings", _("the settings")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(_("kind"), max_length=12, choices=Kind)
    part = models.CharField(_("content"), max_length=10, choices=Part, default=Part.WHOLE, db_default="whole")
    without_messages = models.BooleanField(_("without messages"), default=False, db_default=False)
    path = models.CharField(_("file"), max_length=500)
    sha256 = models.CharField(max_length=64)
    bytes = models.BigIntegerField(_("size"))
    manifest = models.JSONField(_("manifest"), default=dict, db_default={})
    encrypted = models.BooleanField(_("encrypted"), default=False, db_default=False)
    created_at = models.DateTimeField(db_default=Now())
    verified_at = models.DateTimeField(null=True)
    verify_seconds = models.FloatField(null=True)
    verify_error = models.CharField(max_length=500, blank=True, default="", db_default="")
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = _("backup")
        verbose_name_plural = _("backups")
        constraints: ClassVar = [models.UniqueConstraint(fields=["path"], name="backup_record_path")]
        indexes: ClassVar = [models.Index(fields=["-created_at"], name="backup_record_recent")]

    def __str__(self) -> str:
        return self.path.rpartition("/")[2]


class ConfigSnapshot(models.Model):
    """The configuration in force at a moment: settings, tenants, sessions, webhooks, queues. One numbered series."""

    version = models.PositiveIntegerField(_("version"), primary_key=True)
    taken_at = models.DateTimeField(_("taken"), db_default=Now())
    reason = models.CharField(_("reason"), max_length=200)
    digest = models.CharField(max_length=64)
    data = models.JSONField()

    class Meta:
        verbose_name = _("configuration snapshot")
        verbose_name_plural = _("configuration snapshots")

    def __str__(self) -> str:
        return f"{self.version}"
