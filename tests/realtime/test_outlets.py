"""Outlets hear of events in their transaction, at once or together, and of its commit once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from leadengine.realtime import broadcast as module
from leadengine.realtime.broadcast import broadcast, offer, together
from leadengine.realtime.outlets import Memo, Offer
from tests.conftest import World
from whatsapp.events import QueueMissing

pytestmark = pytest.mark.django_db(transaction=True)


class Listening:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[list[str]] = []
        self.memos: list[Memo] = []
        self.commits = 0

    def take(self, offers: Sequence[Offer], memo: Memo) -> bool:
        self.heard.append([str(one.event.at.year) for one in offers])
        self.memos.append(memo)
        return True

    def committed(self) -> None:
        self.commits += 1


@pytest.fixture
def outlet(monkeypatch: pytest.MonkeyPatch) -> Listening:
    listening = Listening()
    monkeypatch.setattr(module, "outlets", lambda: (listening,))
    return listening


def event(world: World, year: int) -> QueueMissing:
    at = timezone.now().replace(year=year, day=1)
    more: dict[str, Any] = {"message": "x", "waiting_events": 1, "oldest_at": at}
    return QueueMissing(tenant_id=world.ipe.pk, at=at, session_id=world.line.pk, **more)


def test_events_of_a_block_are_offered_together(committed_world: World, outlet: Listening) -> None:
    world = committed_world
    with transaction.atomic():
        broadcast(event(world, 2001))
        with together():
            broadcast(event(world, 2002))
            transaction.on_commit(lambda: None)
            offer(event(world, 2003), lambda: event(world, 2003))
        with together():
            pass
        broadcast(event(world, 2004), offered=True)
        assert outlet.commits == 0
    assert outlet.heard == [["2001"], ["2002", "2003"]]
    assert outlet.memos[0] is outlet.memos[1], "one memo for the transaction"
    with transaction.atomic():
        broadcast(event(world, 2005))
    assert outlet.memos[2] is not outlet.memos[0]
    assert outlet.commits == 3, "each batch of hooks once"


def test_what_breaks_off_is_not_offered_and_a_rolled_back_savepoint_is_not_told(
    committed_world: World, outlet: Listening
) -> None:
    world = committed_world

    def fail() -> None:
        with together():
            broadcast(event(world, 2001))
            raise ZeroDivisionError

    def undo() -> None:
        with transaction.atomic():
            broadcast(event(world, 2002))
            raise ZeroDivisionError

    with transaction.atomic():
        for act in (fail, undo):
            with pytest.raises(ZeroDivisionError):
                act()
    assert outlet.heard == [["2002"]]
    assert outlet.commits == 0
