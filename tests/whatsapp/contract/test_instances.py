"""The rows of instances and their link: spec/broker.md section 2, one test each, and the snapshot of section 3."""

from __future__ import annotations

import re
import uuid

import pytest

from tests.outbound import until
from tests.whatsapp.contract.conftest import Contract
from tests.whatsapp.contract.shapes import METADATA, SNAPSHOT, SUMMARY

DONE = {"ok": bool, "message": str}
MADE = {"id": str, "name": str, "dir": str, "metadata": METADATA}


def test_broker_01_post_instances(broker: Contract) -> None:
    name = f"Contract Loja (2)! {uuid.uuid4().hex[:6]}"
    ignored = {"id": "x", "instanceId": "x", "webhookUrl": "http://127.0.0.1:1/", "verifyToken": "x", "tenantId": "t"}
    made = broker.expect(broker.call("POST", "/instances", {"name": name, "note": "n", **ignored}), 200, MADE)
    try:
        assert made["id"] == re.sub(r"[^A-Za-z0-9_]+", "-", name.lower())
        assert (made["name"], made["metadata"]["note"]) == (name, "n")
        snapshot = broker.call("GET", f"/instances/{made['id']}").json()
        assert snapshot["connectionState"] == "connecting"  # the socket starts by itself
        broker.refused(broker.call("POST", "/instances", {"name": name}), 409, "instance_exists")
        broker.refused(broker.call("POST", "/instances", {"name": name.upper()}), 409, "instance_exists")
    finally:
        broker.call("DELETE", f"/instances/{made['id']}")
    unnamed = broker.expect(broker.call("POST", "/instances", {}), 200, MADE)
    assert str(uuid.UUID(unnamed["id"])) == unnamed["id"]
    broker.call("DELETE", f"/instances/{unnamed['id']}")


def test_broker_01_a_note_has_at_most_280_characters(broker: Contract) -> None:
    answer = broker.call("POST", "/instances", {"name": "contract note", "note": "x" * 281})
    broker.refused(answer, 400, "note_invalid")
    assert broker.call("GET", "/instances/contract-note").status_code == 404


def test_broker_01_get_instances(broker: Contract, made: str) -> None:
    listed = broker.expect(broker.call("GET", "/instances"), 200, [SUMMARY])
    assert made in {one["id"] for one in listed}


def test_broker_01_get_instance(broker: Contract, made: str) -> None:
    snapshot = broker.expect(broker.call("GET", f"/instances/{made}"), 200, SNAPSHOT)
    assert (snapshot["id"], snapshot["connected"], snapshot["user"], snapshot["pairedAt"]) == (made, False, None, None)


def test_broker_01_get_instance_that_is_connected(broker: Contract, opened: str) -> None:
    snapshot = broker.expect(broker.call("GET", f"/instances/{opened}"), 200, SNAPSHOT)
    assert (snapshot["connected"], snapshot["connectionState"], snapshot["hasLastQr"]) == (True, "open", False)
    assert snapshot["user"]["id"]


def test_broker_01_patch_instance(broker: Contract, made: str) -> None:
    path = f"/instances/{made}"
    snapshot = broker.expect(broker.call("PATCH", path, {"name": "Matriz", "note": "a primeira"}), 200, SNAPSHOT)
    assert (snapshot["id"], snapshot["name"], snapshot["note"]) == (made, "Matriz", "a primeira")
    for body, error in (
        ({}, "no_updates"), ({"name": "x" * 81}, "name_invalid"), ({"name": 5}, "name_invalid"),
        ({"name": "  "}, "name_empty"), ({"note": "x" * 281}, "note_invalid"),
    ):  # fmt: skip
        broker.refused(broker.call("PATCH", path, body), 400, error)


def test_broker_01_delete_instance(broker: Contract, made: str) -> None:
    assert broker.expect(broker.call("DELETE", f"/instances/{made}"), 200, DONE)["ok"] is True
    broker.refused(broker.call("DELETE", f"/instances/{made}"), 404, "instance_not_found")
    assert made not in {one["id"] for one in broker.call("GET", "/instances").json()}


def test_broker_01_delete_of_the_default_instance_is_refused(simulator: Contract) -> None:
    simulator.control("default/open")
    refused = simulator.call("DELETE", "/instances/default")
    simulator.refused(refused, 400, "default_instance_cannot_be_deleted")


