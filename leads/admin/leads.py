"""Leads, to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.admin import people
from leadengine.accounts.models import User
from leadengine.admin_site.base import BackOfficeAdmin, paired, rows_of_tenant
from leadengine.admin_site.display import EMPTY, called, column, link, moment, swatch, when
from leadengine.admin_site.filters import rows_of
from leads.admin.contacts import find_contact_ids
from leads.models import Contact, Lead, LeadActivity, PipelineStage

_SHOWN_ACTIVITIES = 20


@admin.register(Lead)
class LeadAdmin(BackOfficeAdmin):
    reads = "leads:read"
    labels = {
        "source": _("source"), "expected_close_date": _("expected close"), "lost_reason": _("reason of the loss")
    }  # fmt: skip
    list_display = ("label", "stage_swatch", "worth", "owned", "last_contact", "follow_up")
    list_select_related = ("contact", "stage", "owner")
    list_filter = (
        rows_of("stage", _("stage"), "stage_id", lambda request: rows_of_tenant(PipelineStage.objects.all(), request)),
        rows_of("owner", _("owner"), "owner_id", people),
    )
    search_fields = ("contact__name",)
    search_help_text = _("Name or number")
    fieldsets = (
        (None, {"fields": paired("who", "stage_swatch", "worth", "chance", "owned", "source")}),
        (_("Contact"), {"fields": paired("last_contact", "follow_up", "expected_close_date", "lost_reason")}),
        (_("Activities"), {"fields": ("activities",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(merged_into=None)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Any:
        if not search_term.strip():
            return queryset, False
        return queryset.filter(contact_id__in=find_contact_ids(request, search_term)), False

    @column(_("contact"))
    def label(self, lead: Lead) -> str:
        return called(lead.contact.name)

    @column(_("contact"))
    def who(self, lead: Lead) -> Any:
        return link(Contact, lead.contact_id, called(lead.contact.name))

    @column(_("stage"))
    def stage_swatch(self, lead: Lead) -> SafeString:
        return swatch(lead.stage.colour, lead.stage.name)

    @column(_("value"))
    def worth(self, lead: Lead) -> str:
        return EMPTY if lead.value is None else f"R$ {lead.value:,.2f}".translate(str.maketrans(",.", ".,"))

    @column(_("probability"))
    def chance(self, lead: Lead) -> str:
        return f"{lead.probability} %"

    @column(_("owner"))
    def owned(self, lead: Lead) -> Any:
        return link(User, lead.owner_id, lead.owner.name) if lead.owner else EMPTY

    @column(_("last contact"))
    def last_contact(self, lead: Lead) -> Any:
        return when(lead.last_contact_at)

    @column(_("next follow-up"))
    def follow_up(self, lead: Lead) -> Any:
        return when(lead.next_follow_up_at)

    @column(_("latest activities"))
    def activities(self, lead: Lead) -> Any:
        latest = LeadActivity.objects.filter(lead=lead).select_related("actor").order_by("-at")[:_SHOWN_ACTIVITIES]
        rows = [
            (moment(one.at), one.get_kind_display(), one.actor.name if one.actor else _("system")) for one in latest
        ]
        body = format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td></tr>", rows)
        return format_html('<table class="le-table"><tbody>{}</tbody></table>', body) if rows else EMPTY
