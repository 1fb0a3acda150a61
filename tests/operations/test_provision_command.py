"""`manage.py provision`: its file, its JSON, its exit code, and the simulator's lines."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import requests
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from leadengine.accounts.models import Tenant
from leadengine.operations.simulated import find_simulator
from tests.operations.conftest import SimulatorThread
from tests.operations.test_provisioning import FILE, changed

pytestmark = pytest.mark.django_db(transaction=True)


def run(file: dict[str, Any], tmp_path: Path) -> Any:
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps(file))
    call_command("provision", "--file", str(path))


@pytest.fixture
def broker(simulator: SimulatorThread, settings: Settings) -> SimulatorThread:
    settings.WHATSAPP_BROKER_URL, settings.WHATSAPP_BROKER_API_KEY = simulator.url, ["broker-key-1"]
    return simulator


def test_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(FILE, tmp_path)
    done = json.loads(capsys.readouterr().out)
    assert [tenant["slug"] for tenant in done["tenants"]] == ["ipe", "cedro"]
    run(FILE, tmp_path)
    assert json.loads(capsys.readouterr().out)["tenants"][0]["apiTokens"][0]["token"] is None


def test_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(FILE)))
    call_command("provision", "--file", "-")
    assert json.loads(capsys.readouterr().out)["tenants"][0]["created"]


def test_an_error_is_one_sentence_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"^tenants\[0\]\.users\[0\]\.role: "):
        run(changed("tenants.0.users.0.role", "BOSS"), tmp_path)
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("provision", "--file", str(tmp_path / "missing.json"))
    assert not Tenant.objects.exists()


def test_what_is_connected_is_open_at_the_simulator(broker: SimulatorThread, tmp_path: Path) -> None:
    for _ in range(2):
        run(FILE, tmp_path)
        lines = {each["id"]: each["connectionState"] for each in broker.state()["instances"]}
        assert lines == {"ipe-01": "open"}
    requests.post(f"{broker.url}/_sim/ipe-01/close", json={"statusCode": 401}, headers=broker.headers, timeout=5)
    run(FILE, tmp_path)
    assert [each["connectionState"] for each in broker.state()["instances"]] == ["open"]


def test_nothing_is_opened_when_nothing_was_stored(broker: SimulatorThread, tmp_path: Path) -> None:
    with pytest.raises(CommandError):
        run(changed("tenants.1.sessions.0.brokerInstanceId", "ipe-01"), tmp_path)
    assert broker.state()["instances"] == []


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9", "https://broker.example.test"])
def test_a_broker_that_is_no_simulator_is_left_alone(url: str, settings: Settings, tmp_path: Path) -> None:
    settings.WHATSAPP_BROKER_URL, settings.WHATSAPP_BROKER_API_KEY = url, ["broker-key-1"]
    assert find_simulator() is None
    run(FILE, tmp_path)


def test_a_wrong_key_finds_no_simulator(simulator: SimulatorThread, settings: Settings) -> None:
    settings.WHATSAPP_BROKER_URL, settings.WHATSAPP_BROKER_API_KEY = simulator.url, ["wrong"]
    assert find_simulator() is None
