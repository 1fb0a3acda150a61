"""How our loops end: on the signals that a supervisor and a person send."""

from __future__ import annotations

import signal
from threading import Event


def stop_on_signals() -> Event:
    """An event that SIGTERM and Ctrl-C set. Call it in the main thread."""
    stopped = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
