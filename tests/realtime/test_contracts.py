"""The structure of events is protected (seed 002): each is what its frozen contract says."""

from __future__ import annotations

import pytest

from tests.payloads.freeze import CONTRACTS, contract, declared

# Decision D21. An event beside these would be one without a contract.
EVENTS = {
    "messages.new", "message.updated", "ticket.message", "ticket.updated", "lead.updated", "whatsapp.session.updated",
    "whatsapp.queue.missing", "whatsapp.timeline.reconciled", "presence.updated",
}  # fmt: skip


def test_session_p20_every_event_is_declared_and_has_a_contract() -> None:
    assert set(declared()) == EVENTS
    assert {path.name for path in CONTRACTS.iterdir()} == {f"{name}.json" for name in EVENTS}


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_session_p20_an_event_equals_its_frozen_contract(name: str) -> None:
    assert contract(declared()[name]) == (CONTRACTS / f"{name}.json").read_text(encoding="utf-8")
