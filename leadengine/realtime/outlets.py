"""Who hears of every event in its transaction, by dotted paths in settings.EVENT_OUTLETS: the way up from here.

A socket may miss an event; an outlet may not. What it writes commits, or is rolled back, with what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

from django.conf import settings
from django.utils.module_loading import import_string

from leadengine.realtime.events import Event

# What outlets note while a transaction lasts, so that each question is asked once in it; they choose the keys.
Memo = dict[Any, Any]


@dataclass(frozen=True, slots=True)
class Offer:
    """An event that happens. `data` gives its JSON as sockets get it, in full; it may cost something."""

    event: Event
    data: Callable[[], str]


class Outlet(Protocol):
    """Called in the thread, scope and transaction of whoever broadcasts."""

    def take(self, offers: Sequence[Offer], memo: Memo) -> bool:
        """Write what is wanted of events, all of one transaction. True: `committed` shall be called."""
        ...

    def committed(self) -> None:
        """The transaction of what was taken has committed. Runs outside every scope."""
        ...


@cache
def outlets() -> tuple[Outlet, ...]:
    """The outlets named in the settings."""
    return tuple(cast("Outlet", import_string(path)()) for path in settings.EVENT_OUTLETS)
