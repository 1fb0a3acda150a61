"""What the calls of a line do to its circuit (spec/outbound.md sections 8 and 9)."""

from __future__ import annotations

import structlog
from django.db import connection

from leadengine.accounts.scopes import tenant_scope
from tickets.services.outbox.circuit import Outcome, record_call
from tickets.services.outbox.claiming import Claim
from tickets.services.outbox.holding import free_held
from tickets.services.outbox.settling import Try
from tickets.transports import OutcomeUnknown, Retryable, Transport

log = structlog.get_logger(__name__)


def note_call(*, transport: Transport, claim: Claim, tried: Try) -> None:
    """Count a call for its line's breaker. Where that changes it tells so, and frees what waited for a closed one.

    No transaction is open. Never raises: the call has been made, whatever becomes of the breaker.
    """
    line = claim.order.line
    outcome = outcome_of(tried)
    state = record_call(
        session_id=line.id, token=claim.order.attempt_id, outcome=outcome, probe=claim.probe, now=tried.finished_at
    )  # fmt: skip
    # A probe that says nothing leaves the line to the next one, which waits for the end of this one.
    undecided = claim.probe and outcome == "neither"
    if state is None and not undecided:
        return
    if state is not None:
        log.warning("circuit_changed", session_id=str(line.id), state=state)
    try:
        with tenant_scope(line.tenant_id):
            if undecided or state == "closed":
                free_held(session_id=line.id, now=tried.finished_at)
            if state is not None:
                transport.circuit_changed(tenant_id=line.tenant_id, session_id=line.id, now=tried.finished_at)
    except Exception:  # what waits is due by itself at the latest when the circuit would have let a probe pass
        log.exception("circuit_change_not_told", session_id=str(line.id))
        connection.close()


def outcome_of(tried: Try) -> Outcome:
    """Only what says that the way to the channel is broken counts against a line; its refusals prove the way."""
    if not tried.asked:
        return "neither"
    return "bad" if isinstance(tried.result, Retryable | OutcomeUnknown) else "good"
