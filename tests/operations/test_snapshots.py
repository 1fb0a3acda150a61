"""Configuration snapshots: what makes one, what stands in it, the difference of two and the way back."""

from __future__ import annotations

import json
import re
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from leadengine.accounts import changes
from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.operations import snapshots
from leadengine.operations.models import BackupRecord, ConfigSnapshot
from leadengine.operations.snapshots import take_snapshot
from tests.conftest import World
from tests.operations.conftest import ROOT
from tickets.models import Queue
from tickets.services.queues import save_queue
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.changing import Change, Origin, change_session

pytestmark = pytest.mark.django_db(transaction=True)


def command(*words: str) -> Any:
    """What a command prints as JSON."""
    out = StringIO()
    call_command(*words, "--json", stdout=out)
    return json.loads(out.getvalue())


def rename(world: World, name: str) -> None:
    """Change a setting of a session as the services do."""
    change_session(
        session_id=world.line.pk, tenant_id=world.ipe.pk, operation="session.settings", origin=Origin("api"),
        decide=lambda _: Change("settings", {"session_name": name}), now=timezone.now(),
    )  # fmt: skip


def versions() -> list[tuple[int, str]]:
    return list(ConfigSnapshot.objects.order_by("version").values_list("version", "reason"))


def test_session_p07_each_change_of_a_setting_makes_one_snapshot(committed_world: World, settings: Settings) -> None:
    rename(committed_world, "Loja 2")
    rename(committed_world, "Loja 2")  # nothing differs: nothing is stored
    rename(committed_world, "Loja 3")
    assert versions() == [(1, "session settings"), (2, "session settings")]
    line = ConfigSnapshot.objects.get(version=2).data["sessions"][str(committed_world.line.pk)]
    assert (line["name"], line["connectionId"]) == ("Loja 3", "inst-ipe-01")
    settings.WHATSAPP_WEBHOOK_API_KEY = ["another-key"]
    snapshots.note_configuration("start of a worker")  # a setting of the webhook changes by a restart
    assert versions()[2:] == [(3, "start of a worker")]


def test_changes_of_one_transaction_are_noted_once_and_those_undone_never(committed_world: World) -> None:
    with transaction.atomic():
        changes.note_change("one")
        changes.note_change("two")
        changes.note_change("one")
        assert versions() == []
    assert versions() == [(1, "one, two")]
    rename(committed_world, "Loja 2")
    with transaction.atomic():
        changes.note_change("undone")
        transaction.set_rollback(True)
    assert len(versions()) == 2


