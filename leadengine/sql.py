"""Set-based statements: one per table and batch, however many rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.db.backends.utils import CursorWrapper


def unnest(columns: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> tuple[str, list[list[Any]]]:
    """A FROM item `unnest(…)` for rows of scalars, and its parameters: one array per column.

    `columns` maps names to PostgreSQL types, in the order of the values in each row.
    """
    arrays = [list(values) for values in zip(*rows, strict=True)] if rows else [[] for _ in columns]
    return "unnest(" + ", ".join(f"%s::{kind}[]" for kind in columns.values()) + ")", arrays


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
