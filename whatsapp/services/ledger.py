"""The ledger: every item of every event ends in one fate, counted once, after commit (spec/inbound.md section 14)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import connection, transaction

from leadengine import metrics
from leadengine.ids import uuid7
from leadengine.sql import insert_rows, unnest

if TYPE_CHECKING:
    from whatsapp.schemas import Item
    from whatsapp.services.batch import Claim, Work

RESULT_OF = {reason: result for result, reasons in metrics.REASONS.items() for reason in reasons}
_ROW = {
    "id": "uuid", "tenant_id": "uuid", "event_id": "uuid", "session_id": "uuid", "index": "int", "kind": "text",
    "external_id": "text", "payload_type": "text", "fate": "text", "reason": "text", "message_id": "uuid",
    "attempts": "smallint", "error": "text", "due_at": "timestamptz", "expires_at": "timestamptz",
    "created_at": "timestamptz",
}  # fmt: skip


_CHANGING = (
    "kind", "external_id", "payload_type", "fate", "reason", "message_id", "attempts", "error", "due_at", "expires_at",
)  # fmt: skip
_GOOD = frozenset({"stored", "enriched", "applied"})


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an item was, and what became of it, when its event ran before."""

    kind: str
    external_id: str | None
    fate: str
    reason: str
    message_id: UUID | None

    def is_good_end_of(self, item: Item) -> bool:
        """Whether this is the same item, and it did what it was sent for."""
        return self.fate in _GOOD and (self.kind, self.external_id) == (item.kind, item.external_id)


def find_earlier(*, tenant_id: UUID, claims: Sequence[Claim]) -> None:
    """Events run again: each work gets the row that it had; rows of items that are no more are discarded."""
    if not claims:
        return
    works = {(work.event_id, work.index): work for claim in claims for work in claim.works}
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT id, event_id, index, kind, external_id, fate, reason, message_id FROM whatsapp_webhookitem
               WHERE tenant_id = %s AND event_id = ANY(%s)""",
            [tenant_id, [claim.event_id for claim in claims]],
        )
        gone = []
        for row_id, event_id, index, *rest in cursor.fetchall():
            work = works.get((event_id, index))
            if work is None:
                gone.append(row_id)
            else:
                work.row_id, work.earlier = row_id, Earlier(*rest)
        cursor.execute(
            """UPDATE whatsapp_webhookitem SET fate = 'discarded', due_at = NULL
               WHERE tenant_id = %s AND id = ANY(%s) AND fate <> ALL(%s)""",
            [tenant_id, gone, list(_GOOD)],
        )


def keep_earlier(works: Sequence[Work]) -> None:
    """An item that ended well before, and changes nothing now, keeps its fate; what does not change counts once."""
    for work in works:
        before = work.earlier
        if before is None:
            continue
        if work.ended_well_before and work.fate not in _GOOD:
            work.end(before.fate, before.reason, before.message_id)
            work.expires_at, work.counts = None, False
        elif (work.fate, work.reason) == (before.fate, before.reason):
            work.counts = False


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
            (
                work.row_id, work.item.kind, work.item.external_id, work.item.payload_type[:20], work.fate, work.reason,
                work.message_id, work.attempts, work.error, work.due_at, work.expires_at,
            )
            for work in works
            if work.row_id is not None
        ]  # fmt: skip
        if again:
            columns = {"id": "uuid", **{name: _ROW[name] for name in _CHANGING}}
            source, arrays = unnest(columns, again)
            sets = ", ".join(f"{name} = u.{name}" for name in _CHANGING)
            cursor.execute(
                f"""UPDATE whatsapp_webhookitem i SET {sets} FROM {source} AS u ({", ".join(columns)})
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
        if work.fate == "stored" and work.earlier is None:
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
