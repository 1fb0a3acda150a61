"""`bench send`: from a door to the broker, which answers at once (spec/quality.md Q7).

Floor and product are measured alternately in one run, on the same servers, with fsync on. After each measurement the
rows are counted: what the door accepted is sent, each message once, and the broker has each once. Pace, admission and
the broker's declared window are lifted, for they would be measured instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from kombu import Connection

from leadengine.embedded import serve
from leadengine.operations.bench import floors, ingest
from leadengine.operations.bench.backlog import fill_backlog
from leadengine.operations.bench.bodies import introductions
from leadengine.operations.bench.ingest import PIPELINE, Say
from leadengine.operations.bench.load import Plan
from leadengine.operations.bench.report import Ratio, Report, describe
from leadengine.operations.bench.stage import Failed, Stage, open_stage

CAUGHT_UP = 0.5  # seconds of the offered load that may wait at the end
DOOR_MS = 100  # what Q7 allows the door meanwhile
SETTINGS = {
    "REDIS_RATE_LIMIT_RPM": "0", "OUTBOUND_TPS_DEFAULT": "100000", "WHATSAPP_BROKER_API_KEY": "bench-broker-key",
}  # fmt: skip
SENDER = "sender alone (messages/s)"
_ENDED = """SELECT count(*) FILTER (WHERE status IN ('QUEUED', 'SENDING')), count(*) FILTER (WHERE status = 'SENT'),
    count(*) FROM tickets_message WHERE direction = 'OUTBOUND'"""


@dataclass(frozen=True, slots=True)
class Size:
    """How long each part takes. `offers` are shares of F3."""

    runs: int
    servers: tuple[str, ...]
    transactions: int  # of each client of pgbench
    backlog: int  # messages
    seconds: float
    offers: tuple[float, ...]


FULL = Size(3, serve.SERVERS, 1000, 1200, 8, (0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05))
SHORT = Size(1, ("daphne",), 100, 300, 3, (0.25, 0.15, 0.1, 0.05))


async def bench_send(*, data_dir: Path, size: Size, say: Say) -> Report:
    """Measure everything; nothing is left behind. Raises: Failed, leadengine.embedded.processes.UnableToStart."""
    say("starting servers of its own")
    async with open_stage(data_dir) as stage, _broker(stage) as broker:
        servers = [name for name in size.servers if not serve.missing_for(name)]
        caught = await ingest.catch_statements(stage)
        report = Report(describe(*ingest.server_versions(stage)))
        for run in range(1, size.runs + 1):
            say(f"run {run} of {size.runs}: floor")
            rate = await floors.measure_pipeline(stage, caught, run=run, transactions=size.transactions)
            report.add(PIPELINE, "messages/s", rate)
            for number, server in enumerate(servers):
                say(f"run {run} of {size.runs}: {server}")
                await _measure(stage, broker, report, run * 100 + number * 10, size, server)
        _judge(report, servers)
        return report


@asynccontextmanager
async def _broker(stage: Stage) -> AsyncIterator[str]:
    """The broker, and a product that knows it."""
    stage.settings = SETTINGS
    async with stage.simulator() as url:
        stage.settings = {**SETTINGS, "WHATSAPP_BROKER_URL": url}
        yield url


async def _measure(stage: Stage, broker: str, report: Report, run: int, size: Size, server: str) -> None:
    """The sender over a backlog, and the rate that door and sender hold together."""
    async with _product(stage, broker, server) as (port, doors):
        plan = Plan("doors", port, stage.lines, 1, run, connections=8, rate=size.backlog, doors=doors)
        result = await stage.load(plan)
        _check_door(result.statuses)
        async with stage.sender():
            await stage.ready(0, "sender")
            await _empty(stage)
            report.add(SENDER, "messages/s", size.backlog / _sending_seconds(stage))
            written, held = size.backlog, False
            for place, share in enumerate(size.offers, 1):
                rate = report.measures[PIPELINE].runs[-1] * share
                plan = Plan(
                    "doors", port, stage.lines, size.seconds, run + place, connections=8, rate=rate, doors=doors
                )
                result = await stage.load(plan)
                waiting = int(stage.sql(_ENDED)[0][0])
                _check_door(result.statuses)
                await _empty(stage)
                written += plan.messages
                in_time = result.seconds <= plan.seconds * 1.05 + 0.2
                if held := in_time and waiting <= rate * CAUGHT_UP:
                    break
            await _check_sent(stage, broker, written)
    report.add(_path(server), "messages/s", rate if held else 0.0)
    report.add(_door(server, "p50"), "ms", result.p50)
    report.add(_door(server, "p95"), "ms", result.p95)


def _judge(report: Report, servers: list[str]) -> None:
    """The best server's share of F3, and its door."""
    best = servers[-1]
    for server in servers:
        target = 0.25 if server == best else None
        report.compare(f"Q7 door to broker on {server} / F3", _path(server), PIPELINE, target)
        p95 = report.measures[_door(server, "p95")].median
        limit = 1.0 if server == best else None
        report.ratios.append(Ratio(f"Q7 door p95 on {server} / {DOOR_MS} ms", p95 / DOOR_MS, limit, at_most=True))
    report.compare("sender alone / F3", SENDER, PIPELINE)


