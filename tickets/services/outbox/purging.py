"""The operator empties the outbox: what waits ends as failed, and people may send it again (spec/operations.md 6)."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from leadengine import metrics
from leadengine.accounts.scopes import service_scope
from leadengine.accounts.services import write_audit
from leadengine.sql import dumps
from tickets.services.outbox.announcing import announce_change
from tickets.services.outbox.sweeping import change_rows
from tickets.transports import get_transport

CHANNEL = "WHATSAPP"
_AT_ONCE = 1000
PURGED = {"code": "PURGED", "message": "A fila de envio foi esvaziada pela operação.", "retryable": True}


def purge_outbox(*, now: datetime) -> int:
    """End every QUEUED message of every tenant as FAILED `PURGED`; returns how many. Each tenant's audit log says so.

    A thousand at a time, each in a transaction of its own: what is accepted meanwhile may go with the rest.
    """
    total = 0
    while done := _purge_some(now):
        total += done
    return total


def _purge_some(now: datetime) -> int:
    sets = "status = 'FAILED', failed_at = %s, wait_reason = NULL, not_before = NULL, error = %s"
    rule = """m.id IN (SELECT id FROM tickets_message WHERE status = 'QUEUED' ORDER BY id LIMIT %s
                       FOR UPDATE SKIP LOCKED)"""
    changes = {"status": "FAILED", "failed_at": now, "wait_reason": None, "not_before": None, "error": PURGED}
    with service_scope("purge of the outbox"):
        rows = change_rows(sets, rule, [now, dumps(PURGED), _AT_ONCE])
        transport = get_transport(CHANNEL)
        lines = {row.session_id: transport.line(row.session_id) for row in rows}
        for row in rows:
            announce_change(place=row.place, version=row.version, changes=changes, now=now)
            metrics.count(metrics.outbound.labels(origin=row.source, type=row.type, status="failed"))
            line = lines[row.session_id]
            name = line.name if line else ""
            metrics.count(metrics.messages_failed.labels(instance_name=name, type=row.type, reason="PURGED"))
        for tenant_id, count in Counter(row.place.tenant_id for row in rows).items():
            write_audit(tenant_id=tenant_id, actor=None, action="outbox.purged", changes={"messages": count})
    return len(rows)
