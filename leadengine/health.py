"""What /health, /healthz and /ready answer (spec/operations.md section 1). The checks register themselves.

Nothing here holds a tenant, user, session or host name, a URL or the text of an error: only codes and figures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

log = structlog.get_logger(__name__)

VERSION = "0.1.0"
PATIENCE = 1.0  # seconds that a check may take
KEPT = 2.0  # seconds that a good result is used again
KEPT_BAD = 0.25  # a bad one is looked at again sooner: whoever waits for readiness waits for this
VITAL = "database"  # the one check without which we are down

Facts = dict[str, Any]
Results = dict[str, Facts]

_began = time.monotonic()


@dataclass(frozen=True, slots=True)
class _Probe:
    names: tuple[str, ...]
    run: Callable[[], Results]
    otherwise: Callable[[], Results] | None  # given for a block, which has no `ok` to say that it failed

    def fail(self, code: str) -> Results:
        """What stands in the place of the results that did not come."""
        return self.otherwise() if self.otherwise else {name: {"ok": False, "code": code} for name in self.names}


@dataclass(frozen=True, slots=True)
class Report:
    """One examination. `checks` all hold `ok`; `blocks` are further parts of the page."""

    status: str = "ok"
    checks: Results = field(default_factory=dict)
    blocks: Results = field(default_factory=dict)
    at: float = float("-inf")

    @property
    def reason(self) -> str:
        """Why this process is not ready; empty when it is."""
        for name in (VITAL, "migrations"):
            if not self.checks.get(name, {"ok": True})["ok"]:
                return name
        return ""


class _Examiner:
    """Runs all probes at once, each at most PATIENCE seconds, and keeps the result for a moment."""

    def __init__(self) -> None:
        self.probes: list[_Probe] = []
        self.warnings: dict[str, Callable[[], bool]] = {}
        self.report = Report()
        self.stopping = False
        self.closed: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()
        self._running: dict[_Probe, Future[Results]] = {}
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="health")

    def examine(self) -> Report:
        """The state of the product, at most 2 s old."""
        with self._lock:
            age = time.monotonic() - self.report.at
            if age > (KEPT if self.report.status == "ok" else KEPT_BAD):
                self.report = self._examine()
            return self.report

    def _examine(self) -> Report:
        for probe in self.probes:
            # One that still hangs since last time is not started again beside itself.
            if probe not in self._running:
                self._running[probe] = self._threads.submit(probe.run)
        wait(self._running.values(), timeout=PATIENCE)
        checks: Results = {}
        blocks: Results = {}
        for probe in self.probes:
            (blocks if probe.otherwise else checks).update(self._collect(probe))
        failed = [name for name, facts in checks.items() if not facts["ok"]]
        status = "down" if VITAL in failed else "degraded" if failed else "ok"
        return Report(status, checks, blocks, time.monotonic())

    def _collect(self, probe: _Probe) -> Results:
        future = self._running[probe]
        if not future.done():
            return probe.fail("timeout")
        del self._running[probe]
        error = future.exception()
        if error is None:
            return future.result()
        log.warning("health_check_failed", checks=probe.names, error=type(error).__name__)
        return probe.fail("unavailable")


_examiner = _Examiner()


def register(*names: str, run: Callable[[], Results]) -> None:
    """Add checks: `run` gives `{name: {"ok": bool, …}}` for all of `names`, within a second, on a thread of its own."""
    _examiner.probes.append(_Probe(names, run, None))


def register_block(name: str, *, run: Callable[[], Facts], otherwise: Callable[[], Facts]) -> None:
    """Add a part beside `checks`, which does not decide the status; `otherwise` gives it when `run` cannot in time."""
    _examiner.probes.append(_Probe((name,), lambda: {name: run()}, lambda: {name: otherwise()}))


def register_warning(code: str, applies: Callable[[], bool]) -> None:
    """Add a code that /healthz lists under `warnings` while `applies()` is true."""
    _examiner.warnings[code] = applies


def begin_stopping() -> None:
    """From now on /ready is 503: the process has been told to end."""
    _examiner.stopping = True


def close_when(closed: Callable[[], bool]) -> None:
    """/ready is 503 while `closed()` is true."""
    _examiner.closed = closed


def examine() -> Report:
    """The state of the product, at most 2 s old."""
    return _examiner.examine()


@require_safe
@never_cache
def health(_request: HttpRequest) -> JsonResponse:
    """GET /health: that this process answers, and the last known status. No I/O."""
    return JsonResponse({"status": _examiner.report.status, "service": "leadengine", **_about("uptime")})


@require_safe
@never_cache
def healthz(_request: HttpRequest) -> JsonResponse:
    """GET /healthz: every part; 503 only when PostgreSQL is away."""
    report = examine()
    body = {
        "status": report.status,
        **_about("uptimeSeconds"),
        "checks": report.checks,
        "warnings": sorted(code for code, applies in _examiner.warnings.items() if applies()),
        **report.blocks,
    }
    return JsonResponse(body, status=503 if report.status == "down" else 200)


@require_safe
@never_cache
def ready(_request: HttpRequest) -> JsonResponse:
    """GET /ready: whether this process may get traffic."""
    reason = "stopping" if _examiner.stopping else examine().reason
    if not reason and _examiner.closed():  # asked last: without a database there is nobody to ask
        reason = "closed"
    if reason:
        return JsonResponse({"ready": False, "reason": reason}, status=503)
    return JsonResponse({"ready": True})


def seconds_up() -> float:
    """How long this process has been running."""
    return round(time.monotonic() - _began, 1)


def _about(uptime: str) -> Facts:
    return {
        "version": VERSION,
        uptime: seconds_up(),
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
