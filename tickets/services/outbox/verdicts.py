"""What becomes of a row after a try: pure rules of spec/outbound.md section 8."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from tickets.transports import (
    LineOffline,
    OperatorNeeded,
    OutcomeUnknown,
    RateLimited,
    Refused,
    SendFailure,
    Sent,
)

RETRY_SECONDS = (2, 5, 15, 30, 60)
JITTER = 0.2
OFFLINE_SECONDS = 60
EXPIRED = "EXPIRED"
_EXPIRED_TEXT = "A mensagem não saiu a tempo."


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state that follows. `counted` is false where the try was none: the line was offline, or asked for a pause."""

    status: str
    error: dict[str, Any] | None = None
    wait_reason: str | None = None
    not_before: datetime | None = None
    counted: bool = True


def judge(*, result: Sent | SendFailure, before: str, attempts: int, accepted_at: datetime, now: datetime) -> Verdict:
    """The state after a try. `before` is SENDING, or UNCONFIRMED where the answer came after the lease.

    Who waited for the row went on once it was UNCONFIRMED: one that proves not to have left then ends, resendable.
    """
    if isinstance(result, Sent):
        return Verdict("SENT")
    if isinstance(result, OutcomeUnknown):
        return Verdict("UNCONFIRMED", _error(result, retryable=False))
    if isinstance(result, Refused):
        return Verdict("FAILED", _error(result, retryable=False))
    error = _error(result, retryable=True)
    if before == "UNCONFIRMED":
        return Verdict("FAILED", error)
    if now - accepted_at > timedelta(seconds=settings.OUTBOUND_MAX_AGE_SECONDS):
        return Verdict("FAILED", expired(result.code))
    if isinstance(result, OperatorNeeded):
        return Verdict("QUEUED", error, "RISK_PAUSED", counted=False)
    if isinstance(result, LineOffline):
        return Verdict("QUEUED", error, "SESSION_OFFLINE", now + timedelta(seconds=OFFLINE_SECONDS), counted=False)
    if isinstance(result, RateLimited):
        pause = result.retry_after * random.uniform(1, 1 + JITTER)  # noqa: S311 - spreads load, no secret
        return Verdict("QUEUED", error, "PACING", now + timedelta(seconds=pause), counted=False)
    if attempts >= settings.OUTBOUND_MAX_ATTEMPTS:
        return Verdict("FAILED", expired(result.code))
    return Verdict("QUEUED", error, "RETRY", now + timedelta(seconds=retry_seconds(attempts)))


def retry_seconds(attempts: int) -> float:
    """How long to wait after so many tries: 2, 5, 15, 30, then 60 s, each give or take a fifth."""
    pause = RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1]
    return pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads load, no secret


def expired(cause: str | None) -> dict[str, Any]:
    """The error of a row that waited too long, or was tried too often."""
    return {"code": EXPIRED, "message": _EXPIRED_TEXT, "retryable": True, "cause": cause}


def _error(failure: SendFailure, *, retryable: bool) -> dict[str, Any]:
    return {"code": failure.code, "message": failure.message, "retryable": retryable}
