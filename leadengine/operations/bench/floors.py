"""The floors F1 and F3 of spec/quality.md, by pgbench, on the very server that the product uses in the same run."""

from __future__ import annotations

import asyncio
import os
import re
import zlib
from pathlib import Path

from leadengine.accounts.scopes import SERVICE_ROLE
from leadengine.operations.bench.bodies import Writer, Written
from leadengine.operations.bench.capture import Caught
from leadengine.operations.bench.load import BODY
from leadengine.operations.bench.script import IDS, STEP, made_id, write_script
from leadengine.operations.bench.stage import CLIENTS, FLOORS, Failed, Stage

NEW_SHARE = (1, 4)  # one transaction for a new contact to four for known ones: as the load mixes them

_INSERT = """INSERT INTO whatsapp_webhookevent (id, tenant_id, session_id, instance_id, kind, status, slot, body,
    queued, reason, request_id, received_at, due_at, processed_at)
VALUES (gen_random_uuid(), '{tenant}', '{session}', 'bench-0', 'MESSAGE_INBOUND', 'PROCESSED', 1, '\\x{body}', 1, '',
    '0123456789abcdef0123456789abcdef', now(), now(), now());
"""


async def measure_insert(stage: Stage, *, seconds: float) -> float:
    """F1: rows per second of one raw event row of the same size, eight clients, prepared."""
    sql = "SELECT tenant_id, id FROM whatsapp_sessions WHERE connection_id = %s"
    tenant, session = stage.sql(sql, [stage.lines[0]], database=FLOORS)[0]
    body = zlib.compress(Writer(BODY).twins(Written(1, 1, stage.lines[0], "5511900000001"))[0], 1).hex()
    script = stage.data_dir / "insert.sql"
    script.write_text(_INSERT.format(tenant=tenant, session=session, body=body))
    # As the door does: the service role, past row level security.
    options = {"PGOPTIONS": f"-c role={SERVICE_ROLE}"}
    return await _pgbench(stage, "-T", str(max(1, round(seconds))), "-f", str(script), environment=options)


async def measure_pipeline(stage: Stage, caught: Caught, *, run: int, transactions: int) -> float:
    """F3: messages per second of the drain's own statements, one transaction per message, eight clients, prepared."""
    first = run * 1_000_000
    _fill_events(stage, caught, first, transactions)
    files = []
    for name, statements, weight in (("new", caught.new, NEW_SHARE[0]), ("known", caught.known, NEW_SHARE[1])):
        path = stage.data_dir / f"{name}.sql"
        path.write_text(write_script(statements, caught.columns))
        files += ["-f", f"{path}@{weight}"]
    return await _pgbench(
        stage, "-t", str(transactions), "-D", f"n={first}", "-D", f"first={first + 1}", *files, environment={}
    )  # fmt: skip


def _fill_events(stage: Stage, caught: Caught, first: int, transactions: int) -> None:
    """The raw events that the transactions will claim: two for each, under the ids that they will name."""
    values = ", ".join(f"({place}, '{kind}', '\\x{body}'::bytea)" for place, (kind, body) in enumerate(caught.events))
    number = f"((l.client + 1) * {STEP}::bigint + n) * {IDS} + e.place"
    stage.sql(
        f"""INSERT INTO whatsapp_webhookevent (id, tenant_id, session_id, instance_id, kind, body, received_at, due_at)
            SELECT {made_id(number)}::uuid, l.accounts_tenant_0::uuid, l.whatsapp_sessions_0::uuid, 'client', e.kind,
                e.body, now(), '2000-01-01'
            FROM bench_lines l, generate_series({first + 1}, {first + transactions}) n,
                (VALUES {values}) e (place, kind, body)""",  # noqa: S608
        database=FLOORS,
    )
    stage.sql("VACUUM ANALYZE whatsapp_webhookevent", database=FLOORS)


async def _pgbench(stage: Stage, *words: str, environment: dict[str, str]) -> float:
    """Transactions per second. Raises: Failed when one of them failed."""
    program = str(Path(stage.postgres.source) / "pgbench")
    process = await asyncio.create_subprocess_exec(
        program, "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2", *words, stage.url("app", FLOORS),
        env={"PATH": os.defpath, **environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = (part.decode() for part in await process.communicate())
    rate = re.search(r"^tps = ([\d.]+)", output, re.M)
    if process.returncode or rate is None or "number of failed transactions: 0 " not in output:
        raise Failed(f"pgbench failed: {errors[-2000:]}{output[-500:]}")
    return float(rate[1])
