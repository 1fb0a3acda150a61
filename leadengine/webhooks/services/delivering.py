"""Delivering what is due: one loop in a process claims and settles; the calls run on threads without a database.

While the loop waits it holds no connection. Endpoints that fail or are slow share a part of the hands, one each, so
that however many of them there are, a quick endpoint finds a hand at once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from leadengine.webhooks.services.calling import Outcome, call
from leadengine.webhooks.services.claiming import Claim, Hands, claim_due
from leadengine.webhooks.services.settling import settle

log = structlog.get_logger(__name__)

HANDS = 32  # calls at once
TROUBLED_HANDS = 16  # of them, to endpoints that fail or are slow
SLOW_MS = 2000  # an answer that takes longer
SLOW_SECONDS = 60.0  # an endpoint counts as slow for so long after one, whatever it answers next
WAIT_SECONDS = 5.0  # before it looks again unasked
SETTLE_PAUSES = (0.2, 1.0, 5.0)  # seconds before the write is tried again; then the lease decides

stopping = threading.Event()  # set on SIGTERM: nothing more is claimed, what is on its way is finished
_signal = threading.Event()  # there may be work, or a call has ended
_busy = threading.Lock()
_slow: dict[UUID, float] = {}  # the endpoints with an answer that took long, and until when they count as slow


def deliver_due() -> int:
    """Deliver all that is due, until nothing is left; returns how many calls were made.

    Harmless when nothing is due. Where this process does it already, that loop is told to look again.
    """
    total = 0
    _signal.set()
    while _signal.is_set() and not stopping.is_set() and _busy.acquire(blocking=False):
        try:
            total += _run()
        finally:
            _busy.release()
    return total


def _run() -> int:
    """The loop of one process. It ends when nothing is due and nothing on its way."""
    total = 0
    flying: dict[Future[Outcome], Claim] = {}
    with ThreadPoolExecutor(HANDS, "webhook") as pool:
        while True:
            _signal.clear()
            for claim in _claim(flying):
                future = pool.submit(call, claim)
                flying[future] = claim
                future.add_done_callback(lambda _: _signal.set())
                total += 1
            if not flying:
                return total
            connection.close()  # back to the pool: a call may take ten seconds
            if not any(future.done() for future in flying):  # one may have ended before the signal was cleared
                _signal.wait(WAIT_SECONDS)
            for future in [one for one in flying if one.done()]:
                _settle(flying.pop(future), future.result())


def _claim(flying: dict[Future[Outcome], Claim]) -> list[Claim]:
    free = HANDS - len(flying)
    if stopping.is_set() or not free:
        return []
    for endpoint_id in [one for one, until in _slow.items() if until <= time.monotonic()]:
        del _slow[endpoint_id]
    troubled = sum(claim.failing or claim.endpoint_id in _slow for claim in flying.values())
    busy = Counter(claim.tenant_id for claim in flying.values())
    hands = Hands(free, TROUBLED_HANDS - troubled, frozenset(_slow), busy)
    try:
        return claim_due(now=timezone.now(), hands=hands)
    except (OperationalError, InterfaceError) as error:
        connection.close()
        if not flying:
            raise
        log.warning("webhooks_not_claimed", error=type(error).__name__)
        return []  # what is on its way is settled first


def _settle(claim: Claim, outcome: Outcome) -> None:
    """Write the outcome, again after a pause while the database is away; after that the lease decides."""
    if outcome.latency_ms > SLOW_MS:
        _slow[claim.endpoint_id] = time.monotonic() + SLOW_SECONDS
    for pause in (*SETTLE_PAUSES, None):
        try:
            settle(claim=claim, outcome=outcome)
            return
        except Exception as error:
            connection.close()
            if pause is None or not isinstance(error, OperationalError | InterfaceError):
                log.exception("webhook_not_settled", delivery_id=str(claim.delivery_id))
                return
            log.warning("webhook_settle_repeated", delivery_id=str(claim.delivery_id), error=type(error).__name__)
            time.sleep(pause)
