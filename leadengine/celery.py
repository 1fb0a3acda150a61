"""Celery: the app, its queues and schedule, and the one way to start work later.

Redis (or RabbitMQ) is a wake-up, not a memory: what has to be done stands in PostgreSQL, so every task is coalesced,
carries ids only, and finds nothing to do when it runs twice.
"""

from __future__ import annotations

import os
from typing import Any, cast

import structlog
from celery import Celery, Signature, Task
from celery.schedules import crontab
from celery.signals import setup_logging, task_postrun, task_prerun
from django.conf import settings
from django.db import close_old_connections, transaction
from kombu import Queue
from kombu.exceptions import KombuError

from leadengine import metrics
from leadengine.redis import UNAVAILABLE

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "leadengine.settings")

INBOUND = "whatsapp.inbound"
SENDING = "whatsapp.send.messages"
MAINTENANCE = "whatsapp.maintenance"
DEFAULT = "leadengine.default"

log = structlog.get_logger(__name__)

app = Celery("leadengine", task_cls="leadengine.accounts.tasks:ScopedTask")
app.conf.update(
    broker_url=settings.CELERY_BROKER_URL,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # A publish must not hang a request when Redis is away: the sweeper repairs a lost wake-up.
    # (kombu would try again for 6 s before it said so.)
    broker_transport_options={
        "socket_connect_timeout": 2,
        "socket_timeout": 10,
        "visibility_timeout": 3600,
        "max_retries": 0,
    },
    task_publish_retry=False,
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    task_default_queue=DEFAULT,
    task_queues=[Queue(name) for name in (SENDING, INBOUND, MAINTENANCE, DEFAULT)],
    task_create_missing_queues=False,
    task_routes={
        "whatsapp.drain": INBOUND,
        "whatsapp.erase_old_webhooks": MAINTENANCE,
        "tickets.send_due": SENDING,
        "tickets.release_scheduled": SENDING,  # its workers are many: no backup or drain is in the way
        "tickets.sweep_outbox": MAINTENANCE,
        "tickets.reconcile_timelines": MAINTENANCE,
        "whatsapp.fill_gaps": MAINTENANCE,
        "whatsapp.watch_silence": MAINTENANCE,
        "whatsapp.fill_gap": SENDING,
        "whatsapp.sync_sessions": SENDING,
        "whatsapp.sync_session": SENDING,
        "whatsapp.refresh_qr": SENDING,
        "whatsapp.recover_sessions": SENDING,
        "whatsapp.announce_sessions": MAINTENANCE,
        "whatsapp.drain_journal": MAINTENANCE,
        "whatsapp.keep_sessions": MAINTENANCE,
        "whatsapp.expire_uploads": MAINTENANCE,
        "operations.back_up": MAINTENANCE,
        "operations.verify_backup": MAINTENANCE,
        "operations.prune_backups": MAINTENANCE,
        "whatsapp.fetch_media": SENDING,  # it waits for others, as sends do: on threads
        "webhooks.deliver_due": SENDING,  # on one of them, whatever the number of endpoints
        "webhooks.erase_old_deliveries": MAINTENANCE,
    },
    timezone="UTC",
)
# Celery's Django fixup would close the connection around every task (5 ms); close_old_connections below heals it.
app.conf["CELERY_DB_REUSE_MAX"] = 1_000_000_000
app.autodiscover_tasks(["whatsapp", "tickets", "leadengine.webhooks", "leadengine.operations"])
# A task that was not taken before the next one is due is worth nothing: it expires.
app.conf.beat_schedule = {
    "drain": {"task": "whatsapp.drain", "schedule": 1.0, "options": {"expires": 1.0}},
    "erase-old-webhooks": {  # at night in Brazil
        "task": "whatsapp.erase_old_webhooks",
        "schedule": crontab(hour="6", minute="17"),
        "options": {"expires": 3600},
    },
    "deliver-webhooks": {"task": "webhooks.deliver_due", "schedule": 2.0, "options": {"expires": 2.0}},
    "erase-old-deliveries": {  # at night in Brazil
        "task": "webhooks.erase_old_deliveries",
        "schedule": crontab(hour="6", minute="47"),
        "options": {"expires": 3600},
    },
    "fetch-media": {"task": "whatsapp.fetch_media", "schedule": 2.0, "options": {"expires": 2.0}},
    # Looks whose night it is; each tenant has a time zone of its own.
    "reconcile-timelines": {"task": "tickets.reconcile_timelines", "schedule": 60.0, "options": {"expires": 60.0}},
    "sync-sessions": {
        "task": "whatsapp.sync_sessions",
        "schedule": float(settings.WHATSAPP_RECONNECT_INTERVAL),
        "options": {"expires": float(settings.WHATSAPP_RECONNECT_INTERVAL)},
    },
    "refresh-qr": {"task": "whatsapp.refresh_qr", "schedule": 10.0, "options": {"expires": 10.0}},
    "drain-journal": {"task": "whatsapp.drain_journal", "schedule": 30.0, "options": {"expires": 30.0}},
    "keep-sessions": {  # at night in Brazil
        "task": "whatsapp.keep_sessions",
        "schedule": crontab(hour="8", minute="0"),
        "options": {"expires": 3600},
    },
    "expire-uploads": {  # at night in Brazil
        "task": "whatsapp.expire_uploads",
        "schedule": crontab(hour="7", minute="45"),
        "options": {"expires": 3600},
    },
    "fill-gaps": {"task": "whatsapp.fill_gaps", "schedule": 2.0, "options": {"expires": 2.0}},
    "watch-silence": {"task": "whatsapp.watch_silence", "schedule": 60.0, "options": {"expires": 60.0}},
    # 03:00, Sunday 04:00 and 04:30 in Brazil.
    "back-up": {
        "task": "operations.back_up",
        "schedule": crontab(hour="6", minute="0"),
        "options": {"expires": 3600},
    },
    "verify-backup": {
        "task": "operations.verify_backup",
        "schedule": crontab(hour="7", minute="0", day_of_week="sun"),
        "options": {"expires": 3600},
    },
    "prune-backups": {
        "task": "operations.prune_backups",
        "schedule": crontab(hour="7", minute="30"),
        "options": {"expires": 3600},
    },
    "release-scheduled": {"task": "tickets.release_scheduled", "schedule": 2.0, "options": {"expires": 2.0}},
    "sweep-outbox": {"task": "tickets.sweep_outbox", "schedule": 10.0, "options": {"expires": 10.0}},
}


