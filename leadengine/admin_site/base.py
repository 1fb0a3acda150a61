"""What every screen of the back office inherits: the tenant's wall, read-mostly forms, flat lists, dialogs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import messages
from django.contrib.admin import ShowFacets
from django.contrib.admin.utils import flatten_fieldsets
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Field, Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.functional import Promise
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm
from unfold.paginator import InfinitePaginator as EndlessPaginator

from leadengine.accounts.models import Tenant, User
from leadengine.admin_site.display import screen
from leadengine.admin_site.site import person, scope_of, tenant_of
from leadengine.errors import DomainError

Words = str | Promise
_REFUSAL = "back_office_refusal"


class InfinitePaginator(EndlessPaginator):
    """Pages without COUNT(*), 100 000 rows deep at most. The theme's header looks for this very class name."""

    count = 100_000


class TenantWall:
    """The first wall: rows of the tenant only, in lists, forms and choices. Row level security is the second.

    `labels` names the fields whose model has no words for people, `plural` the screen where the model's name is none.
    """

    labels: ClassVar[Mapping[str, Words]] = {}
    plural: ClassVar[Words] = ""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if self.plural:
            self.opts.verbose_name_plural = self.plural  # type: ignore[attr-defined]
        for name, words in self.labels.items():
            # A form that may only be read takes its labels from the model, so that is where they must be.
            self.opts.get_field(name).verbose_name = words  # type: ignore[attr-defined]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)  # type: ignore[misc]
        return rows_of_tenant(rows, request)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        rows = kwargs.get("queryset", db_field.related_model._default_manager.all())
        kwargs["queryset"] = rows_of_tenant(rows, request)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)  # type: ignore[misc]

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any) -> Any:
        made = super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]
        for link in ("can_add_related", "can_change_related", "can_view_related", "can_delete_related"):
            if made is not None and hasattr(made.widget, link):
                setattr(made.widget, link, False)
        return made


