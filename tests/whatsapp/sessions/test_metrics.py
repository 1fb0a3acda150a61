"""What /metrics says of connections after a scripted scenario: the real services against the real simulator."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django.fixtures import Settings

from leadengine import metrics
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.operations import metrics_view
from leadengine.operations.facts import REAUTH_REASONS
from tests.conftest import World
from tests.outbound import Broker, until
from tests.samples import Samples, scrape
from tests.whatsapp.sessions.conftest import fresh, make, sync
from whatsapp.adapters import get_adapter
from whatsapp.broker_errors import BrokerUnreachable
from whatsapp.models import RecoveryRun, WhatsAppSession
from whatsapp.services.persistence import PersistenceUnavailable, persist, saving
from whatsapp.services.sessions import recovery, states
from whatsapp.services.sessions.keeping import IDLE
from whatsapp.services.sessions.looking import wire_name
from whatsapp.services.sessions.maintaining import set_maintenance
from whatsapp.services.sessions.qr import fetch_qr
from whatsapp.services.sessions.recovery import recover_sessions

pytestmark = pytest.mark.django_db(transaction=True)
OLDEST, LOST = "whatsapp_reconnect_oldest_pending_seconds", "whatsapp_sessions_lost_after_restart"
SAVES, ERRORS = "whatsapp_persistence_operations_total", "whatsapp_persistence_errors_total"
QR = "whatsapp_qr_codes_generated_total"
RECONNECT = "whatsapp_reconnect_duration_seconds"


COUNTED = (SAVES, ERRORS, QR, *(f"{RECONNECT}_{part}" for part in ("bucket", "count", "sum")))


def gauge(name: str) -> float:
    """One gauge of the database, without the thousands of samples that other tests have left on the page."""
    metrics_view._gauges._at = float("-inf")
    return next(s.value for family in metrics_view._gauges.collect() for s in family.samples if s.name == name)


def rises(before: Samples) -> Samples:
    """By how much each counter has risen since."""
    return {key: value - before.get(key, 0) for key, value in scrape(*COUNTED).items() if value != before.get(key, 0)}


def connect(world: World, broker: Broker, name: str = "Vendas", phone: str = "5511912345678") -> WhatsAppSession:
    """A new session that somebody has scanned."""
    session = make(world.admin, name)
    broker.control(f"{wire_name(fresh(session))}/open", {"phone": phone, "name": name})
    synced(session, "connected")
    return fresh(session)


def synced(session: WhatsAppSession, status: str) -> None:
    """Let beat tick until the row has a status."""
    ticking(lambda: fresh(session).status == status)


def ticking(condition: Callable[[], object]) -> None:
    """Let beat tick until a condition holds."""

    def tick() -> object:
        sync()
        return condition()

    until(tick)


def change(session: WhatsAppSession, **columns: Any) -> None:
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=session.pk).update(**columns)


def maintain(*, on: bool) -> None:
    with service_scope("test"):
        set_maintenance(on=on, now=timezone.now())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(states, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(recovery, "_PAUSES", (0.05,))


def test_session_p51_active_connections(house: World, broker: Broker) -> None:
    connect(house, broker)
    make(house.admin, "Suporte")
    names = ("turbozap_instances_active", "turbozap_instances_expected", "whatsapp_connections_active")
    seen = scrape(*names, fresh=True)
    assert (seen["turbozap_instances_active", "ipe"], seen["turbozap_instances_expected", "ipe"]) == (1, 2)
    assert (seen["whatsapp_connections_active", "ipe"], seen["whatsapp_connections_active", "cedro"]) == (1, 0)


def test_session_p52_persistence_success(house: World, broker: Broker) -> None:
    before = scrape(*COUNTED)
    make(house.admin)
    after = rises(before)
    assert after[SAVES, "session.create", "success"] == 1
    assert not [key for key in after if key[0] == SAVES and key[2] != "success"]
    assert not [key for key in after if key[0] == ERRORS]


def test_session_p54_persistence_errors(house: World, broker: Broker) -> None:
    lives = 2

    def write() -> str:
        nonlocal lives
        with connection.cursor() as cursor:
            if lives:
                lives -= 1
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            cursor.execute("SELECT 'saved'")
            return str(cursor.fetchone()[0])

    before = scrape(*COUNTED)
    assert persist("session.settings", write) == "saved"
    after = rises(before)
    assert (after[SAVES, "session.settings", "retry"], after[SAVES, "session.settings", "success"]) == (2, 1)
    assert sum(value for key, value in after.items() if key[:2] == (ERRORS, "session.settings")) == 2
    lives = 100
    before = scrape(*COUNTED)
    with pytest.raises(PersistenceUnavailable):
        persist("session.settings", write)
    after = rises(before)
    assert (after[SAVES, "session.settings", "retry"], after[SAVES, "session.settings", "error"]) == (3, 1)
    assert (SAVES, "session.settings", "success") not in after
    assert sum(value for key, value in after.items() if key[:2] == (ERRORS, "session.settings")) == 4


def test_session_p53_reconnect_time(house: World, broker: Broker) -> None:
    session = connect(house, broker)
    before = scrape(*COUNTED)
    broker.control(f"{wire_name(session)}/close", {"statusCode": 428})
    synced(session, "connecting")
    synced(session, "connected")
    after = rises(before)
    assert (after[f"{RECONNECT}_count", "drop"], after[f"{RECONNECT}_bucket", "30.0", "drop"]) == (1, 1)
    assert 0 < after[f"{RECONNECT}_sum", "drop"] < 20
    before = scrape(*COUNTED)
    broker.control(f"{wire_name(session)}/close", {"statusCode": 428})
    recovered = recover_sessions(trigger="start", force=True)
    assert recovered is not None and (recovered.expected, recovered.reconnected) == (1, 1)
    after = rises(before)
    assert after[f"{RECONNECT}_count", "restart"] == 1
    assert (f"{RECONNECT}_count", "drop") not in after


def test_session_p53_the_longest_reconnect_under_way(house: World, broker: Broker, settings: Settings) -> None:
    session = connect(house, broker)
    assert scrape(OLDEST, fresh=True)[OLDEST,] == 0
    began = timezone.now() - timedelta(seconds=40)
    change(session, status="connecting", reconnect_started_at=began)
    assert 40 <= scrape(OLDEST, fresh=True)[OLDEST,] < 60
    change(session, status="error")  # attempts go on
    assert 40 <= gauge(OLDEST) < 60
    for left_alone in ({"status": "qrcode"}, {"status": "logged_out"}, {"desired_state": "disconnected"},
                       {"auto_reconnect": False}, {"deleted_at": began}):  # fmt: skip
        change(session, **left_alone)
        assert gauge(OLDEST) == 0, left_alone
        change(session, status="connecting", desired_state="connected", auto_reconnect=True, deleted_at=None)
    maintain(on=True)
    assert gauge(OLDEST) == 0
    maintain(on=False)
    assert gauge(OLDEST) >= 40
    settings.WHATSAPP_AUTO_RECONNECT = False
    assert gauge(OLDEST) == 0


def test_session_p55_qr_codes_generated(house: World, broker: Broker, settings: Settings) -> None:
    before = scrape(*COUNTED)
    session = make(house.admin)
    ticking(lambda: fresh(session).qr_code)
    after = rises(before)
    assert after[QR, "success"] == fresh(session).qr_version == 1
    assert (QR, "error") not in after
    state = get_adapter().status(instance=wire_name(fresh(session)))
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    with pytest.raises(BrokerUnreachable):
        fetch_qr(session=session, state=state)
    assert rises(before)[QR, "error"] == 1


def test_session_p59_connections_lost_after_a_restart(house: World, broker: Broker, settings: Settings) -> None:
    settings.WHATSAPP_RECOVERY_DEADLINE_SECONDS = 0
    first, second = connect(house, broker), connect(house, broker, "Suporte", "5511912340000")
    asleep = make(house.admin, "Parada")  # waits for a scan since before the restart: it was not expected
    synced(asleep, "qrcode")
    for session in (first, second):
        broker.control(f"{wire_name(session)}/close", {"statusCode": 428})
    recover_sessions(trigger="start", force=True)
    assert scrape(LOST, fresh=True)[LOST,] == 2
    synced(first, "connected")
    synced(second, "connected")
    assert gauge(LOST) == 0
    broker.control(f"{wire_name(first)}/close", {"statusCode": 428})
    sync()
    assert gauge(LOST) == 0  # a drop later on is no loss of the restart
    synced(first, "connected")
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    recover_sessions(trigger="start", force=True)
    assert fresh(first).status == "connected"  # nobody said otherwise; and nobody confirmed it
    assert gauge(LOST) == 2
    settings.WHATSAPP_BROKER_URL = broker.url
    sync()
    assert gauge(LOST) == 0
    with tenant_scope(house.ipe.pk):
        assert list(RecoveryRun.objects.order_by("started_at").values_list("expected", "lost")) == [(2, 2), (2, 2)]


def test_sessions_that_need_a_person_by_reason(house: World, broker: Broker) -> None:
    name = "whatsapp_sessions_reauth_required"
    session = connect(house, broker)
    broker.control(f"{wire_name(session)}/close", {"statusCode": 401})
    ticking(lambda: fresh(session).reauth_reason)
    seen = {key[1:]: value for key, value in scrape(name, fresh=True).items()}
    assert seen.pop(("session_expired", "ipe")) == 1
    assert seen == dict.fromkeys(
        [(r, t) for t in ("cedro", "ipe") for r in REAUTH_REASONS if (r, t) != ("session_expired", "ipe")], 0
    )
    broker.control(f"{wire_name(session)}/open", {"phone": "5511912345678"})
    synced(session, "connected")
    assert scrape(name, fresh=True)[name, "session_expired", "ipe"] == 0


def test_every_reason_is_known_before_it_happens() -> None:
    endings = [*states._ENDINGS.values(), states.BROKER_RESET, states.OUTDATED, states.LOGGED_OUT]
    assert set(REAUTH_REASONS) == {one.reauth_reason for one in endings if one.reauth_reason} | {IDLE}
    known = scrape(SAVES, QR)
    for result in ("success", "error", "retry"):
        assert all((SAVES, operation, result) in known for operation in metrics.OPERATIONS)
    assert {(QR, "success"), (QR, "error")} <= set(known)
