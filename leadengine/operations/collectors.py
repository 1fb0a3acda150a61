"""Gauges read from PostgreSQL and the queue engine at the scrape: true after any restart, and never per process.

All queries run in one service scope; one that fails costs its own gauges only (spec/operations.md section 2).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from kombu.exceptions import ChannelError, KombuError
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from leadengine.accounts.scopes import service_scope
from leadengine.celery import INBOUND, SENDING, app
from leadengine.operations import facts
from leadengine.operations.facts import Cursor
from leadengine.redis import UNAVAILABLE
from tickets.services.outbox.circuit import read_circuits
from whatsapp.services.journal import pending_lines

log = structlog.get_logger(__name__)
KEPT = 5.0  # seconds
TIMEOUT_MS = 2000
Collectors = dict[str, Callable[[Cursor], list[Metric]]]


class DatabaseCollector(Collector):
    """All gauges of this module, at most 5 s old."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._families: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        """Give the families; one that cannot be read is missing and `leadengine_collector_up` says so."""
        with self._lock:
            if time.monotonic() - self._at > KEPT:
                self._families = _read()
                self._at = time.monotonic()
            return self._families

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before it is read: registering must not ask the database."""
        return []


def _read() -> list[Metric]:
    families: list[Metric] = [_journal(), _circuits()]
    up = dict.fromkeys([*_COLLECTORS, "queues", "engine"], False)
    depths = engine_depths()  # before the transaction: nobody should wait for Redis inside one
    up["engine"] = depths is not None
    try:
        with service_scope("metrics"), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(TIMEOUT_MS)])
            collectors: Collectors = {**_COLLECTORS, "queues": partial(_queues, depths or {})}
            for name, collect in collectors.items():
                try:
                    with transaction.atomic():
                        families += collect(cursor)
                    up[name] = True
                except DatabaseError as error:
                    log.warning("collector_failed", collector=name, error=type(error).__name__)
    except DatabaseError as error:
        log.warning("collectors_failed", error=type(error).__name__)
    rows = [((name,), float(good)) for name, good in up.items()]
    return [*families, _gauge("leadengine_collector_up", "Whether a collector could be read", "collector", rows=rows)]


def _journal() -> Metric:
    """Read from files, so that it is true while the database is away."""
    rows = [((), float(pending_lines()))]
    return _gauge("whatsapp_persistence_journal_pending", "Lines of the journal not yet replayed", rows=rows)


def _circuits() -> Metric:
    """Read from Redis, before the transaction; none while it is away."""
    opened = sum(circuit.state == "open" for circuit in read_circuits(now=datetime.now(UTC)).values())
    return _gauge("whatsapp_session_circuits_open", "Sessions whose breaker is open", rows=[((), float(opened))])


def engine_depths() -> dict[str, int] | None:
    """How many messages lie in each queue of the engine; None when it is away."""
    try:
        with app.connection_for_read() as engine, engine.channel() as channel:
            return {queue.name: _depth(channel, queue.name) for queue in app.conf.task_queues}
    except (KombuError, *UNAVAILABLE) as error:
        log.warning("collector_failed", collector="engine", error=type(error).__name__)
        return None


def _depth(channel: Any, name: str) -> int:
    try:
        return int(channel.queue_declare(queue=name, passive=True).message_count)
    except ChannelError:
        return 0  # nobody has put anything there yet


