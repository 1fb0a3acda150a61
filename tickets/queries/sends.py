"""How many messages a line has sent in a time, by what became of them (spec/outbound.md section 11)."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection

LONGEST = timedelta(days=31)  # a longer time is refused: what is counted stays bounded


def count_sends(*, tenant_id: UUID, session_id: UUID, since: datetime, until: datetime) -> dict[str, int]:
    """Messages of `[since, until)` that were accepted to be sent, by state; a state without any is not there.

    What somebody typed on the phone is none of them. Call inside a scope of the tenant.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT status, count(*) FROM tickets_message
               WHERE tenant_id = %s AND session_id = %s AND sent_at >= %s AND sent_at < %s
                   AND direction = 'OUTBOUND' AND source <> 'PHONE'
               GROUP BY status""",
            [tenant_id, session_id, since, until],
        )
        return dict(cursor.fetchall())
