"""The numbers of the dashboard. Every statement begins at an index that begins with the tenant, or is capped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.utils import timezone

from leadengine.webhooks.models import Endpoint
from tickets.admin.messages import LEFT, SLACK, first_id
from whatsapp.admin.sessions import DOWN
from whatsapp.models import WebhookEvent, WhatsAppSession
from whatsapp.services.reprocessing_desk import dead_letters

MOST = 1000  # of what is counted row by row; more is shown as "999+"
MOST_LEADS = 10_000
HOURS, DAYS = 24, 7

_LIVE = """
SELECT q.name, q.colour, count(*), count(t.waiting_since),
    count(*) FILTER (WHERE t.waiting_since < %s - q.response_target_minutes * interval '1 minute'), min(t.waiting_since)
FROM tickets_ticket t JOIN tickets_queue q ON q.id = t.queue_id
WHERE t.tenant_id = ANY(%s) AND t.status IN ('OPEN', 'PENDING', 'ASSIGNED')
GROUP BY q.id, q.name, q.colour ORDER BY count(*) DESC, q.name
"""
_PEOPLE = """
SELECT count(*) FILTER (WHERE availability = 'ONLINE'), count(*) FROM accounts_user
WHERE tenant_id = ANY(%s) AND is_active
"""
# By way of the tickets that changed, or of the ids: no index holds a tenant's messages by time (sent_since).
_MESSAGES = """
SELECT date_trunc('hour', m.sent_at AT TIME ZONE %s) AS hour,
    CASE WHEN m.direction = 'INBOUND' THEN 'in' WHEN m.status = ANY(%s) THEN 'out'
         WHEN m.status = 'FAILED' THEN 'failed' ELSE '' END AS kind,
    CASE WHEN m.status = 'FAILED' THEN coalesce(m.error ->> 'code', '') ELSE '' END AS cause, count(*)
FROM tickets_ticket t JOIN tickets_message m ON m.ticket_id = t.id
WHERE t.tenant_id = ANY(%s) AND t.updated_at >= %s AND m.sent_at >= %s AND m.id >= %s
GROUP BY 1, 2, 3
"""
_UNCONFIRMED = """
SELECT count(*) FROM (SELECT 1 FROM tickets_message
    WHERE tenant_id = ANY(%s) AND status = 'UNCONFIRMED' AND dismissed_at IS NULL LIMIT %s) found
"""
_ANSWERS = """
SELECT (first_outbound_at AT TIME ZONE %s)::date,
    percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY first_response_seconds), count(*)
FROM tickets_ticket
WHERE tenant_id = ANY(%s) AND updated_at >= %s AND first_outbound_at >= %s AND first_response_seconds IS NOT NULL
GROUP BY 1
"""
_LEADS = """
SELECT s.name, min(s.colour), sum(n.leads)::int FROM leads_pipelinestage s
CROSS JOIN LATERAL (SELECT count(*) AS leads FROM (
    SELECT 1 FROM leads_lead l WHERE l.stage_id = s.id AND l.merged_into_id IS NULL LIMIT %s
) few) n
WHERE s.tenant_id = ANY(%s) GROUP BY s.name ORDER BY min(s.order_index), s.name
"""


@dataclass(slots=True)
class QueueLoad:
    """The live tickets of one queue; `late` have waited longer than its target, and are part of `waiting`."""

    name: str
    colour: str
    live: int
    waiting: int
    late: int
    oldest: datetime | None


@dataclass(slots=True)
class Hour:
    """The messages of one hour that began at `at` (local time)."""

    at: datetime
    received: int = 0
    sent: int = 0
    failed: int = 0


@dataclass(slots=True)
class Answers:
    """How fast first answers of one day were, in seconds; None on a day without any."""

    day: date
    half: float | None = None
    most: float | None = None
    count: int = 0


@dataclass(slots=True)
class Figures:
    today: Hour
    queues: list[QueueLoad] = field(default_factory=list)
    online: int = 0
    people: int = 0
    hours: list[Hour] = field(default_factory=list)
    causes: dict[str, int] = field(default_factory=dict)
    unconfirmed: int = 0
    dead: int = 0
    lines: int = 0
    down: int = 0
    answers: list[Answers] = field(default_factory=list)
    stages: list[tuple[str, str, int]] = field(default_factory=list)


def read_figures(*, tenants: Sequence[UUID], now: datetime) -> Figures:
    """All numbers of some tenants, in nine statements. `now` is local: days and hours begin in its zone."""
    ids, zone = list(tenants), timezone.get_current_timezone_name()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    found = Figures(today=Hour(midnight))
    first_hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
    first_day = midnight - timedelta(days=DAYS - 1)
    found.queues = [QueueLoad(*row) for row in _rows(_LIVE, [now, ids])]
    [(found.online, found.people)] = _rows(_PEOPLE, [ids])
    since = min(midnight, first_hour)
    _spread(
        found, _rows(_MESSAGES, [zone, LEFT, ids, since - SLACK, since, first_id(since - SLACK)]), first_hour, midnight
    )
    [(found.unconfirmed,)] = _rows(_UNCONFIRMED, [ids, MOST])
    found.dead = dead_letters(WebhookEvent.objects.filter(tenant_id__in=ids), now=now)[:MOST].count()
    wanted = WhatsAppSession.objects.filter(tenant_id__in=ids, deleted_at=None)
    found.lines, found.down = wanted.count(), wanted.filter(DOWN).count()
    answers = _rows(_ANSWERS, [zone, ids, first_day, first_day])
    days = {day: Answers(day, half, most, count) for day, (half, most), count in answers}
    every = [(first_day + timedelta(days=n)).date() for n in range(DAYS)]
    found.answers = [days.get(day, Answers(day)) for day in every]
    found.stages = [(name, colour, leads) for name, colour, leads in _rows(_LEADS, [MOST_LEADS, ids])]
    return found


def count_webhooks_off(*, tenants: Sequence[UUID]) -> int:
    """Webhooks of these tenants that were switched off because of what they answered."""
    failed = Endpoint.objects.filter(deleted_at=None, disabled_reason__in=[Endpoint.Off.GONE, Endpoint.Off.FAILING])
    return int(failed.filter(tenant_id__in=tenants).count())


def _rows(statement: str, parameters: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[Any] = cursor.fetchall()
    return rows


def _spread(found: Figures, rows: list[Any], first_hour: datetime, midnight: datetime) -> None:
    """Sort counts by (hour, kind, cause) into the hours of the chart, today's sums and the causes of a day."""
    naive = first_hour.replace(tzinfo=None)
    hours = {naive + timedelta(hours=n): Hour(first_hour + timedelta(hours=n)) for n in range(HOURS)}
    for at, kind, cause, count in rows:
        places = [hours[at]] if at in hours else []
        if at >= midnight.replace(tzinfo=None):
            places.append(found.today)
        for place in places:
            place.received += count if kind == "in" else 0
            place.sent += count if kind == "out" else 0
            place.failed += count if kind == "failed" else 0
        if kind == "failed" and at in hours:
            found.causes[cause] = found.causes.get(cause, 0) + count
    found.hours = list(hours.values())
