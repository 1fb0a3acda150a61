"""The commands about connections: what they print, for people and as JSON, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from leadengine.redis import client
from tests.conftest import ROOT, World
from tests.outbound import Broker, until
from tests.whatsapp.sessions.conftest import fresh, make
from tests.whatsapp.sessions.steps import becomes, close, connected, scan, set_columns, starts
from whatsapp.models import Duty, RecoveryRun
from whatsapp.services.sessions.listening import NAME

pytestmark = pytest.mark.django_db(transaction=True)


def run(*words: str) -> tuple[int, str]:
    """(exit code, what it printed)."""
    out = StringIO()
    try:
        call_command(*words, stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    except CommandError as error:
        return error.returncode, str(error)
    return 0, out.getvalue()


def run_json(*words: str) -> tuple[int, Any]:
    code, out = run(*words, "--json")
    return code, json.loads(out)


@pytest.mark.parametrize(
    "name",
    ["recover_sessions", "sync_sessions", "broker_events", "reconnect_all", "reauth_instance", "session_status",
     "maintenance", "flag_idle_sessions"],
)  # fmt: skip
def test_help_has_an_example_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call_command(name, "--help")
    out = capsys.readouterr().out
    assert end.value.code in {None, 0}
    assert "--json" in out
    assert f"Example: manage.py {name}" in " ".join(out.split())


def test_recover_sessions_tells_and_fails_while_one_is_lost(house: World, broker: Broker, settings: Any) -> None:
    connected(broker, house.admin)
    away = connected(broker, house.agent)
    assert run_json("recover_sessions") == (0, {
        "ran": True, "expected": 2, "reconnected": 2, "lost": 0, "slowest_seconds": pytest.approx(0, abs=2),
    })  # fmt: skip
    assert run_json("recover_sessions") == (0, {"ran": False}), "at most once a minute"
    settings.WHATSAPP_RECOVERY_DEADLINE_SECONDS = 1
    close(broker, away, 428)
    code, out = run("recover_sessions", "--force")
    assert code == 1
    assert "1 of 2 are connected" in out
    with service_scope("test"):
        assert RecoveryRun.objects.filter(trigger="command").count() == 2


def test_sync_sessions_looks_at_all_and_fails_without_a_broker(house: World, broker: Broker, settings: Any) -> None:
    connected(broker, house.admin)
    assert run_json("sync_sessions") == (0, {"looked": 1})
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    code, said = run("sync_sessions")
    assert code == 1
    assert "BROKER_UNREACHABLE" in said


def test_session_p70_reconnect_all_connects_what_is_wanted(house: World, broker: Broker, settings: Any) -> None:
    up = connected(broker, house.admin)
    down = connected(broker, house.agent)
    unwanted = make(house.agent2, auto_connect=False)
    close(broker, down, 403)
    becomes(down, "error")
    broker.behave(down.broker_instance_id or "")
    before = starts(broker)
    code, done = run_json("reconnect_all")
    assert (code, done["count"]) == (done["pending"], 1)
    assert starts(broker) > before
    becomes(down, "connected")
    assert fresh(up).connected
    assert fresh(unwanted).status == "disconnected"
    assert run_json("reconnect_all", "--tenant", "cedro") == (0, {"count": 0, "pending": 0})
    assert run("reconnect_all", "--tenant", "ninguem")[0] == 2


def test_session_status_asks_the_database_alone(house: World, broker: Broker, settings: Any) -> None:
    session = connected(broker, house.admin, "Vendas", "5511912345678")
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    code, rows = run_json("session_status")
    assert (code, [row["name"] for row in rows]) == (0, ["Vendas"])
    for word in ("Vendas", session.connection_id, str(session.pk)):
        code, row = run_json("session_status", word)
        assert (code, row["status"], row["tenant"], row["evidence"]["stale"]) == (0, "connected", "ipe", False)
    assert "912345678" not in json.dumps(rows)
    set_columns(session.pk, status="error", last_error={"message": "Caiu.", "action": "Aguarde."})
    code, out = run("session_status")
    assert code == 1
    assert "error" in out and "Caiu. Aguarde." in out
    assert run("session_status", "ninguem")[0] == 1
    make(house.agent, "Vendas", auto_connect=False)
    code, said = run("session_status", "Vendas")
    assert code == 2
    assert session.connection_id in said


def test_flag_idle_sessions_counts(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    assert run_json("flag_idle_sessions") == (0, {"flagged": 0})
    set_columns(session.pk, connected_at=timezone.now() - timedelta(days=15), last_activity_at=None)
    assert run("flag_idle_sessions") == (0, "1 newly flagged.\n")


# --- The playbook of reauthentication --------------------------------------------------------------------------------


def test_session_t26_reauth_draws_the_code_and_waits_for_the_scan(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin, "Loja")
    close_for_good(broker, session.broker_instance_id)
    becomes(session, "qrcode")
    drawn = threading.Event()

    class Out(StringIO):
        def write(self, text: str) -> int:
            if "█" in text or "▀" in text:
                drawn.set()
            return super().write(text)

    def phone() -> None:
        assert drawn.wait(10)
        scan(broker, session)

    hand = threading.Thread(target=phone)
    hand.start()
    out = Out()
    call_command("reauth_instance", "Loja", stdout=out)
    hand.join()
    said = out.getvalue()
    assert said.startswith("Status: qrcode\n")
    assert said.endswith("Connected.\n")
    assert fresh(session).connected


def test_reauth_of_a_connected_one_says_so(house: World, broker: Broker) -> None:
    connected(broker, house.admin, "Loja")
    before = starts(broker)
    assert run("reauth_instance", "Loja") == (0, "Status: connected\nConnected.\n")
    assert starts(broker) == before


def test_reauth_that_nobody_scans_ends_with_1(house: World, broker: Broker) -> None:
    make(house.admin, "Loja")
    code, said = run("reauth_instance", "Loja", "--wait", "1")
    assert code == 1
    assert "Not connected (qrcode)" in said
    assert run("reauth_instance", "ninguem")[0] == 1


def close_for_good(broker: Broker, instance: str | None) -> None:
    broker.control(f"{instance}/close", {"statusCode": 401})


# --- The listener -----------------------------------------------------------------------------------------------------


def test_broker_events_listens_in_the_foreground_and_gives_its_lease_back(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    client().flushdb()
    command = [sys.executable, "manage.py", "broker_events", "--json"]
    environ = {**os.environ, "WHATSAPP_BROKER_URL": broker.url}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"listening": True}
        until(lambda: client().exists(f"wake:sync:{session.pk}"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert Duty.objects.get(name=NAME).holder is None


def test_broker_events_without_a_broker_fails(settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = ""
    assert run("broker_events")[0] == 1
