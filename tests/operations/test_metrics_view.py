"""/metrics: who may read it, and that its gauges are true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from leadengine import metrics
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.celery import MAINTENANCE, app
from leadengine.operations.heartbeat import write_heartbeat
from leadengine.operations.models import BackupRecord
from leadengine.redis import client as redis_client
from tests.conftest import World
from tests.environment import url
from tests.operations.conftest import ROOT
from tests.samples import scrape
from tests.whatsapp.inbound import receive, store, text_event
from tickets.models import Message
from whatsapp.models import WebhookEvent, WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = [pytest.mark.urls("leadengine.operations.urls"), pytest.mark.usefixtures("fresh")]
database = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("10.0.0.7", {}, 403),
        ("", {}, 403),
        ("10.0.0.7", {"Authorization": "Bearer right"}, 200),
        ("10.0.0.7", {"Authorization": "Bearer wrong"}, 403),
        ("127.0.0.1", {"Authorization": "Bearer wrong"}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.7"}, 403),
        ("127.0.0.1", {"Forwarded": "for=10.0.0.7"}, 403),
        ("127.0.0.1", {"X-Real-IP": "10.0.0.7"}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.7", "Authorization": "Bearer right"}, 200),
    ],
)
@database
def test_who_may_read(settings: Settings, peer: str, headers: dict[str, str], status: int) -> None:
    settings.METRICS_TOKEN = "right"
    assert Client(REMOTE_ADDR=peer).get("/metrics", headers=headers).status_code == status


@database
def test_without_a_token_configured_none_is_right(settings: Settings) -> None:
    settings.METRICS_TOKEN = ""
    for sent in ("Bearer ", "Bearer x"):
        assert Client(REMOTE_ADDR="10.0.0.7").get("/metrics", headers={"Authorization": sent}).status_code == 403


@database
def test_gauges_tell_the_truth(committed_world: World) -> None:
    receive(text_event("um"), text_event("um", external_id="A"), text_event("um", external_id="A"))
    store(text_event("waits"), text_event("lost", instance="nobody"))
    write_heartbeat(name="worker-1", kind="worker")
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(desired_state="connected")
        WhatsAppSession.objects.filter(pk=committed_world.foreign_line.pk).update(
            status="disconnected", desired_state="disconnected"
        )
    seen = scrape()
    assert (seen["turbozap_instances_active", "ipe"], seen["turbozap_instances_expected", "ipe"]) == (1, 1)
    assert (seen["turbozap_instances_active", "cedro"], seen["turbozap_instances_expected", "cedro"]) == (0, 0)
    assert seen["turbozap_instance_connected", "inst-ipe-01", "ipe"] == 1
    assert seen["turbozap_instance_connected", "inst-cedro-01", "cedro"] == 0
    backlog = {state: seen["whatsapp_webhook_backlog", state] for state in ("pending", "parked", "orphan", "failed")}
    assert backlog == {"pending": 1, "parked": 0, "orphan": 1, "failed": 0}
    assert 0 < seen["whatsapp_webhook_oldest_pending_seconds",] < 30
    assert (
        0 < seen["whatsapp_pipeline_latency_seconds", "0.5"] <= seen["whatsapp_pipeline_latency_seconds", "0.95"] < 30
    )
    assert seen["whatsapp_dedupe_hit_ratio",] == pytest.approx(1 / 3)
    assert seen["turbozap_queue_messages_pending", "whatsapp.inbound"] == 1
    assert (seen["tickets_open", "OPEN"], seen["tickets_open", "PENDING"]) == (1, 0)
    assert 0 < seen["tickets_waiting_oldest_seconds",] < 60
    assert seen["leadengine_workers_alive",] == 1
    assert {value for key, value in seen.items() if key[0] == "whatsapp_rls_enforced"} == {1}
    assert {value for key, value in seen.items() if key[0] == "leadengine_collector_up"} == {1}
    assert seen["process_resident_memory_bytes",] > 1_000_000
    assert seen["whatsapp_webhook_events_total", "none", "empty", "accepted"] >= 0


@database
def test_pending_sends_are_counted_with_redis_flushed(committed_world: World) -> None:
    receive(text_event("oi"))
    now = datetime.now(UTC)
    with tenant_scope(committed_world.ipe.pk):
        first = Message.objects.get()
        for position, (status, wait) in enumerate((("QUEUED", None), ("QUEUED", 60), ("QUEUED", -1)), start=2):
            Message.objects.create(
                tenant=committed_world.ipe, ticket_id=first.ticket_id, contact_id=first.contact_id, position=position,
                direction="OUTBOUND", status=status, source="AGENT", sent_at=now, session_id=first.session_id,
                not_before=now + timedelta(seconds=wait) if wait else None,
            )  # fmt: skip
    redis_client().flushdb()
    assert scrape()["turbozap_queue_messages_pending", "whatsapp.send.messages"] == 2


@database
def test_depth_of_the_other_queues_is_what_lies_in_the_engine() -> None:
    redis_client().flushdb()
    for _ in range(3):
        app.send_task("tickets.sweep_outbox", queue=MAINTENANCE)
    seen = scrape()
    assert seen["turbozap_queue_messages_pending", MAINTENANCE] == 3
    assert seen["turbozap_queue_messages_pending", "leadengine.default"] == 0
    redis_client().flushdb()


@database
def test_a_broken_collector_costs_its_own_gauges_only(committed_world: World) -> None:
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        owner.execute("ALTER TABLE tickets_ticket RENAME TO tickets_gone")
        try:
            seen = scrape()
        finally:
            owner.execute("ALTER TABLE tickets_gone RENAME TO tickets_ticket")
    assert (seen["leadengine_collector_up", "tickets"], seen["leadengine_collector_up", "inbox"]) == (0, 1)
    assert ("tickets_open", "OPEN") not in seen
    assert ("whatsapp_webhook_backlog", "pending") in seen


@database
def test_a_slow_database_and_a_lost_engine_are_waited_for_no_longer(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.conf, "broker_url", "redis://127.0.0.1:9/0")
    monkeypatch.setattr("leadengine.operations.collectors.TIMEOUT_MS", 200)
    with psycopg.connect(url("leadengine_owner")) as owner:
        owner.execute("LOCK TABLE tickets_ticket")
        seen = scrape()
    down = {key[1] for key, value in seen.items() if key[0] == "leadengine_collector_up" and not value}
    assert down == {"tickets", "engine", "walls"}  # a policy's text cannot be read while its table is locked
    assert seen["turbozap_queue_messages_pending", "whatsapp.inbound"] == 0


@database
def test_gauges_are_kept_five_seconds(committed_world: World) -> None:
    assert scrape()["whatsapp_webhook_backlog", "orphan"] == 0
    store(text_event("lost", instance="nobody"))
    assert scrape()["whatsapp_webhook_backlog", "orphan"] == 0
    with service_scope("test"):
        assert WebhookEvent.objects.filter(status="ORPHAN").count() == 1


@database
def test_instances_beyond_the_limit_share_one_label(committed_world: World, settings: Settings) -> None:
    settings.METRICS_MAX_INSTANCES = 1
    names = [key for key in scrape() if key[0] == "turbozap_instance_connected"]
    assert sorted(names) == [
        ("turbozap_instance_connected", "inst-cedro-01", "cedro"),
        ("turbozap_instance_connected", "overflow", "overflow"),
    ]


COUNT = """
import django, sys
django.setup()
from leadengine import metrics
metrics.webhook_events.labels(result="accepted", reason="ok", payload_type="text").inc(int(sys.argv[1]))
"""
READ = """
import django
django.setup()
from django.test import RequestFactory
from leadengine import metrics
from leadengine.operations.metrics_view import metrics as page
print(int(metrics.totals({"whatsapp_webhook_events_total": "result"})["whatsapp_webhook_events_total"]["accepted"]))
print(page(RequestFactory().get("/metrics")).content.decode())
"""


@database
def test_counters_of_all_processes_are_added(tmp_path: Path) -> None:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, "-c", *words], env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(COUNT, "3")
    run(COUNT, "4")
    (tmp_path / "gauge_livesum_999999.db").write_bytes(b"")  # left behind by a process that was killed
    total, page = run(READ).split("\n", 1)
    assert total == "7"
    assert 'whatsapp_webhook_events_total{payload_type="text",reason="ok",result="accepted"} 7.0' in page
    assert "process_resident_memory_bytes" in page
    assert "whatsapp_webhook_backlog" in page
    assert not (tmp_path / "gauge_livesum_999999.db").exists()


def test_every_reason_exists_before_it_happens() -> None:
    totals = metrics.totals({"whatsapp_webhook_events_total": "reason"})["whatsapp_webhook_events_total"]
    assert {reason for reasons in metrics.REASONS.values() for reason in reasons} <= set(totals)
    assert "_created" not in {s.name[-8:] for f in metrics.everything().collect() for s in f.samples}


@database
def test_session_p60_gauges_tell_of_the_newest_backup(committed_world: World) -> None:
    prefix = "whatsapp_backup_last_"
    names = [f"{prefix}{name}" for name in ("success_timestamp_seconds", "verified_timestamp_seconds", "size_bytes")]
    now = datetime.now(UTC)
    for hours, size, part in ((30, 5, "whole"), (2, 7, "whole"), (1, 9, "protected")):
        at = now - timedelta(hours=hours)
        row = BackupRecord.objects.create(kind="daily", path=f"/b/{hours}", bytes=size, part=part, created_at=at)
        if hours == 30:
            BackupRecord.objects.filter(pk=row.pk).update(verified_at=now)
    seen = scrape()
    expected = [(now - timedelta(hours=2)).timestamp(), now.timestamp(), 7]
    assert [seen[name,] for name in names] == pytest.approx(expected, abs=0.01)


def test_every_operation_that_is_saved_is_known_at_the_start() -> None:
    named = re.compile(r'(?:persist\(\s*|operation=|OPERATION = )"([a-z]+(?:\.[a-z]+)?)"')
    files = [path for folder in ("leadengine", "tickets", "whatsapp") for path in (ROOT / folder).rglob("*.py")]
    assert {name for path in files for name in named.findall(path.read_text())} == set(metrics.OPERATIONS)


@database
def test_only_what_is_asked_for_by_name() -> None:
    names = {"tickets_open", "logins_total"}
    assert {name for name, *_ in scrape(*names)} == names
    assert scrape("no_such_thing") == {}
