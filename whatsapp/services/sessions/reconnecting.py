"""Bringing back at once everything that is wanted and not connected, whatever pause the policy is in."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.listening import ask_for_look
from whatsapp.services.sessions.wishes import Asker, connect_session


def reconnect_all(*, asker: Asker, now: datetime, tenant_id: UUID | None = None) -> list[WhatsAppSession]:
    """Wish again for each session in the asker's scope that is wanted and not connected; a worker does it soon.

    `tenant_id` narrows it to one tenant. Returns the sessions as they are then. Raises: PersistenceUnavailable.
    """
    with asker.scope():
        wanted = WhatsAppSession.objects.filter(desired_state="connected", deleted_at=None, tenant__is_active=True)
        if tenant_id is not None:
            wanted = wanted.filter(tenant_id=tenant_id)
        sessions = list(wanted.exclude(status=WhatsAppSession.Status.CONNECTED).order_by("created_at"))
    wished = [connect_session(session=session, asker=asker, now=now, only_wanted=True) for session in sessions]
    for session in wished:
        ask_for_look(session.pk, source=asker.source)
    return wished
