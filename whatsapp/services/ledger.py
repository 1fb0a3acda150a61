"""The ledger: every item of every event ends in one fate, counted once, after commit (spec/inbound.md section 14)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import connection, transaction

from leadengine import metrics
from leadengine.ids import uuid7
from leadengine.sql import insert_rows, unnest

if TYPE_CHECKING:
    from whatsapp.services.batch import Work

RESULT_OF = {reason: result for result, reasons in metrics.REASONS.items() for reason in reasons}
_ROW = {
    "id": "uuid", "tenant_id": "uuid", "event_id": "uuid", "session_id": "uuid", "index": "int", "kind": "text",
    "external_id": "text", "payload_type": "text", "fate": "text", "reason": "text", "message_id": "uuid",
    "attempts": "smallint", "error": "text", "due_at": "timestamptz", "expires_at": "timestamptz",
    "created_at": "timestamptz",
}  # fmt: skip


def save_items(*, tenant_id: UUID, works: Sequence[Work], now: datetime) -> None:
    """Write the fates: new items are inserted, items that were looked at again are updated."""
    with connection.cursor() as cursor:
        insert_rows(
            cursor,
            "whatsapp_webhookitem",
            _ROW,
            [
                (
                    uuid7(), tenant_id, work.event_id, work.session_id, work.index, work.item.kind,
                    work.item.external_id, work.item.payload_type[:20], work.fate, work.reason, work.message_id,
                    work.attempts, work.error, work.due_at, work.expires_at, now,
                )
                for work in works
                if work.row_id is None
            ],
        )  # fmt: skip
        again = [
            (work.row_id, work.fate, work.reason, work.message_id, work.due_at)
            for work in works
            if work.row_id is not None
        ]
        if again:
            columns = {"id": "uuid", "fate": "text", "reason": "text", "message_id": "uuid", "due_at": "timestamptz"}
            source, arrays = unnest(columns, again)
            cursor.execute(
                f"""UPDATE whatsapp_webhookitem i SET fate = u.fate, reason = u.reason, message_id = u.message_id,
                        due_at = u.due_at, error = ''
                    FROM {source} AS u (id, fate, reason, message_id, due_at)
                    WHERE i.id = u.id AND i.tenant_id = %s""",  # noqa: S608
                [*arrays, tenant_id],
            )


def count_items(works: Sequence[Work], now: datetime) -> None:
    """Count fates and latencies once the running transaction has committed."""
    fates: Counter[tuple[str, str]] = Counter()
    causes: Counter[str] = Counter()
    latencies, lags, seen = [], [], Counter[str]()
    for work in works:
        if not work.counts:
            continue
        fates[work.reason, work.item.payload_type if work.item.kind in _TYPED else "none"] += 1
        if work.item.cause:
            causes[work.item.cause] += 1
        if work.fate == "stored":
            latencies.append((now - work.received_at).total_seconds())
            lags.append(max(0.0, (work.received_at - work.item.sent_at).total_seconds()))  # type: ignore[union-attr]
        if work.item.kind in _TYPED:
            seen["miss" if work.fate == "stored" else "hit"] += 1

    def count() -> None:
        for (reason, payload_type), amount in fates.items():
            metrics.webhook_events.labels(result=RESULT_OF[reason], reason=reason, payload_type=payload_type).inc(
                amount
            )
        for cause, amount in causes.items():
            metrics.raw_ignored.labels(cause=cause).inc(amount)
        for outcome, amount in seen.items():
            metrics.dedupe.labels(outcome=outcome).inc(amount)
        for latency in latencies:
            metrics.inbound_latency_seconds.observe(latency)
        for lag in lags:
            metrics.broker_lag_seconds.observe(lag)

    transaction.on_commit(count)


_TYPED = {"message", "vote", "echo"}
