"""Fetching the files of messages: every one that is due, several at once, none in another's way.

One loop per process claims and settles in its own thread; the downloads run in threads that never touch the database.
While the loop waits it holds no connection. What is tried again gets a part of the hands only, and one tenant never
all of them, so a dead media server delays nobody else's file.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from leadengine.celery import app
from leadengine.ssrf import Blocked, Gate, TooManyRedirects, Unreachable
from leadengine.wake import wake_on_commit
from whatsapp.media import store
from whatsapp.media.crypto import Damaged
from whatsapp.media.fetching import Busy, Fetched, Gone, Interrupted, Rejected, TooLarge, fetch
from whatsapp.media.source import Plan, plan_of
from whatsapp.services.media_rows import (
    BACKOFF,
    KEYS_GRACE,
    Claim,
    Verdict,
    claim_media,
    renew_media,
    settle_media,
)

log = structlog.get_logger(__name__)

KEY = "media"
TASK = "whatsapp.fetch_media"
HANDS = 16  # downloads at once
RETRY_HANDS = 6  # of them, what is tried again
TENANT_HANDS = 8  # of them, one tenant
AT_ONCE = 4  # claimed by one statement
RENEW_SECONDS = 40
SETTLE_PAUSES = (0.2, 1.0, 5.0)  # seconds before the write is tried again; then the lease decides

stopping = threading.Event()  # set on SIGTERM: nothing more is claimed, what is on its way is put back
_signal = threading.Event()  # there may be work, or a download has ended
_busy = threading.Lock()


def wake_media() -> None:
    """Wake the fetching of files once the running transaction has committed."""
    # By name, not by import: the task stands above the services it calls.
    task: Any = app.signature(TASK)
    wake_on_commit(task, key=KEY)


def fetch_due() -> int:
    """Fetch every file that is due, until none is left; returns how many were taken.

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
    total, renewed = 0, time.monotonic()
    flying: dict[Future[Verdict], Claim] = {}
    with ThreadPoolExecutor(HANDS, "media") as pool:
        while True:
            _signal.clear()
            for claim in _claim(flying):
                future = pool.submit(_download, claim)
                flying[future] = claim
                future.add_done_callback(lambda _: _signal.set())
                total += 1
            if not flying:
                return total
            connection.close()  # back to the pool: a download may take minutes
            if not any(future.done() for future in flying):  # one may have ended before the signal was cleared
                _signal.wait(RENEW_SECONDS)
            for future in [one for one in flying if one.done()]:
                _settle(flying.pop(future), future.result())
            if time.monotonic() - renewed > RENEW_SECONDS:
                renewed = time.monotonic()
                _renew(list(flying.values()))


def _claim(flying: dict[Future[Verdict], Claim]) -> list[Claim]:
    """As many as there are hands for: first what was never tried, then what is tried again."""
    claims: list[Claim] = []
    for fresh in (True, False):
        while not stopping.is_set():
            held = [*flying.values(), *claims]
            again = sum(1 for one in held if one.attempts > 1)
            most = min(AT_ONCE, HANDS - len(held), HANDS if fresh else RETRY_HANDS - again)
            if most <= 0:
                break
            tenants = Counter(one.tenant_id for one in held)
            busy = [tenant for tenant, hands in tenants.items() if hands >= TENANT_HANDS]
            found = _try_claim(most, busy, fresh, idle=not held)
            claims += found
            if len(found) < most:
                break
    return claims


def _try_claim(most: int, busy: list[UUID], fresh: bool, *, idle: bool) -> list[Claim]:
    try:
        return claim_media(now=timezone.now(), most=most, busy=busy, fresh=fresh)
    except (OperationalError, InterfaceError):
        if idle:
            raise
        log.exception("media_claim_failed")
        connection.close()
        return []  # what is on its way is settled first


