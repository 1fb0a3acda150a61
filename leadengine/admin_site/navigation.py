"""The sidebar, the tabs over the lists and the name under the logo; settings.UNFOLD names these functions."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from leadengine.accounts.models import Tenant
from leadengine.admin_site.base import BackOfficeAdmin
from leadengine.admin_site.site import person, tenant_of

Item = dict[str, Any]


def sidebar(request: HttpRequest) -> list[Item]:
    """The screens in groups; only those that the person may see."""
    user = person(request)
    admins = user.may("keys:write")
    groups: list[tuple[str, list[Item | None]]] = [
        (
            "",
            [
                {"title": _("Dashboard"), "icon": "monitoring", "link": reverse("admin:index")},
                {"title": _("Conversations"), "icon": "forum", "link": "/inbox/"} if user.tenant_id else None,
            ],
        ),
        (
            _("Service"),
            [
                _screen("tickets_ticket", _("Tickets"), "confirmation_number"),
                _screen("tickets_message", _("Messages"), "chat"),
                _screen("tickets_queue", _("Queues"), "inbox"),
                _screen("tickets_closereason", _("Reasons"), "task_alt"),
            ],
        ),
        (
            _("WhatsApp"),
            [
                _screen("whatsapp_whatsappsession", _("Sessions"), "smartphone"),
                _screen("whatsapp_whatsappatendimento", _("Atendimentos"), "support_agent"),
                _screen("whatsapp_webhookevent", _("Webhook events"), "webhook"),
                _screen("whatsapp_deadletter", _("Dead letters"), "report"),
                _screen("whatsapp_persistencejournal", _("Journal"), "receipt_long"),
                _screen("whatsapp_recoveryrun", _("Recoveries"), "restart_alt"),
            ],
        ),
        (
            _("Leads"),
            [
                _screen("leads_contact", _("Contacts"), "contacts"),
                _screen("leads_contactmerge", _("Merges"), "merge"),
                _screen("leads_lead", _("Leads"), "trending_up"),
                _screen("leads_pipelinestage", _("Pipeline stages"), "view_kanban"),
                _screen("leads_tag", _("Tags"), "sell"),
            ],
        ),
        (
            _("People"),
            [
                _screen("accounts_user", _("Users"), "group"),
                _screen("accounts_apikey", _("API keys"), "key") if admins else None,
            ],
        ),
        (
            _("Operations"),
            [
                {"title": _("Operations"), "icon": "vital_signs", "link": reverse("operations")} if admins else None,
                _screen("accounts_auditlog", _("Audit log"), "history"),
                _screen("webhooks_endpoint", _("Webhooks"), "outbound") if admins else None,
                _screen("webhooks_delivery", _("Deliveries of webhooks"), "local_shipping") if admins else None,
                *(_platform() if user.is_superuser else ()),
            ],
        ),
    ]
    return [{"title": title, "items": [item for item in items if item]} for title, items in groups]


def tabs(request: HttpRequest) -> list[Item]:
    """The tabs that the screens declare (`BackOfficeAdmin.tabs`)."""
    made = []
    for model, screen in admin.site._registry.items():
        if not isinstance(screen, BackOfficeAdmin) or not (declared := screen.get_tabs(request)):
            continue
        name, chosen = screen.tab_parameter, request.GET.get(screen.tab_parameter, "")
        address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        items = [
            {
                "title": capfirst(str(word)),
                "link": f"{address}?{name}={value}" if value else address,
                "active": value == chosen,
            }
            for value, word in declared
        ]
        made.append({"models": [str(model._meta)], "items": items})
    return made


def subheader(request: HttpRequest) -> str:
    """The tenant that the screens show."""
    user, tenant_id = person(request), tenant_of(request)
    if tenant_id is None:
        return _("All tenants")
    tenant = user.tenant if tenant_id == user.tenant_id else Tenant.objects.filter(pk=tenant_id).first()
    return tenant.name if tenant else ""


def tenant_choices(request: HttpRequest) -> list[Item]:
    """What a superuser's menu under the logo offers; nothing for anybody else."""
    if not person(request).is_superuser:
        return []
    choose = {"icon": "domain", "title": _("Choose a tenant"), "link": reverse("admin:accounts_tenant_changelist")}
    if tenant_of(request) is None:
        return [choose]
    every = {"icon": "public", "title": _("All tenants"), "link": reverse("admin:choose_tenant")}
    return [every, choose]


def theme(request: HttpRequest) -> str | None:
    """The theme of the person's account; None (the switch of the back office) for "system"."""
    chosen = person(request).preferences.get("theme")
    return chosen if chosen in {"light", "dark"} else None


def account_links(_request: HttpRequest) -> list[Item]:
    """The menu under the person's name."""
    return [{"title": _("My account"), "link": "/account/"}]


def icon(_request: HttpRequest) -> str:
    """The product's sign."""
    return static("leadengine/favicon.svg")


def stylesheet(_request: HttpRequest) -> str:
    """What we add to the theme's looks."""
    return static("leadengine/admin.css")


def _platform() -> list[Item]:
    """What belongs to no tenant."""
    return [
        _screen("accounts_tenant", _("Tenants"), "domain"),
        _screen("operations_backuprecord", _("Backups"), "backup"),
        _screen("operations_configsnapshot", _("Configuration"), "settings_backup_restore"),
        _screen("operations_emergencycontact", _("Emergency contacts"), "contact_emergency"),
        _screen("operations_protectedchange", _("Protected changes"), "shield_lock"),
    ]


def _screen(name: str, title: str, icon: str) -> Item:
    return {"title": capfirst(title), "icon": icon, "link": reverse(f"admin:{name}_changelist")}