def enqueue(task: Task[Any, Any], **ids: Any) -> None:
    """Start a task once the running transaction has committed, in the scope of now. An engine that is away is not an
    error here."""
    scope = cast(Any, task).scope_headers()  # the scope has ended when the commit is done
    transaction.on_commit(lambda: publish(task.s().set(headers=scope), **ids))


def publish(task: Task[Any, Any] | Signature[Any], *, countdown: float | None = None, **ids: Any) -> bool:
    """Put a task in its queue, to run in `countdown` seconds; False when the engine is away (a sweeper finds the work
    in PostgreSQL)."""
    options: dict[str, Any] = {} if countdown is None else {"countdown": countdown}
    try:
        task.apply_async(kwargs=ids, **options)
    except (*UNAVAILABLE, KombuError) as error:
        missed(task, error)
        return False
    return True


def missed(task: Task[Any, Any] | Signature[Any], error: BaseException) -> None:
    """Note a wake-up that the engine did not take."""
    metrics.wakeups_missed.labels(task=task.name).inc()
    log.warning("wake_up_missed", task=task.name, error=type(error).__name__)


@setup_logging.connect
def _keep_our_logging(**_: Any) -> None:
    """leadengine.logging owns the root logger."""


@task_prerun.connect
@task_postrun.connect
def _heal_connections(**_: Any) -> None:
    close_old_connections()
