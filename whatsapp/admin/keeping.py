"""What kept connections alive, to look at: the journal of facts that could not be saved at once, and recoveries."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from leadengine.admin_site.base import BackOfficeAdmin, paired
from leadengine.admin_site.display import (
    EMPTY,
    chip,
    code,
    column,
    lasting,
    link,
    mask_numbers,
    moment,
    sees_phones,
    status_chip,
    when,
)
from leadengine.admin_site.filters import choices_of, since
from whatsapp.models import PersistenceJournal, RecoveryRun, WhatsAppSession

_JOURNAL = {"applied": "good", "superseded": "calm", "failed": "bad"}


@admin.register(PersistenceJournal)
class PersistenceJournalAdmin(BackOfficeAdmin):
    reads = "sessions:read"
    labels = {"operation": _("operation"), "reason": _("reason")}
    newest = ("-replayed_at", "-pk")
    tab_parameter = "status"
    tabs = (("", _("Everything")), *PersistenceJournal.Status.choices)
    list_display = ("recorded", "operation", "line", "state", "reason", "replayed")
    list_filter = (
        choices_of("status", _("status"), PersistenceJournal.Status.choices), since("replayed", "replayed_at"),
    )  # fmt: skip
    fieldsets = ((None, {"fields": [*paired("recorded", "replayed", "operation", "state", "line", "reason"), "fact"]}),)

    @column(_("happened"))
    def recorded(self, row: PersistenceJournal) -> Any:
        return moment(row.recorded_at)

    @column(_("replayed"))
    def replayed(self, row: PersistenceJournal) -> Any:
        return moment(row.replayed_at)

    @column(_("status"))
    def state(self, row: PersistenceJournal) -> SafeString:
        return status_chip(_JOURNAL, row)

    @column(_("session"))
    def line(self, row: PersistenceJournal) -> Any:
        return link(WhatsAppSession, row.session_id, str(row.session_id)[:8])

    @column(_("what was true"))
    def fact(self, row: PersistenceJournal) -> SafeString:
        return snapshot(row.entry)


@admin.register(RecoveryRun)
class RecoveryRunAdmin(BackOfficeAdmin):
    reads = "sessions:read"
    labels = {"expected": _("expected"), "reconnected": _("reconnected"), "trigger": _("started by")}
    newest = ("-started_at", "-pk")
    list_display = ("began", "trigger", "expected", "reconnected", "missing", "slowest")
    list_filter = (since("when", "started_at"),)
    fieldsets = (
        (None, {"fields": paired("began", "ended", "trigger", "expected", "reconnected", "missing", "slowest")}),
    )

    @column(_("begun"))
    def began(self, row: RecoveryRun) -> Any:
        return moment(row.started_at)

    @column(_("ended"))
    def ended(self, row: RecoveryRun) -> Any:
        return when(row.finished_at)

    @column(_("lost"))
    def missing(self, row: RecoveryRun) -> Any:
        return chip("bad", row.lost) if row.lost else "0"

    @column(_("slowest"))
    def slowest(self, row: RecoveryRun) -> str:
        return EMPTY if row.slowest_seconds is None else lasting(row.slowest_seconds)


def snapshot(value: Any) -> SafeString:
    """JSON for people; phone numbers in it as their reader may see them."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    return code(text if sees_phones() else mask_numbers(text))
