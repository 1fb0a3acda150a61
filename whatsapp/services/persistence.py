"""The one way to write sessions and atendimentos: retried, counted, and nothing acknowledged that is not committed.

Rule: spec/sessions.md section 4. A user's wish that cannot be saved is refused with 503 and leaves nothing; a fact that
is already true outside goes to the journal (`whatsapp.services.journal`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction

from leadengine import metrics
from leadengine.errors import DomainError

T = TypeVar("T")
log = structlog.get_logger("whatsapp.persistence")
_inside = threading.local()
Scope = Callable[[], AbstractContextManager[None]]


class PersistenceUnavailable(DomainError):
    """Não foi possível salvar agora. Nada mudou: tente de novo em alguns segundos."""

    code = "PERSISTENCE_UNAVAILABLE"
    status = 503

    def __init__(self) -> None:
        super().__init__(retryAfter=5)


def persist(operation: str, write: Callable[[], T], *, scope: Scope = nullcontext) -> T:
    """Run a write of the protected tables in `scope` and return what it returns, once it is committed.

    A lost connection, a deadlock or a serialization failure rolls back and is tried again after each of
    PERSISTENCE_RETRY_DELAYS_MS. Inside an open transaction it runs once: whoever opened it repeats it as a whole.
    Raises: PersistenceUnavailable, and whatever `write` raises.
    """
    if connection.in_atomic_block:
        with scope(), saving():
            result = write()
        transaction.on_commit(partial(_note, operation, "success", 1))  # what is rolled back was not saved
        return result
    pauses = [*settings.PERSISTENCE_RETRY_DELAYS_MS, None]
    for attempt, pause in enumerate(pauses, start=1):
        try:
            with scope(), saving():
                result = write()
        except (OperationalError, InterfaceError) as error:
            reason = type(error.__cause__ or error).__name__
            connection.close_if_unusable_or_obsolete()
            if pause is None:
                _note(operation, "error", attempt, reason)
                raise PersistenceUnavailable from error
            _note(operation, "retry", attempt, reason)
            time.sleep(pause / 1000)
        else:
            _note(operation, "success", attempt)
            return result
    raise AssertionError("the last pause is None")


@contextmanager
def saving() -> Iterator[None]:
    """Let this thread write the protected tables. `persist` enters it; strict mode refuses any write outside."""
    before = is_saving()
    _inside.saving = True
    try:
        yield
    finally:
        _inside.saving = before


def is_saving() -> bool:
    """Whether this thread is inside `persist`."""
    return getattr(_inside, "saving", False)


def _note(operation: str, result: str, attempt: int, reason: str = "") -> None:
    metrics.persistence_operations.labels(operation=operation, result=result).inc()
    if reason:
        metrics.persistence_errors.labels(operation=operation, reason=reason).inc()
        log.warning("persistence_" + result, operation=operation, attempt=attempt, reason=reason)
    else:
        log.info("persistence_success", operation=operation, attempt=attempt)
