"""The life of a connection, from its wish to its end, against the simulator."""

from __future__ import annotations

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from tests.conftest import World
from tests.outbound import Broker, until
from tests.whatsapp.sessions.conftest import asker, fresh, make, sync
from whatsapp.models import SessionEvent, WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.persistence import saving
from whatsapp.services.sessions.acting import carry_out, find_unclaimed, renew_qr
from whatsapp.services.sessions.qr import read_qr
from whatsapp.services.sessions.wishes import (
    InstanceNotFound,
    connect_session,
    delete_session,
    disconnect_session,
    transfer_session,
)

pytestmark = pytest.mark.django_db(transaction=True)


def synced(session: WhatsAppSession, status: str) -> None:
    """Let beat tick until the row has a status."""
    until(lambda: [sync(), fresh(session).status == status][1])


def test_created_scanned_lost_logged_out_and_back(house: World, broker: Broker) -> None:
    session = make(house.admin)
    assert session.broker_instance_id == f"le-ipe-{session.pk.hex[:8]}"
    assert session.broker_confirmed_at is not None
    synced(session, "qrcode")
    shown = read_qr(session_id=session.pk, tenant_id=session.tenant_id)
    assert shown.available and shown.raw is not None and shown.raw.startswith("2@")
    broker.control(f"{session.broker_instance_id}/open", {"phone": "5511912345678", "name": "Loja"})
    synced(session, "connected")
    row = fresh(session)
    assert (row.phone_number, row.profile_name, row.qr_code) == ("+5511912345678", "Loja", None)
    broker.control(f"{session.broker_instance_id}/close", {"statusCode": 428})
    sync()
    assert fresh(session).status == "connecting"
    synced(session, "connected")
    broker.control(f"{session.broker_instance_id}/close", {"statusCode": 401})
    synced(session, "qrcode")
    row = fresh(session)
    assert row.reauth_reason == "session_expired"
    until(lambda: [sync(), fresh(session).qr_code][1])
    broker.control(f"{session.broker_instance_id}/open")
    synced(session, "connected")
    assert fresh(session).reauth_reason is None
    with service_scope("test"):
        path = list(
            SessionEvent.objects.filter(session=session).order_by("at", "id").values_list("new_status", flat=True)
        )
    assert path == [
        "connecting", "qrcode", "connected", "connecting", "connected", "logged_out", "qrcode", "connected",
    ]  # fmt: skip


def test_a_wish_to_disconnect_holds_against_the_broker(house: World, broker: Broker) -> None:
    session = make(house.admin)
    broker.control(f"{session.broker_instance_id}/open")
    synced(session, "connected")
    disconnect_session(session=fresh(session), asker=asker(house.admin), now=timezone.now())
    assert fresh(session).status == "disconnected"
    assert not carry_out(session=session, asker=asker(house.admin)).pending
    sync()
    sync()
    row = fresh(session)
    assert (row.status, row.desired_state, row.pending_wish) == ("disconnected", "disconnected", None)
    connect_session(session=row, asker=asker(house.admin), now=timezone.now())
    carry_out(session=session, asker=asker(house.admin))
    synced(session, "qrcode")


def test_what_nobody_wants_is_shown_and_logged_out(house: World, broker: Broker) -> None:
    session = make(house.admin, auto_connect=False)
    broker.control(f"{session.broker_instance_id}/open")
    sync()
    row = fresh(session)
    assert row.connected and row.last_error is not None and row.last_error["code"] == "UNEXPECTED_CONNECTION"
    sync()
    assert fresh(session).status == "disconnected"
    state = {one["id"]: one for one in broker.control("state", method="GET")["instances"]}
    assert not state[session.broker_instance_id]["connected"]


def test_an_instance_that_the_broker_lost_is_made_again(house: World, broker: Broker) -> None:
    session = make(house.admin)
    broker.control(f"{session.broker_instance_id}/open")
    synced(session, "connected")
    broker.control("reset")
    synced(session, "qrcode")
    row = fresh(session)
    assert (row.reauth_reason, row.broker_instance_id) == ("broker_reset", session.broker_instance_id)