def test_a_snapshot_that_fails_does_not_fail_the_change(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_LOCK", "no number")  # the database refuses the lock
    rename(committed_world, "Loja 2")
    with tenant_scope(committed_world.ipe.pk):
        assert WhatsAppSession.objects.get(pk=committed_world.line.pk).session_name == "Loja 2"
    monkeypatch.setattr(snapshots, "describe_configuration", lambda: 1 / 0)
    monkeypatch.setattr(snapshots, "_LOCK", 1)
    rename(committed_world, "Loja 3")
    assert versions() == []


def test_every_setting_is_in_it_and_no_secret(committed_world: World, settings: Settings) -> None:
    settings.METRICS_TOKEN = "t" * 40
    settings.REDIS_URL = "redis://user:redis-password@127.0.0.1:6379/0"
    settings.CHANNEL_REDIS_URLS = ["redis://:other-password@127.0.0.1:6379/0"]
    data = take_snapshot(reason="test").data
    listed = set(re.findall(r"^#([A-Z0-9_]+)=", (ROOT / "deploy/env.example").read_text(), re.M))
    assert set(data["settings"]) == listed
    text = json.dumps(data)
    secrets = [
        settings.SECRET_KEY, settings.METRICS_TOKEN, "broker-key-1", "hook-key", "redis-password", "other-password",
        "only-for-tests",
    ]  # fmt: skip
    assert [secret for secret in secrets if secret in text] == []
    assert data["settings"]["METRICS_TOKEN"] == snapshots.conceal(settings.METRICS_TOKEN)
    assert re.fullmatch(r"sha256:[0-9a-f]{8}", data["settings"]["METRICS_TOKEN"])
    assert re.fullmatch(r"redis://sha256:[0-9a-f]{8}@127\.0\.0\.1:6379/0", data["settings"]["REDIS_URL"])
    assert (data["settings"]["DEBUG"], data["settings"]["SESSION_HOURS"]) == (True, 12)


def test_session_p62_snapshots_have_versions_and_a_diff(committed_world: World, settings: Settings) -> None:
    assert command("config_snapshot")["version"] == 1
    assert command("config_snapshot")["version"] == 1
    rename(committed_world, "Loja 2")
    settings.SESSION_HOURS = 10
    assert command("config_snapshot")["version"] == 3
    path = f"sessions.{committed_world.line.pk}.name"
    assert command("config_diff", "1", "3") == [
        {"path": path, "before": "Loja", "after": "Loja 2"},
        {"path": "settings.SESSION_HOURS", "before": 12, "after": 10},
    ]
    assert command("config_diff", "3", "3") == []
    with pytest.raises(CommandError, match="There is no snapshot 9: the newest is 3"):
        call_command("config_diff", "1", "9")


def test_session_p62_a_snapshot_is_restored(committed_world: World, settings: Settings) -> None:
    world, now = committed_world, timezone.now()
    first = take_snapshot(reason="before").version
    rename(world, "Loja 2")
    settings.SESSION_HOURS = 10
    world.queue.response_target_minutes = 99
    with service_scope("test"):
        save_queue(actor=world.superuser, queue=world.queue, now=now)
        Tenant.objects.filter(pk=world.ipe.pk).update(settings={"maxConnectionsPerOwner": 1})
        Queue.objects.filter(pk=world.foreign_queue.pk).delete()
        version = WhatsAppSession.objects.get(pk=world.line.pk).version
    done = command("config_restore", str(first))
    restored = {f"sessions.{world.line.pk}", f"queues.{world.queue.pk}", f"tenants.{world.ipe.pk}"}
    assert {each["path"] for each in done["restored"]} == restored
    assert done["skipped"] == [{"path": f"queues.{world.foreign_queue.pk}", "reason": "gone"}]
    assert done["byHand"] == [{"path": "settings.SESSION_HOURS", "before": 10, "after": 12}]
    with service_scope("test"):
        line = WhatsAppSession.objects.get(pk=world.line.pk)
        assert (line.session_name, line.version) == ("Loja", version + 1)
        assert Queue.objects.get(pk=world.queue.pk).response_target_minutes == 15
        assert Tenant.objects.get(pk=world.ipe.pk).settings == {}
    told = [(one["path"].split(".")[0], one["after"]) for one in command("config_diff", "1", str(done["version"]))]
    assert ("settings", 10) in told
    assert not [part for part, _ in told if part in {"sessions", "tenants"}]


def test_versions_and_backups_have_screens_for_superusers(committed_world: World) -> None:
    take_snapshot(reason="first")
    rename(committed_world, "Loja 2")
    row = BackupRecord.objects.create(
        kind="daily", path="/backups/leadengine_daily_1.dump", bytes=2048, manifest={"tables": {"x": 7}},
        verify_error="checksum",
    )  # fmt: skip
    client = Client()
    client.force_login(committed_world.superuser)
    said = {"backuprecord": row.path.rpartition("/")[2], "configsnapshot": "session settings"}
    for name, words in said.items():
        assert words in client.get(f"/admin/operations/{name}/").content.decode(), name
        assert client.get(f"/admin/operations/{name}/add/").status_code == 403
    page = client.get(f"/admin/operations/backuprecord/{row.pk}/change/").content.decode()
    assert "checksum" in page
    assert "&quot;x&quot;: 7" in page
    page = client.get("/admin/operations/configsnapshot/2/change/").content.decode()
    assert f"sessions.{committed_world.line.pk}.name" in page
    for user in (committed_world.admin, committed_world.supervisor):
        client.force_login(user)
        assert {client.get(f"/admin/operations/{name}/").status_code for name in said} == {403}
