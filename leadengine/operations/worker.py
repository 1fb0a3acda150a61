"""Our Celery worker: a sign of life that proves that it hears, and an end when it does not.

Measured with Celery 5.7.0 and kombu 5.7.0, Valkey killed with SIGKILL and started again:
- Idle, both pools came back by themselves, 18 times of 18. Celery waits longer with every try (2, 4, 6 … 30 s), which
  cost 8 to 12 s after an outage of 12 s, so `Listener` tries every second: 2.1 s at most, 50 times of 50.
- Amid tasks, the threads pool ended with "Unrecoverable error" 8 times of 12, prefork now and then, when kombu puts
  back what was not acknowledged, or acknowledges it, over the lost connection; `Listener` and `LateRequest` lose the
  ack instead: 50 times of 50 the worker lived on.
- A connection that stays open and carries nothing (a firewall that forgot it, a frozen host) is waited on for ever:
  `Pulse` sees it in 30 s, and ends the worker.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import psycopg
import structlog
from celery import bootsteps
from celery.app.base import Celery
from celery.signals import worker_shutting_down
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu import Connection, Exchange, Queue
from kombu import Consumer as Subscription

from leadengine.celery import DEFAULT, INBOUND, MAINTENANCE, SENDING
from leadengine.ids import uuid7
from leadengine.operations.heartbeat import ALIVE, PERIOD, remove_heartbeat, write_heartbeat
from leadengine.redis import UNAVAILABLE
from whatsapp.services.sessions import listening

log = structlog.get_logger(__name__)

QUEUES = (INBOUND, MAINTENANCE, DEFAULT)
FINISH_SECONDS = 45.0  # for the calls that are under way at SIGTERM (spec/outbound.md section 7)
SENDING_THREADS = 64  # a broker may take 28 s for one send: many calls wait at once (D49)


def run_worker(*, app: Celery, name: str, queues: tuple[str, ...], concurrency: int) -> int:
    """Run a worker in this process until SIGTERM (it ends its tasks first) or until it is deaf; returns the exit code.

    A worker that sends has FINISH_SECONDS for that. Sends run on threads, since they wait; everything else in
    processes, since it computes.
    """
    sends = SENDING in queues
    app.conf.worker_consumer = f"{__name__}:Listener"
    app.Task.Request = f"{__name__}:LateRequest"
    app.steps["consumer"].add(Pulse)
    worker = app.Worker(
        hostname=f"{name}@{socket.gethostname()}",
        queues=list(queues),
        pool="threads" if sends else "prefork",
        concurrency=SENDING_THREADS if sends else concurrency,
        quiet=True,
        loglevel="WARNING",
        without_gossip=True,  # workers need not know of each other
        without_mingle=True,
        without_heartbeat=True,  # Celery's own; ours stands in PostgreSQL
        pulse_name=name,
        pulse_kind=("sender" if set(queues) == {SENDING} else "both") if sends else "worker",
    )
    if sends:
        worker_shutting_down.connect(_finish_in_time, weak=False)
        listening.start()
    worker.start()
    return int(worker.exitcode or 0)


def end_after(seconds: float) -> None:
    """End this process then, unless it has ended by itself: what it had in flight is left to the leases."""

    def end() -> None:
        log.error("worker_cut_off", seconds=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _finish_in_time(**_: Any) -> None:
    end_after(FINISH_SECONDS)


class LateRequest(Request):
    """A task whose end may come after its connection's: the ack is lost then, and nothing else."""

    def __init__(self, message: Any, **options: Any) -> None:
        # kombu raises AttributeError for an ack on a channel whose connection is gone; Celery would end the worker.
        options["connection_errors"] = (*(options.get("connection_errors") or ()), AttributeError)
        super().__init__(message, **options)


class Listener(Consumer):
    """Celery's consumer, but it asks for a lost queue engine every second, and survives its loss amid a task."""

    def ensure_connected(self, conn: Connection) -> Connection:
        """Return the connection once it stands."""
        missed = 0

        def miss(error: Exception, _interval: float) -> None:
            nonlocal missed
            if not missed % 60:
                log.warning("queue_engine_away", error=type(error).__name__)
            missed += 1

        conn.ensure_connection(miss, interval_start=1, interval_step=0, interval_max=1, callback=state.maybe_shutdown)
        self.first_connection_attempt = False
        return conn

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Leave the lost connection without putting its tasks back over it, which fails in kombu and ends the worker.

        They are wake-ups: what they would have done stands in PostgreSQL, and beat wakes it again.
        """
        transport: Any = self.connection.transport if self.connection else None
        for channel in getattr(transport, "channels", None) or ():
            channel.do_restore = False
        super().on_connection_error_after_connected(exc)


class Pulse(bootsteps.StartStopStep):
    """Writes the worker's heartbeat as long as it hears its queues, and ends a worker that has gone deaf.

    Every 10 s a probe is published to a queue of this worker's own, and read back over the very channel that brings
    the tasks. A worker whose hands are all full fetches nothing, so a full worker counts as alive.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, _consumer: Consumer, *, pulse_name: str = "", pulse_kind: str = "", **_: Any) -> None:
        self.worker = pulse_name
        self.kind = pulse_kind
        self.queue = Queue(f"leadengine.pulse.{uuid7().hex}", Exchange(""), exclusive=True, auto_delete=True)
        self.timer: Any = None
        self.expected = ""
        self.last_heard = 0.0

    def start(self, consumer: Any) -> None:
        """Listen and begin to ask; again after each reconnect."""
        channel = consumer.task_consumer.channel
        Subscription(channel, [self.queue], callbacks=[self._hear], no_ack=True).consume()
        self.last_heard = time.monotonic()
        self._ask(consumer)
        self.timer = consumer.timer.call_repeatedly(PERIOD, self._beat, (consumer,))
        self._write()

    def stop(self, _consumer: Consumer) -> None:
        """The connection is lost, or the worker ends."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def shutdown(self, _consumer: Consumer) -> None:
        """The worker has ended as it should."""
        try:
            remove_heartbeat(name=self.worker)
        except psycopg.Error as error:
            log.warning("heartbeat_not_removed", error=type(error).__name__)

    def _beat(self, consumer: Any) -> None:
        if len(state.reserved_requests) >= consumer.pool.num_processes:
            self.last_heard = time.monotonic()
        silent = time.monotonic() - self.last_heard
        if silent <= PERIOD * 1.5:
            self._write()
        elif silent > ALIVE:
            log.error("worker_deaf", worker=self.worker, seconds=round(silent))
            # It ends its tasks and exits with 1; whoever supervises it starts a new one.
            state.should_stop = 1  # type: ignore[assignment]
            return
        self._ask(consumer)

    def _ask(self, consumer: Any) -> None:
        self.expected = uuid7().hex
        try:
            with consumer.app.producer_or_acquire() as producer:
                producer.publish(self.expected, routing_key=self.queue.name, expiration=ALIVE)
        except (*UNAVAILABLE, *consumer.connection_errors) as error:
            log.warning("pulse_not_sent", error=type(error).__name__)

    def _hear(self, body: Any, _message: Any) -> None:
        if body == self.expected:
            self.last_heard = time.monotonic()

    def _write(self) -> None:
        try:
            write_heartbeat(name=self.worker, kind=self.kind)
        except psycopg.Error as error:
            log.warning("heartbeat_not_written", error=type(error).__name__)
