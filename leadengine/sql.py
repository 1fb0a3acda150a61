"""Set-based statements: one per table and batch, however many rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.db.backends.utils import CursorWrapper


def unnest(columns: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> tuple[str, list[str]]:
    """A FROM item `unnest(…)` for rows of scalars, and its parameters: one array literal per column.

    `columns` maps names to PostgreSQL types, in the order of the values in each row. The literals are written here
    because the driver's own array dumper took half of the worker's time per message.
    """
    values = zip(*rows, strict=True) if rows else ((),) * len(columns)
    arrays = [_array(kind, column) for kind, column in zip(columns.values(), values, strict=True)]
    return "unnest(" + ", ".join(f"%s::{kind}[]" for kind in columns.values()) + ")", arrays


def _array(kind: str, values: Sequence[Any]) -> str:
    quote = _QUOTES.get(kind, str)
    return "{" + ",".join(["NULL" if value is None else quote(value) for value in values]) + "}"


def _quote(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_QUOTES: dict[str, Callable[[Any], str]] = {
    "text": _quote,
    "jsonb": _quote,
    "bytea": lambda value: f'"\\\\x{value.hex()}"',
    "timestamptz": lambda value: value.isoformat(),
}


def insert_rows(
    cursor: CursorWrapper, table: str, columns: Mapping[str, str], rows: Sequence[Sequence[Any]], suffix: str = ""
) -> None:
    """Insert rows of scalars with one statement; `suffix` may hold ON CONFLICT and RETURNING."""
    if not rows:
        return
    source, arrays = unnest(columns, rows)
    names = ", ".join(columns)
    cursor.execute(f"INSERT INTO {table} ({names}) SELECT * FROM {source} {suffix}", arrays)  # noqa: S608


def dumps(value: Any) -> str | None:
    """Compact JSON for a jsonb column; None stays NULL."""
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def loads(value: Any) -> Any:
    """A jsonb value read by a raw cursor: Django leaves it as text."""
    return json.loads(value) if isinstance(value, str) else value
