"""List filters. No other lookup is taken from an address (BackOfficeAdmin.lookup_allowed)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.admin import SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters, ModelAdmin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import DropdownFilter

Words = str | Promise
Filter = type[SimpleListFilter]
_MOST_ROWS = 200


def pick(name: str, title: Words, choices: Mapping[str, tuple[Words, Q | Callable[[], Q]]]) -> Filter:
    """A filter with fixed choices: {value in the address: (word, condition)}."""

    class Pick(DropdownFilter):
        parameter_name = name

        def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, Words]]:
            return [(value, word) for value, (word, _condition) in choices.items()]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            chosen = choices.get(self.value() or "")
            if chosen is None:
                return queryset
            condition = chosen[1]
            return queryset.filter(condition if isinstance(condition, Q) else condition())

    Pick.title = capfirst(title)  # type: ignore[type-var]
    return Pick


def choices_of(name: str, title: Words, choices: Sequence[tuple[str, Words]], field: str = "") -> Filter:
    """A filter on a choice field."""
    return pick(name, title, {value: (word, Q(**{field or name: value})) for value, word in choices})


def active_or_not() -> Filter:
    """A filter on `is_active`."""
    choices = {"active": (_("active"), Q(is_active=True)), "inactive": (_("inactive"), Q(is_active=False))}
    return pick("state", _("status"), choices)


def since(name: str, field: str) -> Filter:
    """A filter on how long ago something was."""

    def within(**span: int) -> Callable[[], Q]:
        return lambda: Q(**{f"{field}__gte": timezone.now() - timedelta(**span)})

    spans = {"1h": (_("last hour"), within(hours=1)), "24h": (_("last 24 hours"), within(hours=24))}
    return pick(name, _("period"), {**spans, "7d": (_("last 7 days"), within(days=7))})


def rows_of(name: str, title: Words, field: str, rows: Callable[[HttpRequest], QuerySet[Any]]) -> Filter:
    """A filter on a related row, chosen from the first 200 of `rows(request)`."""

    class Rows(DropdownFilter):
        parameter_name = name

        def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
            return [(str(row.pk), str(row)) for row in rows(request)[:_MOST_ROWS]]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            return queryset.filter(**{field: _uuid(self.value())}) if self.value() else queryset

    Rows.title = capfirst(title)  # type: ignore[type-var]
    return Rows


def arriving(name: str, title: Words, field: str, model: type[Model]) -> Filter:
    """A filter that only links set (`?ticket=<id>`): the panel names the row and lets one go back to all."""

    class Arriving(DropdownFilter):
        parameter_name = name

        def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
            value = request.GET.get(name)
            if not value:
                return []
            row = model._default_manager.filter(pk=_uuid(value)).first()
            return [(value, str(row or value))]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            return queryset.filter(**{field: _uuid(self.value())}) if self.value() else queryset

    Arriving.title = capfirst(title)  # type: ignore[type-var]
    return Arriving


def _uuid(value: str | None) -> UUID:
    try:
        return UUID(value or "")
    except ValueError as error:
        raise IncorrectLookupParameters from error
