"""A long log and a long backlog do not slow the claim: its statements walk indexes, a few rows for each endpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from leadengine.webhooks.models import Endpoint
from leadengine.webhooks.services.claiming import PER_ENDPOINT, Hands, claim_due
from tests.conftest import World
from tests.environment import NAME, SERVER
from tests.tickets.test_plans import nodes
from tests.webhooks.receiver import connect

LOGGED, WAITING = 20_000, 10_000
TABLES = {"webhooks_delivery", "webhooks_outgoingevent"}
# A log of endpoint `log`, and a backlog of endpoint `off`, a day old and due: its endpoint is switched off.
FILL = """
SET session_replication_role = replica;
CREATE TEMP TABLE e AS
SELECT gen_random_uuid() AS id, n, n <= {logged} AS ended FROM generate_series(1, {logged} + {waiting}) n;
INSERT INTO webhooks_outgoingevent (id, tenant_id, type, at, body)
SELECT id, '{tenant}', 'messages.new', now() - interval '1 day', '{{}}' FROM e;
INSERT INTO webhooks_delivery (id, tenant_id, endpoint_id, event_id, type, status, tries, attempts, next_attempt_at)
SELECT gen_random_uuid(), '{tenant}', CASE WHEN ended THEN '{log}'::uuid ELSE '{off}' END, id, 'messages.new',
    CASE WHEN ended THEN 'DELIVERED' ELSE 'PENDING' END, 1, 1, CASE WHEN NOT ended THEN now() - interval '1 day' END
FROM e;
INSERT INTO webhooks_delivery (id, tenant_id, endpoint_id, event_id, type, status, tries, attempts, next_attempt_at)
SELECT gen_random_uuid(), '{tenant}', '{behind}', id, 'messages.new', 'PENDING', 1, 1, now() - interval '1 hour'
FROM e WHERE NOT ended;
ANALYZE webhooks_delivery, webhooks_outgoingevent;
"""


def fill(world: World, log: Endpoint, off: Endpoint, behind: Endpoint, *, logged: int, waiting: int) -> None:
    text = FILL.format(
        tenant=world.ipe.pk, log=log.pk, off=off.pk, behind=behind.pk, logged=logged, waiting=waiting
    )  # fmt: skip
    with psycopg.connect(SERVER._replace(path=f"/{NAME}").geturl(), autocommit=True) as admin:
        admin.execute(text)


@contextmanager
def claims_explained() -> Iterator[list[dict[str, Any]]]:
    """Collects the plan of each statement on deliveries, as it really ran."""
    found: list[dict[str, Any]] = []

    def explain(execute: Callable[..., Any], sql: str, parameters: Any, many: bool, context: dict[str, Any]) -> Any:
        if "webhooks_delivery" in sql and not sql.startswith("INSERT"):
            cursor = context["cursor"].cursor
            cursor.execute("EXPLAIN (FORMAT JSON) " + sql, parameters)
            plan = cursor.fetchone()[0]
            found.append((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(explain):
        yield found


@pytest.mark.parametrize(("logged", "waiting"), [(LOGGED, WAITING)])
def test_a_claim_reads_no_table(committed_world: World, logged: int, waiting: int) -> None:
    world = committed_world
    log, behind = (connect(world.admin, "https://erp.example.test/")[0] for _ in range(2))
    off, _ = connect(world.admin, "https://erp.example.test/", enabled=False)
    fill(world, log, off, behind, logged=logged, waiting=waiting)
    with claims_explained() as plans:
        claimed = claim_due(now=timezone.now(), hands=Hands(32, 16))
    assert [claim.endpoint_id for claim in claimed] == [behind.pk] * PER_ENDPOINT
    assert len(plans) == 3, "who has something, what of it, and the claim"
    read = [node for plan in plans for node in nodes(plan) if node.get("Relation Name") in TABLES]
    assert read
    assert not [node for node in read if node["Node Type"] == "Seq Scan"]
    gathered = [node for plan in plans for node in nodes(plan) if node["Node Type"] in {"Sort", "Bitmap Heap Scan"}]
    assert all(node["Plan Rows"] <= 32 for node in gathered), "a backlog is not sorted for its first rows"
    began = time.perf_counter()
    assert claim_due(now=timezone.now(), hands=Hands(32, 16)) == [], "it has all it may have in flight"
    assert time.perf_counter() - began < 0.5
