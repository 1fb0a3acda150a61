"""`manage.py seed_demo`: people who can sign in, lines that are open, customers who write, and a past."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.hashers import check_password
from django.core.management import CommandError, call_command
from django.db.models import F
from pytest_django.fixtures import Settings

from leadengine.accounts.models import ApiKey, Tenant, User
from leadengine.accounts.scopes import service_scope
from leadengine.accounts.services import find_key_owner
from tests.operations.conftest import SimulatorThread
from tickets.models import Message, Queue, QueueMembership, Ticket, TicketEvent
from whatsapp.models import WebhookEvent, WebhookItem, WhatsAppSession

pytestmark = pytest.mark.django_db(transaction=True)
EMAILS = {
    "DEMO_ADMIN_EMAIL": "admin@demo.test", "DEMO_SUPERVISOR_EMAIL": "supervisor@demo.test",
    "DEMO_AGENT_EMAIL": "agente@demo.test", "DEMO_AGENT2_EMAIL": "agente2@demo.test",
    "DEMO_OUTSIDER_EMAIL": "agente@outra.test", "SUPERUSER_EMAIL": "root@leadengine.test",
}  # fmt: skip
SECRETS = {"DEMO_PASSWORD": "abcd-efgh-jkmn", "DEMO_API_TOKEN": "a" * 64, "OUTSIDER_API_TOKEN": "b" * 64}


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    for name, value in (EMAILS | SECRETS).items():
        monkeypatch.setenv(name, value)
    settings.API_KEY_TENANT = "ipe"


@pytest.fixture
def broker(simulator: SimulatorThread, settings: Settings) -> SimulatorThread:
    settings.WHATSAPP_BROKER_URL, settings.WHATSAPP_BROKER_API_KEY = simulator.url, ["broker-key-1"]
    return simulator


def test_people_queues_and_keys() -> None:
    call_command("seed_demo")
    with service_scope("test"):
        roles = dict(User.objects.values_list("email", "role"))
        assert set(roles) == set(EMAILS.values())
        assert [roles[f"{name}@demo.test"] for name in ("admin", "supervisor", "agente", "agente2")] == [
            "ADMIN", "SUPERVISOR", "AGENT", "AGENT",
        ]  # fmt: skip
        assert all(check_password(SECRETS["DEMO_PASSWORD"], user.password) for user in User.objects.all())
        root = User.objects.get(email="root@leadengine.test")
        assert root.is_superuser
        assert root.tenant_id is None
        queues = Queue.objects.filter(tenant__slug="ipe").order_by("order_index")
        assert list(queues.values_list("name", "is_default")) == [
            ("Recepção", True), ("Vendas", False), ("Trocas e devoluções", False),
        ]  # fmt: skip
        assert len(set(queues.values_list("colour", flat=True))) == 3
        assert QueueMembership.objects.filter(user__email="agente2@demo.test").count() == 3
        assert set(WhatsAppSession.objects.values_list("status", flat=True)) == {"disconnected"}
    for key, email in (
        (SECRETS["DEMO_API_TOKEN"], "admin@demo.test"),
        (SECRETS["OUTSIDER_API_TOKEN"], "agente@outra.test"),
    ):
        found = find_key_owner(key=key)
        assert found
        assert found[0].email == email
    assert not ApiKey.objects.filter(sha256__in=SECRETS.values()).exists()


def test_lines_are_open_customers_live_and_there_is_a_past(broker: SimulatorThread) -> None:
    call_command("seed_demo")
    state = broker.state()
    assert {each["id"]: each["connectionState"] for each in state["instances"]} == {
        "ipe-recepcao": "open", "ipe-vendas": "open", "cedro-loja": "open",
    }  # fmt: skip
    assert (state["customers"]["count"], state["customers"]["perMinute"]) == (8, 6)
    now = datetime.now(UTC)
    with service_scope("test"):
        tickets = Ticket.objects.filter(tenant__slug="ipe")
        assert sorted(tickets.values_list("status", flat=True)) == ["ASSIGNED"] * 3 + ["OPEN"] * 3 + ["RESOLVED"] * 2
        assert {ticket.queue.name for ticket in tickets.select_related("queue")} == {"Recepção", "Vendas"}
        assert not Message.objects.filter(metadata__has_key="lateBySeconds").exists()
        assert not Message.objects.filter(direction="OUTBOUND").exclude(status="READ", source="PHONE").exists()
        assert not tickets.exclude(created_at=F("first_inbound_at")).exists()
        assert not TicketEvent.objects.filter(at__gt=now - timedelta(minutes=5)).exists()
        assert set(WebhookEvent.objects.values_list("status", flat=True)) == {"PROCESSED"}
        assert set(WebhookItem.objects.values_list("fate", flat=True)) == {"stored", "applied"}
        assert set(WhatsAppSession.objects.filter(tenant__slug="ipe").values_list("status", flat=True)) == {"connected"}


def test_the_past_is_spoken_by_the_customers_who_live_on(broker: SimulatorThread) -> None:
    import requests

    call_command("seed_demo")
    body = {"count": 8, "perMinute": 6}
    people = requests.post(f"{broker.url}/_sim/customers", json=body, headers=broker.headers, timeout=5).json()
    names = {person["name"] for person in people["customers"]}
    with service_scope("test"):
        assert set(Ticket.objects.values_list("contact__name", flat=True)) == names
        # The simulator gives its customers the lines in turn: one line each, or they would have two tickets.
        lines = list(Ticket.objects.values_list("contact_id", "session_id").distinct())
    assert len(lines) == 8


def test_a_second_time_it_only_looks(broker: SimulatorThread) -> None:
    call_command("seed_demo")
    with service_scope("test"):
        before = (Tenant.objects.count(), User.objects.count(), Message.objects.count(), ApiKey.objects.count())
    began = time.monotonic()
    call_command("seed_demo")
    assert time.monotonic() - began < 1.5
    with service_scope("test"):
        assert (Tenant.objects.count(), User.objects.count(), Message.objects.count(), ApiKey.objects.count()) == before


def test_a_simulator_that_forgot_everything_gets_its_lines_again(settings: Settings) -> None:
    settings.WHATSAPP_BROKER_API_KEY = ["broker-key-1"]
    for _ in range(2):
        running = SimulatorThread()
        try:
            settings.WHATSAPP_BROKER_URL = running.url
            call_command("seed_demo")
            assert len(running.state()["instances"]) == 3
            assert running.state()["customers"]["count"] == 8
        finally:
            running.close()
    with service_scope("test"):
        assert Ticket.objects.filter(tenant__slug="ipe").count() == 8


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMO_PASSWORD")
    with pytest.raises(CommandError, match="Set DEMO_PASSWORD"):
        call_command("seed_demo")
