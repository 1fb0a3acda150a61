"""Wake a coalesced task: many calls, one task in the queue.

A flag in Redis says that a wake-up is under way; the task clears it first, then works until nothing is left. The flag
lives 5 s, so a process that dies between flag and task costs at most that; the beat sweeper repairs it sooner.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery import Task
from django.db import transaction

from leadengine.celery import missed, publish
from leadengine.redis import UNAVAILABLE, ask, client

log = structlog.get_logger(__name__)
FLAG_SECONDS = 5


def wake_on_commit(task: Task[Any, Any], key: str, **ids: Any) -> None:
    """Wake a task when the running transaction has committed (at once when there is none)."""
    transaction.on_commit(lambda: wake(task, key, **ids))


def wake(task: Task[Any, Any], key: str, **ids: Any) -> bool:
    """Wake a task unless it is awake already. Never raises for an engine that is away; says whether it published."""
    try:
        if not ask(lambda server: server.set(f"wake:{key}", 1, nx=True, ex=FLAG_SECONDS)):
            return False
        return publish(task, **ids)
    except UNAVAILABLE as error:
        missed(task, error)
        return False


def awake(key: str) -> None:
    """Called by the task before it looks for work: whoever commits from now on must wake it again."""
    try:
        client().delete(f"wake:{key}")
    except UNAVAILABLE as error:
        log.warning("wake_flag_not_cleared", error=type(error).__name__)
