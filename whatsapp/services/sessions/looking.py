"""Looking at a session: at its row, and at the broker."""

from __future__ import annotations

from uuid import UUID

from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from whatsapp.adapters import SessionState, get_adapter
from whatsapp.broker_errors import InstanceNotFound
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.changing import Origin
from whatsapp.services.sessions.observing import observe


def load_session(session_id: UUID) -> WhatsAppSession | None:
    """A session of any tenant, as it is now: for the sync, and for edges that have checked who asks."""
    with service_scope("one session"):
        session: WhatsAppSession | None = WhatsAppSession.objects.filter(pk=session_id).first()
    return session


def look(session: WhatsAppSession, *, origin: Origin, contradicted: bool = False) -> SessionState | None:
    """Ask the broker how a session is and bring the row in line; None when it has lost it.

    Raises: BrokerError.
    """
    began = timezone.now()
    try:
        state = get_adapter().status(instance=wire_name(session))
    except InstanceNotFound:
        return None
    observe(
        session_id=session.pk, tenant_id=session.tenant_id, state=state, began=began, origin=origin,
        now=timezone.now(), contradicted=contradicted,
    )  # fmt: skip
    return state


def wire_name(session: WhatsAppSession) -> str:
    """What the broker calls a session."""
    return session.broker_instance_id or session.connection_id
