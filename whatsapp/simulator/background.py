"""Work that outlives the request that started it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()
T = TypeVar("T")


class Background:
    """Holds the running tasks, reports the ones that fail, and ends all of them together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts the work and keeps it alive: the loop itself holds tasks only weakly."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settle)
        return task

    def cancel(self) -> None:
        """Tells everything that still runs to end."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancels everything that still runs and waits for its end."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _settle(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("simulator_task_failed", exc_info=error)