def test_a_deleted_one_leaves_the_broker_and_stays_here(house: World, broker: Broker) -> None:
    session = make(house.admin)
    delete_session(session=session, asker=asker(house.admin), now=timezone.now())
    assert not carry_out(session=session, asker=asker(house.admin)).pending
    assert session.broker_instance_id not in {one["id"] for one in broker.control("state", method="GET")["instances"]}
    assert fresh(session).deleted_at is not None


def test_session_n16_an_instance_that_we_do_not_know_is_unclaimed(house: World, broker: Broker) -> None:
    session = make(house.admin)
    broker.control("estranha/open")
    assert [state.instance for state in find_unclaimed()] == ["estranha"]
    sync()
    with service_scope("test"):
        assert not WhatsAppSession.objects.filter(broker_instance_id="estranha").exists()
    assert fresh(session).broker_instance_id != "estranha"


def test_session_p12_a_newer_code_when_asked(house: World, broker: Broker) -> None:
    session = make(house.admin)
    synced(session, "qrcode")
    until(lambda: [sync(), fresh(session).qr_code][1])
    before = fresh(session)
    shown = renew_qr(session=before, asker=asker(house.admin))
    after = fresh(session)
    assert after.qr_version > before.qr_version
    assert shown.raw == after.qr_raw != before.qr_raw


def test_a_new_code_is_not_taken_from_a_phone_that_has_just_scanned(house: World, broker: Broker) -> None:
    session = make(house.admin)
    synced(session, "qrcode")
    until(lambda: [sync(), fresh(session).qr_code][1])
    before = fresh(session)
    broker.control(f"{session.broker_instance_id}/open", {"phone": "5511912345678"})
    assert not renew_qr(session=before, asker=asker(house.admin)).available
    assert fresh(session).connected
    state = {one["id"]: one for one in broker.control("state", method="GET")["instances"]}
    assert state[session.broker_instance_id]["connected"]


def test_a_wish_for_a_deleted_one_is_refused_and_its_end_goes_on(house: World, broker: Broker) -> None:
    session = make(house.admin)
    delete_session(session=session, asker=asker(house.admin), now=timezone.now())
    with pytest.raises(InstanceNotFound):
        connect_session(session=session, asker=asker(house.admin), now=timezone.now())
    assert fresh(session).pending_wish == "delete"


def test_who_wants_all_back_does_not_want_what_was_ended_meanwhile(house: World, broker: Broker) -> None:
    session = make(house.admin)
    disconnect_session(session=session, asker=asker(house.admin), now=timezone.now())
    connect_session(session=session, asker=asker(house.admin), now=timezone.now(), only_wanted=True)
    assert fresh(session).desired_state == "disconnected"


def test_a_line_that_is_given_away_takes_its_open_episodes_along(house: World, broker: Broker) -> None:
    session = make(house.admin)
    with service_scope("test"), saving():
        row = WhatsAppAtendimento.objects.create(
            tenant=house.ipe, owner=house.admin, chat_id="5511988887777@s.whatsapp.net",
            connection_id=session.connection_id,
        )  # fmt: skip
    transfer_session(session=session, owner=house.agent, asker=asker(house.admin), now=timezone.now())
    with service_scope("test"):
        row.refresh_from_db()
    assert (fresh(session).owner_id, row.owner_id) == (house.agent.pk, house.agent.pk)


def test_a_connection_that_nobody_wants_does_not_end_the_one_that_is_wanted(house: World, broker: Broker) -> None:
    wanted = make(house.admin, "Querida")
    broker.control(f"{wanted.broker_instance_id}/open", {"phone": "5511912345678"})
    synced(wanted, "connected")
    other = make(house.admin, "Esquecida", auto_connect=False)
    broker.control(f"{other.broker_instance_id}/open", {"phone": "5511912345678"})
    sync()
    sync()
    assert fresh(wanted).connected
    assert fresh(other).status == "disconnected"
    state = {one["id"]: one for one in broker.control("state", method="GET")["instances"]}
    assert not state[other.broker_instance_id]["connected"]
