"""A connection past Django's pool: signs of life and health must be told when the pool is exhausted or broken, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.conf import settings

from leadengine.accounts.scopes import NOBODY, SERVICE, SET_SCOPE


@contextmanager
def direct_cursor(*, seconds: float, service: bool = False) -> Iterator[psycopg.Cursor[Any]]:
    """A cursor in one transaction on a new connection (about 10 ms); every statement may take `seconds`.

    With `service` it sees all tenants. Raises: psycopg.Error.
    """
    scope = SERVICE if service else NOBODY
    with psycopg.connect(settings.DATABASE_URL, connect_timeout=2) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(int(seconds * 1000))])
        cursor.execute(SET_SCOPE, scope.parameters())
        yield cursor
