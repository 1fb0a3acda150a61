"""Back office: tenants (superusers), API keys, the audit log. People are in tickets/admin, beside their queues."""

from __future__ import annotations

from typing import Any

import django.contrib.auth.admin  # noqa: F401 - registers groups, whoever is imported first
from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.enums import ActionVariant

from leadengine.accounts.models import ApiKey, AuditLog, Tenant, User
from leadengine.accounts.services import revoke_api_key
from leadengine.admin_site.base import BackOfficeAdmin, dialog, paired, rows_of_tenant
from leadengine.admin_site.display import EMPTY, chip, column, link, mask_numbers, moment, sees_phones, when
from leadengine.admin_site.filters import pick, rows_of, since
from leadengine.admin_site.site import person

admin.site.unregister(Group)  # rights come from roles; Django's groups are not used


def people(request: HttpRequest) -> QuerySet[Any]:
    """The people of the tenant, for filters."""
    return rows_of_tenant(User.objects.order_by("name"), request)


@admin.register(Tenant)
class TenantAdmin(BackOfficeAdmin):
    """Superusers look tenants up here, and choose the one whose screens they want to see."""

    list_display = ("name", "slug", "active", "timezone", "created", "choose")
    list_filter = (
        pick("active", _("active"), {"1": (_("yes"), Q(is_active=True)), "0": (_("no"), Q(is_active=False))}),
    )
    search_fields = ("name", "slug")
    labels = {
        "name": _("name"), "slug": _("short name"), "timezone": _("time zone"), "locale": _("language")
    }  # fmt: skip
    fieldsets = ((None, {"fields": paired("name", "active", "slug", "created", "timezone", "locale")}),)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return person(request).is_superuser

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return Tenant.objects.all()  # also the others, so that another one can be chosen

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return ("name",)

    @column(_("status"))
    def active(self, tenant: Tenant) -> SafeString:
        return chip("good", _("active")) if tenant.is_active else chip("calm", _("inactive"))

    @column(_("created"))
    def created(self, tenant: Tenant) -> Any:
        return moment(tenant.created_at)

    @column("")
    def choose(self, tenant: Tenant) -> SafeString:
        address = f"{reverse('admin:choose_tenant')}?to={tenant.pk}"
        return format_html('<a class="le-link" href="{}">{}</a>', address, _("Show only this one"))


@admin.register(ApiKey)
class ApiKeyAdmin(BackOfficeAdmin):
    """Keys and login tokens; the key itself is shown once, when it is made, and never again."""

    reads = "keys:write"
    list_display = ("label", "of", "kind", "status", "used", "expires")
    list_select_related = ("owner",)
    list_filter = (
        pick(
            "state",
            _("status"),
            {
                "active": (
                    _("active"),
                    lambda: Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now())),
                ),
                "ended": (_("ended"), lambda: Q(revoked_at__isnull=False) | Q(expires_at__lte=timezone.now())),
            },
        ),
        rows_of("owner", _("user"), "owner_id", people),
    )
    search_fields = ("name", "prefix")
    labels = {"kind": _("kind"), "scopes": _("scopes")}
    fieldsets = (
        (None, {"fields": paired("label", "status", "of", "kind", "made", "used", "expires", "revoked", "scopes")}),
    )
    actions_detail = ("revoke",)

    @column(_("key"))
    def label(self, key: ApiKey) -> str:
        return f"{key.name} · {key.prefix}…"

    @column(_("acts for"))
    def of(self, key: ApiKey) -> Any:
        return link(User, key.owner_id, key.owner.name)

    @column(_("status"))
    def status(self, key: ApiKey) -> SafeString:
        if key.revoked_at:
            return chip("calm", _("revoked"))
        if key.expires_at and key.expires_at <= timezone.now():
            return chip("calm", _("expired"))
        return chip("good", _("active"))

    @column(_("created"))
    def made(self, key: ApiKey) -> Any:
        return moment(key.created_at)

    @column(_("last used"))
    def used(self, key: ApiKey) -> Any:
        return when(key.last_used_at)

    @column(_("expires"))
    def expires(self, key: ApiKey) -> Any:
        return when(key.expires_at)

    @column(_("revoked"))
    def revoked(self, key: ApiKey) -> Any:
        return moment(key.revoked_at)

    @dialog(
        title=_("Revoke key"),
        ask=_("Whoever uses it is refused from the next request on."),
        icon="block",
        variant=ActionVariant.DANGER,
        fits=lambda user, key: user.may("keys:write") and key.revoked_at is None,
    )
    def revoke(self, request: HttpRequest, key: ApiKey, form: Any) -> Any:
        revoke_api_key(actor=person(request), key=key, now=timezone.now())
        return _("The key was revoked.")


@admin.register(AuditLog)
class AuditLogAdmin(BackOfficeAdmin):
    """Who did what; nobody can change a line, not even the database role of the product."""

    reads = "audit:read"
    list_display = ("time", "who", "deed", "what", "summary", "ip")
    list_display_links = ("time",)
    list_select_related = ("actor",)
    list_filter = (rows_of("actor", _("user"), "actor_id", people), since("when", "at"))
    search_fields = ("action",)
    search_help_text = _("Action or object, such as queue or ticket.closed")
    newest = ("-at",)
    labels = {"ip": _("address"), "request_id": _("request id")}
    fieldsets = ((None, {"fields": (*paired("time", "who", "deed", "what", "ip", "request_id"), "difference")}),)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Any:
        term = search_term.strip()
        found = Q(action__istartswith=term) | Q(object_type=term.lower())
        return (queryset.filter(found) if term else queryset), False

    @column(_("time"))
    def time(self, entry: AuditLog) -> Any:
        return moment(entry.at)

    @column(_("user"))
    def who(self, entry: AuditLog) -> Any:
        return link(User, entry.actor_id, entry.actor.name) if entry.actor else _("system")

    @column(_("action"))
    def deed(self, entry: AuditLog) -> SafeString:
        return format_html('<code class="le-word">{}</code>', entry.action)

    @column(_("object"))
    def what(self, entry: AuditLog) -> Any:
        for model in admin.site._registry:
            if model._meta.model_name == entry.object_type:
                return link(model, entry.object_id, capfirst(model._meta.verbose_name))
        return entry.object_type or EMPTY

    @column(_("changes"))
    def summary(self, entry: AuditLog) -> str:
        return ", ".join(entry.changes) or EMPTY

    @column(_("changes"))
    def difference(self, entry: AuditLog) -> Any:
        rows = [(name, *_sides(value)) for name, value in entry.changes.items()]
        body = format_html_join("", "<tr><th>{}</th><td>{}</td><td>{}</td></tr>", rows)
        head = format_html("<tr><th>{}</th><th>{}</th><th>{}</th></tr>", _("field"), _("before"), _("after"))
        return format_html('<table class="le-table"><thead>{}</thead><tbody>{}</tbody></table>', head, body)


def _sides(value: Any) -> tuple[str, str]:
    """Before and after, as text; an entry that is no pair has only the second."""
    pair = value if isinstance(value, list) and len(value) == 2 else [None, value]
    before, after = (EMPTY if side is None else str(side) for side in pair)
    return (before, after) if sees_phones() else (mask_numbers(before), mask_numbers(after))
