"""The only HTTP client to a broker: one call, its metrics, and what each answer means (spec/broker.md section 7)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import requests
from django.conf import settings
from django.db import connection
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from leadengine import metrics
from leadengine.errors import NotConfigured
from whatsapp import broker_health
from whatsapp.adapters.patience import time_left
from whatsapp.broker_errors import (
    RATE_PAUSE,
    BrokerAuth,
    BrokerError,
    BrokerFailed,
    BrokerTimeout,
    BrokerUnreachable,
    InstanceDisconnected,
    InstanceExists,
    InstanceNotFound,
    InvalidMedia,
    InvalidTo,
    MessageRejected,
    RateLimited,
    RiskPaused,
    UnsupportedOperation,
)

__all__ = [
    "KEPT",
    "REPEATS",
    "Answer",
    "BrokerAuth",
    "BrokerError",
    "BrokerFailed",
    "BrokerTimeout",
    "BrokerUnreachable",
    "InstanceDisconnected",
    "InstanceExists",
    "InstanceNotFound",
    "InvalidMedia",
    "InvalidTo",
    "MessageRejected",
    "RateLimited",
    "RiskPaused",
    "UnsupportedOperation",
    "call",
    "read_answer",
    "require_configured",
    "stream",
]

CONNECT_SECONDS = 5
REPEATS = (0.5, 2.0)  # seconds before a GET is tried again; nothing else is ever repeated
STREAM_SILENCE_SECONDS = 60  # a stream pings every 25 s
KEPT = 2048  # of an answer, for the attempt

_WORDS: dict[str, type[BrokerError]] = {
    "instance_offline": InstanceDisconnected,
    "message_service_unavailable": InstanceDisconnected,
    "poll_service_unavailable": InstanceDisconnected,
    "socket_unavailable": BrokerFailed,
    "instance_not_found": InstanceNotFound,
    "instance_exists": InstanceExists,
    "whatsapp_not_found": InvalidTo,
    "to_required": InvalidTo,
    "type_invalid": InvalidMedia,
    "risk_paused": RiskPaused,
    "send_queue_disabled": UnsupportedOperation,
    "send timeout": BrokerTimeout,
}
_BEGINNINGS: dict[str, type[BrokerError]] = {"media_": InvalidMedia, "to inválido": InvalidTo}
_TOO_LARGE = "request entity too large"


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer: `data` is its JSON (bytes when raw was asked for), `text` its first 2 KB without keys."""

    status: int
    data: Any
    text: str


def require_configured() -> None:
    """Raises: NotConfigured naming the variables that are missing (D5)."""
    values = {
        "WHATSAPP_BROKER_URL": settings.WHATSAPP_BROKER_URL,
        "WHATSAPP_BROKER_API_KEY": settings.WHATSAPP_BROKER_API_KEY,
        "WHATSAPP_WEBHOOK_HMAC_SECRET": settings.WHATSAPP_WEBHOOK_HMAC_SECRET,
    }
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise NotConfigured(missing)


def call(
    method: str,
    route: str,
    *,
    parts: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_ms: int | None = None,
    raw: bool = False,
) -> Answer:
    """Call the broker and return its 2xx JSON answer. `route` is a template such as `/instances/{id}/send-text`.

    `raw`: the answer is a file (a QR code), so any 2xx is good and its bytes are the data.

    Raises: NotConfigured; a BrokerError by the table of section 7. Must not be called inside a transaction: a broker
    that types for 28 s would hold its locks and its connection.
    """
    require_configured()
    if connection.in_atomic_block:
        raise RuntimeError("The broker must not be called inside a transaction or a scope.")
    request: dict[str, Any] = {
        "method": method,
        "url": settings.WHATSAPP_BROKER_URL + route.format(**{k: quote(v, safe="") for k, v in (parts or {}).items()}),
        "json": body,
        "params": params,
        "headers": {**(headers or {}), "x-api-key": settings.WHATSAPP_BROKER_API_KEY[0]},
        "timeout": (CONNECT_SECONDS, (timeout_ms or settings.WHATSAPP_BROKER_TIMEOUT_MS) / 1000),
        "allow_redirects": False,
    }
    budget = time_left()
    if budget is not None:
        request["timeout"] = (min(CONNECT_SECONDS, budget), budget)
    for pause in REPEATS if method == "GET" and budget is None else ():
        try:
            return _measured(method, route, request, raw)
        except BrokerUnreachable:
            time.sleep(pause)
    return _measured(method, route, request, raw)


