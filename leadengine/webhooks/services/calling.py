"""One try: signed, sent to an address that was checked, answered or not. No database here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from django.conf import settings
from django.utils import timezone

from leadengine.errors import ValidationFailed
from leadengine.ssrf import Blocked, Gate, Limits, TimedOut, Unreachable, look_up, post
from leadengine.webhooks import signing
from leadengine.webhooks.services.claiming import Claim

log = structlog.get_logger(__name__)

LIMITS = Limits(connect=3, read=10, total=10)  # seconds
MOST_ANSWER = 4096  # bytes of it that are kept
OK, HTTP_ERROR, GONE = "OK", "HTTP_ERROR", "GONE"
TIMEOUT, UNREACHABLE, BLOCKED = "TIMEOUT", "UNREACHABLE", "BLOCKED"
NO_SECRET, INTERNAL_ERROR = "NO_SECRET", "INTERNAL_ERROR"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try ended: OK for a 2xx, GONE for 410, HTTP_ERROR for any other answer, else why there is none."""

    code: str
    finished_at: datetime
    latency_ms: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    answer: str = ""


def call(claim: Claim) -> Outcome:
    """Send a delivery. Never raises."""
    began, body = time.monotonic(), claim.body.encode()
    headers, status, answer = {}, None, ""
    try:
        if not claim.secrets:
            code = NO_SECRET  # sealed with another SECRET_KEY: rotate it
        else:
            headers = {
                "content-type": "application/json",
                **signing.headers(
                    keys=claim.secrets, webhook_id=str(claim.event_id), timestamp=int(time.time()), body=body
                ),
            }
            reply = post(claim.url, gate(), body=body, headers=headers, limits=LIMITS, most_bytes=MOST_ANSWER)
            status, answer = reply.status, reply.head.decode("utf-8", "replace").replace("\0", "")
            code = OK if 200 <= status < 300 else GONE if status == 410 else HTTP_ERROR
    except Blocked as error:
        code, answer = BLOCKED, str(error)
    except TimedOut:
        code = TIMEOUT
    except Unreachable as error:
        code, answer = UNREACHABLE, str(error)
    except Exception:
        log.exception("webhook_call_broken", delivery_id=str(claim.delivery_id))
        code = INTERNAL_ERROR
    return Outcome(code, timezone.now(), int((time.monotonic() - began) * 1000), status, headers, answer)


def check_address(url: str) -> None:
    """Refuse an address that a delivery could not go to. Looks its name up: call it outside every scope.

    Raises: ValidationFailed (url).
    """
    if not url.isascii() or any(sign.isspace() or not sign.isprintable() for sign in url):
        _refuse("Escreva o endereço sem espaços nem acentos.")
    try:
        look_up(url, gate())
    except Blocked:
        _refuse("Use um endereço https público, sem usuário nem senha.")
    except Unreachable:
        _refuse("O nome deste endereço não foi encontrado.")


def gate() -> Gate:
    """Where webhooks may go."""
    return Gate(anywhere=settings.WEBHOOK_ALLOW_PRIVATE)


def _refuse(message: str) -> None:
    raise ValidationFailed([{"field": "url", "message": message}])