def _download(claim: Claim) -> Verdict:
    """Fetch and store one file, and say what becomes of it. Runs in a thread, without database."""
    began = time.monotonic()
    try:
        verdict = _try(claim)
    except Exception as error:
        log.exception("media_broken", media_id=str(claim.id))
        verdict = _again(claim, type(error).__name__, timezone.now())
    log.info(
        "media_fetched", media_id=str(claim.id), state=verdict.state, reason=verdict.reason, attempt=claim.attempts,
        seconds=round(time.monotonic() - began, 3),
    )  # fmt: skip
    return verdict


def _try(claim: Claim) -> Verdict:
    now = timezone.now()
    if claim.attempts > len(BACKOFF) + 1:  # its workers died over it
        return Verdict("failed", "gave_up", "worker_lost")
    plan = plan_of(claim.source, host=settings.WHATSAPP_MEDIA_HOST)
    if plan is None:
        if now < claim.created_at + KEYS_GRACE:
            return Verdict("pending", None, retry_at=claim.created_at + KEYS_GRACE, attempts=0)
        return Verdict("failed", "media_keys_missing", "media_keys_missing")
    try:
        fetched = _fetch(plan)
    except Blocked as error:
        log.warning("media_blocked", media_id=str(claim.id), why=str(error), hop=error.hop)
        return Verdict("failed", "blocked_address", "blocked_address")
    except Damaged as error:
        log.warning("media_damaged", media_id=str(claim.id), check=str(error))
        return Verdict("failed", "integrity", "integrity")
    except Gone:
        return Verdict("expired", "expired", "gone")
    except TooLarge:
        return Verdict("failed", "too_large", "too_large")
    except (Rejected, TooManyRedirects) as error:
        return Verdict("failed", "rejected", str(error) or "redirects")
    except Busy as error:
        return _again(claim, str(error), timezone.now())
    except Unreachable:
        return _again(claim, "network", timezone.now())
    except Interrupted:
        return Verdict("pending", None, retry_at=now, attempts=claim.attempts - 1)
    return _store(claim, fetched)


def _fetch(plan: Plan) -> Fetched:
    gate = Gate(frozenset(settings.WHATSAPP_MEDIA_ALLOWED_HOSTS))
    return fetch(plan, gate=gate, most_bytes=settings.WHATSAPP_MEDIA_MAX_BYTES, stopped=stopping.is_set)


def _store(claim: Claim, fetched: Fetched) -> Verdict:
    key = store.key_of(
        tenant_id=claim.tenant_id, session_id=claim.session_id, message_id=claim.message_id, at=claim.created_at,
        sha256=fetched.sha256, mime_type=fetched.mime_type,
    )  # fmt: skip
    try:
        with fetched.file:
            store.save(key, fetched.file, fetched.size)
    except store.FAILURES as error:
        log.exception("media_not_stored", media_id=str(claim.id))
        return _again(claim, f"storage_{type(error).__name__}", timezone.now())
    columns = {"size": fetched.size, "sha256": fetched.sha256, "mime_type": fetched.mime_type, "storage_key": key}
    return Verdict("ready", "ready", columns=columns)


def _again(claim: Claim, reason: str, now: datetime) -> Verdict:
    """Another try after a pause, or the end of the tries."""
    if claim.attempts > len(BACKOFF):
        return Verdict("failed", "gave_up", reason)
    return Verdict("pending", "retried", reason, retry_at=now + timedelta(seconds=BACKOFF[claim.attempts - 1]))


def _settle(claim: Claim, verdict: Verdict) -> None:
    """Write the outcome, again after a pause while the database is away; after that the lease decides."""
    for pause in (*SETTLE_PAUSES, None):
        try:
            if not settle_media(claim=claim, verdict=verdict, now=timezone.now()):
                log.warning("media_lease_lost", media_id=str(claim.id))
            return
        except Exception as error:
            connection.close()
            if pause is None or not isinstance(error, OperationalError | InterfaceError):
                log.exception("media_not_settled", media_id=str(claim.id))
                return
            log.warning("media_settle_repeated", media_id=str(claim.id), error=type(error).__name__)
            time.sleep(pause)


def _renew(claims: list[Claim]) -> None:
    try:
        renew_media(claims=claims, now=timezone.now())
    except (OperationalError, InterfaceError):
        log.exception("media_leases_not_renewed")
        connection.close()
