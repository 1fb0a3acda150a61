"""What may be done with connections and atendimentos in the back office: by whom, through which service, audited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from leadengine.accounts.models import AuditLog, User
from leadengine.accounts.scopes import service_scope, tenant_scope
from tests.admin_site.conftest import Office, address, audits
from tests.conftest import World
from tests.outbound import Broker, until
from tests.whatsapp.sessions.conftest import _simulator, broker, fresh, house, make, sync
from tickets.models import Ticket
from whatsapp.admin.session_actions import ACTIONS
from whatsapp.models import SessionEvent, WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.persistence import saving

__all__ = ["_simulator", "broker", "house"]
Enter = Callable[[User], Client]
SENT = {"_form_submitted": "1"}
live = pytest.mark.django_db(transaction=True)


def put(session: WhatsAppSession, **columns: Any) -> WhatsAppSession:
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=session.pk).update(**columns)
    return fresh(session)


def press(client: Client, session: WhatsAppSession, name: str, **form: Any) -> WhatsAppSession:
    """Look at a dialog, which changes nothing, then send it."""
    where, before = address(WhatsAppSession, session, name), fresh(session)
    assert client.get(where).status_code == 200, name
    assert fresh(session).version == before.version
    answer = client.post(where, {**SENT, **form})
    assert answer.status_code == 302, (name, answer.content.decode())
    return fresh(session)


@live
def test_session_p04_made_in_the_back_office(house: World, broker: Broker, enter: Enter, settings: Any) -> None:
    client, where = enter(house.admin), address(WhatsAppSession, name="create/")
    assert client.get(where).status_code == 200
    form = {**SENT, "name": "Matriz", "owner": str(house.agent.pk), "connect_now": "on"}
    assert client.post(where, form).status_code == 302
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    answer = client.post(where, {**form, "name": "Filial"}, follow=True)
    assert "ainda não respondeu" in answer.content.decode()
    assert "Já existe uma conexão" in client.post(where, {**form, "name": "matriz"}).content.decode()
    with tenant_scope(house.ipe.pk):
        made = {one.session_name: one for one in WhatsAppSession.objects.filter(deleted_at=None)}
        sources = set(SessionEvent.objects.filter(session=made["Filial"]).values_list("source", flat=True))
    assert (made["Matriz"].owner_id, made["Filial"].pending_wish, sources) == (house.agent.pk, "connect", {"admin"})
    assert made["Matriz"].broker_confirmed_at is not None
    assert [one.actor for one in audits(house, "session.create")] == [house.admin, house.admin]
    supervisor = enter(house.supervisor)
    assert 'name="owner"' not in supervisor.get(where).content.decode()
    root = enter(house.superuser)
    assert root.post(where, form).status_code == 200  # which tenant? they have chosen none
    with service_scope("test"):
        assert WhatsAppSession.objects.filter(session_name="Matriz").count() == 1


@live
def test_every_action_of_a_connection_calls_its_service(house: World, broker: Broker, enter: Enter) -> None:
    session, client = make(house.agent), enter(house.admin)
    until(lambda: [sync(), fresh(session).qr_code][1])
    page = client.get(address(WhatsAppSession, session)).content.decode()
    assert 'src="data:image/png;base64,' in page
    before = fresh(session).qr_version
    assert press(client, session, "new_qr").qr_version > before
    assert press(client, session, "pause_reconnect").auto_reconnect is False
    assert press(client, session, "resume_reconnect").auto_reconnect is True
    assert press(client, session, "transfer", owner=str(house.supervisor.pk)).owner_id == house.supervisor.pk
    assert press(client, session, "disconnect").status == "disconnected"
    assert press(client, session, "connect").desired_state == "connected"
    put(session, status="error")
    assert press(client, session, "reconnect").status in {"connecting", "qrcode"}
    broker.control(f"{session.broker_instance_id}/open")
    until(lambda: [sync(), fresh(session).connected][1])
    put(session, risk_paused=True)
    assert press(client, session, "release").risk_paused is False
    assert 'src="data:image' not in client.get(address(WhatsAppSession, session)).content.decode()
    assert press(client, session, "wipe").status == "disconnected"
    assert press(client, session, "remove").deleted_at is not None
    assert session.broker_instance_id not in {one["id"] for one in broker.control("state", method="GET")["instances"]}
    assert press(client, session, "restore").deleted_at is None
    with service_scope("test"):
        done = AuditLog.objects.filter(tenant=house.ipe, actor=house.admin, action__startswith="session.")
        names = list(done.order_by("at", "pk").values_list("action", flat=True))
    assert names == [
        "session.new_qr", "session.edit", "session.edit", "session.transfer", "session.disconnect", "session.connect",
        "session.connect", "session.release", "session.wipe", "session.delete", "session.restore",
    ]  # fmt: skip


@live
def test_session_p70_reconnect_all_by_the_back_office(house: World, broker: Broker, enter: Enter) -> None:
    session = put(make(house.agent), status="error", pending_wish=None, reconnect_attempts=7)
    where = address(WhatsAppSession, name="reconnect_all/")
    assert enter(house.supervisor).post(where, SENT).status_code == 302
    row = fresh(session)
    assert (row.reconnect_attempts, row.pending_wish) == (0, "connect")
    assert audits(house, "session.connect")


@live
def test_what_is_not_theirs_is_refused(house: World, broker: Broker, enter: Enter) -> None:
    session = put(make(house.admin), risk_paused=True)
    supervisor = enter(house.supervisor)
    for name in ("wipe", "remove", "transfer", "restore"):
        assert supervisor.post(address(WhatsAppSession, session, name), SENT).status_code == 403, name
    foreign = User.objects.get(pk=house.outsider.pk)
    User.objects.filter(pk=foreign.pk).update(role="ADMIN")
    for name in ACTIONS:
        where = address(WhatsAppSession, session, name)
        assert enter(house.agent).post(where, SENT).status_code == 403, name
        assert enter(User.objects.get(pk=foreign.pk)).post(where, SENT).status_code == 404, name
    for name in ("create/", "reconnect_all/", "unclaimed/"):
        assert enter(house.agent).get(address(WhatsAppSession, name=name)).status_code == 403, name
    assert fresh(session).version == session.version


@live
def test_session_n16_a_superuser_sees_unclaimed_instances_and_no_tenant_does(
    house: World, broker: Broker, enter: Enter, settings: Any
) -> None:
    broker.control("estranha/open")
    where = address(WhatsAppSession, name="unclaimed/")
    assert "estranha" in enter(house.superuser).get(where).content.decode()
    for user in (house.admin, house.supervisor):
        assert enter(user).get(where).status_code == 403
        assert "unclaimed" not in enter(user).get(address(WhatsAppSession)).content.decode()
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    assert enter(house.superuser).get(where).status_code == 302


@pytest.mark.django_db
def test_session_p13_lists_filter_and_show_the_last_sync(office: Office, enter: Enter) -> None:
    client, line = enter(office.world.supervisor), office.ours[WhatsAppSession]
    put(
        line, status="error", reauth_reason="suspicious_block", desired_state="connected", last_synced_at=timezone.now()
    )

    def found(query: str) -> bool:
        return str(line.pk) in client.get(f"{address(WhatsAppSession)}?{query}").content.decode()

    yes = ("status=error", "reauth=suspicious_block", "wanted=connected", "owned=active", "state=down")
    assert [query for query in yes if not found(query)] == []
    no = [
        "status=connected", "reauth=idle_14d", "wanted=disconnected", "owned=inactive",
        "duplicate=PHONE_NUMBER_ALREADY_CONNECTED",
    ]  # fmt: skip
    assert [query for query in no if found(query)] == []
    assert "tenant=" not in client.get(address(WhatsAppSession)).content.decode()
    root = enter(office.world.superuser)
    theirs = root.get(f"{address(WhatsAppSession)}?tenant={office.world.cedro.pk}").content.decode()
    assert str(line.pk) not in theirs and str(office.theirs[WhatsAppSession].pk) in theirs


@pytest.mark.django_db
def test_an_atendimento_is_paused_resumed_assigned_prioritised_and_closed(office: Office, enter: Enter) -> None:
    world, row, ticket = office.world, office.ours[WhatsAppAtendimento], office.ours[Ticket]
    client = enter(world.supervisor)

    def do(name: str, **form: Any) -> tuple[str, str]:
        where = address(WhatsAppAtendimento, row, name)
        assert client.get(where).status_code == 200, name
        answer = client.post(where, {**SENT, **form})
        assert answer.status_code == 302, (name, answer.content.decode())
        with tenant_scope(world.ipe.pk):
            ticket.refresh_from_db()
            row.refresh_from_db()
        return ticket.status, row.status

    assert do("assign", user=str(world.agent.pk)) == ("ASSIGNED", "ATIVO")
    assert row.assigned_to == world.agent.pk
    assert do("prioritise", priority="URGENT") == ("ASSIGNED", "ATIVO")
    assert (ticket.priority, row.priority) == ("URGENT", "URGENTE")
    assert do("pause") == ("PENDING", "PAUSADO")
    assert do("resume")[1] == "ATIVO"
    assert do("close") == ("RESOLVED", "FECHADO")
    for name in ("assign", "priority", "pause", "resume", "close"):
        assert len(audits(world, f"atendimento.{name}")) == 1, name
    assert client.post(address(WhatsAppAtendimento, row, "pause"), SENT).status_code == 403


@pytest.mark.django_db
def test_an_agent_and_a_stranger_do_nothing_with_an_atendimento(office: Office, enter: Enter) -> None:
    row = office.ours[WhatsAppAtendimento]
    User.objects.filter(pk=office.world.outsider.pk).update(role="ADMIN")
    stranger = User.objects.get(pk=office.world.outsider.pk)
    for name in ("assign", "prioritise", "pause", "resume", "close"):
        where = address(WhatsAppAtendimento, row, name)
        assert enter(office.world.agent).post(where, SENT).status_code == 403, name
        assert enter(stranger).post(where, SENT).status_code == 404, name
        assert enter(office.world.superuser).post(where, SENT).status_code == 403, name