def test_broker_01_get_qr(broker: Contract, made: str) -> None:
    path = f"/instances/{made}/qr.png"
    until(lambda: broker.call("GET", path).status_code == 200, 30)
    token = broker.call("POST", "/instances/sse-token").json()["token"]
    for query in ({"apiKey": broker.key}, {"sseToken": token}):
        answer = broker.call("GET", path, keyed=False, params=query)
        assert (answer.status_code, answer.headers["content-type"], answer.content[:4]) == (
            200,
            "image/png",
            b"\x89PNG",
        )
    snapshot = broker.expect(broker.call("GET", f"/instances/{made}"), 200, SNAPSHOT)
    assert (snapshot["connectionState"], snapshot["hasLastQr"], snapshot["qrVersion"] >= 1) == (
        "connecting",
        True,
        True,
    )
    assert 0 < snapshot["qrExpiresAt"] - snapshot["qrReceivedAt"] <= 60_000
    broker.refused(broker.call("GET", path, keyed=False), 401, "unauthorized")
    missing = broker.call("GET", "/instances/contract-nobody/qr.png")
    assert (missing.status_code, missing.headers["content-type"].partition(";")[0]) == (404, "text/plain")


def test_broker_01_get_qr_without_one_is_204(broker: Contract, opened: str) -> None:
    answer = broker.call("GET", f"/instances/{opened}/qr.png")
    assert (answer.status_code, answer.content) == (204, b"")


def test_broker_01_get_qr_starts_a_stopped_socket(simulator: Contract, made: str) -> None:
    assert simulator.control(f"{made}/close", {"statusCode": 408})["connectionState"] == "qr_timeout"
    assert simulator.call("GET", f"/instances/{made}/qr.png").status_code == 204
    until(lambda: simulator.call("GET", f"/instances/{made}/qr.png").status_code == 200)


def test_broker_01_post_pair(broker: Contract, made: str) -> None:
    path = f"/instances/{made}/pair"
    until(lambda: broker.call("GET", f"/instances/{made}").json()["hasLastQr"], 30)
    answer = broker.expect(broker.call("POST", path, {"phoneNumber": "5511988887777"}), 200, {"pairingCode": str})
    assert re.fullmatch(r"[A-Z0-9]{8}|[A-Z0-9]{4}-[A-Z0-9]{4}", answer["pairingCode"])
    broker.refused(broker.call("POST", path, {}), 400, re.compile("."))


def test_broker_01_post_pair_of_a_closed_link_is_503(simulator: Contract, made: str) -> None:
    simulator.control(f"{made}/close", {"statusCode": 408})
    answer = simulator.call("POST", f"/instances/{made}/pair", {"phoneNumber": "5511988887777"})
    simulator.refused(answer, 503, "instance_offline", "state")


def test_broker_01_post_logout(simulator: Contract, opened: str) -> None:
    assert simulator.expect(simulator.call("POST", f"/instances/{opened}/logout"), 200, DONE)["ok"] is True
    snapshot = simulator.call("GET", f"/instances/{opened}").json()
    assert (snapshot["connectionState"], snapshot["user"]) == ("connecting", None)
    assert snapshot["connectionStateDetail"]["isLoggedOut"] is True


def test_broker_01_post_logout_when_not_connected_is_503(broker: Contract, made: str) -> None:
    answer = broker.call("POST", f"/instances/{made}/logout")
    broker.refused(answer, 503, "instance_offline", "state")


def test_broker_01_post_session_wipe(broker: Contract, made: str) -> None:
    assert broker.expect(broker.call("POST", f"/instances/{made}/session/wipe"), 202, DONE)["ok"] is True
    until(lambda: broker.call("GET", f"/instances/{made}").json()["hasLastQr"], 30)


@pytest.mark.parametrize(("code", "state"), [(428, "close"), (408, "close"), (515, "close"), (401, "connecting")])
def test_broker_01_a_lost_link_says_why_and_comes_back(simulator: Contract, opened: str, code: int, state: str) -> None:
    simulator.control(f"{opened}/close", {"statusCode": code})
    snapshot = simulator.expect(simulator.call("GET", f"/instances/{opened}"), 200, SNAPSHOT)
    assert (snapshot["connectionState"], snapshot["connected"], snapshot["user"]) == (state, False, None)
    detail = snapshot["connectionStateDetail"]
    assert (detail["statusCode"], detail["isLoggedOut"], detail["isTimedOut"]) == (code, code == 401, code == 408)
    expected = "hasLastQr" if code == 401 else "connected"
    until(lambda: simulator.call("GET", f"/instances/{opened}").json()[expected])
