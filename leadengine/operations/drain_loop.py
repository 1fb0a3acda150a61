"""The drain without Celery's worker: fewer steps between a webhook and the screen, the same function."""

from __future__ import annotations

from contextlib import closing, suppress
from queue import Empty
from threading import Event
from typing import Any, cast

import structlog
from django.db import InterfaceError, OperationalError, close_old_connections
from kombu import Queue
from kombu.exceptions import KombuError
from kombu.simple import SimpleQueue

from leadengine.celery import INBOUND, app
from leadengine.redis import UNAVAILABLE
from whatsapp.tasks import drain

log = structlog.get_logger(__name__)
LOOK = 1.0  # seconds between two looks into PostgreSQL when nobody wakes us
LOOK_DEAF = 0.2  # the same while the queue engine is away and nobody can


def run_drain(*, stopped: Event) -> None:
    """Drain the inbox whenever a wake-up comes and at least every second, until `stopped`."""
    while not stopped.is_set():
        _drain(stopped)
        try:
            with app.connection_for_read() as connection:
                _listen(connection, stopped)
        except (*UNAVAILABLE, KombuError) as error:
            log.debug("drain_deaf", error=type(error).__name__)
            stopped.wait(LOOK_DEAF)


def _listen(connection: Any, stopped: Event) -> None:
    """Take wake-ups off the queue that Celery's worker would take them from; one is as good as many."""
    with closing(SimpleQueue(connection, cast(Any, Queue(INBOUND)), no_ack=True)) as queue:
        while not stopped.is_set():
            with suppress(Empty):
                queue.get(timeout=LOOK)
            _drain(stopped)


def _drain(stopped: Event) -> None:
    close_old_connections()
    try:
        drain()
    except (OperationalError, InterfaceError) as error:
        log.warning("drain_without_database", error=type(error).__name__)
        stopped.wait(LOOK_DEAF)
