"""Keyset pages: a page begins after the key of the last row of the page before, so page 500 costs what page 1 costs.

No row is skipped or repeated while others are inserted (spec/tickets-leads.md section 8). A cursor is opaque and
signed, and its signature covers the filter it was made for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeVar
from uuid import UUID

from django.core import signing
from django.db.models import BooleanField, DateTimeField, F, Func, Model, QuerySet, UUIDField, Value
from django.db.models.expressions import CombinedExpression

from leadengine.errors import DomainError

DEFAULT_LIMIT = 50
MOST = 100
Row = TypeVar("Row", bound=Model)


class InvalidCursor(DomainError):
    """O cursor não é desta lista: comece da primeira página."""

    code = "INVALID_CURSOR"
    status = 400


@dataclass(frozen=True, slots=True)
class Page:
    """Which page of which list: `of` holds the name of the list, its sort and every filter, as JSON values."""

    of: Sequence[Any]
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    def after(self) -> list[Any] | None:
        """The key that the page begins after; None for the first. Raises: InvalidCursor."""
        if not self.cursor:
            return None
        try:
            return [_read(part) for part in signing.loads(self.cursor, salt=self._salt())]
        except (signing.BadSignature, ValueError) as error:
            raise InvalidCursor from error

    def cursor_after(self, key: Sequence[Any]) -> str:
        """The cursor of the page that begins after this key."""
        return signing.dumps([_write(part) for part in key], salt=self._salt())

    def _salt(self) -> str:
        return "page:" + sha256(json.dumps(self.of, default=str).encode()).hexdigest()


def read_page(
    rows: QuerySet[Row], page: Page, keys: Sequence[str], *, descending: bool = False
) -> tuple[list[Row], str | None]:
    """One page of `rows` in the order of `keys` (columns that are never null, the last one unique), and its cursor.

    The cursor is None on the last page. Two queries: the planner takes each joined table's row level security for a
    sieve, expects next to nothing and sorts the whole table for it; so the page is chosen first, without the joins.
    Raises: InvalidCursor.
    """
    after = page.after()
    chosen = rows.select_related(None).order_by(*(f"-{key}" if descending else key for key in keys))
    if after is not None:
        if len(after) != len(keys):
            raise InvalidCursor
        chosen = chosen.filter(beyond(keys, after, "<" if descending else ">"))
    places = list(chosen.values_list("pk", *keys)[: page.limit + 1])
    by_id = {row.pk: row for row in rows.filter(pk__in=[place[0] for place in places[: page.limit]])}
    found = [by_id[place[0]] for place in places[: page.limit] if place[0] in by_id]
    if len(places) <= page.limit:
        return found, None
    return found, page.cursor_after(places[page.limit - 1][1:])


def beyond(keys: Sequence[str], after: Sequence[Any], operator: str) -> CombinedExpression:
    """`ROW(keys) > ROW(after)`: PostgreSQL walks an index from there, which it cannot for the same rule made of ORs.

    Under row level security the keys must be plain columns: a function in an index condition could leak, so the
    planner would read and throw away every row before the page.
    """
    here = Func(*(F(key) for key in keys), function="ROW", output_field=BooleanField())
    there = Func(*(_value(part) for part in after), function="ROW", output_field=BooleanField())
    return CombinedExpression(here, operator, there, output_field=BooleanField())


def _value(part: Any) -> Value:
    if isinstance(part, datetime):
        return Value(part, output_field=DateTimeField())
    return Value(part, output_field=UUIDField()) if isinstance(part, UUID) else Value(part)


def _write(part: Any) -> Any:
    if isinstance(part, datetime):
        return ["t", part.isoformat()]
    return ["u", part.hex] if isinstance(part, UUID) else part


def _read(part: Any) -> Any:
    if not isinstance(part, list):
        return part
    kind, text = part
    return datetime.fromisoformat(text) if kind == "t" else UUID(text)
