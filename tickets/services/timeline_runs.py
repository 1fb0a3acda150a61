"""Runs over a tenant's timelines: what is wrong is found without a lock, and put right under the ticket's own.

Every batch is a transaction of its own, and a ticket that is right already is not written: so a run may be killed at
any moment and started again, beside live traffic.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.utils import timezone

from leadengine import metrics
from leadengine.accounts.scopes import tenant_scope
from leadengine.accounts.services import write_audit
from leadengine.ids import uuid7
from leadengine.realtime.broadcast import broadcast
from tickets.events import TimelineReconciled, TimelineSample
from tickets.models import TimelineRun
from tickets.models.tickets import LIVE
from tickets.services.announce import announce_ticket
from tickets.services.state import lock_tickets, save_tickets
from tickets.services.timeline import Drift, find_drifts
from tickets.transports import get_transport

CHANNEL = "WHATSAPP"
BATCH = 500
SAMPLE = 20
_UNTOLD = "…"  # stands for a preview where no text of a message may be


@dataclass(slots=True)
class Result:
    """What a run saw: `changed` is what it repaired, or in a dry run would have."""

    run_id: UUID
    tenant_id: UUID
    started_at: datetime
    finished_at: datetime
    total: int = 0
    checked: int = 0
    changed: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    sample: list[Drift] = field(default_factory=list)


Tell = Callable[[Result, Sequence[Drift]], None]


class RunLost(RuntimeError):
    """Another worker took the run over, because this one stood still for too long."""


def check_timelines(
    *, tenant_id: UUID, since: datetime | None = None, batch: int = BATCH, tell: Tell | None = None
) -> Result:
    """Compare the timelines of a tenant with its messages and change nothing.

    `since`: only tickets that changed then or later. `tell` gets, after each batch, the run so far and what was wrong
    in it.
    """
    result = _begin(uuid7(), tenant_id)
    for ids in _pages(result, since, batch):
        with tenant_scope(tenant_id):
            _note(result, ids, find_drifts(tenant_id=tenant_id, ids=ids), tell)
    result.finished_at = timezone.now()
    return result


def reconcile_timelines(
    *,
    tenant_id: UUID,
    since: datetime | None = None,
    batch: int = BATCH,
    run: TimelineRun | None = None,
    tell: Tell | None = None,
) -> Result:
    """Repair the timelines of a tenant; writes an audit entry and tells whatsapp.timeline.reconciled at the end.

    `run` is the row of a nightly run that this call has claimed; without it a manual one is begun.
    Raises: RunLost, and whatever the database raises; what was repaired stays.
    """
    try:
        return _reconcile(tenant_id, since, batch, run or _begin_manual(tenant_id), tell)
    except Exception:
        metrics.timelines_reconciled.labels(result="failed").inc()
        raise


# --- Steps, in the order they are called --------------------------------------------------------------------------


def _begin_manual(tenant_id: UUID) -> TimelineRun:
    now = timezone.now()
    with tenant_scope(tenant_id):
        made: TimelineRun = TimelineRun.objects.create(
            tenant_id=tenant_id, trigger=TimelineRun.Trigger.MANUAL, started_at=now, alive_at=now
        )
        return made


def _reconcile(tenant_id: UUID, since: datetime | None, batch: int, run: TimelineRun, tell: Tell | None) -> Result:
    result = _begin(run.pk, tenant_id, run.started_at)
    for ids in _pages(result, since, batch):
        with tenant_scope(tenant_id):
            drifts = find_drifts(tenant_id=tenant_id, ids=ids)
            repaired = _repair(tenant_id, [drift.state.id for drift in drifts], wait=False)
            _stay_alive(run)
        done = {drift.state.id for drift in repaired}
        for drift in drifts:
            # Somebody held it. Alone it may be waited for: who waits with no other lock in hand blocks nobody for good.
            if drift.state.id not in done:
                with tenant_scope(tenant_id):
                    repaired += _repair(tenant_id, [drift.state.id], wait=True)
        _note(result, ids, repaired, tell)
    _end(run, result)
    return result


def _begin(run_id: UUID, tenant_id: UUID, started_at: datetime | None = None) -> Result:
    at = started_at or timezone.now()
    return Result(run_id, tenant_id, at, at)


def _pages(result: Result, since: datetime | None, batch: int) -> Iterator[Sequence[UUID]]:
    """The tickets to look at, by number, a page at a time; one that is opened meanwhile begins right."""
    with tenant_scope(result.tenant_id), connection.cursor() as cursor:
        recent, values = ("", []) if since is None else ("AND updated_at >= %s", [since])
        cursor.execute(
            f"SELECT number FROM tickets_ticket WHERE tenant_id = %s {recent} ORDER BY number",  # noqa: S608
            [result.tenant_id, *values],
        )
        numbers = array("q", (row[0] for row in cursor.fetchall()))  # 8 bytes each, however many they are
    result.total = len(numbers)
    for start in range(0, len(numbers), batch):
        with tenant_scope(result.tenant_id), connection.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM tickets_ticket WHERE tenant_id = %s AND number = ANY(%s) ORDER BY number",
                [result.tenant_id, list(numbers[start : start + batch])],
            )
            ids = [row[0] for row in cursor.fetchall()]
        yield ids


def _repair(tenant_id: UUID, ids: Sequence[UUID], *, wait: bool) -> list[Drift]:
    """Lock these tickets and set right what is still wrong. Without `wait` those that somebody holds are left."""
    if not ids:
        return []
    locked = lock_tickets(tenant_id=tenant_id, ids=ids, wait=wait)
    drifts = find_drifts(tenant_id=tenant_id, ids=list(locked)) if locked else []
    now = timezone.now()
    states = [drift.repair() for drift in drifts]
    save_tickets(tenant_id=tenant_id, states=states)
    for drift, state in zip(drifts, states, strict=True):
        announce_ticket(tenant_id=tenant_id, state=state, changed=["timeline"], now=now)
        if "unanswered_count" in drift.changes and state.status in LIVE:
            get_transport(CHANNEL).ticket_changed(tenant_id=tenant_id, ticket_id=state.id, now=now)
    return drifts


def _stay_alive(run: TimelineRun) -> None:
    rows = TimelineRun.objects.filter(pk=run.pk, started_at=run.started_at, finished_at__isnull=True)
    if not rows.update(alive_at=timezone.now()):
        raise RunLost


def _note(result: Result, ids: Sequence[UUID], drifts: Sequence[Drift], tell: Tell | None) -> None:
    result.checked += len(ids)
    result.changed += len(drifts)
    for drift in drifts:
        result.fields.update(drift.shown().keys())
    result.sample += drifts[: SAMPLE - len(result.sample)]
    if tell is not None:
        tell(result, drifts)


def _end(run: TimelineRun, result: Result) -> None:
    result.finished_at = timezone.now()
    fields = dict(result.fields)
    sample = [TimelineSample(ticket_id=drift.state.id, changes=_untold(drift)) for drift in result.sample]
    with tenant_scope(result.tenant_id):
        ended = TimelineRun.objects.filter(pk=run.pk, started_at=run.started_at, finished_at__isnull=True).update(
            finished_at=result.finished_at, tickets_checked=result.checked, tickets_changed=result.changed,
            fields=fields,
        )  # fmt: skip
        if not ended:
            raise RunLost
        write_audit(
            tenant_id=result.tenant_id, actor=None, action="timeline.reconciled", target=run,
            changes={
                "trigger": run.trigger, "ticketsChecked": result.checked, "ticketsChanged": result.changed,
                "fields": fields, "sample": [one.model_dump(mode="json", by_alias=True) for one in sample],
            },
        )  # fmt: skip
        broadcast(
            TimelineReconciled(
                tenant_id=result.tenant_id, at=result.finished_at, run_id=run.pk, trigger=run.trigger,  # type: ignore[arg-type]
                started_at=result.started_at, finished_at=result.finished_at, tickets_checked=result.checked,
                tickets_changed=result.changed, fields=fields, sample=sample,
            )
        )  # fmt: skip
        metrics.count(metrics.timelines_reconciled.labels(result="repaired" if result.changed else "clean"))


def _untold(drift: Drift) -> dict[str, list[Any]]:
    return {
        name: [_UNTOLD, _UNTOLD] if name == "lastMessagePreview" else list(pair) for name, pair in drift.shown().items()
    }
