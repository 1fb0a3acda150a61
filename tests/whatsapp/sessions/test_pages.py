"""The pages of connections: whose they are, what can be done there, and what a refusal looks like."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from leadengine.accounts.models import AuditLog, Tenant, User
from leadengine.accounts.scopes import service_scope
from tests.api import by_cookie
from tests.conftest import World
from tests.outbound import Broker, until
from tests.whatsapp.sessions.conftest import fresh, make, sync
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)
HTMX = {"HX-Request": "true"}


def do(client: Client, action: str, session: WhatsAppSession, **form: str) -> tuple[int, str]:
    """A form of the page, sent by htmx."""
    answer = client.post(reverse(f"session-{action}", args=[session.pk]), form, headers=HTMX)
    return answer.status_code, answer.content.decode()


def audited(world: World) -> list[str]:
    with service_scope("test"):
        rows = AuditLog.objects.filter(tenant=world.ipe, action__startswith="session.").order_by("at", "pk")
        return list(rows.values_list("action", flat=True))


def test_session_p04_made_on_the_page_it_shows_its_qr_code_at_once(house: World, broker: Broker) -> None:
    client = by_cookie(house.agent)
    answer = client.post("/sessions/new/", {"name": "Balcão"}, headers=HTMX)
    address = answer.headers["HX-Redirect"]
    until(lambda: 'src="data:image/png;base64,' in client.get(f"{address}qr/", headers=HTMX).content.decode(), 5)
    page = client.get(address).content.decode()
    assert 'src="data:image/png;base64,' in page
    assert "Balcão" in client.get("/sessions/").content.decode()
    refused = client.post("/sessions/new/", {"name": "balcão"}, headers=HTMX)
    assert refused.status_code == 422 and "Já existe uma conexão" in refused.content.decode()
    assert client.post("/sessions/new/", {"name": " "}).status_code == 422


def test_session_p04_with_the_broker_away_the_row_stands_and_the_page_says_so(
    house: World, broker: Broker, settings: object
) -> None:
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"  # type: ignore[attr-defined]
    client = by_cookie(house.agent)
    answer = client.post("/sessions/new/", {"name": "Balcão"})
    page = client.get(answer.headers["Location"]).content.decode()
    assert 'data-status="connecting"' in page
    with service_scope("test"):
        assert WhatsAppSession.objects.get(session_name="Balcão").pending_wish == "connect"


def test_session_p08_an_agent_sees_their_own_a_supervisor_all(house: World, broker: Broker) -> None:
    session = make(house.supervisor, name="Diretoria")
    agent, supervisor, outsider = by_cookie(house.agent), by_cookie(house.supervisor), by_cookie(house.outsider)
    address = reverse("session", args=[session.pk])
    assert "Diretoria" in supervisor.get("/sessions/").content.decode()
    for stranger in (agent, outsider):
        assert "Diretoria" not in stranger.get("/sessions/").content.decode()
        assert stranger.get(address).status_code == 404
        assert stranger.get(address + "qr/", headers=HTMX).status_code == 404
        before = fresh(session).version
        for action in ("connect", "new-qr", "disconnect", "wipe", "release", "delete", "edit", "pair", "renew"):
            assert do(stranger, action, session, name="x", phone="+5511987654321")[0] == 404, action
        assert fresh(session).version == before


def test_it_is_renamed_paired_disconnected_and_deleted_from_its_page(house: World, broker: Broker) -> None:
    session, client = make(house.agent), by_cookie(house.agent)
    assert do(client, "edit", session, name="Loja")[0] == 200
    assert do(client, "edit", session, auto_reconnect="off")[0] == 200
    row = fresh(session)
    assert (row.session_name, row.auto_reconnect) == ("Loja", False)
    status, page = do(client, "pair", session, phone="11 98765-4321")
    assert status == 200 and 'id="pair-code"' in page
    status, page = do(client, "pair", session, phone="12")
    assert status == 400 and "DDD" in page
    part = reverse("session-qr", args=[session.pk])
    until(lambda: [client.get(part, headers=HTMX), fresh(session).qr_version][1])
    before = fresh(session).qr_version
    status, page = do(client, "renew", session)
    assert status == 200 and fresh(session).qr_version > before and 'id="session-qr"' in page
    alone = client.get(part, headers={**HTMX, "HX-Target": "session-qr"}).content.decode()
    assert alone.lstrip().startswith('<div class="qr"')
    broker.control(f"{session.broker_instance_id}/open")
    until(lambda: [sync(), fresh(session).status == "connected"][1])
    answer = client.get(part, headers=HTMX)
    assert answer.headers["HX-Retarget"] == "#session-live"
    status, page = do(client, "disconnect", session)
    assert status == 200 and 'data-status="disconnected"' in page
    status, page = do(client, "connect", session)
    assert 'data-status="qrcode"' in page or 'data-status="connecting"' in page
    assert do(client, "wipe", session)[0] == 200
    answer = client.post(reverse("session-delete", args=[session.pk]), headers=HTMX)
    assert answer.headers["HX-Redirect"] == "/sessions/"
    assert fresh(session).deleted_at is not None
    assert audited(house) == [
        "session.create", "session.edit", "session.edit", "session.pair", "session.new_qr", "session.disconnect",
        "session.connect", "session.wipe", "session.delete",
    ]  # fmt: skip


def test_what_only_some_may_do_is_refused_in_words(house: World, broker: Broker) -> None:
    session = make(house.agent)
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=session.pk).update(risk_paused=True)
    supervisor, agent = by_cookie(house.supervisor), by_cookie(house.agent)
    for action in ("wipe", "delete"):
        status, said = do(supervisor, action, session)
        assert status == 403 and "administrador" in said
    assert do(agent, "release", session)[0] == 403
    assert fresh(session).risk_paused
    broker.control(f"{session.broker_instance_id}/open")
    assert do(supervisor, "release", session)[0] == 200
    assert not fresh(session).risk_paused
    assert do(by_cookie(house.admin), "delete", session)[0] == 200


def test_where_agents_own_no_connections_the_page_says_whom_to_ask(house: World, broker: Broker) -> None:
    Tenant.objects.filter(pk=house.ipe.pk).update(settings={"agentsMayOwnSessions": False})
    client = by_cookie(User.objects.get(pk=house.agent.pk))
    page = client.get("/sessions/").content.decode()
    assert 'id="new-session"' not in page
    assert client.post("/sessions/new/", {"name": "x"}).status_code == 422


def test_a_silent_service_is_told_and_nothing_fails(house: World, broker: Broker, settings: object) -> None:
    session = make(house.agent)
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=session.pk).update(
            status="connected", phone_number="+5511987654321", last_synced_at=timezone.now() - timedelta(seconds=95)
        )
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"  # type: ignore[attr-defined]
    for address in ("/sessions/", reverse("session", args=[session.pk])):
        page = by_cookie(house.agent).get(address).content.decode()
        assert "is-stale" in page and "1 min" in page
        assert "98765" not in page and "+55 •••• 4321" in page
