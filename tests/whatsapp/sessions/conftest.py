"""Connections against the real simulator: it runs for all tests of a process, and each begins with it empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope, user_scope
from tests.conftest import World
from tests.outbound import Broker, broker_running
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving
from whatsapp.services.sessions.acting import carry_out
from whatsapp.services.sessions.syncing import sync_sessions
from whatsapp.services.sessions.wishes import Asker, NewSession, create_session


@pytest.fixture(scope="session")
def _simulator() -> Iterator[Broker]:
    with broker_running(profile="demo") as running:
        yield running


@pytest.fixture
def broker(_simulator: Broker, settings: Any) -> Broker:
    """The simulator, empty, as the configured broker; attempts and pauses without their waits."""
    _simulator.control("reset")
    _simulator.hook.bodies.clear()
    settings.WHATSAPP_BROKER_URL = _simulator.url
    settings.PERSISTENCE_RETRY_DELAYS_MS = [10, 20, 40]
    return _simulator


@pytest.fixture
def house(committed_world: World, broker: Broker) -> World:
    """The two tenants without the lines that their world begins with."""
    with service_scope("test"), saving():
        WhatsAppSession.objects.update(deleted_at=timezone.now(), desired_state="disconnected", status="disconnected")
    return committed_world


def asker(user: User) -> Asker:
    """A person at an edge."""
    return Asker(user, lambda: user_scope(user))


def make(owner: User, name: str = "Vendas", **more: object) -> WhatsAppSession:
    """A new connection of a person, as its page makes it: wished, then carried out."""
    assert owner.tenant_id is not None
    wish = NewSession(tenant_id=owner.tenant_id, owner=owner, name=name, **more)  # type: ignore[arg-type]
    created = create_session(wish=wish, asker=asker(owner), now=timezone.now())
    return carry_out(session=created.session, asker=asker(owner)).session


def fresh(session: WhatsAppSession) -> WhatsAppSession:
    """The row as it is now."""
    with service_scope("test"):
        found: WhatsAppSession = WhatsAppSession.objects.get(pk=session.pk)
        return found


def sync() -> int:
    """What beat does every five seconds; how many were looked at."""
    return sync_sessions(now=timezone.now())
