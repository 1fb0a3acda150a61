"""How long all calls to a broker may take together, when somebody waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_thread = threading.local()
_LEAST = 0.1  # seconds


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let all calls of this thread together take so long; nothing is tried twice in it."""
    before = getattr(_thread, "until", None)
    _thread.until = time.monotonic() + seconds
    try:
        yield
    finally:
        _thread.until = before


def time_left() -> float | None:
    """Seconds that a call may still take; None when nobody waits."""
    until: float | None = getattr(_thread, "until", None)
    return None if until is None else max(_LEAST, until - time.monotonic())