def _gauge(name: str, text: str, *labels: str, rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _sessions(cursor: Cursor) -> list[Metric]:
    rows = facts.sessions(cursor)
    active: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    single: dict[tuple[str, ...], float] = {}
    for tenant, name, connected, wanted in rows:
        active[tenant] += connected
        expected[tenant] += wanted
        if name:
            full = len(single) >= settings.METRICS_MAX_INSTANCES
            single[(tenant, name) if not full else ("overflow", "overflow")] = float(connected)
    return [
        _gauge("turbozap_instances_active", "Sessions connected", "tenant", rows=_by_label(active)),
        _gauge("turbozap_instances_expected", "Sessions wanted connected", "tenant", rows=_by_label(expected)),
        _gauge("whatsapp_connections_active", "Sessions connected", "tenant", rows=_by_label(active)),
        _gauge("whatsapp_silent_sessions", "Sessions gone silent", rows=[((), float(facts.silent_sessions(cursor)))]),
        _gauge("turbozap_instance_connected", "1 or 0", "tenant", "instance_name", rows=single.items()),
    ]


def _recovery(cursor: Cursor) -> list[Metric]:
    oldest = facts.oldest_reconnect(cursor) if settings.WHATSAPP_AUTO_RECONNECT else 0.0
    lost = float(facts.lost_sessions(cursor))
    needing = [(labels, float(count)) for labels, count in facts.reauth_required(cursor).items()]
    return [
        _gauge("whatsapp_reconnect_oldest_pending_seconds", "Longest reconnect under way", rows=[((), oldest)]),
        _gauge("whatsapp_sessions_lost_after_restart", "Expected, and not back", rows=[((), lost)]),
        _gauge("whatsapp_sessions_reauth_required", "Need a person", "tenant", "reason", rows=needing),
    ]


def _inbox(cursor: Cursor) -> list[Metric]:
    waiting = facts.inbox(cursor)
    oldest = facts.oldest_pending(cursor)
    return [
        _gauge("whatsapp_webhook_backlog", "What the webhook left", "state", rows=_by_label(waiting)),
        _gauge("whatsapp_webhook_oldest_pending_seconds", "Age of the oldest waiting event", rows=[((), oldest)]),
    ]


def _media(cursor: Cursor) -> list[Metric]:
    jobs = facts.media_jobs(cursor)
    return [_gauge("whatsapp_media_jobs", "Files of messages still to be fetched", "state", rows=_by_label(jobs))]


def _ledger(cursor: Cursor) -> list[Metric]:
    now = datetime.now(UTC)
    median, high = facts.pipeline_latency(cursor, now)
    quantiles = [(("0.5",), median), (("0.95",), high)]
    return [
        _gauge("whatsapp_pipeline_latency_seconds", "Received to committed, 5 min", "quantile", rows=quantiles),
        _gauge("whatsapp_dedupe_hit_ratio", "Copies by messages, 5 min", rows=[((), facts.dedupe_ratio(cursor, now))]),
    ]


def _queues(depths: dict[str, int], cursor: Cursor) -> list[Metric]:
    """Inbound and sends are counted where the truth is; the others are what lies in the engine."""
    truth = {SENDING: facts.outbox(cursor), INBOUND: facts.inbox(cursor)["pending"]}
    return [_gauge("turbozap_queue_messages_pending", "Waiting work", "queue", rows=_by_label(depths | truth))]


def _outbox(cursor: Cursor) -> list[Metric]:
    waiting = _by_label(facts.waiting_messages(cursor))
    unknown = float(facts.unconfirmed(cursor))
    return [
        _gauge("whatsapp_outbound_pending", "Queued messages by what they wait for", "reason", rows=waiting),
        _gauge("whatsapp_outbound_unconfirmed", "May have left, and not dismissed", rows=[((), unknown)]),
    ]


def _tickets(cursor: Cursor) -> list[Metric]:
    counts, oldest = facts.live_tickets(cursor)
    return [
        _gauge("tickets_open", "Tickets that have not ended", "status", rows=_by_label(counts)),
        _gauge("tickets_waiting_oldest_seconds", "The longest waiting customer", rows=[((), oldest)]),
        _gauge("timeline_drift_tickets", "Found wrong by the last check", rows=[((), facts.timeline_drift(cursor))]),
    ]


def _walls(cursor: Cursor) -> list[Metric]:
    rows = [((table,), float(good)) for table, good in facts.walls(cursor).items()]
    return [_gauge("whatsapp_rls_enforced", "Row level security on and complete", "table", rows=rows)]


def _backups(cursor: Cursor) -> list[Metric]:
    """0 is never: an alert that compares with now must have something to compare."""
    *moments, size = facts.backups(cursor)
    made, verified = (at.timestamp() if at else 0.0 for at in moments)
    return [
        _gauge("whatsapp_backup_last_success_timestamp_seconds", "The newest backup of everything", rows=[((), made)]),
        _gauge("whatsapp_backup_last_verified_timestamp_seconds", "Last restored as a proof", rows=[((), verified)]),
        _gauge("whatsapp_backup_last_size_bytes", "Size of the newest backup", rows=[((), float(size))]),
    ]


def _workers(cursor: Cursor) -> list[Metric]:
    seen = facts.alive(cursor)
    alive = seen["worker"] + seen["sender"] + seen["both"]
    return [_gauge("leadengine_workers_alive", "Worker processes seen within 30 s", rows=[((), alive)])]


def _by_label(values: dict[str, int] | Counter[str]) -> list[tuple[tuple[str, ...], float]]:
    return [((name,), float(value)) for name, value in sorted(values.items())]


_COLLECTORS: Collectors = {
    "sessions": _sessions, "recovery": _recovery, "inbox": _inbox, "ledger": _ledger, "media": _media,
    "outbox": _outbox, "tickets": _tickets, "walls": _walls, "backups": _backups, "workers": _workers,
}  # fmt: skip
