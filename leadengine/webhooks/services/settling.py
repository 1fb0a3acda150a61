"""What became of a try, in one transaction: the delivery, the log, and how its endpoint is (spec/outbound.md 14)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection

from leadengine import metrics
from leadengine.accounts.scopes import tenant_scope
from leadengine.ids import uuid7
from leadengine.sql import dumps
from leadengine.webhooks.models import Delivery, Endpoint
from leadengine.webhooks.services.calling import GONE, OK, Outcome
from leadengine.webhooks.services.claiming import Claim
from leadengine.webhooks.services.endpoints import switch_off

PAUSES = (5, 60, 300, 1800, 7200, 21_600, 54_000)  # seconds after the first try, the second, …; then it is given up
SPREAD = 0.2
MOST_FAILURES, FAILING_FOR = 50, timedelta(hours=1)

_SETTLE = """
UPDATE webhooks_delivery SET status = %s, next_attempt_at = %s, claim_token = NULL, code = %s, response_status = %s,
    latency_ms = %s, finished_at = %s
WHERE id = %s AND status = 'SENDING' AND claim_token = %s
"""
# The delivery may be gone by now, and the try may stand there as lost: the truth, come late, replaces that.
_LOG = """
INSERT INTO webhooks_attempt (id, tenant_id, delivery_id, number, at, code, status, headers, answer, latency_ms)
SELECT %s, tenant_id, id, %s, %s, %s, %s, %s, %s, %s FROM webhooks_delivery WHERE id = %s
ON CONFLICT (delivery_id, number) DO UPDATE SET at = excluded.at, code = excluded.code, status = excluded.status,
    headers = excluded.headers, answer = excluded.answer, latency_ms = excluded.latency_ms
"""
_RECOVERED = "UPDATE webhooks_endpoint SET failures = 0, failing_since = NULL WHERE id = %s AND failures > 0"
_FAILED = """
UPDATE webhooks_endpoint SET failures = failures + 1, failing_since = coalesce(failing_since, %s)
WHERE id = %s RETURNING failures, failing_since
"""


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: str
    next_attempt_at: datetime | None
    result: str


def settle(*, claim: Claim, outcome: Outcome) -> None:
    """Write how a try ended. A delivery whose lease was lost meanwhile only gets its line in the log."""
    verdict = _judge(claim, outcome)
    with tenant_scope(claim.tenant_id), connection.cursor() as cursor:
        ended = outcome.finished_at if verdict.next_attempt_at is None else None
        cursor.execute(
            _SETTLE,
            [
                verdict.status, verdict.next_attempt_at, outcome.code, outcome.status, outcome.latency_ms, ended,
                claim.delivery_id, claim.token,
            ],
        )  # fmt: skip
        is_ours = bool(cursor.rowcount)
        cursor.execute(
            _LOG,
            [
                uuid7(), claim.number, outcome.finished_at, outcome.code, outcome.status, dumps(outcome.headers),
                outcome.answer, outcome.latency_ms, claim.delivery_id,
            ],
        )  # fmt: skip
        if is_ours:
            _judge_endpoint(claim, outcome)
            metrics.count(metrics.webhook_deliveries.labels(event=claim.type, result=verdict.result))


def _judge(claim: Claim, outcome: Outcome) -> _Verdict:
    if outcome.code == OK:
        return _Verdict(Delivery.Status.DELIVERED, None, "delivered")
    if outcome.code == GONE or claim.tries > len(PAUSES):
        return _Verdict(Delivery.Status.DEAD, None, "dead")
    pause = PAUSES[claim.tries - 1] * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - so that not all come at once
    return _Verdict(Delivery.Status.PENDING, outcome.finished_at + timedelta(seconds=pause), "retried")


def _judge_endpoint(claim: Claim, outcome: Outcome) -> None:
    with connection.cursor() as cursor:
        if outcome.code == OK:
            cursor.execute(_RECOVERED, [claim.endpoint_id])
            return
        cursor.execute(_FAILED, [outcome.finished_at, claim.endpoint_id])
        failures, since = cursor.fetchone()
    if outcome.code == GONE:
        switch_off(endpoint_id=claim.endpoint_id, reason=Endpoint.Off.GONE, now=outcome.finished_at)
    elif failures >= MOST_FAILURES and outcome.finished_at - since >= FAILING_FOR:
        switch_off(endpoint_id=claim.endpoint_id, reason=Endpoint.Off.FAILING, now=outcome.finished_at)
