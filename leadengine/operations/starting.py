"""What a serving process makes sure of before it serves."""

from __future__ import annotations

from typing import Any

import psycopg
import structlog
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.signals import connection_created

from leadengine.accounts.walls import find_breach
from leadengine.errors import ConfigurationError
from leadengine.operations.direct import direct_cursor

log = structlog.get_logger(__name__)
_SECONDS = 5.0


def refuse_broken_wall() -> None:
    """Do not start without the wall between tenants. Raises: ConfigurationError.

    While the database is away we start nevertheless, and look at the first connection that it gives.
    """
    try:
        with direct_cursor(seconds=_SECONDS) as cursor:
            breach = find_breach(cursor)
    except psycopg.OperationalError as error:
        log.warning("wall_not_seen", error=type(error).__name__)
        connection_created.connect(_look_later, dispatch_uid="wall")
        return
    if breach:
        raise ConfigurationError(breach)


def _look_later(connection: Any, **_: Any) -> None:
    if connection.alias != DEFAULT_DB_ALIAS:
        return
    with connection.cursor() as cursor:
        breach = find_breach(cursor)
    if breach:
        connection.close()
        log.critical("wall_broken", reason=breach)
        raise ConfigurationError(breach)
    connection_created.disconnect(dispatch_uid="wall")
