"""Who wants to know that a setting of a connection, a webhook or a queue has changed (spec/sessions.md P-07).

Services note the change; leadengine.operations, which they must not know, watches and keeps a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable

from django.db import transaction

Watcher = Callable[[str], None]
_watchers: list[Watcher] = []


class _Noted:
    """What was noted in one transaction: the watchers hear of it once, when it is committed."""

    def __init__(self, what: str) -> None:
        self.what = [what]

    def tell(self) -> None:
        for watcher in _watchers:
            watcher(", ".join(dict.fromkeys(self.what)))


def watch(watcher: Watcher) -> None:
    """Call `watcher` with the words of what changed after each commit that noted a change."""
    if watcher not in _watchers:
        _watchers.append(watcher)


def note_change(what: str) -> None:
    """Tell the watchers, once this transaction is committed, that a setting has changed; `what` holds no name or key.

    A watcher that fails is logged: the change itself is done by then.
    """
    for _savepoints, waiting, _robust in transaction.get_connection().run_on_commit:
        noted = getattr(waiting, "__self__", None)
        if isinstance(noted, _Noted):
            noted.what.append(what)
            return
    transaction.on_commit(_Noted(what).tell, robust=True)
