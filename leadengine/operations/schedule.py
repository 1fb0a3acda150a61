"""Celery's beat, of which only one works at a time: it holds a lease in PostgreSQL (spec/operations.md section 6)."""

from __future__ import annotations

import time
from threading import Event
from typing import Any

import psycopg
import structlog
from celery.app.base import Celery
from celery.beat import ScheduleEntry, Scheduler
from kombu.exceptions import KombuError

from leadengine import metrics
from leadengine.operations.heartbeat import LEASE, PERIOD, end_lease, remove_heartbeat, take_lease, write_heartbeat
from leadengine.redis import UNAVAILABLE

log = structlog.get_logger(__name__)
NAME = "beat"
_WAIT = 1.0


def run_beat(*, app: Celery, stopped: Event) -> None:
    """Send the tasks of `beat_schedule` when they are due, until `stopped`. The schedule lives in memory."""
    app.loader.import_default_modules()
    scheduler = SoleScheduler(app)
    while not stopped.is_set():
        stopped.wait(min(scheduler.tick(), _WAIT))
    scheduler.give_up()


class SoleScheduler(Scheduler):
    """A scheduler that ticks only while this process has the lease, and that a lost queue engine does not hold up."""

    producer: Any = None  # Celery's own would wait for the engine in here; publishing takes one from the app's pool

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self.leads_until = 0.0
        self.renew_at = 0.0
        self.engine_away = False

    def tick(self, **_: Any) -> float:  # type: ignore[override]
        """Send what is due; returns the seconds until there is more to do."""
        if time.monotonic() >= self.renew_at:
            self._renew()
        if time.monotonic() >= self.leads_until:
            return _WAIT
        return float(super().tick())

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Publish one task; what is missed now is due again soon."""
        try:
            self.app.tasks[entry.task].apply_async(kwargs=entry.kwargs, **entry.options)  # type: ignore[index,arg-type]
        except (*UNAVAILABLE, KombuError) as error:
            metrics.wakeups_missed.labels(task=entry.task).inc()
            if not self.engine_away:
                log.warning("queue_engine_away", error=type(error).__name__)
            self.engine_away = True
        else:
            if self.engine_away:
                log.warning("queue_engine_back")
            self.engine_away = False

    def give_up(self) -> None:
        """Let the next beat start at once."""
        try:
            end_lease(name=NAME)
            if time.monotonic() < self.leads_until:
                remove_heartbeat(name=NAME)
        except psycopg.Error as error:
            log.warning("lease_not_ended", error=type(error).__name__)

    def _renew(self) -> None:
        now = time.monotonic()
        led = now < self.leads_until
        try:
            leads = take_lease(name=NAME)
            if leads:
                write_heartbeat(name=NAME, kind=NAME)
        except psycopg.Error as error:
            # Without PostgreSQL nobody else can take the lease either: it is ours to its end.
            log.warning("lease_not_renewed", error=type(error).__name__)
            self.renew_at = now + _WAIT
            return
        if leads != led:
            log.info("beat_leads" if leads else "beat_waits")
        self.leads_until = now + LEASE if leads else 0.0
        self.renew_at = now + (PERIOD if leads else _WAIT)
