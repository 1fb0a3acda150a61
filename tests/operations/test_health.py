"""/health, /healthz and /ready against the real PostgreSQL and Valkey, and without them."""

from __future__ import annotations

import json
import socket
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from leadengine import health
from leadengine.accounts.models import Tenant, User
from leadengine.accounts.scopes import service_scope, user_scope
from leadengine.operations import metrics_view
from leadengine.operations.checks import check_backup, check_database
from leadengine.operations.heartbeat import write_heartbeat
from leadengine.operations.models import BackupRecord
from leadengine.redis import client as redis_client
from leadengine.webhooks.models import Endpoint
from leadengine.webhooks.services.endpoints import change_endpoint, switch_off
from tests.conftest import World
from tests.environment import url
from tests.operations.conftest import _forget
from tests.webhooks.receiver import connect
from whatsapp.broker_health import record_failure, record_success
from whatsapp.models import WhatsAppSession
from whatsapp.services.journal import record_fact
from whatsapp.services.persistence import saving

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("leadengine.operations.urls"),
    pytest.mark.usefixtures("fresh"),
]


def get(path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    answer = Client().get(path, headers=headers)
    return answer.status_code, json.loads(answer.content)


def everybody_works() -> None:
    for name, kind in (("worker-1", "worker"), ("sender", "sender"), ("beat", "beat")):
        write_heartbeat(name=name, kind=kind)


@pytest.fixture
def without_redis(committed_world: World, settings: Settings) -> Iterator[None]:
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    redis_client.cache_clear()
    yield
    redis_client.cache_clear()


def test_all_parts_up(committed_world: World, settings: Settings) -> None:
    everybody_works()
    record_success()
    with service_scope("test"), saving():
        WhatsAppSession.objects.update(desired_state="connected")
    status, body = get("/healthz", **{"X-API-Key": "whatever"})
    assert (status, body["status"]) == (200, "ok"), body
    assert set(body["checks"]) == {
        "database", "redis", "workers", "beat", "rls", "migrations", "backup", "disk", "journal",
    }  # fmt: skip
    assert all(check["ok"] for check in body["checks"].values())
    assert body["checks"]["workers"] == {"ok": True, "alive": 2}
    runtime = body["whatsapp"]["runtime"]
    assert (runtime["mode"], runtime["transport"], runtime["status"], runtime["disabled"]) == (
        "http", "http", "running", False,
    )  # fmt: skip
    assert (runtime["metrics"]["sessionsConnected"], runtime["metrics"]["sessionsExpected"]) == (2, 2)
    assert body["whatsapp"]["broker"]["consecutiveFailures"] == 0
    assert body["whatsapp"]["broker"]["lastSuccessAt"].endswith("Z")
    assert get("/ready") == (200, {"ready": True})
    assert get("/health")[1]["status"] == "ok"


def test_no_body_names_anybody_or_any_place(committed_world: World) -> None:
    bodies = " ".join(json.dumps(get(path)[1]) for path in ("/health", "/healthz", "/ready"))
    with service_scope("test"):
        names = [str(each) for row in Tenant.objects.values_list("id", "slug") for each in row]
        names += [str(pk) for pk in User.objects.values_list("id", flat=True)]
        names += [str(each) for row in WhatsAppSession.objects.values_list("id", "connection_id") for each in row]
    assert not [name for name in [*names, socket.gethostname(), "127.0.0.1", "://"] if name in bodies]


def test_missing_workers_and_beat_degrade(committed_world: World) -> None:
    write_heartbeat(name="worker-1", kind="worker")
    status, body = get("/healthz")
    assert (status, body["status"]) == (200, "degraded")
    assert body["checks"]["workers"] == {"ok": False, "alive": 1}  # nobody sends
    assert body["checks"]["beat"] == {"ok": False, "lastTickAt": None}
    assert body["whatsapp"]["runtime"]["status"] == "degraded"
    assert get("/ready")[0] == 200


def test_a_worker_for_all_queues_is_enough_and_old_heartbeats_are_not(committed_world: World) -> None:
    write_heartbeat(name="all", kind="both")
    assert check_database()["workers"] == {"ok": True, "alive": 1}
    with psycopg.connect(url("leadengine_owner")) as owner:
        owner.execute("UPDATE operations_heartbeat SET at = now() - interval '31 seconds'")
    assert check_database()["workers"] == {"ok": False, "alive": 0}


@pytest.mark.parametrize("refusing", [True, False], ids=["refuses", "is silent"])
def test_without_postgres_down_within_two_seconds(settings: Settings, refusing: bool) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        port = 9 if refusing else silent.getsockname()[1]
        settings.DATABASE_URL = f"postgres://leadengine_app:x@127.0.0.1:{port}/none"
        began = time.monotonic()
        status, body = get("/healthz")
        assert time.monotonic() - began < 2
        assert (status, body["status"], body["checks"]["database"]["ok"]) == (503, "down", False)
        runtime = body["whatsapp"]["runtime"]
        assert (runtime["mode"], runtime["transport"], runtime["status"]) == ("http", "http", "degraded")
        assert get("/ready") == (503, {"ready": False, "reason": "database"})
        assert get("/health")[1]["status"] == "down"


@pytest.mark.usefixtures("without_redis")
def test_without_redis_degraded_but_ready() -> None:
    everybody_works()
    status, body = get("/healthz")
    assert (status, body["status"]) == (200, "degraded")
    assert [name for name, check in body["checks"].items() if not check["ok"]] == ["redis"]
    assert body["whatsapp"]["runtime"]["status"] == "degraded"
    assert get("/ready")[0] == 200


def test_session_p18_a_wall_that_was_turned_off_by_hand_degrades_and_is_measured(committed_world: World) -> None:
    def seen() -> tuple[float, str, bool]:
        _forget()
        gauge = {
            sample.labels["table"]: sample.value
            for family in metrics_view._gauges.collect() for sample in family.samples
            if sample.name == "whatsapp_rls_enforced"
        }  # fmt: skip
        body = get("/healthz")[1]
        return gauge["whatsapp_sessions"], body["status"], body["checks"]["rls"]["ok"]

    everybody_works()
    assert seen() == (1, "ok", True)
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        owner.execute("ALTER TABLE whatsapp_sessions DISABLE ROW LEVEL SECURITY")
        try:
            assert seen() == (0, "degraded", False)
        finally:
            owner.execute("ALTER TABLE whatsapp_sessions ENABLE ROW LEVEL SECURITY")
    assert seen() == (1, "ok", True)


def test_facts_that_wait_degrade(committed_world: World, settings: Settings, tmp_path: Path) -> None:
    everybody_works()
    settings.PERSISTENCE_JOURNAL_DIR = tmp_path
    record_fact(operation="x", tenant_id=committed_world.ipe.pk, session_id=None, fact={}, at=datetime.now(UTC))
    status, body = get("/healthz")
    assert (status, body["status"], body["checks"]["journal"]) == (200, "degraded", {"ok": False, "pending": 1})
    _forget()
    pending = "whatsapp_persistence_journal_pending"
    assert [s.value for family in metrics_view._gauges.collect() for s in family.samples if s.name == pending] == [1]


def test_a_broken_wall_is_seen(committed_world: World) -> None:
    everybody_works()
    tables = check_database()["rls"]["tables"]
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        for broken, mended in (
            ("DISABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY"),
            ("NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"),
        ):
            owner.execute(f"ALTER TABLE leads_contact {broken}")
            assert check_database()["rls"] == {"ok": False, "tables": tables - 1}
            owner.execute(f"ALTER TABLE leads_contact {mended}")
        owner.execute("CREATE POLICY hole ON leads_contact USING (true)")
        assert check_database()["rls"] == {"ok": False, "tables": tables - 1}
        owner.execute("DROP POLICY hole ON leads_contact")
    assert check_database()["rls"] == {"ok": True, "tables": tables}


def test_pending_migrations_are_not_ready(committed_world: World) -> None:
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        row = owner.execute(
            "DELETE FROM django_migrations WHERE app = 'operations' RETURNING app, name, applied"
        ).fetchall()
        try:
            assert get("/ready") == (503, {"ready": False, "reason": "migrations"})
            names = {name for _, name, _ in row}
            assert get("/healthz")[1]["checks"]["migrations"] == {"ok": False, "pending": len(names)}
        finally:
            for values in row:
                owner.execute("INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, %s)", values)
    time.sleep(health.KEPT_BAD)
    assert get("/ready")[0] == 200


def test_broker_is_degraded_after_three_failures_in_a_row(committed_world: World) -> None:
    everybody_works()
    for _ in range(3):
        record_failure("BROKER_TIMEOUT")
    block = get("/healthz")[1]["whatsapp"]
    assert (block["runtime"]["status"], block["broker"]["degraded"]) == ("degraded", True)
    assert (block["broker"]["consecutiveFailures"], block["broker"]["lastErrorCode"]) == (3, "BROKER_TIMEOUT")


def test_not_configured_and_shared_secret(committed_world: World, settings: Settings) -> None:
    settings.WHATSAPP_BROKER_URL, settings.WHATSAPP_WEBHOOK_SECRET_SHARED = "", True
    body = get("/healthz")[1]
    assert (body["whatsapp"]["runtime"]["status"], body["whatsapp"]["runtime"]["disabled"]) == ("not_configured", True)
    assert body["warnings"] == ["webhook_secret_shared"]


def test_an_endpoint_that_was_switched_off_is_a_warning_until_somebody_sees_to_it(committed_world: World) -> None:
    world, seen = committed_world, []
    endpoint, _ = connect(world.admin, "https://erp.example.test/")
    connect(world.admin, "https://erp.example.test/", enabled=False)
    with service_scope("test"):
        switch_off(endpoint_id=endpoint.pk, reason=Endpoint.Off.FAILING, now=timezone.now())
    for _ in range(2):
        check_database()
        seen.append("webhook_endpoint_given_up" in get("/healthz")[1]["warnings"])
        with user_scope(world.admin):
            change_endpoint(actor=world.admin, endpoint=endpoint, enabled=True, now=timezone.now())
    assert seen == [True, False]


def test_a_check_that_hangs_or_breaks_costs_itself_only(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody_works()
    monkeypatch.setattr(health._examiner, "probes", list(health._examiner.probes))

    def dawdle() -> health.Results:
        time.sleep(1.6)
        return {"slow": {"ok": True}}

    health.register("slow", run=dawdle)
    health.register("broken", run=lambda: {"broken": {"ok": 1 / 0}})
    began = time.monotonic()
    status, body = get("/healthz")
    assert time.monotonic() - began < 1.5
    assert (status, body["status"]) == (200, "degraded")
    assert body["checks"]["slow"] == {"ok": False, "code": "timeout"}
    assert body["checks"]["broken"] == {"ok": False, "code": "unavailable"}
    assert body["checks"]["database"]["ok"]


def test_a_good_result_is_kept_two_seconds(committed_world: World, settings: Settings) -> None:
    everybody_works()
    first = get("/healthz")[1]["checks"]
    settings.DATABASE_URL = "postgres://x:x@127.0.0.1:9/none"
    assert get("/healthz")[1]["checks"] == first


def test_a_process_that_was_told_to_end_is_not_ready(committed_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health._examiner, "stopping", False)
    health.begin_stopping()
    assert get("/ready") == (503, {"ready": False, "reason": "stopping"})
    assert get("/healthz")[0] == 200


def test_only_reading(committed_world: World) -> None:
    assert [Client().post(path).status_code for path in ("/health", "/healthz", "/ready", "/metrics")] == [405] * 4


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == health.VERSION


def test_session_p60_the_age_of_the_backup_counts_in_production(committed_world: World, settings: Settings) -> None:
    never = {"lastSuccessAt": None, "lastVerifiedAt": None, "ageSeconds": None}
    assert check_backup() == {"backup": {"ok": True, **never}}
    settings.DEVELOPMENT = False
    assert check_backup() == {"backup": {"ok": False, **never}}
    row = BackupRecord.objects.create(kind="daily", path="/b/1", bytes=1, verified_at=timezone.now())
    told = check_backup()["backup"]
    assert (told["ok"], told["ageSeconds"] < 5, told["lastVerifiedAt"][-1]) == (True, True, "Z")
    BackupRecord.objects.filter(pk=row.pk).update(created_at=timezone.now() - timedelta(hours=27))
    told = check_backup()["backup"]
    assert (told["ok"], told["ageSeconds"] > 97_000) == (False, True)
    settings.DEVELOPMENT = True
    assert check_backup()["backup"]["ok"]
