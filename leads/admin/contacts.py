"""Contacts, and the search that other screens use for them."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminTextInputWidget

from leadengine.admin_site.base import BackOfficeAdmin, DialogForm, dialog, paired, rows_of_tenant
from leadengine.admin_site.display import EMPTY, called, chip, column, link, moment, phone, screen, swatch, when
from leadengine.admin_site.filters import choices_of, pick
from leadengine.admin_site.site import person
from leads.models import Contact, ContactIdentity, ContactMerge, Lead
from leads.services import edit_contact, find_current, merge_contacts

_SHOWN_MERGES = 20
_MOST_HITS = 200
_KINDS = {
    "phone": _("phone number"), "wa_address": _("WhatsApp number"), "lid": _("WhatsApp id (LID)"),
    "jid": _("WhatsApp address"),
}  # fmt: skip


def find_contact_ids(request: HttpRequest, term: str) -> list[UUID]:
    """At most 200 contacts of the tenant by a part of their name, or by a number: whole, or any four of its digits."""
    digits = re.sub(r"\D", "", term)
    if len(digits) >= 4 and not re.search(r"[^\W\d]", term):
        forms_of_it = [digits, f"+{digits}", f"55{digits}", f"+55{digits}"]
        exact = Q(kind__in=["phone", "wa_address"], value__in=forms_of_it)
        part = Q(kind__in=["phone", "wa_address"], value__contains=digits)
        rows = rows_of_tenant(ContactIdentity.objects.all(), request).values_list("contact_id", flat=True)
        return list(rows.filter(exact)[:_MOST_HITS]) or list(rows.filter(part)[:_MOST_HITS])
    contacts = rows_of_tenant(Contact.objects.filter(name__icontains=term.strip(), merged_into=None), request)
    return list(contacts.values_list("pk", flat=True)[:_MOST_HITS])


def number_of(contact: Contact) -> str:
    """The number a contact is called by, masked for those who may not see it. Reads `identities`: prefetch them."""
    values = {identity.kind: identity.value for identity in contact.identities.all()}
    return phone(values.get("phone") or values.get("wa_address"))


class MergeForm(DialogForm):
    """Which contact is merged: by name or number, as the search of the list finds it."""

    term = forms.CharField(
        label=_("Name or number of the other contact"), max_length=120, widget=UnfoldAdminTextInputWidget
    )

    def clean_term(self) -> str:
        term: str = self.cleaned_data["term"].strip()
        found = [one for one in find_contact_ids(self.request, term) if one != self.row.pk]
        rows = Contact.objects.filter(pk__in=found, merged_into=None, kind=self.row.kind)[:2]
        if len(rows) != 1:
            words = (
                _("Several contacts are called so: give the whole number.") if rows else _("There is no such contact.")
            )
            raise forms.ValidationError(words)
        self.cleaned_data["source"] = rows[0]
        return term


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
    actions_detail = ("merge",)
    search_fields = ("name",)
    search_help_text = _("Name or number")
    fieldsets = (
        (None, {"fields": ("name", "source_of_name", "kind_chip", "blocked", "notes")}),
        (_("Addresses"), {"fields": ("addresses", "merges")}),
        (_("Service"), {"fields": paired("lead_link", "tickets", "last_seen", "first_seen")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(merged_into=None).prefetch_related("identities")

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponseBase:
        """A link from before a merge leads to the contact of today."""
        target_id = _current(object_id) if object_id else None
        if target_id is not None and request.method == "GET" and self.get_queryset(request).filter(pk=target_id):
            return redirect(screen(Contact, "change", target_id))
        return super().changeform_view(request, object_id, form_url, extra_context)

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

    @column(_("merges"))
    def merges(self, contact: Contact) -> Any:
        rows = ContactMerge.objects.filter(target=contact).select_related("source").order_by("-pk")[:_SHOWN_MERGES]
        links = ((link(ContactMerge, row.pk, called(row.source.name)), row.get_evidence_display()) for row in rows)
        return format_html_join(" · ", '{} <span class="le-muted">{}</span>', links) or EMPTY

    # --- What may be done ----------------------------------------------------------------------------------------

    @dialog(
        title=_("Merge another contact into this one"),
        ask=_("Its addresses, tickets, messages, tags and lead move here. It can be undone for some days."),
        icon="merge",
        form_class=MergeForm,
        fits=lambda user, contact: user.may("contacts:merge") and contact.merged_into_id is None,
    )
    def merge(self, request: HttpRequest, contact: Contact, form: Any) -> Any:
        merge_contacts(
            actor=person(request), target_id=contact.pk, source_ids=[form.cleaned_data["source"].pk],
            now=timezone.now(),
        )  # fmt: skip
        return _("The contacts are one now.")


def _current(object_id: str) -> UUID | None:
    """Who a merged contact is part of today; None for every other id."""
    try:
        contact_id = UUID(object_id)
    except ValueError:
        return None
    target_id = find_current(ids=[contact_id]).get(contact_id)
    return target_id if target_id != contact_id else None
