"""Back office of the platform: whom to call and what was changed in protected files. Superusers only."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from leadengine.admin_site.base import BackOfficeAdmin, paired
from leadengine.admin_site.display import EMPTY, chip, column
from leadengine.admin_site.site import person
from leadengine.operations.models import EmergencyContact, ProtectedChange
from leadengine.operations.platform import add_protected_change, save_contact
from leadengine.operations.protection import ACTIVE


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
