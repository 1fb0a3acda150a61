"""Strict mode's second guard: the two protected tables are written inside `persist` only, and never upserted."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from whatsapp.services.persistence import is_saving

_WRITE = re.compile(r'\b(?:INSERT\s+INTO|UPDATE)\s+(?:ONLY\s+)?"?(whatsapp_sessions|whatsapp_atendimentos)\b', re.I)


_UPSERT = re.compile(r'\bINSERT\s+INTO\s+"?(whatsapp_sessions|whatsapp_atendimentos)\b.*\bON\s+CONFLICT\b', re.I | re.S)


class WriteOutsidePersist(RuntimeError):
    """A protected table was written outside `persist`: such a write is neither retried nor counted."""


class UpsertRefused(RuntimeError):
    """A protected table was upserted: on a row that the scope hides this raises, or stores nothing and says nothing."""


def require_persist(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    """Refuse a write of a protected table outside `persist`. Raises: WriteOutsidePersist, UpsertRefused."""
    table = _written_by(str(sql))
    if table and not is_saving():
        raise WriteOutsidePersist(f"A write of {table} outside persist: {str(sql)[:200]}")
    if table and _UPSERT.search(str(sql)):
        raise UpsertRefused(f"An upsert of {table}: {str(sql)[:200]}")
    return execute(sql, params, many, context)


@lru_cache(maxsize=4096)
def _written_by(sql: str) -> str:
    found = _WRITE.search(sql)
    return found[1] if found else ""
