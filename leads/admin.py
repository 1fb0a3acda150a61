"""Back office: contacts, leads, pipeline stages, tags."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminColorInputWidget

from leadengine.accounts.admin import people
from leadengine.accounts.models import User
from leadengine.admin_site.base import BackOfficeAdmin, paired, rows_of_tenant
from leadengine.admin_site.display import EMPTY, called, chip, column, link, moment, phone, swatch, when
from leadengine.admin_site.filters import choices_of, pick, rows_of
from leadengine.admin_site.site import person
from leads.models import Contact, ContactIdentity, Lead, LeadActivity, PipelineStage, Tag
from leads.services import edit_contact, save_stage, save_tag

_MOST_HITS = 200
_KINDS = {
    "phone": _("phone number"), "wa_address": _("WhatsApp number"), "lid": _("WhatsApp id (LID)"),
    "jid": _("WhatsApp address"),
}  # fmt: skip
_SHOWN_ACTIVITIES = 20


def find_contact_ids(request: HttpRequest, term: str) -> list[UUID]:
    """At most 200 contacts of the tenant by a part of their name, or by a number: whole, or any four of its digits."""
    digits = re.sub(r"\D", "", term)
    if len(digits) >= 4 and not re.search(r"[^\W\d]", term):
        forms_of_it = [digits, f"+{digits}", f"55{digits}", f"+55{digits}"]
        exact = Q(kind__in=["phone", "wa_address"], value__in=forms_of_it)
        part = Q(kind__in=["phone", "wa_address"], value__contains=digits)
        rows = rows_of_tenant(ContactIdentity.objects.all(), request).values_list("contact_id", flat=True)
        return list(rows.filter(exact)[:_MOST_HITS]) or list(rows.filter(part)[:_MOST_HITS])
    contacts = rows_of_tenant(Contact.objects.filter(name__icontains=term.strip()), request)
    return list(contacts.values_list("pk", flat=True)[:_MOST_HITS])


def number_of(contact: Contact) -> str:
    """The number a contact is called by, masked for those who may not see it. Reads `identities`: prefetch them."""
    values = {identity.kind: identity.value for identity in contact.identities.all()}
    return phone(values.get("phone") or values.get("wa_address"))


class ColourForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form whose `colour` is a colour."""

    colour = forms.RegexField(r"^#[0-9a-fA-F]{6}$", label=capfirst(_("colour")), widget=UnfoldAdminColorInputWidget)


