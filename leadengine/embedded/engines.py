"""Starts the embedded PostgreSQL and Valkey under a supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from leadengine.embedded.postgres import EmbeddedPostgres
from leadengine.embedded.processes import UnableToStart
from leadengine.embedded.supervisor import Supervisor
from leadengine.embedded.valkey import EmbeddedValkey


async def start(supervisor: Supervisor, postgres: EmbeddedPostgres | None, valkey: EmbeddedValkey | None) -> None:
    """Start the servers that are not None at the same time, PostgreSQL with its roles and database.

    Raises: UnableToStart.
    """
    await together(
        *([_start_postgres(supervisor, postgres)] if postgres else []),
        *([_start_valkey(supervisor, valkey)] if valkey else []),
    )


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all at the same time; the first that is unable to start ends the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except* UnableToStart as failures:
        raise failures.exceptions[0] from None


async def _start_postgres(supervisor: Supervisor, postgres: EmbeddedPostgres) -> None:
    with supervisor.terminal.timed("postgres"):
        await asyncio.to_thread(postgres.prepare)
        await postgres.wait_ready(await supervisor.start(postgres.program()))
        await asyncio.to_thread(postgres.make_roles)


async def _start_valkey(supervisor: Supervisor, valkey: EmbeddedValkey) -> None:
    with supervisor.terminal.timed("valkey"):
        valkey.prepare()
        await valkey.wait_ready(await supervisor.start(valkey.program()))
