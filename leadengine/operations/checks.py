"""The checks of /healthz, and its `whatsapp` block. An app that comes later registers its own beside these."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from django.conf import settings

from leadengine import health, metrics
from leadengine.health import Facts, Results
from leadengine.operations import facts
from leadengine.operations.direct import direct_cursor
from leadengine.redis import UNAVAILABLE, client
from tickets.services.outbox.circuit import Circuit, read_circuits
from whatsapp.broker_health import BrokerHealth, read_broker_health
from whatsapp.services.journal import pending_lines

LEAST_FREE_DISK = 5  # percent
OLDEST_BACKUP = 93_600  # seconds: 26 hours, as the alert has it
_SECONDS = 0.9  # a statement's limit, below the examiner's own
_given_up = threading.Event()  # an integrator's endpoint was, when PostgreSQL was last asked


def register_checks() -> None:
    """Called once, when all apps are loaded."""
    health.register("database", "workers", "beat", "rls", "migrations", run=check_database)
    health.register("redis", run=check_redis)
    health.register("disk", run=check_disk)
    health.register("journal", run=check_journal)
    health.register("backup", run=check_backup)
    health.register_block("whatsapp", run=describe_whatsapp, otherwise=describe_whatsapp_blindly)
    health.register_warning("webhook_secret_shared", lambda: settings.WHATSAPP_WEBHOOK_SECRET_SHARED)
    health.register_warning("webhook_endpoint_given_up", _given_up.is_set)


def check_database() -> Results:
    """PostgreSQL, and what it knows of the rest: workers, beat, walls and migrations, and webhooks that warn."""
    began = time.perf_counter()
    try:
        with direct_cursor(seconds=_SECONDS, service=True) as cursor:
            latency = round((time.perf_counter() - began) * 1000, 1)
            pending = facts.pending_migrations(cursor)
            if pending:  # the other questions may be about tables that do not exist yet
                return _without_database("migrations", latency) | {"migrations": {"ok": False, "pending": pending}}
            (_given_up.set if facts.webhooks_given_up(cursor) else _given_up.clear)()
            walls = facts.walls(cursor)
            at, ticking = facts.last_tick(cursor)
            return {
                "database": {"ok": True, "latencyMs": latency},
                "workers": _judge_workers(cursor),
                "beat": {"ok": ticking, "lastTickAt": _iso(at)},
                "rls": {"ok": all(walls.values()) and facts.role_is_bound(cursor), "tables": sum(walls.values())},
                "migrations": {"ok": True, "pending": 0},
            }
    except psycopg.errors.UndefinedTable:
        return _without_database("migrations", 0)  # nothing has been migrated yet
    except psycopg.OperationalError:
        return _without_database("database", None)


def check_redis() -> Results:
    """Redis: a wake-up and a hint, so its loss degrades and does not stop us."""
    began = time.perf_counter()
    try:
        client().ping()
    except UNAVAILABLE:
        return {"redis": {"ok": False, "latencyMs": None}}
    return {"redis": {"ok": True, "latencyMs": round((time.perf_counter() - began) * 1000, 1)}}


def check_disk() -> Results:
    """Room where our own files are kept."""
    path = next(each for each in (settings.DATA_DIR, *settings.DATA_DIR.parents) if each.exists())
    usage = shutil.disk_usage(path)
    free = round(usage.free / usage.total * 100, 1)
    return {"disk": {"ok": free >= LEAST_FREE_DISK, "freePercent": free}}


def check_journal() -> Results:
    """Facts that wait in files for PostgreSQL to take them."""
    pending = pending_lines()
    return {"journal": {"ok": pending == 0, "pending": pending}}


def check_backup() -> Results:
    """The newest backup of everything. In development none is asked for."""
    try:
        with direct_cursor(seconds=_SECONDS) as cursor:
            made, verified, _size = facts.backups(cursor)
    except psycopg.Error:
        return {"backup": {"ok": False, "lastSuccessAt": None, "lastVerifiedAt": None, "ageSeconds": None}}
    age = None if made is None else max(0, round((datetime.now(UTC) - made).total_seconds()))
    fresh = age is not None and age <= OLDEST_BACKUP
    told = {"lastSuccessAt": _iso(made), "lastVerifiedAt": _iso(verified), "ageSeconds": age}
    return {"backup": {"ok": fresh or settings.DEVELOPMENT, **told}}


def describe_whatsapp() -> Facts:
    """`whatsapp.runtime` and `whatsapp.broker` of decision D4."""
    try:
        broker, heard = read_broker_health(), True
    except UNAVAILABLE:
        broker, heard = BrokerHealth(), False
    circuits = list(read_circuits(now=datetime.now(UTC)).values())
    try:
        with direct_cursor(seconds=_SECONDS, service=True) as cursor:
            working = _judge_workers(cursor)["ok"]
            sessions = facts.sessions(cursor)
            figures = {
                "sessionsConnected": sum(connected for _, _, connected, _ in sessions),
                "sessionsExpected": sum(wanted for _, _, _, wanted in sessions),
                "inboxPending": facts.inbox(cursor)["pending"],
                "outboxPending": facts.outbox(cursor),
            }
    except psycopg.Error:
        return _shape_whatsapp(broker, circuits, running=False)
    return _shape_whatsapp(broker, circuits, running=working and heard and not broker.degraded, **figures)


def describe_whatsapp_blindly() -> Facts:
    """The same without any look at PostgreSQL or Redis, which do not answer in time."""
    return _shape_whatsapp(BrokerHealth(), [], running=False)


def _without_database(name: str, latency: float | None) -> Results:
    """What is left to say when PostgreSQL, or its tables, are away: `name` is the cause."""
    return {
        "database": {"ok": name != "database", "latencyMs": latency},
        "workers": {"ok": False, "alive": None},
        "beat": {"ok": False, "lastTickAt": None},
        "rls": {"ok": False, "tables": None},
        "migrations": {"ok": False, "pending": None},
    }


def _judge_workers(cursor: Any) -> Facts:
    """Fine when somebody works the inbox and somebody sends: `both` is one worker for all queues."""
    seen = facts.alive(cursor)
    alive = {kind: seen[kind] + seen["both"] for kind in ("worker", "sender")}
    return {"ok": all(alive.values()), "alive": seen["worker"] + seen["sender"] + seen["both"]}


def _counted() -> Facts:
    """Totals since the processes of this machine were started."""
    webhook, sent = "whatsapp_webhook_events_total", "turbozap_messages_sent_total"
    failed = "turbozap_messages_failed_total"
    totals = metrics.totals({webhook: "result", sent: "type", failed: "type"})
    return {
        "webhookAccepted": int(totals[webhook]["accepted"]),
        "webhookIgnored": int(totals[webhook]["ignored"]),
        "webhookRejected": int(totals[webhook]["rejected"]),
        "sent": int(totals[sent].total()),
        "failed": int(totals[failed].total()),
    }


def _shape_whatsapp(broker: BrokerHealth, circuits: Sequence[Circuit], *, running: bool, **figures: int) -> Facts:
    keys = (settings.WHATSAPP_BROKER_URL, settings.WHATSAPP_BROKER_API_KEY, settings.WHATSAPP_WEBHOOK_API_KEY)
    status = "not_configured" if not all(keys) else "running" if running else "degraded"
    unknown: Facts = dict.fromkeys(("sessionsConnected", "sessionsExpected", "inboxPending", "outboxPending"))
    return {
        "runtime": {
            "mode": "http",
            "transport": "http",
            "status": status,
            "disabled": status == "not_configured",
            "metrics": unknown | figures | _counted(),
        },
        "broker": {
            "lastSuccessAt": _iso(broker.last_success_at),
            "lastFailureAt": _iso(broker.last_failure_at),
            "consecutiveFailures": broker.consecutive_failures,
            "degraded": broker.degraded,
            "lastErrorCode": broker.last_error_code,
            "circuit": _sum_up(circuits),
        },
    }


def _sum_up(circuits: Sequence[Circuit]) -> Facts:
    """The sessions' breakers (D36): how many are open, and when the first of them lets a message try."""
    opened = [circuit.retry_at for circuit in circuits if circuit.retry_at is not None]
    state = "open" if opened else "half_open" if circuits else "closed"
    return {"state": state, "open": len(opened), "retryAt": _iso(min(opened, default=None))}


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None