@admin.register(Contact)
class ContactAdmin(BackOfficeAdmin):
    reads, writes, editable = "contacts:read", "contacts:write", ("name", "notes")
    labels = {"notes": _("notes")}
    newest = ("name", "pk")
    list_display = ("who", "number", "kind_chip", "source_of_name", "stage", "last_seen", "blocked")
    list_select_related = ("lead__stage",)
    list_filter = (
        choices_of("kind", _("kind"), Contact.Kind.choices),
        pick("blocked", _("blocked"), {"1": (_("yes"), Q(is_blocked=True)), "0": (_("no"), Q(is_blocked=False))}),
        choices_of("named", _("name given by"), Contact.NameSource.choices, "name_source"),
    )
    search_fields = ("name",)
    search_help_text = _("Name or number")
    fieldsets = (
        (None, {"fields": ("name", "source_of_name", "kind_chip", "blocked", "notes")}),
        (_("Addresses"), {"fields": ("addresses",)}),
        (_("Service"), {"fields": paired("lead_link", "tickets", "last_seen", "first_seen")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("identities")

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Any:
        if not search_term.strip():
            return queryset, False
        return queryset.filter(pk__in=find_contact_ids(request, search_term)), False

    def store(self, request: HttpRequest, row: Contact, form: Any) -> None:
        changed = {name: form.cleaned_data[name] for name in form.changed_data}
        edit_contact(actor=person(request), contact_id=row.pk, **changed)

    @column(_("name"), header=True)
    def who(self, contact: Contact) -> list[str]:
        initials = "".join(word[0] for word in contact.name.split()[:2] if word[0].isalpha())
        return [called(contact.name), "", initials.upper() or "#"]

    @column(_("phone number"))
    def number(self, contact: Contact) -> str:
        return number_of(contact)

    @column(_("kind"))
    def kind_chip(self, contact: Contact) -> SafeString:
        return chip("info" if contact.kind == "GROUP" else "calm", contact.get_kind_display())

    @column(_("name given by"))
    def source_of_name(self, contact: Contact) -> str:
        return contact.get_name_source_display()

    @column(_("stage"))
    def stage(self, contact: Contact) -> Any:
        lead = getattr(contact, "lead", None)
        return swatch(lead.stage.colour, lead.stage.name) if lead else EMPTY

    @column(_("last contact"))
    def last_seen(self, contact: Contact) -> Any:
        return when(contact.last_interaction_at)

    @column(_("first contact"))
    def first_seen(self, contact: Contact) -> Any:
        return moment(contact.created_at)

    @column(_("blocked"))
    def blocked(self, contact: Contact) -> Any:
        return chip("bad", _("blocked")) if contact.is_blocked else EMPTY

    @column(_("addresses"))
    def addresses(self, contact: Contact) -> Any:
        rows = [
            (_KINDS[identity.kind], phone(identity.value), _("main") if identity.is_primary else "")
            for identity in contact.identities.all()
        ]
        body = format_html_join("", "<tr><th>{}</th><td>{}</td><td>{}</td></tr>", rows)
        return format_html('<table class="le-table"><tbody>{}</tbody></table>', body) if rows else EMPTY

    @column(_("lead"))
    def lead_link(self, contact: Contact) -> Any:
        lead = getattr(contact, "lead", None)
        return link(Lead, lead.pk, lead.stage.name) if lead else EMPTY

    @column(_("tickets"))
    def tickets(self, contact: Contact) -> Any:
        screens = {"ticket": _("Show the tickets"), "message": _("Show all messages")}
        rows = [(reverse(f"admin:tickets_{name}_changelist"), contact.pk, words) for name, words in screens.items()]
        return format_html_join(" · ", '<a class="le-link" href="{}?contact={}">{}</a>', rows)


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


@admin.register(PipelineStage)
class PipelineStageAdmin(BackOfficeAdmin):
    form = ColourForm
    writes, creates = "settings:write", True
    editable, once = ("name", "colour", "order_index"), ("status", "is_won", "is_lost")
    labels = {
        "name": _("name"), "order_index": _("order"), "status": _("lead status"), "is_won": _("counts as won"),
        "is_lost": _("counts as lost"),
    }  # fmt: skip
    newest = ("order_index", "pk")
    list_display = ("labelled", "status_word", "outcome", "order_index")
    fieldsets = ((None, {"fields": ("name", "colour", "order_index", "status", "is_won", "is_lost")}),)

    def store(self, request: HttpRequest, row: PipelineStage, form: Any) -> None:
        save_stage(actor=person(request), stage=row)

    @column(_("name"))
    def labelled(self, stage: PipelineStage) -> SafeString:
        return swatch(stage.colour, stage.name)

    @column(_("lead status"))
    def status_word(self, stage: PipelineStage) -> str:
        return stage.get_status_display()

    @column(_("outcome"))
    def outcome(self, stage: PipelineStage) -> Any:
        if stage.is_won:
            return chip("good", _("won"))
        return chip("bad", _("lost")) if stage.is_lost else EMPTY


@admin.register(Tag)
class TagAdmin(BackOfficeAdmin):
    form = ColourForm
    writes, creates, editable = "settings:write", True, ("name", "colour")
    labels = {"name": _("name")}
    newest = ("name", "pk")
    list_display = ("labelled", "uses")
    search_fields = ("name",)
    fieldsets = ((None, {"fields": ("name", "colour")}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).annotate(contacts=Count("contacttag"))
        return rows

    def store(self, request: HttpRequest, row: Tag, form: Any) -> None:
        save_tag(actor=person(request), tag=row)

    @column(_("name"))
    def labelled(self, tag: Any) -> SafeString:
        return swatch(tag.colour, tag.name)

    @column(_("contacts"))
    def uses(self, tag: Any) -> int:
        return int(tag.contacts)
