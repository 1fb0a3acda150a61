"""The broker's stream of events: one subscriber per deployment, and an event only triggers a look (section 8).

Losing the stream loses nothing: the sync looks every few seconds anyway.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.db import DatabaseError, InterfaceError, close_old_connections, connection
from django.utils import timezone

from leadengine.celery import app
from leadengine.errors import NotConfigured
from leadengine.wake import wake
from whatsapp.adapters import get_adapter
from whatsapp.broker_errors import BrokerError
from whatsapp.services.sessions.maintaining import end_duty, take_duty
from whatsapp.services.sessions.syncing import find_by_wire_name

log = structlog.get_logger(__name__)
SYNC_TASK = "whatsapp.sync_session"  # by name: the task stands above the services it calls
NAME = "broker-events"
LEASE = 60.0  # seconds; the stream gives a sign of life every 25
RENEW = 10.0
_AGAIN = 3.0
stopping = threading.Event()


def key_of(session_id: UUID | str) -> str:
    """The name under which wake-ups of a session's look are joined."""
    return f"sync:{session_id}"


def ask_for_look(session_id: UUID, *, source: str = "sse", contradicted: bool = False) -> None:
    """Let a worker look at one session soon."""
    task: Any = app.signature(SYNC_TASK)
    wake(task, key_of(session_id), session_id=str(session_id), source=source, contradicted=contradicted)


def start() -> threading.Thread:
    """Listen in the background of this process, until it ends."""
    thread = threading.Thread(target=listen, name=NAME, daemon=True)
    thread.start()
    return thread


def listen(*, until: Callable[[], bool] = stopping.is_set) -> None:
    """Follow the stream while this process has the lease; try again when it breaks, for ever."""
    holder = uuid4()
    try:
        while not until():
            _try_to_follow(holder, until)
            stopping.wait(_AGAIN)
    finally:
        with suppress(DatabaseError, InterfaceError):  # without it the lease ends by itself
            end_duty(name=NAME, holder=holder)
        connection.close()


def _try_to_follow(holder: UUID, until: Callable[[], bool]) -> None:
    try:
        if _lease(holder):
            _follow(holder, until)
    except (BrokerError, NotConfigured) as error:
        log.info("broker_stream_lost", error=error.code)
    except (DatabaseError, InterfaceError) as error:
        log.warning("broker_stream_without_database", error=type(error).__name__)
    finally:
        close_old_connections()


def _follow(holder: UUID, until: Callable[[], bool]) -> None:
    renewed = time.monotonic()
    for instance in get_adapter().watch():
        if until():
            return
        if time.monotonic() - renewed > RENEW:
            if not _lease(holder):
                return
            renewed = time.monotonic()
        if not instance:
            continue
        session_id = find_by_wire_name(instance)
        close_old_connections()
        if session_id is not None:
            ask_for_look(session_id)


def _lease(holder: UUID) -> bool:
    return take_duty(name=NAME, holder=holder, seconds=LEASE, now=timezone.now())
