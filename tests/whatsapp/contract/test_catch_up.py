"""The rows of events, metrics, risk and streams: spec/broker.md sections 2 and 6, one test each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.outbound import until
from tests.whatsapp.contract.conftest import MARIA, Contract
from tests.whatsapp.contract.shapes import EVENT, RISK, SNAPSHOT, misfits

DELIVERY_COUNTS = dict.fromkeys(("pending", "serverAck", "delivered", "read", "played", "failed", "inFlight"), int)
WEBHOOK_DELIVERY = {
    "event": str, "eventId": (str, None), "attempt": int, "maxAttempts": int, "state": str, "status": (int, None),
    "error": (str, None), "body": dict,
}  # fmt: skip
STATUS = {"messageId": str, "chatId": str, "status": int, "source": str, "timestamp": int}


def test_broker_01_get_events(broker: Contract, made: str) -> None:
    path = f"/instances/{made}/events"
    broker.expect(broker.call("GET", path), 200, {"events": [EVENT], "nextCursor": (str, None)})
    for query in ({"limit": 200}, {"after": "nothing"}, {"type": "MESSAGE_INBOUND", "direction": "inbound"}):
        page = broker.call("GET", path, params=query).json()
        assert (page["events"], page["nextCursor"]) == ([], None)


def test_broker_01_events_are_pages_of_what_is_not_acked_oldest_first(simulator: Contract, opened: str) -> None:
    path = f"/instances/{opened}/events"
    simulator.control(f"{opened}/inbound", [{"from": MARIA, "text": str(n)} for n in range(60)])
    until(lambda: len(events(simulator, opened, type="WEBHOOK_DELIVERY", limit=200)) == 61)
    first = simulator.expect(simulator.call("GET", path), 200, {"events": [EVENT], "nextCursor": str})
    assert len(first["events"]) == 50
    assert first["nextCursor"] == first["events"][-1]["id"]
    rest = simulator.call("GET", path, params={"after": first["nextCursor"], "limit": 200}).json()["events"]
    whole = simulator.call("GET", path, params={"limit": 999}).json()["events"]
    assert [one["id"] for one in whole] == [one["id"] for one in [*first["events"], *rest]]
    assert sorted(one["sequence"] for one in whole) == [one["sequence"] for one in whole]
    beginning = simulator.call("GET", path, params={"after": "evt_unknown"}).json()["events"]
    assert beginning == first["events"], "an unknown `after` starts from the beginning"


def test_broker_01_the_types_of_events(simulator: Contract, opened: str) -> None:
    simulator.control(f"{opened}/inbound", {"from": MARIA, "text": "oi"})
    sent = simulator.call("POST", f"/instances/{opened}/send-text", {"to": MARIA, "message": "Olá"}).json()["id"]
    simulator.control(f"{opened}/ack", {"id": sent, "status": 3})
    until(lambda: len(events(simulator, opened, type="WEBHOOK_DELIVERY")) == 5)
    kinds = {one["type"]: one for one in events(simulator, opened, limit=200)}
    assert kinds.keys() == {"MESSAGE_INBOUND", "MESSAGE_OUTBOUND", "MESSAGE_STATUS", "WEBHOOK_DELIVERY"}
    for kind, direction in (("MESSAGE_INBOUND", "inbound"), ("MESSAGE_OUTBOUND", "outbound")):
        assert kinds[kind]["payload"].keys() == {"contact", "message", "metadata"}
        assert (kinds[kind]["direction"], kinds[kind]["delivery"]["state"]) == (direction, "success")
    fits(kinds["MESSAGE_STATUS"]["payload"], STATUS)
    fits(kinds["WEBHOOK_DELIVERY"]["payload"], WEBHOOK_DELIVERY)
    assert kinds["MESSAGE_STATUS"]["delivery"] is None
    assert kinds["WEBHOOK_DELIVERY"]["payload"]["maxAttempts"] == 6
    bodies = {one["payload"]["body"]["event"] for one in events(simulator, opened, type="WEBHOOK_DELIVERY")}
    assert bodies == {
        "MESSAGE_INBOUND", "MESSAGE_OUTBOUND", "WHATSAPP_MESSAGES_UPSERT", "WHATSAPP_MESSAGES_UPDATE",
    }, "the whole webhook, also of upserts and updates"  # fmt: skip


def test_broker_01_post_events_ack(broker: Contract, made: str) -> None:
    path = f"/instances/{made}/events/ack"
    acked = broker.expect(broker.call("POST", path, {"ids": ["nothing"]}), 200, {"acknowledged": list, "missing": list})
    assert acked == {"acknowledged": [], "missing": ["nothing"]}
    broker.refused(broker.call("POST", path, {}), 400, "ids_required")


def test_broker_01_an_acked_event_is_listed_no_more(simulator: Contract, opened: str) -> None:
    simulator.control(f"{opened}/inbound", {"from": MARIA, "text": "oi"})
    until(lambda: len(events(simulator, opened)) == 3)
    ids = [one["id"] for one in events(simulator, opened)]
    path = f"/instances/{opened}/events/ack"
    assert simulator.call("POST", path, {"ids": ids}).json() == {"acknowledged": ids, "missing": []}
    assert simulator.call("GET", f"/instances/{opened}/events").json() == {"events": [], "nextCursor": None}


def test_broker_01_get_metrics(broker: Contract, made: str) -> None:
    shape = {"snapshot": SNAPSHOT, "timeline": list, "delivery": DELIVERY_COUNTS}
    now = int(time.time() * 1000)
    broker.expect(broker.call("GET", f"/instances/{made}/metrics", params={"from": 0, "to": now}), 200, shape)


def test_broker_01_metrics_count_what_became_of_the_sends(simulator: Contract, sender: str) -> None:
    for status in (0, 2, 3, 4, 5, None):
        sent = simulator.call("POST", f"/instances/{sender}/send-text", {"to": MARIA, "message": "oi"}).json()["id"]
        if status is not None:
            simulator.control(f"{sender}/ack", {"id": sent, "status": status})
    counts = simulator.call("GET", f"/instances/{sender}/metrics").json()["delivery"]
    assert counts == {
        "pending": 1, "serverAck": 1, "delivered": 1, "read": 1, "played": 1, "failed": 1, "inFlight": 2,
    }  # fmt: skip


def test_broker_01_get_and_post_risk(broker: Contract, made: str) -> None:
    path, shape = f"/instances/{made}/risk", {"ok": bool, "risk": RISK}
    broker.expect(broker.call("GET", path), 200, shape)
    body = {"threshold": 0.5, "interleaveEvery": 4, "safeContacts": [MARIA]}
    risk = broker.expect(broker.call("POST", path, body), 200, shape)["risk"]
    assert {name: risk[name] for name in body} == body
    broker.refused(broker.call("POST", path, {"safeContacts": "x"}), 400, "safe_contacts_invalid")


@pytest.mark.parametrize(("call", "paused"), [("pause", True), ("resume", False)])
def test_broker_01_post_risk_pause_and_resume(broker: Contract, made: str, call: str, paused: bool) -> None:
    answer = broker.call("POST", f"/instances/{made}/risk/{call}")
    assert broker.expect(answer, 200, {"ok": bool, "risk": RISK})["risk"]["paused"] is paused


def test_broker_01_post_sse_token(broker: Contract) -> None:
    shape = {"token": str, "expiresAt": int, "ttlSeconds": int}
    made = broker.expect(broker.call("POST", "/instances/sse-token"), 200, shape)
    assert made["ttlSeconds"] == 900
    assert abs(made["expiresAt"] - (time.time() + 900) * 1000) < 60_000
    assert broker.call("GET", "/instances", keyed=False, params={"sseToken": made["token"]}).status_code == 401


def test_broker_01_get_instances_events_tells_the_present_state_first(broker: Contract, made: str) -> None:
    token = broker.call("POST", "/instances/sse-token").json()["token"]
    query = {"sseToken": token, "iid": made}
    with broker.call("GET", "/instances/events", keyed=False, params=query, stream=True) as stream:
        assert (stream.status_code, stream.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        name, data, _ = next_event(stream.iter_lines(chunk_size=1))
    assert name == "instance"
    shape = {"type": str, "reason": str, "detail": (dict, None), "instance": SNAPSHOT}
    fits(data, shape, exact=broker.simulated)
    assert (data["reason"] in {"connection", "qr", "pairing", "error"}, data["instance"]["id"]) == (True, made)
    broker.refused(broker.call("GET", "/instances/events", keyed=False), 401, "unauthorized")


def test_broker_01_get_stream_gives_the_backlog_and_goes_on_after_the_last_event(
    simulator: Contract, opened: str
) -> None:
    simulator.control(f"{opened}/inbound", {"from": MARIA, "text": "oi"})
    until(lambda: len(events(simulator, opened)) == 3)
    with simulator.call("GET", "/stream", stream=True) as stream:
        assert stream.headers["content-type"].partition(";")[0] == "text/event-stream"
        lines = stream.iter_lines(chunk_size=1)
        (name, first, id_), (_, second, _) = next_event(lines), next_event(lines)
    assert (name, first["id"], first["type"]) == ("broker:event", id_, "MESSAGE_INBOUND")
    fits(first, EVENT)
    with simulator.call("GET", "/stream", headers={"last-event-id": id_}, stream=True) as stream:
        assert next_event(stream.iter_lines(chunk_size=1))[1] == second


def events(broker: Contract, name: str, **query: Any) -> list[Any]:
    """The un-acked events of an instance."""
    return list(broker.call("GET", f"/instances/{name}/events", params=query).json()["events"])


def next_event(lines: Iterator[bytes]) -> tuple[str, Any, str | None]:
    """The next event of a stream that has data: (name, data, id)."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().partition(":")
        if name:
            fields[name] = value.strip()
        elif fields and fields["event"] != "ping":
            return fields["event"], json.loads(fields["data"]), fields.get("id")
        else:
            fields = {}
    raise AssertionError("the stream has ended")


def fits(data: Any, shape: Any, *, exact: bool = True) -> None:
    """Hold a part of an answer against its shape."""
    assert misfits(data, shape, exact=exact) == []
