"""QR, pairing, open, close, reconnect, logout, and the state file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.whatsapp.simulator.conftest import MARIA, Broker, StartBroker, until
from whatsapp.simulator.connection import Connection, Line


def connection_of(broker: Broker, name: str = "loja1") -> Connection:
    return broker.simulator.instances[name].connection


async def test_a_new_instance_shows_a_qr_for_a_minute_and_the_next_ones_for_20_seconds(broker: Broker) -> None:
    await broker.call("POST", "/instances", {"name": "loja1"})
    assert (await broker.call("GET", "/instances/loja1/qr.png"))[0] == 204
    await until(lambda: connection_of(broker).qr is not None)
    async with broker.session.get(broker.url + "/instances/loja1/qr.png") as response:
        first = await response.read()
        assert (response.status, response.content_type, first[:4]) == (200, "image/png", b"\x89PNG")
        assert int.from_bytes(first[16:20]) >= 200
    snapshot = await broker.snapshot()
    assert (snapshot["connectionState"], snapshot["hasLastQr"], snapshot["qrVersion"]) == ("connecting", True, 1)
    assert snapshot["qrExpiresAt"] - snapshot["qrReceivedAt"] == 60_000
    _, second = await broker.call("POST", "/_sim/loja1/qr")
    assert (second["qrVersion"], second["qrExpiresAt"] - second["qrReceivedAt"]) == (2, 20_000)
    assert second["qr"].startswith("2@")
    assert (await broker.call("GET", "/instances/loja1/qr.png"))[1] != first
    async with broker.session.get(broker.url + "/instances/nobody/qr.png") as response:
        assert (response.status, response.content_type) == (404, "text/plain")


async def test_codes_renew_by_themselves_and_end_in_qr_timeout(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whatsapp.simulator.connection._lifetime", lambda _number: 0.02)
    await broker.call("POST", "/instances", {"name": "loja1"})
    await until(lambda: connection_of(broker).state == "qr_timeout")
    snapshot = await broker.snapshot()
    assert snapshot["qrVersion"] == 6
    assert snapshot["connectionStateDetail"]["statusCode"] == 408
    assert snapshot["connectionStateDetail"]["isTimedOut"] is True
    assert (await broker.call("GET", "/instances/loja1/qr.png"))[0] == 204
    await until(lambda: connection_of(broker).qr is not None)


async def test_pairing_gives_a_code_unless_the_link_is_closed(broker: Broker) -> None:
    await broker.call("POST", "/instances", {"name": "loja1"})
    status, answer = await broker.call("POST", "/instances/loja1/pair", {"phoneNumber": "+55 11 98888-7777"})
    assert (status, len(answer["pairingCode"])) == (200, 8)
    assert (await broker.snapshot())["pairingAttempts"] == 1
    assert (await broker.call("POST", "/instances/loja1/pair", {"phoneNumber": "1"}))[0] == 400
    await broker.call("POST", "/_sim/loja1/close", {"statusCode": 408})
    status, answer = await broker.call("POST", "/instances/loja1/pair", {"phoneNumber": MARIA})
    assert (status, answer["error"], answer["state"]) == (503, "instance_offline", "qr_timeout")


async def test_open_shows_the_phone_and_close_comes_back_by_itself(broker: Broker) -> None:
    await broker.call("POST", "/_sim/loja1/open", {"phone": "+55 (11) 91234-5678", "name": "Matriz"})
    assert (await broker.snapshot())["user"] == {"id": "5511912345678:1@s.whatsapp.net", "name": "Matriz"}
    _, closed = await broker.call("POST", "/_sim/loja1/close", {"statusCode": 428})
    detail = {"statusCode": 428, "reason": "Connection Closed", "isLoggedOut": False, "isTimedOut": False}
    assert (closed["connectionState"], closed["connectionStateDetail"]) == ("close", detail)
    assert (closed["connected"], closed["user"]) == (False, None)
    await until(lambda: connection_of(broker).state == "open", 3)
    assert (await broker.snapshot())["user"]["id"] == "5511912345678:1@s.whatsapp.net"
    assert (await broker.call("POST", "/_sim/loja1/close", {"statusCode": 999}))[0] == 400


async def test_reconnecting_waits_1_2_4_seconds_up_to_30(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def slept(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("whatsapp.simulator.connection.asyncio.sleep", slept)
    failures = iter([False] * 7 + [True])
    line = connection_of(await opened(broker))._line
    connection = Connection("x", Line(line.ids, line.background, lambda _: next(failures), lambda *_: None))
    connection.open()
    await connection._reconnect(1)
    assert [wait for wait in waits if wait != 0.2] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert connection.state == "open"


async def opened(broker: Broker) -> Broker:
    await broker.open()
    return broker


async def test_401_and_logout_wipe_and_show_a_new_qr(broker: Broker) -> None:
    await broker.open()
    for path, body in (("/_sim/loja1/close", {"statusCode": 401}), ("/instances/loja1/logout", {})):
        await broker.open()
        assert (await broker.call("POST", path, body))[0] == 200
        snapshot = await broker.snapshot()
        assert (snapshot["connectionState"], snapshot["user"], snapshot["pairedAt"]) == ("connecting", None, None)
        assert snapshot["connectionStateDetail"]["isLoggedOut"] is True
        await until(lambda: connection_of(broker).qr is not None)
    status, answer = await broker.call("POST", "/instances/loja1/logout")
    assert (status, answer["error"]) == (503, "instance_offline")


async def test_wipe_is_answered_before_it_is_done(broker: Broker) -> None:
    await broker.open()
    status, answer = await broker.call("POST", "/instances/loja1/session/wipe")
    assert (status, answer["ok"], connection_of(broker).state) == (202, True, "open")
    await until(lambda: connection_of(broker).qr is not None)
    assert (await broker.snapshot())["connectionStateDetail"] is None


async def test_sessions_survive_a_restart_and_events_do_not(start: StartBroker, tmp_path: Path) -> None:
    state = tmp_path / "simulator.json"
    first = await start(state_file=state)
    await first.call("POST", "/instances", {"name": "Nova", "note": "sem scan"})
    await first.call("POST", "/_sim/Loja_1/open", {"phone": MARIA})
    await first.inbound({"from": "5511977776666", "text": "oi"}, name="Loja_1")
    await first.call("POST", "/_sim/customers", {"count": 3, "perMinute": 0})
    await until(lambda: state.exists() and '"count": 3' in state.read_text())
    assert state.stat().st_mode & 0o777 == 0o600
    second = await start(state_file=state)
    snapshot = await second.snapshot("Loja_1")
    assert (snapshot["connectionState"], snapshot["user"]["id"]) == ("open", f"{MARIA}:1@s.whatsapp.net")
    assert snapshot["counters"]["received"] == 0
    assert (await second.call("GET", "/instances/Loja_1/events"))[1]["events"] == []
    assert (await second.snapshot("nova"))["note"] == "sem scan"
    await until(lambda: connection_of(second, "nova").qr is not None)
    assert (await second.call("GET", "/_sim/state"))[1]["customers"]["count"] == 3


async def test_a_closed_session_reconnects_after_a_restart(start: StartBroker, tmp_path: Path) -> None:
    state = tmp_path / "simulator.json"
    first = await start(state_file=state)
    await first.open("loja1", offline=True)
    await first.call("POST", "/_sim/loja1/close", {"statusCode": 428})
    await until(lambda: state.exists() and json.loads(state.read_text())["instances"][0]["open"] is False)
    second = await start(state_file=state)
    await until(lambda: connection_of(second).state == "open")
