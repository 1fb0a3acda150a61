"""Lines that have gone silent: connected, and without a message for longer than chance explains (section 15).

A line's usual traffic is its messages per hour of the week, by the tenant's clock, over four weeks. That nothing came
for a while although `m` messages were to be expected has the probability exp(-m) (Poisson).
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from django.db import connection

from leadengine.accounts.scopes import service_scope
from whatsapp.services.lines import announce_sessions
from whatsapp.services.persistence import persist

HISTORY = timedelta(weeks=4)
LEAST_HISTORY = timedelta(days=7)
LEAST_MESSAGES = 50
CHANCE = 0.01
# Every hour of the week is in it once, so a longer silence needs no longer look.
_LOOK = timedelta(days=7)

_SILENT = """
WITH line AS (
    SELECT s.id, t.timezone, q.quiet_from, h.since
    FROM whatsapp_sessions s
    JOIN accounts_tenant t ON t.id = s.tenant_id AND t.is_active
    CROSS JOIN LATERAL (SELECT greatest(s.last_inbound_at, s.connected_at) AS quiet_from) q
    CROSS JOIN LATERAL (
        SELECT min(hour) AS since, sum(received) AS received FROM whatsapp_inboundhour
        WHERE session_id = s.id AND hour >= %(history)s
    ) h
    WHERE s.status = 'connected' AND s.deleted_at IS NULL AND s.silent_since IS NULL
        AND h.since <= q.quiet_from - make_interval(days => %(least)s) AND h.received >= %(messages)s
), usual AS (
    SELECT line.id, extract(isodow FROM h AT TIME ZONE line.timezone) AS day,
        extract(hour FROM h AT TIME ZONE line.timezone) AS hour, avg(coalesce(c.received, 0)) AS messages
    FROM line
    CROSS JOIN LATERAL generate_series(line.since, line.quiet_from - interval '1 hour', interval '1 hour') h
    LEFT JOIN whatsapp_inboundhour c ON c.session_id = line.id AND c.hour = h
    GROUP BY 1, 2, 3
), expected AS (
    SELECT line.id, sum(
        usual.messages * extract(epoch FROM least(h + interval '1 hour', %(now)s) - greatest(h, line.quiet_from)) / 3600
    ) AS messages
    FROM line
    CROSS JOIN LATERAL generate_series(
        date_trunc('hour', greatest(line.quiet_from, %(look)s)), %(now)s, interval '1 hour') h
    JOIN usual ON usual.id = line.id AND usual.day = extract(isodow FROM h AT TIME ZONE line.timezone)
        AND usual.hour = extract(hour FROM h AT TIME ZONE line.timezone)
    GROUP BY line.id
)
UPDATE whatsapp_sessions s SET silent_since = line.quiet_from, version = s.version + 1
FROM line JOIN expected USING (id)
WHERE s.id = line.id AND expected.messages > %(limit)s AND s.silent_since IS NULL
    AND greatest(s.last_inbound_at, s.connected_at) = line.quiet_from
RETURNING s.id, s.tenant_id
"""
# A line that was lost says so itself; one that came back begins anew.
_OVER = """
UPDATE whatsapp_sessions SET silent_since = NULL, version = version + 1
WHERE silent_since IS NOT NULL AND (status <> 'connected' OR deleted_at IS NOT NULL OR connected_at > silent_since)
RETURNING id, tenant_id
"""


def watch_silence(*, now: datetime) -> int:
    """Flag lines that have gone silent and tell supervisors; forget old hours. Returns how many are newly silent."""
    return persist("session.evidence", lambda: _watch(now), scope=lambda: service_scope("silent lines"))


def _watch(now: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_OVER)
        over = cursor.fetchall()
        cursor.execute(
            _SILENT,
            {
                "now": now, "history": now - HISTORY, "least": LEAST_HISTORY.days, "messages": LEAST_MESSAGES,
                "look": now - _LOOK,
                "limit": -math.log(CHANCE),
            },
        )  # fmt: skip
        silent = cursor.fetchall()
        cursor.execute("DELETE FROM whatsapp_inboundhour WHERE hour < %s", [now - HISTORY])
        for session_id, tenant_id in over + silent:
            announce_sessions(tenant_id=tenant_id, ids=[session_id], change="evidence", now=now)
    return len(silent)
