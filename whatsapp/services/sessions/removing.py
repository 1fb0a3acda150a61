"""The end of a connection: the wish to delete it, and what came of it at the broker."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from leadengine.errors import NotConfigured
from whatsapp.adapters import get_adapter
from whatsapp.adapters.patience import within
from whatsapp.broker_errors import BrokerError, InstanceNotFound
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.acting import carry_out
from whatsapp.services.sessions.looking import wire_name
from whatsapp.services.sessions.qr import READ_SECONDS
from whatsapp.services.sessions.wishes import Asker, delete_session

BrokerStatus = Literal["deleted", "not_found", "pending"]


def remove_session(*, session: WhatsAppSession, asker: Asker, now: datetime) -> tuple[WhatsAppSession, BrokerStatus]:
    """Take a session out of use, here and at the broker. Raises: PersistenceUnavailable.

    `not_found`: the broker did not have it. `pending`: it does not answer, and the sync goes on.
    """
    deleted = delete_session(session=session, asker=asker, now=now)
    try:
        there = _is_there(deleted)
    except (BrokerError, NotConfigured):
        return deleted, "pending"
    outcome = carry_out(session=deleted, asker=asker)
    return outcome.session, "pending" if outcome.pending else "deleted" if there else "not_found"


def _is_there(session: WhatsAppSession) -> bool:
    """Asked before, since the broker's delete does not tell. Raises: BrokerError, NotConfigured."""
    try:
        with within(READ_SECONDS):
            get_adapter().status(instance=wire_name(session))
    except InstanceNotFound:
        return False
    return True
