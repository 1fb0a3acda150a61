"""Merges of contacts: what proved them, what moved, and the way back."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import User
from leadengine.admin_site.base import BackOfficeAdmin, dialog, paired
from leadengine.admin_site.display import EMPTY, called, chip, column, link, moment, when
from leadengine.admin_site.filters import choices_of, pick
from leadengine.admin_site.site import person
from leads.models import Contact, ContactMerge
from leads.serializers import merge_json
from leads.services import undo_merge, undo_until

_TONES = {"lid_pair": "info", "phone_variant": "info", "manual": "brand"}
_MOVED = {
    "identities": _("addresses"), "tags": _("tags"), "tickets": _("tickets"), "messages": _("messages"),
    "leads": _("leads"), "activities": _("activities of the lead"), "ended": _("tickets that ended by it"),
}  # fmt: skip


@admin.register(ContactMerge)
class ContactMergeAdmin(BackOfficeAdmin):
    reads = "contacts:merge"
    newest = ("-pk",)
    list_display = ("joined", "into", "proof", "by", "made", "state")
    list_select_related = ("source", "target", "actor", "undone_by")
    list_filter = (
        choices_of("evidence", _("evidence"), ContactMerge.Evidence.choices),
        pick(
            "undone", _("undone"),
            {"0": (_("no"), Q(undone_at=None)), "1": (_("yes"), Q(undone_at__isnull=False))},
        ),
    )  # fmt: skip
    actions_detail = ("undo",)
    fieldsets = (
        (None, {"fields": paired("source_link", "target_link", "proof", "by", "made_at", "state")}),
        (_("What moved"), {"fields": ("moved_rows", "until")}),
    )

    @column(_("contact"), header=True)
    def joined(self, merge: ContactMerge) -> list[str]:
        return [called(merge.source.name), "", "⇥"]

    @column(_("became part of"))
    def into(self, merge: ContactMerge) -> Any:
        return link(Contact, merge.target_id, called(merge.target.name))

    @column(_("contact"))
    def source_link(self, merge: ContactMerge) -> Any:
        return link(Contact, merge.source_id, called(merge.source.name))

    @column(_("became part of"))
    def target_link(self, merge: ContactMerge) -> Any:
        return link(Contact, merge.target_id, called(merge.target.name))

    @column(_("evidence"))
    def proof(self, merge: ContactMerge) -> SafeString:
        return chip(_TONES[merge.evidence], merge.get_evidence_display())

    @column(_("by"))
    def by(self, merge: ContactMerge) -> Any:
        return merge.actor.name if merge.actor else _("system")

    @column(_("when"))
    def made(self, merge: ContactMerge) -> Any:
        return when(merge.created_at)

    @column(_("when"))
    def made_at(self, merge: ContactMerge) -> Any:
        return moment(merge.created_at)

    @column(_("state"))
    def state(self, merge: ContactMerge) -> Any:
        if merge.undone_at is None:
            return chip("good", _("merged"))
        return chip("calm", _("undone"), merge.undone_by.name if merge.undone_by else "")

    @column(_("what moved"))
    def moved_rows(self, merge: ContactMerge) -> Any:
        counts = merge_json(merge)["moved"]
        return format_html_join(" · ", "{} {}", ((counts[name], word) for name, word in _MOVED.items() if counts[name]))

    @column(_("can be undone until"))
    def until(self, merge: ContactMerge) -> Any:
        return EMPTY if merge.undone_at else moment(undo_until(merge))

    # --- What may be done ----------------------------------------------------------------------------------------

    @dialog(
        title=_("Undo the merge"),
        ask=_("The contact returns with what was its own. The system never merges the two again."),
        icon="call_split",
        fits=lambda user, merge: _may_undo(user, merge),
    )
    def undo(self, request: HttpRequest, merge: ContactMerge, form: Any) -> Any:
        undo_merge(actor=person(request), merge_id=merge.pk, now=timezone.now())
        return _("The contacts are two again.")


def _may_undo(user: User, merge: ContactMerge) -> bool:
    return user.may("contacts:merge") and merge.undone_at is None and timezone.now() <= undo_until(merge)
