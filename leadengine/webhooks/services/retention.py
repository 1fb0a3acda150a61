"""How long the log of webhooks is kept (spec/outbound.md section 14), 30 days, and secrets that sign no more: a day."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.db import connection

from leadengine.accounts.scopes import service_scope

log = structlog.get_logger(__name__)

KEPT = timedelta(days=30)
BATCH = 1000
# Deliveries and their tries go with the event.
_EVENTS = """
DELETE FROM webhooks_outgoingevent WHERE id IN (
    SELECT id FROM webhooks_outgoingevent WHERE id < %(first)s AND at < %(oldest)s
    ORDER BY id LIMIT %(batch)s FOR UPDATE SKIP LOCKED)
"""
_ENDPOINTS = """
DELETE FROM webhooks_endpoint e WHERE e.deleted_at < %(oldest)s
    AND NOT EXISTS (SELECT 1 FROM webhooks_delivery d WHERE d.endpoint_id = e.id)
"""
_SECRETS = "UPDATE webhooks_endpoint SET previous_secret = '', previous_until = NULL WHERE previous_until < %(now)s"


def erase_old_deliveries(*, now: datetime) -> int:
    """Delete what is older than its time, a thousand events a transaction; returns how many events went.

    Secrets that were replaced go with them, once they sign no more.
    """
    oldest = now - KEPT
    # Ids are made in time order, a little after the clock was read.
    first = UUID(int=(int(oldest.timestamp() * 1000) + 60_000) << 80)
    values = {"oldest": oldest, "first": first, "batch": BATCH, "now": now}
    total, done = 0, BATCH
    while done == BATCH:
        done = _delete(_EVENTS, values)
        total += done
    _delete(_ENDPOINTS, values)
    _delete(_SECRETS, values)
    if total:
        log.info("webhook_log_erased", events=total)
    return total


def _delete(sql: str, values: dict[str, Any]) -> int:
    with service_scope("retention of webhooks"), connection.cursor() as cursor:
        cursor.execute(sql, values)
        return int(cursor.rowcount)
