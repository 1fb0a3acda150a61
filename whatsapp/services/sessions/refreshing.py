"""Asking the broker now, because somebody wants to see how their connections are (spec/sessions.md section 6)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings

from leadengine.errors import DomainError, NotConfigured
from leadengine.limiting import count_in_minute
from whatsapp.adapters import get_adapter
from whatsapp.adapters.patience import within
from whatsapp.broker_errors import BrokerError
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.changing import Origin
from whatsapp.services.sessions.listening import ask_for_look
from whatsapp.services.sessions.looking import look
from whatsapp.services.sessions.parallel import for_each
from whatsapp.services.sessions.qr import READ_SECONDS

REFRESHES = 5  # a tenant's forced ones in a minute


class TooManyRefreshes(DomainError):
    """Atualizações demais. Aguarde um minuto: a lista se atualiza sozinha."""

    code = "RATE_LIMITED"
    status = 429


@dataclass(frozen=True, slots=True)
class Warned:
    """What could not be looked at, and why; `session` None: nothing could."""

    error: DomainError
    session: WhatsAppSession | None = None


def count_refresh(*, tenant_id: UUID | None) -> None:
    """Count a forced refresh of a tenant; None is the platform. Raises: TooManyRefreshes, with `retryAfter` seconds."""
    wait = count_in_minute("session-refresh", str(tenant_id), most=REFRESHES)
    if wait:
        raise TooManyRefreshes(retryAfter=wait, limit=REFRESHES)


def refresh_sessions(*, sessions: Sequence[WhatsAppSession], origin: Origin) -> list[Warned]:
    """Bring rows in line with the broker, for at most SESSION_ACTION_TIMEOUT_MS; returns what could not be.

    One cheap call first: a broker that is away costs one wait, not one for each session. A session that the broker has
    lost is left to a worker, which makes it again.
    """
    until = time.monotonic() + settings.SESSION_ACTION_TIMEOUT_MS / 1000
    warned: list[Warned] = []
    try:
        with within(READ_SECONDS):
            get_adapter().overview()
    except (BrokerError, NotConfigured) as error:
        return [Warned(error)]

    def one(session: WhatsAppSession) -> None:
        error = refresh_session(session=session, origin=origin, seconds=until - time.monotonic())
        if error is not None:
            warned.append(Warned(error, session))

    for_each(sessions, one)
    return warned


def refresh_session(
    *, session: WhatsAppSession, origin: Origin, seconds: float = READ_SECONDS
) -> BrokerError | NotConfigured | None:
    """Bring one row in line with the broker; what kept us from it, None when nothing did."""
    try:
        with within(seconds):
            if look(session, origin=origin) is None:
                ask_for_look(session.pk, source=origin.source)
    except (BrokerError, NotConfigured) as error:
        return error
    return None
