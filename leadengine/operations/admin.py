"""Back office of the platform: contacts, changes of protected files, backups, configuration. Superusers only."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from leadengine.admin_site.base import BackOfficeAdmin, paired
from leadengine.admin_site.display import EMPTY, chip, column, moment, pretty, when
from leadengine.admin_site.filters import choices_of
from leadengine.admin_site.site import person
from leadengine.operations.models import BackupRecord, ConfigSnapshot, EmergencyContact, ProtectedChange
from leadengine.operations.platform import add_protected_change, save_contact
from leadengine.operations.protection import ACTIVE
from leadengine.operations.snapshots import compare


class PlatformAdmin(BackOfficeAdmin):
    """A screen over rows that belong to no tenant."""

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return person(request).is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return bool(self.writes) and person(request).is_superuser

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.model._default_manager.all()
        return rows

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return tuple(self.newest) or ("-pk",)


@admin.register(EmergencyContact)
class EmergencyContactAdmin(PlatformAdmin):
    writes, creates = "settings:write", True
    editable = ("role", "name", "email", "phone", "action", "team")
    newest = ("pk",)
    list_display = ("role", "reached", "action", "team")
    fieldsets = ((None, {"fields": paired("role", "name", "email", "phone", "action", "team")}),)

    def store(self, request: HttpRequest, row: EmergencyContact, form: Any) -> None:
        save_contact(actor=person(request), contact=row)

    @column(_("contact"))
    def reached(self, contact: EmergencyContact) -> Any:
        return " · ".join(filter(None, (contact.name, contact.email, contact.phone))) or EMPTY


@admin.register(ProtectedChange)
class ProtectedChangeAdmin(PlatformAdmin):
    """Lines are added and never changed."""

    writes, creates = "settings:write", True
    once = ("date", "version", "change", "approved_by", "status")
    newest = ("-date", "-pk")
    list_display = ("version", "date", "change", "people", "state")
    fieldsets = ((None, {"fields": (*paired("version", "date"), "change", "approved_by", "status")}),)

    def store(self, request: HttpRequest, row: ProtectedChange, form: Any) -> None:
        add_protected_change(actor=person(request), change=row)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return obj is None and super().has_change_permission(request)

    @column(_("approved by"))
    def people(self, change: ProtectedChange) -> str:
        return ", ".join(change.approved_by) or EMPTY

    @column(_("status"))
    def state(self, change: ProtectedChange) -> Any:
        return chip("good" if change.status == ACTIVE else "calm", change.status)


@admin.register(BackupRecord)
class BackupRecordAdmin(PlatformAdmin):
    """What was backed up, and whether it was proved that it can be restored. Nothing is made here."""

    newest = ("-created_at",)
    list_display = ("label", "kind", "part", "state", "made", "size", "locked")
    list_filter = (choices_of("kind", _("kind"), BackupRecord.Kind.choices),)
    fieldsets = (
        (
            None,
            {"fields": (*paired("label", "state", "kind", "part", "made", "verified", "size", "locked"), "trouble")},
        ),
        (_("Content"), {"fields": (*paired("path", "sha256"), "contents")}),
    )
    labels = {"sha256": _("checksum")}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return (
            rows if request.resolver_match and "object_id" in request.resolver_match.kwargs else rows.defer("manifest")
        )

    @column(_("file"))
    def label(self, backup: BackupRecord) -> str:
        return str(backup)

    @column(_("status"))
    def state(self, backup: BackupRecord) -> SafeString:
        if backup.deleted_at:
            return chip("calm", _("removed"))
        if backup.verify_error:
            return chip("bad", _("not good"), backup.verify_error)
        return chip("good", _("verified")) if backup.verified_at else chip("info", _("not verified yet"))

    @column(_("created"))
    def made(self, backup: BackupRecord) -> Any:
        return when(backup.created_at)

    @column(_("verified"))
    def verified(self, backup: BackupRecord) -> Any:
        return moment(backup.verified_at)

    @column(_("size"))
    def size(self, backup: BackupRecord) -> str:
        return filesizeformat(backup.bytes)

    @column(_("encrypted"))
    def locked(self, backup: BackupRecord) -> Any:
        return _("yes") if backup.encrypted else _("no")

    @column(_("error"))
    def trouble(self, backup: BackupRecord) -> str:
        return backup.verify_error or EMPTY

    @column(_("manifest"))
    def contents(self, backup: BackupRecord) -> SafeString:
        return pretty(backup.manifest)


@admin.register(ConfigSnapshot)
class ConfigSnapshotAdmin(PlatformAdmin):
    """Versions of the configuration, each with what differs from the one before it."""

    newest = ("-version",)
    list_display = ("version", "taken", "reason")
    fieldsets = ((None, {"fields": (*paired("version", "taken"), "reason", "difference", "content")}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("data")  # large; a row's own page loads it

    @column(_("taken"))
    def taken(self, snapshot: ConfigSnapshot) -> Any:
        return moment(snapshot.taken_at)

    @column(_("since the version before"))
    def difference(self, snapshot: ConfigSnapshot) -> SafeString:
        before = ConfigSnapshot.objects.filter(version__lt=snapshot.version).order_by("-version").first()
        return pretty(compare(before.data, snapshot.data)) if before else SafeString(EMPTY)

    @column(_("content"))
    def content(self, snapshot: ConfigSnapshot) -> SafeString:
        return pretty(snapshot.data)
