"""Sending what is due on one line (spec/outbound.md section 7).

The task's own thread does all the database work; the calls run in threads that never touch the database. While the
task waits for them it holds no connection, so slow brokers do not use up the pool.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from uuid import UUID

import structlog
from django.conf import settings
from django.db import IntegrityError, InterfaceError, OperationalError, connection
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from leadengine.errors import NotConfigured
from tickets.services.outbox.breaking import note_call
from tickets.services.outbox.claiming import Claim, Turn, take_turn
from tickets.services.outbox.media_guard import refuse_private
from tickets.services.outbox.settling import Try, settle
from tickets.transports import Line, OutcomeUnknown, Retryable, SendFailure, SendOrder, Sent, Transport, get_transport

log = structlog.get_logger(__name__)

CHANNEL = "WHATSAPP"
UNKNOWN = "O envio falhou: a mensagem pode ter saído."
OUTWAITED = 10  # seconds
SETTLE_PAUSES = (0.2, 1.0, 5.0)  # seconds before the write is tried again; then the lease decides
stopping = threading.Event()  # set on SIGTERM: nothing more is claimed, what is in flight is finished


def send_due(*, session_id: UUID) -> datetime | None:
    """Send a session's due messages until none is left; returns when the next waiting one is due.

    Harmless when nothing is due, or when another task works on the same session.
    """
    transport = get_transport(CHANNEL)
    with service_scope("find the line of a sender"):
        line = transport.line(session_id)
    if line is None:
        return None
    with ThreadPoolExecutor(settings.OUTBOUND_CONCURRENCY_PER_SESSION, "send") as pool:
        flying: dict[Future[Try], Claim] = {}
        alone = False
        while True:
            turn = _take_turn(line, idle=not flying)
            alone = alone if turn.alone is None else turn.alone
            for claim in turn.claims:
                flying[pool.submit(_call, transport, claim.order)] = claim
            if not flying:
                if alone and turn.due is not None and _outwait(turn.due):
                    continue
                return turn.due
            connection.close()  # back to the pool: a call may take a minute
            done, _ = wait(flying, _seconds_until(turn.due), FIRST_COMPLETED)
            for future in done:
                claim, tried = flying.pop(future), future.result()
                _settle(transport, claim, tried)
                note_call(transport=transport, claim=claim, tried=tried)


def _outwait(due: datetime) -> bool:
    """Wait, without a connection, for what is due soon: without Redis nobody could wake us then."""
    seconds = _seconds_until(due) or 0.0
    connection.close()
    return seconds <= OUTWAITED and not stopping.wait(seconds)


def _seconds_until(due: datetime | None) -> float | None:
    return None if due is None else max(0.0, (due - timezone.now()).total_seconds())


def _take_turn(line: Line, *, idle: bool) -> Turn:
    if stopping.is_set():
        return Turn([])
    try:
        return take_turn(line=line, now=timezone.now())
    except Exception:
        if idle:
            raise
        log.exception("claim_failed", session_id=str(line.id))
        connection.close()
        return Turn([])  # what is in flight is settled first


def _call(transport: Transport, order: SendOrder) -> Try:
    """Send, and say how it ended; whatever goes wrong in us after the call began leaves its outcome unknown."""
    began = time.monotonic()
    result: Sent | SendFailure
    asked = False
    try:
        if order.file and (url := order.file.get("url")) is not None:
            refuse_private(url)
        transport.require_configured()
        asked = True
        result = transport.send(order)
    except SendFailure as failure:
        result = failure
        log.warning("send_failed", message_id=str(order.message_id), code=failure.code, status=failure.status)
    except NotConfigured as error:
        result = Retryable(error.code, error.message)
        log.warning("send_not_configured", message_id=str(order.message_id))
    except Exception as error:
        log.exception("send_broken", message_id=str(order.message_id))
        asked = False
        result = OutcomeUnknown("INTERNAL_ERROR", UNKNOWN, answer=type(error).__name__)
    return Try(result, timezone.now(), int((time.monotonic() - began) * 1000), asked)


def _settle(transport: Transport, claim: Claim, tried: Try) -> None:
    """Write the outcome, again after a pause while the database is away; after that the lease decides."""
    for pause in (*SETTLE_PAUSES, None):
        try:
            settle(transport=transport, claim=claim, tried=tried)
            return
        except Exception as error:
            connection.close()
            # IntegrityError: an echo row with our id was committed since we looked; the next look finds it.
            if pause is None or not isinstance(error, OperationalError | InterfaceError | IntegrityError):
                log.exception("send_not_settled", message_id=str(claim.order.message_id))
                return
            log.warning("settle_repeated", message_id=str(claim.order.message_id), error=type(error).__name__)
            time.sleep(pause)
