"""The door of the broker: authenticate on the raw bytes, store, answer (spec/inbound.md sections 1 to 3)."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from leadengine import metrics
from leadengine.accounts.authentication import token_of
from leadengine.envelope import error_body
from leadengine.errors import DomainError
from leadengine.limiting import count_in_minute
from leadengine.slim import AsyncAPIView, BodyTooLarge, SlimRequest
from leadengine.wake import wake
from whatsapp.adapters import get_adapter
from whatsapp.services.intake import (
    Collector,
    InvalidWebhookJson,
    StorageUnavailable,
    count_ignored,
    parse_body,
    rejected_entry,
    split_entries,
)
from whatsapp.tasks import drain

log = structlog.get_logger(__name__)

_LARGE = 262_144  # from here on parsing would hold up the event loop: it goes to a thread
_REST = 0.01  # seconds between two wake-ups of one process: each costs a thread and a look into Redis
_collectors: dict[asyncio.AbstractEventLoop, Collector] = {}
_wakers: dict[asyncio.AbstractEventLoop, Waker] = {}


class Refused(DomainError):
    """Credencial ausente ou inválida."""

    code = "UNAUTHORIZED"
    status = 401

    def __init__(self, reason: str, message: str = "") -> None:
        self.reason = reason
        super().__init__(message)


class InvalidSignature(Refused):
    """Assinatura ausente ou inválida."""

    code = "INVALID_SIGNATURE"


class RateLimited(Refused):
    """Muitas tentativas sem credencial válida."""

    code = "RATE_LIMITED"
    status = 429


class WebhookView(AsyncAPIView):
    """`POST` events, `GET` the verification of the address. No session, no CSRF, no trust in forwarding headers."""

    async def get(self, request: SlimRequest) -> HttpResponse:
        token = settings.WHATSAPP_WEBHOOK_VERIFY_TOKEN
        sent = request.GET.get("hub.verify_token", "")
        right = hmac.compare_digest(sent.encode(), token.encode()) and bool(token)
        if request.GET.get("hub.mode") == "subscribe" and right:
            return HttpResponse(request.GET.get("hub.challenge", ""), content_type="text/plain")
        return _refusal(request, "FORBIDDEN", "Token de verificação inválido.", 403)

    async def post(self, request: SlimRequest) -> HttpResponse:
        began = time.perf_counter()
        received_at = datetime.now(UTC)
        try:
            check_key(request)
            raw = await self._read(request, received_at)
            check_signature(request, raw)
            queued = await self._store(request, raw, received_at)
        except Refused as error:
            return await _refuse(request, error)
        except DomainError as error:
            return _refusal(request, error.code, error.message, error.status, error.details)
        finally:
            metrics.webhook_ack_seconds.observe(time.perf_counter() - began)
        if not queued:
            return HttpResponse(status=204)
        body = json.dumps({"accepted": True, "queued": queued})
        return HttpResponse(body, status=202, content_type="application/json")

    def refuse_method(self, request: HttpRequest) -> HttpResponse:
        response = _refusal(request, "METHOD_NOT_ALLOWED", "Use POST (eventos) ou GET (verificação).", 405)
        response["Allow"] = "GET, POST"
        return response

    async def _read(self, request: SlimRequest, received_at: datetime) -> bytes:
        try:
            return await request.read_limited(settings.WHATSAPP_WEBHOOK_MAX_BODY_BYTES)
        except BodyTooLarge as error:
            await _keep_rejected(request, error.read, "body_too_large", received_at)
            raise

    async def _store(self, request: SlimRequest, raw: bytes, received_at: datetime) -> int:
        def prepare() -> Any:
            return split_entries(
                raw=raw, parsed=parse_body(raw), request_id=request.request_id, received_at=received_at
            )

        try:
            entries = await asyncio.to_thread(prepare) if len(raw) > _LARGE else prepare()
        except InvalidWebhookJson:
            await _keep_rejected(request, raw, "invalid_json", received_at)
            raise
        if not entries:
            metrics.webhook_events.labels(result="accepted", reason="empty", payload_type="none").inc()
            return 0
        try:
            sessions = await _collector().store(entries)
        except StorageUnavailable:
            metrics.webhook_events.labels(result="failed", reason="storage_unavailable", payload_type="none").inc()
            raise
        if any(sessions.values()):
            _wakers.setdefault(asyncio.get_running_loop(), Waker()).wake()
        return count_ignored(entries, sessions)


def check_key(request: SlimRequest) -> None:
    """X-API-Key decides when present, else a Bearer token, else X-Authorization. Raises: Refused.

    All valid keys are compared, each in constant time, whatever the first comparisons said.
    """
    sent = token_of(request.headers.get("X-API-Key"), request.headers.get("Authorization"))
    sent = sent or (request.headers.get("X-Authorization") or "").strip()
    keys: list[str] = settings.WHATSAPP_WEBHOOK_API_KEY
    if not keys:
        raise Refused("no_key_configured")
    if not sent:
        raise Refused("missing_authorization")
    if not _any_equal(sent.encode(), [key.encode() for key in keys]):
        raise Refused("invalid_api_key")


def check_signature(request: SlimRequest, raw: bytes) -> None:
    """The signature of the exact bytes, by the scheme of the broker. Raises: InvalidSignature."""
    if not get_adapter().verify_webhook(raw, request.headers):
        raise InvalidSignature("invalid_signature")


def _any_equal(sent: bytes, right: list[bytes]) -> bool:
    return bool(sum([hmac.compare_digest(sent, value) for value in right]))


def _collector() -> Collector:
    return _collectors.setdefault(asyncio.get_running_loop(), Collector())


class Waker:
    """Wakes the drain beside the event loop, since Redis may be away: at once, then for all that came meanwhile."""

    def __init__(self) -> None:
        self._busy = self._again = False

    def wake(self) -> None:
        """Call it after a commit: a drain that starts from now on sees what was committed."""
        if self._busy:
            self._again = True
            return
        self._busy = True
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(None, wake, drain, "inbound")
        done.add_done_callback(lambda _: loop.call_later(_REST, self._rested))

    def _rested(self) -> None:
        self._busy = False
        if self._again:
            self._again = False
            self.wake()


async def _keep_rejected(request: SlimRequest, raw: bytes, reason: str, received_at: datetime) -> None:
    metrics.webhook_events.labels(result="rejected", reason=reason, payload_type="none").inc()
    entry = rejected_entry(raw=raw, reason=reason, request_id=request.request_id, received_at=received_at)
    await _collector().store([entry])


async def _refuse(request: SlimRequest, error: Refused) -> HttpResponse:
    """Answer 401, or 429 once the address was refused too often within a minute."""
    most = settings.WHATSAPP_WEBHOOK_UNAUTH_PER_MINUTE
    wait = await asyncio.to_thread(count_in_minute, "webhook:refused", request.peer, most=most)
    if wait:
        error = RateLimited("rate_limited")
    metrics.webhook_events.labels(result="rejected", reason=error.reason, payload_type="none").inc()
    log.warning("webhook_refused", reason=error.reason)
    response = _refusal(request, error.code, error.message, error.status)
    if wait:
        response["Retry-After"] = str(wait)
    return response


def _refusal(
    request: HttpRequest, code: str, message: str, status: int, details: dict[str, Any] | None = None
) -> HttpResponse:
    body = error_body(code, message, details, getattr(request, "request_id", ""))
    response = HttpResponse(json.dumps(body, ensure_ascii=False), status=status, content_type="application/json")
    if details and "retryAfter" in details:
        response["Retry-After"] = str(details["retryAfter"])
    return response
