"""What every page gets: a request id, a strict content policy, and its measure. The webhook door uses none of this."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import structlog
from django.http import HttpRequest, HttpResponseBase

from leadengine import metrics
from leadengine.ids import uuid7

Handler = Callable[[HttpRequest], HttpResponseBase]
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# Django admin's theme needs inline styles and evaluated attributes; the looser policy stays under /admin/.
ADMIN_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def request_id_of(sent: str | None) -> str:
    """The caller's X-Request-Id when it is 1 to 128 printable ASCII characters, else a new one."""
    return sent if sent and _REQUEST_ID.fullmatch(sent) else uuid7().hex


class RequestIdMiddleware:
    """Names each request; the id is in the answer, in every log line and in every error."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.request_id = request_id_of(request.headers.get("X-Request-Id"))  # type: ignore[attr-defined]
        with structlog.contextvars.bound_contextvars(request_id=request.request_id):  # type: ignore[attr-defined]
            response = self.get_response(request)
        response["X-Request-Id"] = request.request_id  # type: ignore[attr-defined]
        return response


class ContentSecurityPolicyMiddleware:
    """The policy of spec/inbox.md section 18 on every page, a looser one under /admin/."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        admin = request.path.startswith("/admin/")
        response.headers.setdefault("Content-Security-Policy", ADMIN_POLICY if admin else POLICY)
        response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=(self)")
        return response


class MeasureMiddleware:
    """Counts and times each page by the name of its view.

    It is synchronous only, and last: Django then runs the whole chain and the view in one thread hop, where each of
    its own middlewares would otherwise make two (1.4 ms per request were measured).
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        began = time.perf_counter()
        response = self.get_response(request)
        match = request.resolver_match
        view = (match.view_name if match else "") or "unknown"
        labels = {"method": request.method or "", "view": view, "status": str(response.status_code)}
        metrics.http_requests.labels(**labels).inc()
        metrics.http_seconds.labels(**labels).observe(time.perf_counter() - began)
        return response
