"""Several sessions at a time: one whose broker is slow holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from django.conf import settings
from django.db import connection

from whatsapp.models import WhatsAppSession


def for_each(sessions: Sequence[WhatsAppSession], work: Callable[[WhatsAppSession], None]) -> None:
    """Run `work` for each on WHATSAPP_RECOVERY_PARALLEL threads; what it raises is raised when all have ended."""
    if not sessions:
        return

    def one(session: WhatsAppSession) -> None:
        try:
            work(session)
        finally:
            connection.close()  # each thread has its own

    with ThreadPoolExecutor(min(len(sessions), settings.WHATSAPP_RECOVERY_PARALLEL)) as pool:
        list(pool.map(one, sessions))