class BackOfficeAdmin(TenantWall, ModelAdmin):
    """A screen over one model.

    `reads` and `writes` are permissions of spec/tickets-leads.md section 1. Without `writes` nobody edits; with it the
    `editable` fields are open, those of `once` only while the row is made, and the write goes through `store`, which
    calls a service. Nothing is ever deleted here.
    """

    reads: ClassVar[str] = "settings:read"
    writes: ClassVar[str] = ""
    creates: ClassVar[bool] = False
    editable: ClassVar[Sequence[str]] = ()
    once: ClassVar[Sequence[str]] = ()
    newest: ClassVar[Sequence[str]] = ()  # the order of a tenant's list, that of an index which begins with the tenant
    tabs: ClassVar[Sequence[tuple[str, Words]]] = ()  # (value of `tab_parameter`, word), shown over the list
    tab_parameter: ClassVar[str] = "state"

    paginator = InfinitePaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    list_per_page = 50
    list_filter_submit = True
    actions = None
    warn_unsaved_form = True
    view_on_site = False

    # --- Who may -------------------------------------------------------------------------------------------------

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return person(request).may(self.reads)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # A superuser writes inside one tenant only, the one they chose.
        return bool(self.writes) and person(request).may(self.writes) and tenant_of(request) is not None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.creates and self.has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    # --- What is seen --------------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        related = self.list_select_related  # of the page of a row too
        return rows.select_related(*related) if isinstance(related, tuple) and related else rows

    def get_tabs(self, request: HttpRequest) -> Sequence[tuple[str, Words]]:
        """The tabs over the list for this person."""
        return self.tabs

    def get_ordering(self, request: HttpRequest) -> Sequence[str]:
        # Over all tenants the primary key is the one index that sorts: it is made in time order.
        return self.newest if self.newest and tenant_of(request) is not None else ("-pk",)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only declared filters. Django would take any column: `?sha256__startswith=` would read a hash bit by bit."""
        return lookup in {filter_.parameter_name for filter_ in self.get_list_filter(request)}

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        free = {*self.editable, *(() if obj else self.once)}
        return [name for name in flatten_fieldsets(self.get_fieldsets(request, obj)) if name not in free]

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        raise Http404

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        raise Http404  # the audit log is the history

    # --- Writing -------------------------------------------------------------------------------------------------

    def store(self, request: HttpRequest, row: Any, form: forms.ModelForm[Any]) -> None:
        """Write a row that the form has filled, by a service. Raises: DomainError, shown over the form."""
        raise NotImplementedError

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change and hasattr(obj, "tenant_id"):
            obj.tenant_id = tenant_of(request)
        self.store(request, obj, form)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        raise PermissionDenied

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponseBase:
        try:
            return cast(HttpResponseBase, super().changeform_view(request, object_id, form_url, extra_context))
        except DomainError as error:
            # What was written is rolled back by now; the page is made once more, with the sentence over the form.
            setattr(request, _REFUSAL, error.message)
            return cast(HttpResponseBase, super().changeform_view(request, object_id, form_url, extra_context))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> type[Any]:
        form = super().get_form(request, obj, change=change, **kwargs)
        refusal: str = getattr(request, _REFUSAL, "")
        if not refusal:
            return cast(type[Any], form)

        class Refused(form):  # type: ignore[valid-type, misc]
            def clean(self) -> Any:
                raise forms.ValidationError(refusal)

        return Refused

    # Django's own history is not used: services write the audit log.
    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None: ...

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None: ...

    # --- Dialogs -------------------------------------------------------------------------------------------------

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        """The dialogs that fit the row as it is now."""
        made = [self.get_unfold_action(name) for name in self._extract_action_names(self.actions_detail)]
        row = self.get_object(request, str(object_id)) if made else None
        return [one for one in made if row is not None and one.method.fits(person(request), row)]

    def get_actions_list(self, request: HttpRequest) -> list[UnfoldAction]:
        """The dialogs over the list that fit the person."""
        made = [self.get_unfold_action(name) for name in self._extract_action_names(self.actions_list)]
        return [one for one in made if one.method.fits(person(request), None)]


class ReadOnlyInline(TenantWall, TabularInline):
    """Related rows under a form, to look at."""

    extra = 0
    can_delete = False
    show_change_link = False
    hide_title = True

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return True

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class DialogForm(BaseDialogForm):
    """The form of a dialog; `row` is what it is about."""

    def __init__(self, *args: Any, row: Any, **kwargs: Any) -> None:
        self.row = row
        super().__init__(*args, **kwargs)

    def render_before_template(self) -> str:
        return format_html('<div class="le-refusal">{}</div>', self.non_field_errors()) if self.errors else ""

    def refuse(self, error: DomainError) -> None:
        """Show why a service refused, at the fields that it names."""
        for one in error.details.get("errors") or [{"field": "", "message": error.message}]:
            self.add_error(one["field"] if one["field"] in self.fields else None, one["message"])


def dialog(
    *,
    title: Words,
    ask: Words = "",
    icon: str,
    fits: Callable[[User, Any], bool],
    form_class: type[DialogForm] = DialogForm,
    variant: ActionVariant = ActionVariant.DEFAULT,
    outside: bool = False,
) -> Callable[..., Any]:
    """A button on a row's page, or over a list, that opens a form and, once that is sent, runs the function.

    The function gets (request, row, form), calls one service and returns the sentence that says what happened. Only a
    POST writes. `fits(user, row)` says whether the button is there; the same answer guards its address. Over a list
    the row is None. `outside`: the function calls a broker, so it runs in no transaction and opens its own scopes.
    """

    def decorate(run: Callable[..., Words]) -> Any:
        def view(self: BackOfficeAdmin, request: HttpRequest, object_id: str | None = None) -> HttpResponse:
            with scope_of(request) if outside else nullcontext():
                row = self.get_object(request, object_id) if object_id else None
                if (row is None and object_id) or not self.has_view_permission(request, row):
                    raise Http404
                if not fits(person(request), row):
                    raise PermissionDenied
                form = form_class(data=request.POST or None, request=request, object_id=object_id, row=row)
                if request.method != "POST" or not form.is_valid():
                    return ask_for(request, form)
            try:
                with nullcontext() if outside else transaction.atomic():
                    said = run(self, request, row, form)
            except DomainError as error:
                form.refuse(error)
                with scope_of(request) if outside else nullcontext():
                    return ask_for(request, form)
            messages.success(request, str(said))
            there = screen(self.model, "change", row.pk) if row is not None else screen(self.model)
            return HttpResponse(headers={"HX-Redirect": there}) if request.htmx else redirect(there)  # type: ignore[attr-defined]

        def ask_for(request: HttpRequest, form: DialogForm) -> HttpResponse:
            words = {"dialog": {"title": title, "description": ask}, "form": form, "form_submit_text": title}
            return render(request, "unfold/helpers/dialog.html", words)

        view.__name__ = run.__name__
        made = action(view, description=title, icon=icon, variant=variant, url_path=run.__name__)
        made.fits, made.dialog, made.outside = fits, True, outside
        return made

    return decorate


def paired(*names: str) -> list[str | tuple[str, ...]]:
    """Fields of a form two in a line."""
    return [names[n : n + 2] if n + 1 < len(names) else names[n] for n in range(0, len(names), 2)]


def rows_of_tenant(rows: QuerySet[Any], request: HttpRequest) -> QuerySet[Any]:
    """The rows that belong to the tenant of the request; all of them for a superuser who chose none."""
    tenant_id = tenant_of(request)
    if tenant_id is None:
        return rows
    return rows.filter(pk=tenant_id) if rows.model is Tenant else rows.filter(tenant_id=tenant_id)
