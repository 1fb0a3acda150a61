"""The order of the checks of a send, its limits and its traps: spec/broker.md section 4, one test per row."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import requests

from tests.outbound import KEY, at_once, broker_running, until
from tests.whatsapp.contract.conftest import MARIA, Contract
from tests.whatsapp.wire import Wire
from whatsapp.simulator.sending import typing_seconds

BAD_TO = "to inválido. Use E.164: 55DDDNUMERO"
OUTBOUND, UPSERT, UPDATE = "MESSAGE_OUTBOUND", "WHATSAPP_MESSAGES_UPSERT", "WHATSAPP_MESSAGES_UPDATE"
SCHEDULE = (0, 1, 4, 14, 44, 164)


def text(broker: Contract, name: str, to: str = MARIA, message: str = "Olá", **more: Any) -> requests.Response:
    """One send of a text."""
    return broker.call("POST", f"/instances/{name}/send-text", {"to": to, "message": message, **more})


def sent(broker: Contract, name: str) -> list[Any]:
    """What left to WhatsApp."""
    return list(broker.control(f"{name}/sent", method="GET"))


def behave(broker: Contract, name: str, **keys: Any) -> None:
    broker.control(f"{name}/behaviour", keys)


def test_broker_01_order_of_the_checks(simulator: Contract) -> None:
    """Everything is wrong at once, and one after the other is put right."""
    simulator.refused(text(simulator, "loja1", to=""), 404, "instance_not_found")
    simulator.control("loja1/open")
    wrong = {"offline": True, "exists": False, "socketUnavailable": True, "sendError": "boom"}
    behave(simulator, "loja1", rate={"max": 0}, **wrong)
    simulator.call("POST", "/instances/loja1/risk/pause")
    simulator.refused(text(simulator, "loja1", to=""), 503, "instance_offline", "state", "updatedAt")
    behave(simulator, "loja1", offline=False)
    simulator.refused(text(simulator, "loja1", to=""), 429, "rate limit exceeded")
    behave(simulator, "loja1", rate={"max": 99})
    simulator.refused(text(simulator, "loja1", to=""), 400, "Campos obrigatórios: to, message")
    simulator.refused(text(simulator, "loja1", to="12"), 400, BAD_TO)
    simulator.refused(text(simulator, "loja1"), 404, "whatsapp_not_found")
    behave(simulator, "loja1", exists=True)
    simulator.refused(text(simulator, "loja1"), 429, "risk_paused")
    simulator.call("POST", "/instances/loja1/risk/resume")
    simulator.refused(text(simulator, "loja1"), 503, "socket_unavailable", "state")
    behave(simulator, "loja1", socketUnavailable=False)
    simulator.refused(text(simulator, "loja1"), 500, "send_failed", "detail")
    behave(simulator, "loja1", sendError=None, sendTimeout=True, sendTimeoutMs=10)
    simulator.refused(text(simulator, "loja1"), 500, "send timeout")
    behave(simulator, "loja1", sendTimeout=False)
    assert text(simulator, "loja1").status_code == 200


def test_broker_01_missing_fields_and_a_bad_number_are_400(broker: Contract, sender: str) -> None:
    broker.refused(broker.call("POST", f"/instances/{sender}/send-text", {"to": broker.to}), 400, re.compile("Campos"))
    broker.refused(text(broker, sender, to="12"), 400, BAD_TO)


def test_broker_01_rate_of_20_in_15_seconds(simulator: Contract, opened: str) -> None:
    """The 21st is refused; one that was refused for another reason has used its place; nothing says how long."""
    behave(simulator, opened, rate={"max": 20, "windowMs": 1200})
    simulator.refused(text(simulator, opened, to="12"), 400, BAD_TO)
    began = time.monotonic()
    assert [text(simulator, opened).status_code for _ in range(19)] == [200] * 19
    simulator.refused(text(simulator, opened), 429, "rate limit exceeded")
    rate = simulator.call("GET", f"/instances/{opened}").json()["rate"]
    assert (rate["limit"], rate["inWindow"]) == (20, 20)
    until(lambda: text(simulator, opened).status_code == 200)
    assert time.monotonic() - began >= 1.1


def test_broker_01_rate_of_the_real_profile(simulator: Contract, opened: str) -> None:
    simulator.control("behaviour", {})
    rate = simulator.call("GET", f"/instances/{opened}").json()["rate"]
    assert (rate["limit"], rate["windowMs"]) == (20, 15_000)


def test_broker_01_risk_pauses_the_second_stranger(simulator: Contract, opened: str) -> None:
    behave(simulator, opened, risk={"threshold": 0.7})
    path = f"/instances/{opened}/risk"
    stranger, other, friend = "5511911110001", "5511911110002", "5511911110003"
    simulator.control(f"{opened}/inbound", {"from": friend, "text": "oi"})
    assert text(simulator, opened, to=stranger).status_code == 200
    simulator.refused(text(simulator, opened, to=other), 429, "risk_paused")
    assert text(simulator, opened, to=friend).status_code == 200, "who has written is no stranger"
    assert simulator.call("GET", path).json()["risk"]["paused"] is True, "and it stays paused for strangers"
    simulator.refused(text(simulator, opened, to=stranger), 429, "risk_paused")
    for _ in range(3):
        simulator.call("POST", f"{path}/resume")
        if text(simulator, opened, to=other).status_code == 429:
            break
    else:
        pytest.fail("resume alone never paused again")
    simulator.call("POST", path, {"threshold": 1})
    simulator.call("POST", f"{path}/resume")
    assert text(simulator, opened, to="5511911110004").status_code == 200


def test_broker_01_it_types_like_a_person(simulator: Contract, opened: str) -> None:
    """At 200 ms per character: 5 characters 5 s, 40 12 s, 100 21 s, never above 28 s; here a hundred times faster."""
    seconds = [typing_seconds(characters, 200) for characters in (5, 40, 100, 9999)]
    assert seconds == pytest.approx([5, 12, 21, 28])
    behave(simulator, opened, humanizeMsPerChar=2)
    began = time.monotonic()
    assert text(simulator, opened, message="x" * 40).status_code == 200
    assert 0.12 <= time.monotonic() - began < 1


def test_broker_01_past_25_seconds_it_says_timeout_and_the_message_still_goes_out(
    simulator: Contract, opened: str
) -> None:
    behave(simulator, opened, humanizeMsPerChar=10, sendTimeoutMs=100, autoAck=[2], ackDelayMs=5)
    simulator.refused(text(simulator, opened), 500, "send timeout")
    assert sent(simulator, opened) == []
    until(lambda: len(webhooks(simulator, opened)) == 2)
    assert len(sent(simulator, opened)) == 1
    bodies = {one["event"]: one["payload"] for one in webhooks(simulator, opened)}
    assert bodies.keys() == {UPSERT, UPDATE}, "no MESSAGE_OUTBOUND: only the raw upsert tells its id"
    (raw,) = bodies[UPSERT]["raw"]["messages"]
    assert (bodies[UPSERT]["raw"]["type"], raw["key"]["fromMe"], raw["status"]) == ("append", True, "PENDING")
    assert (raw["key"]["id"], bodies[UPSERT]["messages"]) == (sent(simulator, opened)[0]["id"], [])


def test_broker_01_a_send_is_answered_after_its_webhook(simulator: Contract) -> None:
    """MESSAGE_OUTBOUND arrives before the answer, and a slow webhook makes a slow send."""
    with Wire(202, {"accepted": True}) as hook, broker_running(webhook_url=hook.url) as other:
        hook.hold = lambda: time.sleep(0.4)
        began = time.monotonic()
        answer = text(Contract(other.url, KEY, simulated=True), "ipe-01").json()
        took = time.monotonic() - began
        arrived = [body["payload"]["message"]["id"] for *_, body in hook.asked if body["event"] == OUTBOUND]
    assert (arrived, answer["status"]) == ([answer["id"]], 1)
    assert took >= 0.4


def test_broker_01_a_refused_webhook_holds_the_send_for_the_whole_schedule(simulator: Contract) -> None:
    """Our webhook answering 401 = a send of 164 s (here a hundredth of it) that then says 200."""
    with Wire(401, {"error": "no"}) as hook, broker_running(webhook_url=hook.url) as other:
        other.behave(webhook={"retryScale": 0.01}, autoAck=[])
        began = time.monotonic()
        answer = text(Contract(other.url, KEY, simulated=True), "ipe-01").json()
        took = time.monotonic() - began
        bodies = [body for *_, body in hook.asked if body["event"] == OUTBOUND]
    assert answer["status"] == 1
    assert len(bodies) == len(SCHEDULE)
    assert SCHEDULE[-1] / 100 <= took < SCHEDULE[-1] / 100 + 2


@pytest.mark.parametrize(
    ("to", "chat"),
    [
        ("5511988887777", "5511988887777"),
        ("551133334444", "551133334444"),
        ("+55 (11) 98888-7777", "5511988887777"),
        ("11988887777", "5511988887777"),
        ("1133334444", "551133334444"),
        ("+1 415 555 1234", "5514155551234"),
        ("123456789012345@lid", None),
        ("120363041234567890@g.us", None),
        ("5511", None),
        ("351912345678", None),
        ("55119888877771", None),
    ],
)
def test_broker_01_to(simulator: Contract, opened: str, to: str, chat: str | None) -> None:
    answer = text(simulator, opened, to=to)
    if chat is None:
        simulator.refused(answer, 400, BAD_TO)
    else:
        assert answer.status_code == 200
    assert [one["to"] for one in sent(simulator, opened)] == ([chat] if chat else [])


def test_broker_01_lids_and_groups_are_400(broker: Contract, sender: str) -> None:
    for to in ("123456789012345@lid", "120363041234567890@g.us"):
        broker.refused(text(broker, sender, to=to), 400, BAD_TO)


def test_broker_01_braces_of_a_text_are_altered(simulator: Contract, opened: str) -> None:
    for _ in range(12):
        text(simulator, opened, message="{Oi|Olá}, {nome}!")
    assert {one["text"] for one in sent(simulator, opened)} == {"Oi, nome!", "Olá, nome!"}


def test_broker_01_there_is_no_idempotency(simulator: Contract, opened: str) -> None:
    def again() -> str:
        body = {"to": MARIA, "message": "x", "externalId": "e1"}
        path = f"/instances/{opened}/send-text"
        return str(simulator.call("POST", path, body, headers={"Idempotency-Key": "k"}).json()["id"])

    assert len(set(at_once(again, again))) == len(sent(simulator, opened)) == 2


def webhooks(broker: Contract, name: str) -> list[Any]:
    """The bodies of the webhooks that were delivered, as the event list keeps them."""
    answer = broker.call("GET", f"/instances/{name}/events", params={"type": "WEBHOOK_DELIVERY", "limit": 200})
    return [one["payload"]["body"] for one in answer.json()["events"]]
