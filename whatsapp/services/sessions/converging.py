"""Bringing the broker to what the owner wants: the one function that the edges and the sync call (section 3).

No transaction is open while the broker is called; each answer is written by itself.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from leadengine.errors import NotConfigured
from whatsapp.adapters import get_adapter
from whatsapp.adapters.patience import within
from whatsapp.broker_errors import BrokerError, InstanceNotFound, InvalidTo, MessageRejected, UnsupportedOperation
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import PersistenceUnavailable
from whatsapp.services.sessions import states
from whatsapp.services.sessions.changing import Change, Origin, change_session, moved
from whatsapp.services.sessions.looking import load_session, look, wire_name
from whatsapp.services.sessions.qr import fetch_qr
from whatsapp.services.sessions.states import Trigger

log = structlog.get_logger(__name__)
Wish = WhatsAppSession.Wish
_REFUSALS = (InvalidTo, MessageRejected, UnsupportedOperation)


def converge(*, session_id: UUID, origin: Origin, seconds: float | None = None) -> bool:
    """Do at the broker what is wanted of a session and is not done; False when that is still pending.

    `seconds`: how long somebody waits for it. What does not succeed is tried again by the sync.
    """
    try:
        session = load_session(session_id)
        if session is None:
            return True
        get_adapter().require_configured()
        if seconds is None:
            return _converge(session, origin)
        with within(seconds):
            return _converge(session, origin)
    except (BrokerError, NotConfigured, PersistenceUnavailable) as error:
        # What was done and could not be saved is done again: creating adopts, ending what has ended is no error.
        log.info("converge_pending", session_id=str(session_id), error=error.code)
        return False
    except (OperationalError, InterfaceError) as error:
        log.warning("converge_without_database", session_id=str(session_id), error=type(error).__name__)
        return False


def _converge(session: WhatsAppSession, origin: Origin) -> bool:
    match session.pending_wish:
        case Wish.CONNECT:
            return _connect(session, origin)
        case Wish.LOGOUT:
            if session.broker_confirmed_at is not None or session.broker_instance_id:
                get_adapter().logout(instance=wire_name(session))
        case Wish.WIPE:
            _wipe(session)
        case Wish.DELETE:
            if session.broker_confirmed_at is not None or session.broker_instance_id:
                get_adapter().delete(instance=wire_name(session))
        case _:
            return True
    _granted(session, origin)
    return True


def _connect(session: WhatsAppSession, origin: Origin) -> bool:
    """Create it where it is not, start it, and read what came of it."""
    if session.broker_confirmed_at is None and session.reconnect_attempts and look(session, origin=origin) is not None:
        session = load_session(session.pk) or session  # it had been made, and the answer was lost
    if session.broker_confirmed_at is None:
        session = _create(session, origin)
    try:
        _start(session)
    except InstanceNotFound:
        session = recreate(session, origin=origin)
        _start(session)
    _granted(session, origin)  # it has heard; what comes of it is read
    state = look(session, origin=origin)
    fetch_qr(session=session, state=state)
    return state is not None and state.state in {"connected", "qrcode"}


def _start(session: WhatsAppSession) -> None:
    """Start its socket; one whose keys are bad can only begin anew. Raises: BrokerError."""
    adapter, instance = get_adapter(), wire_name(session)
    if (session.last_error or {}).get("code") == states.BAD_SESSION.code:
        adapter.wipe(instance=instance)
    else:
        adapter.connect(instance=instance)


def recreate(session: WhatsAppSession, *, origin: Origin) -> WhatsAppSession:
    """The broker lost an instance that is wanted: make it again under the same name. Raises: BrokerError."""
    return _create(session, origin, lost=session.connected_at is not None)


def _create(session: WhatsAppSession, origin: Origin, *, lost: bool = False) -> WhatsAppSession:
    """Make the session at the broker; the id that it answers becomes ours. `lost`: it had been paired there."""
    name = wire_name(session)
    try:
        instance = get_adapter().ensure_session(instance=name)
    except _REFUSALS:
        _refused(session, origin, timezone.now())
        raise
    now = timezone.now()

    def decide(row: WhatsAppSession) -> Change:
        reset = moved(row, Trigger.LOGOUT, now=now, ending=states.BROKER_RESET) if lost else None
        change = reset or Change("settings")
        change.columns |= {"broker_instance_id": instance, "broker_confirmed_at": now}
        return change

    change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.observe", origin=origin, decide=decide,
        now=now,
    )  # fmt: skip
    session.broker_instance_id, session.broker_confirmed_at = instance, now
    return session


def _wipe(session: WhatsAppSession) -> None:
    """Forget the keys. The broker then waits for a scan that nobody wants; it is not shown."""
    if session.broker_confirmed_at is None and not session.broker_instance_id:
        return
    try:
        get_adapter().wipe(instance=wire_name(session))
    except InstanceNotFound:
        return


def _granted(session: WhatsAppSession, origin: Origin) -> None:
    """A wish has been done: nothing is pending any more, unless there is a newer wish."""
    done, now = session.pending_wish, timezone.now()

    def decide(row: WhatsAppSession) -> Change | None:
        if row.pending_wish != done:
            return None
        gone = {"broker_confirmed_at": None} if done == Wish.DELETE else {}
        return Change(
            "deleted" if done == Wish.DELETE else "status", {"pending_wish": None, "state_changed_at": now, **gone}
        )

    change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.observe", origin=origin, decide=decide,
        now=now,
    )  # fmt: skip


def _refused(session: WhatsAppSession, origin: Origin, now: datetime) -> None:
    def decide(row: WhatsAppSession) -> Change | None:
        change = moved(row, Trigger.FAIL, now=now, ending=states.REFUSED_BY_BROKER)
        if change is not None:
            change.columns |= {"pending_wish": None, "next_attempt_at": None}
        return change

    change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.observe", origin=origin, decide=decide,
        now=now,
    )  # fmt: skip