def stream(route: str) -> Iterator[bytes]:
    """The lines of an event stream, for as long as it lives. Raises: NotConfigured, BrokerError."""
    require_configured()
    headers = {"x-api-key": settings.WHATSAPP_BROKER_API_KEY[0], "Accept": "text/event-stream"}
    timeout = (CONNECT_SECONDS, STREAM_SILENCE_SECONDS)
    _phase.connected = False
    try:
        response = _session().get(
            settings.WHATSAPP_BROKER_URL + route, headers=headers, timeout=timeout, allow_redirects=False, stream=True
        )
        with closing(response):
            if response.status_code != 200:
                read_answer(response.status_code, response.text)
            yield from response.iter_lines(chunk_size=None)
    except requests.RequestException as error:
        raise BrokerUnreachable(answer=type(error).__name__) from error


def _measured(method: str, route: str, request: Mapping[str, Any], raw: bool) -> Answer:
    began, result, status = time.perf_counter(), "ok", None
    try:
        answer = _call_once(request, raw)
        status = answer.status
        broker_health.record_success()
        return answer
    except BrokerError as error:
        result, status = error.code.lower(), error.http_status
        if error.ill:
            broker_health.record_failure(error.code)
        else:
            broker_health.record_success()
        raise
    finally:
        labels = {"route": route, "method": method, "status": str(status or "none"), "result": result}
        metrics.broker_requests.labels(**labels).inc()
        metrics.broker_request_seconds.labels(route=route).observe(time.perf_counter() - began)


def _call_once(request: Mapping[str, Any], raw: bool) -> Answer:
    _phase.connected = False
    try:
        response = _session().request(**request)
    except requests.RequestException as error:
        if not _phase.connected:
            raise BrokerUnreachable(answer=type(error).__name__) from error
        kind = BrokerTimeout if isinstance(error, requests.ReadTimeout) else BrokerFailed
        raise kind(answer=type(error).__name__) from error
    if raw and response.ok and response.status_code < 300:
        return Answer(response.status_code, response.content, "")
    return read_answer(response.status_code, response.text, response.headers.get("Retry-After", ""))


def read_answer(status: int, text: str, retry_after: str = "") -> Answer:
    """What an answer means: by its `error` word first, then by status; a body that is not JSON is never a success.

    Raises: a BrokerError by the table of section 7.
    """
    data, kept = _parse(text), _without_keys(text)
    said = data.get("error") if isinstance(data, dict) else None
    more: dict[str, Any] = {"http_status": status, "answer": kept}
    if 200 <= status < 300:
        if data is None or said:
            raise BrokerFailed(**more)
        return Answer(status, data, kept)
    word = said if isinstance(said, str) else ""
    known = _WORDS.get(word) or next((kind for start, kind in _BEGINNINGS.items() if word.startswith(start)), None)
    if known is not None:
        raise known(**more)
    if status == 413 or (isinstance(data, dict) and data.get("message") == _TOO_LARGE):
        raise InvalidMedia("O arquivo é grande demais para o WhatsApp.", **more)
    if status in {401, 403}:
        raise BrokerAuth(**more)
    if status == 429:
        raise RateLimited(retry_after=float(retry_after) if retry_after.isdigit() else RATE_PAUSE, **more)
    if status == 501 or (status in {404, 405} and data is None):
        raise UnsupportedOperation(**more)
    if 400 <= status < 500:
        raise MessageRejected(word[:300], **more)
    raise BrokerFailed(**more)


def _parse(text: str) -> Any:
    """The JSON object or list of a body; None for anything else, such as a page of HTML."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, dict | list) else None


def _without_keys(text: str) -> str:
    for key in settings.WHATSAPP_BROKER_API_KEY:
        text = text.replace(key, "[key]")
    return text[:KEPT]


# --- One connection per call ----------------------------------------------------------------------------------
#
# A connection that was kept may be closed by the broker in the very moment in which we write on it, and nobody could
# tell whether the message left: so each call has its own. And since it has its own, a failure before it stood proves
# that nothing left, whatever the exception's type.

_phase = threading.local()


class _Http(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _phase.connected = True


class _Https(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _phase.connected = True


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


@cache
def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy, no .netrc
    session.headers["Connection"] = "close"
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(max_retries=0, pool_maxsize=256))
    return session
