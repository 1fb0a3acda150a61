"""`bench ingest`: from a webhook to a stored message and to a screen (spec/quality.md Q1 to Q3).

Floors and product are measured alternately in one run, on the same servers, with fsync on. After each measurement the
rows are counted: what was acknowledged is stored, and each message once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kombu import Connection

from leadengine.embedded import serve
from leadengine.operations.bench import floors
from leadengine.operations.bench.backlog import fill_backlog
from leadengine.operations.bench.bodies import introductions, messages
from leadengine.operations.bench.capture import Caught
from leadengine.operations.bench.load import Plan
from leadengine.operations.bench.report import Report, describe
from leadengine.operations.bench.stage import FLOORS, Failed, Stage, open_stage

CAUGHT_UP = 0.5  # seconds of the offered load that may wait at the end: then the backlog does not grow
LATENCY_RATE = 50  # messages per second
INSERT, PIPELINE = "F1 insert of a raw event (rows/s)", "F3 one transaction per message (messages/s)"
DRAIN, PATH = "worker drain (messages/s)", "whole path held (messages/s)"


@dataclass(frozen=True, slots=True)
class Size:
    """How long each part takes."""

    runs: int
    servers: tuple[str, ...]
    floor_seconds: float
    door_seconds: float
    transactions: int  # of each client of pgbench
    backlog: int  # messages
    path_seconds: float
    latency_seconds: float
    offers: tuple[float, ...]


FULL = Size(3, serve.SERVERS, 5, 6, 1000, 20_000, 8, 10, (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1))
SHORT = Size(1, ("daphne",), 1.5, 1.5, 100, 1500, 2, 2, (0.5, 0.3))

Say = Callable[[str], None]


async def bench_ingest(*, data_dir: Path, size: Size, say: Say) -> Report:
    """Measure everything; nothing is left behind. Raises: Failed, leadengine.embedded.processes.UnableToStart."""
    say("starting servers of its own")
    async with open_stage(data_dir) as stage:
        servers = [name for name in size.servers if not serve.missing_for(name)]
        caught = await catch_statements(stage)
        report = Report(describe(*server_versions(stage)))
        for run in range(1, size.runs + 1):
            for part, name in ((_measure_door, "door"), (_measure_worker, "worker"), (_measure_path, "whole path")):
                say(f"run {run} of {size.runs}: {name}")
                await part(stage, report, caught, run, size, servers)
        _judge(report, servers)
        return report


async def catch_statements(stage: Stage) -> Caught:
    """The statements of one message, from the code as it is now."""
    module = "leadengine.operations.bench.capture"
    output = await stage.python("-m", module, given=stage.url(database=FLOORS), database=FLOORS)
    return Caught(**json.loads(output))


async def _measure_door(
    stage: Stage, report: Report, _caught: Caught, run: int, size: Size, servers: list[str]
) -> None:
    """F1, and for each server F2 and the webhooks accepted per second."""
    report.add(INSERT, "rows/s", await floors.measure_insert(stage, seconds=size.floor_seconds))
    for number, server in enumerate(servers):
        async with stage.web(server, constant=True) as port:
            await stage.ready(port)
            result = await stage.load(Plan("constant", port, stage.lines, size.floor_seconds, run))
            if set(result.statuses) != {"204"}:
                raise Failed(f"{server}: the constant answered {result.statuses}")
            report.add(f"F2 constant 204, {server} (requests/s)", "requests/s", result.sent / result.seconds)
        stage.wipe()
        async with stage.web(server) as port:
            await stage.ready(port)
            result = await stage.load(Plan("accept", port, stage.lines, size.door_seconds, run * 10 + number))
        stored = stage.sql("SELECT count(*) FROM whatsapp_webhookevent")[0][0]
        if set(result.statuses) != {"202"} or stored != result.warm_up + result.sent:
            raise Failed(f"{server}: answers {result.statuses}, rows {stored}, sent {result.warm_up} + {result.sent}")
        report.add(_door(server), "webhooks/s", result.sent / result.seconds)
        report.add(f"door p50, {server} (ms)", "ms", result.p50)
        report.add(f"door p99, {server} (ms)", "ms", result.p99)


async def _measure_worker(
    stage: Stage, report: Report, caught: Caught, run: int, size: Size, _servers: list[str]
) -> None:
    """F3, and the messages per second of one worker process over a backlog."""
    rate = await floors.measure_pipeline(stage, caught, run=run, transactions=size.transactions)
    report.add(PIPELINE, "messages/s", rate)
    stage.wipe()
    async with stage.worker():
        await stage.ready(0, "worker")
        await _introduce(stage)
        fill_backlog(stage.url(), messages(run, stage.lines, size.backlog))
        stage.sql("VACUUM ANALYZE whatsapp_webhookevent")
        began = time.perf_counter()
        await drain(stage)
        report.add(DRAIN, "messages/s", size.backlog / (time.perf_counter() - began))
        _check_messages(stage, size.backlog + len(list(introductions(stage.lines))))


async def _measure_path(
    stage: Stage, report: Report, _caught: Caught, run: int, size: Size, servers: list[str]
) -> None:
    """Web, worker and beat with the load beside them: the rate they hold, and the way from a webhook to a frame.

    Offered are shares of what door or worker did alone, the lesser one, until one is held.
    """
    for number, server in enumerate(servers):
        name = run * 10 + number * 100
        limit = min(report.measures[DRAIN].runs[-1], report.measures[_door(server)].runs[-1] / 2)
        async with _product(stage, server) as port:
            written = len(list(introductions(stage.lines)))
            for place, share in enumerate(size.offers):
                plan = Plan("path", port, stage.lines, size.path_seconds, name + place, rate=limit * share)
                written += plan.messages
                if held := await _holds(stage, plan):
                    break
            report.add(f"{PATH}, {server}", "messages/s", plan.rate if held else 0.0)
            plan = Plan("latency", port, stage.lines, size.latency_seconds, name + 9, rate=LATENCY_RATE)
            plan.tokens = stage.tokens
            result = await stage.load(plan)
            await drain(stage)
            _check_messages(stage, written + plan.messages)
        report.add(f"webhook to frame p50, {server} (ms)", "ms", result.p50)
        report.add(f"webhook to frame p99, {server} (ms)", "ms", result.p99)
        report.add(f"frames delivered, {server} (share)", "of 1", result.delivered / plan.messages)


async def _holds(stage: Stage, plan: Plan) -> bool:
    """Offer a rate; whether it was sent in time, all of it answered, and hardly anything waits at the end."""
    result = await stage.load(plan)
    waiting = _waiting(stage)
    await drain(stage)
    in_time = result.seconds <= plan.seconds * 1.05 + 0.2
    return in_time and set(result.statuses) == {"202"} and waiting <= 2 * plan.rate * CAUGHT_UP


def _judge(report: Report, servers: list[str]) -> None:
    """The ratios that spec/quality.md sets targets for, and those that help to read the table."""
    for server in servers:
        floor = f"F2 constant 204, {server} (requests/s)"
        report.compare(f"Q1 door on {server} / F2", _door(server), floor, 0.5 if server == "daphne" else None)
        report.compare(f"Q1 door on {server} / F1", _door(server), INSERT, 0.15 if server == "uvicorn" else None)
        names = (f"door p99, {server} (ms)", f"door p50, {server} (ms)")
        report.compare(f"Q1 door on {server}: p99 / p50", *names, 5, at_most=True)
    report.compare("Q2 worker / F3", DRAIN, PIPELINE, 1.0)
    best = servers[-1]
    for server in servers:
        target = 0.25 if server == best else None
        report.compare(f"Q2 whole path on {server} / F3", f"{PATH}, {server}", PIPELINE, target)
    for server in servers:
        names = (f"webhook to frame p99, {server} (ms)", f"webhook to frame p50, {server} (ms)")
        report.compare(f"Q3 webhook to frame on {server}: p99 / p50", *names)


@asynccontextmanager
async def _product(stage: Stage, server: str) -> AsyncIterator[int]:
    """Web, worker and beat, with contacts that have written before; gives the port."""
    stage.wipe()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(stage.web(server))
        await stack.enter_async_context(stage.worker())
        await stack.enter_async_context(stage.beat())
        await stage.ready(port, "worker", "beat")
        await _introduce(stage)
        yield port


async def _introduce(stage: Stage) -> None:
    """Let the known contacts write once, which warms the worker up, too."""
    fill_backlog(stage.url(), introductions(stage.lines))
    await drain(stage)


async def drain(stage: Stage) -> None:
    """Wake the worker and wait until nothing is pending."""
    from leadengine.celery import INBOUND, app

    end = time.monotonic() + 600
    with Connection(stage.valkey.url) as connection:
        app.send_task("whatsapp.drain", queue=INBOUND, connection=connection)
    while _waiting(stage):
        if time.monotonic() > end:
            raise Failed("The worker does not empty the inbox.")
        await asyncio.sleep(0.03)


def _waiting(stage: Stage) -> int:
    return int(stage.sql("SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'PENDING'")[0][0])


def _check_messages(stage: Stage, expected: int) -> None:
    """Each message of the load is there once, both its events have ended, and the unread counters add up."""
    sql = """SELECT (SELECT count(*) FROM tickets_message), (SELECT sum(inbound_count) FROM tickets_ticket),
             (SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'PROCESSED') / 2"""
    found = [int(value or 0) for value in stage.sql(sql)[0]]
    if found != [expected] * 3:
        raise Failed(f"Of {expected} messages there are {found} (messages, counted inbound, pairs of events)")


def _door(server: str) -> str:
    return f"door accepts, {server} (webhooks/s)"


def server_versions(stage: Stage) -> tuple[str, str]:
    """Of PostgreSQL and Valkey."""
    import redis

    client = redis.Redis.from_url(stage.valkey.url)
    information = client.info("server")
    client.close()
    return str(stage.sql("SHOW server_version")[0][0]), str(information.get("valkey_version", ""))
