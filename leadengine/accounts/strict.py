"""Strict mode (RLS_STRICT): a query that row level security would answer with nothing raises instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.signals import connection_created

from leadengine.accounts.scopes import NOBODY, ScopeMissing, current_scope
from leadengine.accounts.walls import walled_tables

# A function that Django calls in the place of each statement (`connection.execute_wrapper`).
Guard = Callable[..., Any]


def install(guard: Guard) -> None:
    """Let a guard look at each statement of the default connection. Only in strict mode: otherwise it costs nothing."""
    if not settings.RLS_STRICT:
        return

    def attach(connection: Any, **_: Any) -> None:
        if connection.alias == DEFAULT_DB_ALIAS and guard not in connection.execute_wrappers:
            connection.execute_wrappers.append(guard)

    connection_created.connect(attach, weak=False, dispatch_uid=guard.__qualname__)


def require_scope(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    """Refuse a statement on a tenant's table outside every scope. Raises: ScopeMissing."""
    table = _table_of(str(sql))
    if table and current_scope() is NOBODY:
        raise ScopeMissing(f"A statement on {table} outside every scope: {str(sql)[:200]}")
    return execute(sql, params, many, context)


@lru_cache(maxsize=4096)
def _table_of(sql: str) -> str:
    found = _pattern().search(sql)
    return found[1] if found else ""


@cache
def _pattern() -> re.Pattern[str]:
    return re.compile(rf'\b(?:FROM|JOIN|INTO|UPDATE|ONLY|USING)\s+"?({"|".join(walled_tables())})\b', re.I)
