"""Locks on the identity of a message that may not be here yet."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db import connection

Key = tuple[UUID, str]  # (session, external id)


def lock_keys(keys: Iterable[Key]) -> None:
    """Let nobody else bind or look up these identities until the transaction ends. Before any lock on a row.

    Who binds an id looks for what waits for it, and who finds no message lets its effect wait: at the same moment each
    would miss the other.
    """
    names = sorted({f"{session_id}{external_id}" for session_id, external_id in keys})
    if not names:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(k) FROM (SELECT DISTINCT hashtextextended(n, 9) AS k "
            "FROM unnest(%s::text[]) n ORDER BY 1) l",
            [names],
        )
