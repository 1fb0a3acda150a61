"""Several sessions at a time, each by itself: one that is slow or broken holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog
from django.conf import settings
from django.db import connection

from leadengine.errors import NotConfigured
from whatsapp.broker_errors import BrokerError
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import PersistenceUnavailable

log = structlog.get_logger(__name__)


def for_each(sessions: Sequence[WhatsAppSession], work: Callable[[WhatsAppSession], None]) -> None:
    """Run `work` for each on WHATSAPP_RECOVERY_PARALLEL threads, until all have ended."""
    if not sessions:
        return

    def one(session: WhatsAppSession) -> None:
        try:
            with alone(session):
                work(session)
        finally:
            connection.close()  # each thread has its own

    with ThreadPoolExecutor(min(len(sessions), settings.WHATSAPP_RECOVERY_PARALLEL)) as pool:
        list(pool.map(one, sessions))


@contextmanager
def alone(session: WhatsAppSession) -> Iterator[None]:
    """What goes wrong with one session is logged and stops no other."""
    try:
        yield
    except (BrokerError, NotConfigured) as error:
        log.info("session_not_reached", session_id=str(session.pk), error=error.code)
    except PersistenceUnavailable:
        log.warning("session_not_saved", session_id=str(session.pk))
    except Exception:
        log.exception("session_broken", session_id=str(session.pk))
