"""What a person does with a connection and waits for: a wish carried out, a code to pair with, a pause lifted.

Each calls the broker for at most SESSION_ACTION_TIMEOUT_MS; no transaction may be open.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import phonenumbers
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from leadengine.errors import DomainError
from tickets.services.outbox import close_circuit, free_held, release_held
from whatsapp.adapters import SessionState, get_adapter
from whatsapp.adapters.patience import within
from whatsapp.broker_errors import (
    BrokerTimeout,
    InstanceDisconnected,
    InstanceNotFound,
    InvalidTo,
    MessageRejected,
)
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.changing import Change, change_session
from whatsapp.services.sessions.converging import converge
from whatsapp.services.sessions.looking import load_session, look, wire_name
from whatsapp.services.sessions.qr import QrShown, fetch_qr, read_qr, shown_qr
from whatsapp.services.sessions.wishes import Asker, audit_session
from whatsapp.services.sessions.wishes import InstanceNotFound as NoSuchInstance

Status = WhatsAppSession.Status
_LOOK_AGAIN = 0.25  # seconds


class InvalidPhone(DomainError):
    """Informe o número com DDD, como +55 11 98765-4321."""

    code = "INVALID_PHONE"
    status = 400


class NotConnected(DomainError):
    """O WhatsApp desta conexão está desconectado."""

    code = "INSTANCE_DISCONNECTED"
    status = 409


@dataclass(frozen=True, slots=True)
class Outcome:
    """A session after a wish, and whether the broker has still to do it."""

    session: WhatsAppSession
    pending: bool


def carry_out(*, session: WhatsAppSession, asker: Asker) -> Outcome:
    """Do at the broker what was just wished, as far as it answers in time; the sync goes on with the rest."""
    done = converge(session_id=session.pk, origin=asker.origin, seconds=_seconds())
    try:
        row = load_session(session.pk) or session
    except (OperationalError, InterfaceError):
        return Outcome(session, pending=True)  # the wish is committed, whatever has become of the database since
    return Outcome(row, not done and row.pending_wish is not None)  # a creation that was refused is not tried again


def pair_phone(*, session: WhatsAppSession, phone: str, asker: Asker) -> str:
    """A code to type on the phone. Raises: InvalidPhone, NotConnected, NoSuchInstance, BrokerError."""
    number = _parse_phone(phone)
    with _asked(session):
        try:
            code = get_adapter().pair(instance=wire_name(session), phone=number)
        except (InvalidTo, MessageRejected) as error:
            raise InvalidPhone from error
    audit_session(asker, session, "session.pair")
    return code


def renew_qr(*, session: WhatsAppSession, asker: Asker) -> QrShown:
    """Another QR code than the stored one: the broker's own next, else a new pairing begun. Raises: BrokerError."""
    if session.status != Status.QRCODE:
        return read_qr(session_id=session.pk, tenant_id=session.tenant_id)
    before, until = session.qr_raw, time.monotonic() + _seconds() - _LOOK_AGAIN
    audit_session(asker, session, "session.new_qr")
    with _asked(session):
        state = look(session, origin=asker.origin)
        if state is None or state.state != "qrcode":
            return _shown(session)  # somebody has scanned it meanwhile, or there is nothing to scan
        if _take_qr(session) and _raw(session) != before:
            return _shown(session)
        get_adapter().wipe(instance=wire_name(session))  # nobody has scanned, so nothing is lost by beginning anew
        while time.monotonic() < until:
            time.sleep(_LOOK_AGAIN)
            with suppress(BrokerTimeout):
                if _take_qr(session) and _raw(session) != before:
                    break
    return _shown(session)


def release_session(*, session: WhatsAppSession, asker: Asker) -> WhatsAppSession:
    """Close our circuit, whatever the broker says, and lift its risk pause where there is one: what they held leaves.

    Without a pause the broker is not asked: its guard against a ban would be loosened for nothing. Raises: BrokerError.
    """
    close_circuit(session_id=session.pk)
    changed = _let_go(session, asker, {}) or session
    audit_session(asker, session, "session.release")
    if not changed.risk_paused:
        return changed
    with _asked(session):
        get_adapter().release_risk(instance=wire_name(session))
    return _let_go(session, asker, {"risk_paused": False}) or changed


def find_unclaimed() -> list[SessionState]:
    """Instances at the broker that no session of ours names: for superusers, never adopted. Raises: BrokerError."""
    states = get_adapter().list_all()
    with service_scope("instances that nobody claims"):
        names = [state.instance for state in states]
        known = set(
            WhatsAppSession.objects.filter(broker_instance_id__in=names).values_list("broker_instance_id", flat=True)
        )
        known |= set(
            WhatsAppSession.objects.filter(connection_id__in=names, broker_instance_id=None).values_list(
                "connection_id", flat=True
            )
        )
    return [state for state in states if state.instance not in known]


def _let_go(session: WhatsAppSession, asker: Asker, columns: dict[str, Any]) -> WhatsAppSession | None:
    """What waited for the circuit is due, and what a risk pause held once the row says that there is none."""
    now = timezone.now()

    def wake(row: WhatsAppSession) -> None:
        free_held(session_id=row.pk, now=now)
        if not row.risk_paused:
            release_held(session_id=row.pk, now=now)

    return change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.wish", origin=asker.origin,
        decide=lambda _row: Change("status", columns, then=wake), now=now,
    )  # fmt: skip


@contextmanager
def _asked(session: WhatsAppSession) -> Iterator[None]:
    """The broker has so long, and what it cannot find or reach is said in our words."""
    try:
        with within(_seconds()):
            yield
    except InstanceNotFound as error:
        raise NoSuchInstance from error
    except InstanceDisconnected as error:
        raise NotConnected(status=session.status, connected=session.connected, retryAfter=5) from error


def _take_qr(session: WhatsAppSession) -> bool:
    return fetch_qr(session=session, state=get_adapter().status(instance=wire_name(session)))


def _raw(session: WhatsAppSession) -> str | None:
    row = load_session(session.pk)
    return row.qr_raw if row is not None else None


def _shown(session: WhatsAppSession) -> QrShown:
    return shown_qr(load_session(session.pk) or session, timezone.now())


def _seconds() -> float:
    return float(settings.SESSION_ACTION_TIMEOUT_MS) / 1000


def _parse_phone(phone: str) -> str:
    """E.164 of a number as people write it; without a country it is Brazilian."""
    try:
        number = phonenumbers.parse(phone, "BR")
    except phonenumbers.NumberParseException as error:
        raise InvalidPhone from error
    if not phonenumbers.is_valid_number(number):
        raise InvalidPhone
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