@asynccontextmanager
async def _product(stage: Stage, broker: str, server: str) -> AsyncIterator[tuple[int, list[list[str]]]]:
    """A web process, and tickets of contacts that have written; gives its port and the doors of the tickets."""
    stage.wipe()
    stage.sql("""UPDATE whatsapp_sessions SET capabilities = '{"rate": null}'""")
    async with aiohttp.ClientSession(headers={"x-api-key": SETTINGS["WHATSAPP_BROKER_API_KEY"]}) as session:
        await _listens(session, broker)
        await _call(session, "POST", f"{broker}/_sim/reset")
        for line in stage.lines:
            await _call(session, "POST", f"{broker}/_sim/{line}/open")
    async with stage.worker():
        await stage.ready(0, "worker")
        fill_backlog(stage.url(), introductions(stage.lines))
        await ingest.drain(stage)
    tokens = dict(zip(stage.lines, stage.tokens, strict=True))
    rows = stage.sql(
        """SELECT s.connection_id, t.id FROM tickets_ticket t JOIN whatsapp_sessions s ON s.id = t.session_id
           ORDER BY t.number, s.connection_id"""
    )
    async with stage.web(server) as port:
        await stage.ready(port)
        yield port, [[tokens[line], f"/api/tickets/{ticket}/messages"] for line, ticket in rows]


async def _empty(stage: Stage) -> None:
    """Wake the sender of every line, and wait until nothing is to be sent."""
    from leadengine.celery import SENDING, app

    lines = stage.sql("SELECT id FROM whatsapp_sessions WHERE connection_id = ANY(%s)", [stage.lines])
    with Connection(stage.valkey.url) as connection:
        for (line,) in lines:
            app.send_task("tickets.send_due", kwargs={"session_id": str(line)}, queue=SENDING, connection=connection)
    end = time.monotonic() + 300
    while stage.sql(_ENDED)[0][0]:
        if time.monotonic() > end:
            raise Failed("The sender does not empty the outbox.")
        await asyncio.sleep(0.03)


def _sending_seconds(stage: Stage) -> float:
    """From the first claim to the last answer: the sender began by itself, when it was there."""
    sql = "SELECT extract(epoch FROM max(finished_at) - min(claimed_at)) FROM tickets_outboundattempt"
    return float(stage.sql(sql)[0][0])


def _check_door(statuses: dict[str, int]) -> None:
    if set(statuses) != {"202"}:
        raise Failed(f"The door answered {statuses}")


async def _check_sent(stage: Stage, broker: str, expected: int) -> None:
    """Each message of the load is there once, SENT, and at the broker once."""
    waiting, sent, stored = (int(value) for value in stage.sql(_ENDED)[0])
    async with aiohttp.ClientSession(headers={"x-api-key": SETTINGS["WHATSAPP_BROKER_API_KEY"]}) as session:
        pages = [await _call(session, "GET", f"{broker}/_sim/{line}/sent") for line in stage.lines]
    texts = [one["text"] for page in pages for one in page]
    if (waiting, sent, stored, len(texts), len(set(texts))) != (0, expected, expected, expected, expected):
        raise Failed(f"Of {expected} messages {stored} are stored, {sent} sent, {len(texts)} at the broker")


async def _listens(session: aiohttp.ClientSession, broker: str) -> None:
    """Wait until the broker listens."""
    end = time.monotonic() + 30
    while True:
        try:
            await _call(session, "GET", f"{broker}/_sim/state")
            return
        except aiohttp.ClientConnectionError:
            if time.monotonic() > end:
                raise Failed("The broker does not start.") from None
            await asyncio.sleep(0.05)


async def _call(session: aiohttp.ClientSession, method: str, url: str) -> Any:
    async with session.request(method, url, json={} if method == "POST" else None) as answer:
        answer.raise_for_status()
        return await answer.json()


def _path(server: str) -> str:
    return f"door to broker held, {server} (messages/s)"


def _door(server: str, quantile: str) -> str:
    return f"door {quantile}, {server} (ms)"
