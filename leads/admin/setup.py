"""What the lead board is made of: stages and tags."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminColorInputWidget

from leadengine.admin_site.base import BackOfficeAdmin
from leadengine.admin_site.display import EMPTY, chip, column, swatch
from leadengine.admin_site.site import person
from leads.models import PipelineStage, Tag
from leads.services import save_stage, save_tag


class ColourForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form whose `colour` is a colour."""

    colour = forms.RegexField(r"^#[0-9a-fA-F]{6}$", label=capfirst(_("colour")), widget=UnfoldAdminColorInputWidget)


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
