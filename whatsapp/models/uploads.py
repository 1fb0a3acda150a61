"""Files that people upload to send them (spec/outbound.md section 12)."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import TenantOwned, TenantQuerySet


class Upload(TenantOwned):
    """A file that somebody uploaded. Its bytes lie at `storage_key` until `file_removed_at`.

    A row comes before its bytes, as EXPIRED: what is cut off between them is removed as the bytes of an expired one.
    """

    class State(models.TextChoices):
        READY = "READY", _("ready")
        ATTACHED = "ATTACHED", _("attached")
        EXPIRED = "EXPIRED", _("expired")

    class ScanStatus(models.TextChoices):
        CLEAN = "CLEAN", _("clean")  # none is kept that is not

    actor_id = models.UUIDField(null=True, editable=False)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.EXPIRED, db_default="EXPIRED")
    scan_status = models.CharField(max_length=8, choices=ScanStatus, db_default="CLEAN", default=ScanStatus.CLEAN)
    media_type = models.CharField(max_length=10)  # image, video, audio, document
    mime_type = models.CharField(max_length=120)
    file_name = models.CharField(_("file name"), max_length=120)
    size = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    storage_key = models.CharField(max_length=400)
    caption = models.CharField(max_length=1024, blank=True, default="", db_default="")
    # What the caller said it is for: echoed, and nothing follows from it.
    ticket_id = models.UUIDField(null=True)
    contact_id = models.UUIDField(null=True)
    last_used_at = models.DateTimeField(null=True)
    look_at = models.DateTimeField(null=True)  # since when the clean-up may look at it again; None: since its last use
    file_removed_at = models.DateTimeField(null=True)

    objects: ClassVar = TenantQuerySet.as_manager()

    class Meta:
        verbose_name = _("upload")
        verbose_name_plural = _("uploads")
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(state__in=["READY", "ATTACHED", "EXPIRED"]), name="upload_state_known"),
            models.CheckConstraint(
                condition=Q(file_removed_at__isnull=True) | Q(state="EXPIRED"), name="upload_removed_is_expired"
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                Coalesce(F("look_at"), F("last_used_at"), F("created_at")),
                name="upload_idle",
                condition=~Q(state="EXPIRED"),
            ),
            models.Index(
                fields=["created_at"], name="upload_to_remove", condition=Q(state="EXPIRED", file_removed_at=None)
            ),
            models.Index(fields=["tenant", "-created_at"], name="upload_recent"),
        ]

    def __str__(self) -> str:
        return f"{self.media_type} {self.state}"
