"""The task queues over HTTP and as commands: who may, what they show, what emptying them does (operations.md 6)."""

from __future__ import annotations

import base64
import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from leadengine.accounts.models import AuditLog
from leadengine.accounts.scopes import service_scope
from leadengine.celery import INBOUND, MAINTENANCE, SENDING, app
from leadengine.operations.heartbeat import write_heartbeat
from tests.api import by_cookie, by_key, send
from tests.conftest import World
from tests.outbound import conversation, events_of, queue, reload
from tests.whatsapp.inbound import store, text_event
from tickets.services.outbox import purge_outbox, resend_message
from whatsapp.models import WebhookEvent

pytestmark = pytest.mark.django_db(transaction=True)
KEY = "f" * 64
QUEUES = "/api/queues"


@pytest.fixture
def operator(settings: Any) -> Client:
    settings.API_KEY = ["e" * 64, KEY]
    return Client(headers={"X-API-Key": KEY})


def basic(password: str) -> Client:
    return Client(headers={"Authorization": "Basic " + base64.b64encode(f"guest:{password}".encode()).decode()})


def test_operations_t48_t49_t53_all_queues_one_by_name_and_by_its_path(
    committed_world: World, operator: Client
) -> None:
    queue(committed_world, conversation(committed_world))
    store(text_event("dois", external_id="X2"))
    status, rows = send(operator, "get", QUEUES)
    assert status == 200
    assert {row["name"] for row in rows} == {found.name for found in app.conf.task_queues}
    assert all(set(row) == {"name", "vhost", "messages", "messages_ready", "consumers"} for row in rows)
    depth = {row["name"]: row["messages"] for row in rows}
    assert (depth[SENDING], depth[INBOUND]) == (1, 1), "the truth is in PostgreSQL"
    for path in (f"{QUEUES}/{SENDING}", f"{QUEUES}/%2F/{SENDING}", f"{QUEUES}///{SENDING}"):
        assert send(operator, "get", path)[1] == rows[[row["name"] for row in rows].index(SENDING)]
        assert send(basic(KEY), "get", path)[0] == 200
    assert send(basic("e" * 64), "get", QUEUES)[1] == rows
    assert send(operator, "get", f"{QUEUES}/whatsapp.none")[0] == 404
    write_heartbeat(name="w", kind="worker")
    assert {row["name"]: row["consumers"] for row in send(operator, "get", QUEUES)[1]}[INBOUND] == 1


def test_only_the_operator_sees_or_empties_task_queues(committed_world: World, operator: Client) -> None:
    row = queue(committed_world, conversation(committed_world))
    for client in (Client(), by_key(committed_world.admin), by_cookie(committed_world.superuser), basic("wrong")):
        for method, path in (("get", ""), ("delete", "/contents")):
            for one in (SENDING, f"%2F/{SENDING}"):
                status, answer = send(client, method, f"{QUEUES}/{one}{path}")
                assert (status, answer["error"]["code"]) == (401, "UNAUTHORIZED")
    assert reload(row).status == "QUEUED"
    assert basic("wrong").get(QUEUES)["WWW-Authenticate"].startswith("Basic")
    names = [found["name"] for found in send(by_key(committed_world.agent), "get", QUEUES)[1]["data"]]
    assert names == ["Recepcao"], "the desk's own queues, under the same address"
    assert send(Client(), "get", QUEUES)[0] == 401


def test_operations_t58_emptying_returns_a_count_is_audited_and_loses_nothing(
    committed_world: World, operator: Client
) -> None:
    row = queue(committed_world, conversation(committed_world))
    with events_of(committed_world) as told:
        assert send(operator, "delete", f"{QUEUES}/%2F/{SENDING}/contents") == (200, {"purged": 1})
        changes = [data["changes"] for name, data in told() if name == "message.updated"]
    failed = reload(row)
    assert (failed.status, failed.error and failed.error["code"]) == ("FAILED", "PURGED")
    assert changes[0]["status"] == "FAILED"
    with service_scope("test"):
        audited = dict(AuditLog.objects.filter(action__contains="purged").values_list("action", "changes"))
        assert audited == {"queue.purged": {"queue": SENDING, "purged": 1}, "outbox.purged": {"messages": 1}}
        resend_message(actor=committed_world.admin, message_id=row.pk, confirm_duplicate=False, now=timezone.now())
    assert reload(row).status == "QUEUED"
    store(text_event("dois", external_id="X2"))
    for name in (INBOUND, MAINTENANCE):
        app.send_task("nothing", queue=name)
        app.send_task("nothing", queue=name)
        assert send(operator, "delete", f"{QUEUES}/{name}/contents") == (200, {"purged": 2})
    with service_scope("test"):
        assert WebhookEvent.objects.filter(status="PENDING").count() == 1
    assert send(operator, "delete", f"{QUEUES}/whatsapp.none/contents")[0] == 404


def test_emptying_takes_what_waits_of_every_tenant_and_leaves_the_rest(committed_world: World) -> None:
    ticket = conversation(committed_world)
    first, second = queue(committed_world, ticket), queue(committed_world, ticket, "Dois")
    with service_scope("test"):
        type(first).objects.filter(pk=first.pk).update(status="SENT", external_id="X1")
    assert purge_outbox(now=timezone.now()) == 1
    assert (reload(first).status, reload(second).status) == ("SENT", "FAILED")
    assert purge_outbox(now=timezone.now()) == 0


def run(*words: str) -> Any:
    out = StringIO()
    call_command(*words, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_the_commands_do_the_same(committed_world: World) -> None:
    row = queue(committed_world, conversation(committed_world))
    assert {one["name"]: one["messages"] for one in run("queue_status")}[SENDING] == 1
    assert run("queue_status", SENDING)[0]["messages"] == 1
    with pytest.raises(CommandError, match="--yes"):
        run("queue_purge", SENDING)
    assert reload(row).status == "QUEUED"
    assert run("queue_purge", SENDING, "--yes") == {"queue": SENDING, "purged": 1}
    assert reload(row).status == "FAILED"
    for words in (("queue_status", "none"), ("queue_purge", "none", "--yes")):
        with pytest.raises(CommandError, match="fila"):
            run(*words)
    out = StringIO()
    call_command("queue_status", stdout=out)
    assert f"{SENDING} " in out.getvalue()


def test_without_its_engine_the_operator_is_told(committed_world: World, operator: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr("leadengine.operations.queues.engine_depths", lambda: None)
    status, answer = send(operator, "get", QUEUES)
    assert (status, answer["error"]["code"]) == (503, "QUEUE_ENGINE_UNAVAILABLE")
