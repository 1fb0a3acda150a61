"""Delivery: order, retries with the same bytes, signatures, faults."""

from __future__ import annotations

import hmac
import json
import time
from collections import Counter
from itertools import pairwise

import pytest

from tests.whatsapp.simulator.conftest import KEY, MARIA, Broker, Hook, StartBroker, until

INBOUND = "MESSAGE_INBOUND"
UPSERT = "WHATSAPP_MESSAGES_UPSERT"


async def test_the_upsert_waits_until_its_inbound_is_settled(broker: Broker, hook: Hook) -> None:
    await broker.open()
    hook.delay = 0.15
    await broker.inbound({"from": MARIA, "text": "oi"})
    first, second = await hook.wait(2)
    assert (first.event, second.event) == (INBOUND, UPSERT)
    assert second.at - first.at >= 0.15


async def test_a_batch_goes_one_at_a_time_and_ends_in_one_upsert(broker: Broker, hook: Hook) -> None:
    await broker.open()
    ids = await broker.inbound([{"from": MARIA, "text": f"m{number}"} for number in range(40)])
    got = await hook.wait(41)
    assert [one.body["payload"]["message"]["id"] for one in got[:-1]] == ids
    raw = got[-1].body["payload"]
    assert [len(part) for part in (raw["raw"]["messages"], raw["normalized"]["messages"], raw["messages"])] == [40] * 3
    assert hook.busiest == 1


async def test_a_burst_is_posted_side_by_side_within_bounds(broker: Broker, hook: Hook) -> None:
    await broker.open()
    hook.delay = 0.05
    started = time.monotonic()
    for number in range(300):
        await broker.inbound({"from": f"55119{80_000_000 + number}", "text": "oi"})
    await hook.wait(600)
    assert time.monotonic() - started < 5
    assert 1 < hook.busiest <= 50
    ids = [one["message"]["id"] for one in hook.of(INBOUND)]
    assert len(set(ids)) == 300


async def test_a_large_batch_streams_out(broker: Broker, hook: Hook) -> None:
    await broker.open()
    batch = [{"from": f"55119{80_000_000 + n}", "text": "oi " * 200, "pushName": "P"} for n in range(1000)]
    started = time.monotonic()
    await broker.inbound(batch)
    last = (await hook.wait(1001, seconds=20))[-1]
    assert time.monotonic() - started < 10
    assert last.event == UPSERT
    assert len(last.raw) > 1 << 20


async def test_a_refused_webhook_is_tried_six_times_with_the_same_bytes(broker: Broker, hook: Hook) -> None:
    await broker.open(webhook={"retryScale": 0.002})
    hook.status = 400
    await broker.inbound({"from": MARIA, "text": "oi"})
    inbound = await hook.wait(6, INBOUND)
    assert len({one.raw for one in inbound}) == 1
    waits = [later.at - earlier.at for earlier, later in pairwise(inbound)]
    planned = (0.002, 0.006, 0.02, 0.06, 0.24)
    assert all(plan <= wait + 0.002 < plan + 0.5 for wait, plan in zip(waits, planned, strict=True))
    assert (await hook.wait(7))[6].event == UPSERT, "the twin goes its own way after the first is given up"


async def test_a_redirect_settles_nothing_and_any_2xx_does(broker: Broker, hook: Hook) -> None:
    await broker.open(webhook={"retryScale": 0.001})
    hook.status = 302
    await broker.inbound({"from": MARIA, "text": "oi"})
    await hook.wait(2, INBOUND)
    hook.status = 204
    await hook.wait(1, UPSERT)
    assert len(hook.received(INBOUND)) < 6
    assert hook.followed == 0


async def test_a_silent_receiver_costs_a_timeout_and_a_retry(
    broker: Broker, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whatsapp.simulator.webhooks.ATTEMPT_TIMEOUT", type(broker.session.timeout)(total=0.05))
    await broker.open(webhook={"retryScale": 0})
    hook.delay = 0.2
    await broker.inbound({"from": MARIA, "text": "oi"})
    await hook.wait(6, INBOUND)
    _, listed = await broker.call("GET", "/instances/loja1/events?type=WEBHOOK_DELIVERY")
    assert listed["events"][0]["payload"]["error"] == "timeout of 5000ms exceeded"
    assert listed["events"][0]["payload"]["status"] is None


async def test_an_unreachable_receiver_is_retried_as_well(start: StartBroker) -> None:
    broker = await start(webhook_url="http://127.0.0.1:1/hook")
    await broker.open(webhook={"retryScale": 0})
    await broker.inbound({"from": MARIA, "text": "oi"})
    await until(lambda: broker.simulator.webhooks.counters["givenUp"] == 2)


async def test_wrong_keys_and_secrets_are_sent_when_asked_for(broker: Broker, hook: Hook) -> None:
    await broker.open(webhook={"apiKey": "wrong", "hmacSecret": "other", "bearer": "token"})
    await broker.inbound({"from": MARIA, "text": "oi"})
    first = (await hook.wait(1))[0]
    headers = {name.lower(): value for name, value in first.headers.items()}
    assert (headers["x-api-key"], headers["authorization"]) == ("wrong", "Bearer token")
    assert headers["x-signature"] == hmac.digest(b"other", first.raw, "sha256").hex()
    await broker.open("loja2", webhook={"apiKey": ""})
    await broker.inbound({"from": MARIA, "text": "oi"}, name="loja2")
    got = await hook.wait(4)
    assert all("x-api-key" not in map(str.lower, one.headers) for one in got if one.body["instanceId"] == "loja2")


async def test_without_a_secret_of_its_own_the_first_api_key_signs(start: StartBroker, hook: Hook) -> None:
    broker = await start(hmac_secret=KEY, webhook_key="")
    await broker.open()
    await broker.inbound({"from": MARIA, "text": "oi"})
    first = (await hook.wait(1))[0]
    assert "x-api-key" not in map(str.lower, first.headers)
    assert hmac.digest(KEY.encode(), first.raw, "sha256").hex() in first.headers.values()


async def test_duplicates_are_the_same_bytes(broker: Broker, hook: Hook) -> None:
    await broker.open(webhook={"duplicate": 3})
    await broker.inbound({"from": MARIA, "text": "oi"})
    got = await hook.wait(6)
    assert Counter(one.event for one in got) == {INBOUND: 3, UPSERT: 3}
    assert len({one.raw for one in got}) == 2


async def test_shuffled_webhooks_all_arrive_in_another_order(start: StartBroker, hook: Hook) -> None:
    broker = await start(seed=1)
    await broker.open(webhook={"shuffle": 8})
    ids = await broker.inbound([{"from": MARIA, "text": str(number)} for number in range(20)])
    got = await hook.wait(21)
    arrived = [one.body["payload"]["message"]["id"] for one in got if one.event == INBOUND]
    assert sorted(arrived) == sorted(ids)
    assert arrived != ids


@pytest.mark.parametrize(("fault", "left"), [("dropCanonical", UPSERT), ("dropRaw", INBOUND)])
async def test_a_lost_twin_never_arrives(fault: str, left: str, broker: Broker, hook: Hook) -> None:
    await broker.open(webhook={fault: True}, autoAck=[])
    await broker.inbound([{"from": MARIA, "text": "oi"}, {"from": MARIA, "text": "olá"}])
    await until(lambda: broker.simulator.webhooks.counters["lost"] == (2 if fault == "dropCanonical" else 1))
    await hook.wait(2 if left == INBOUND else 1)
    assert set(hook.events()) == {left}
    assert (await broker.text())[0] == 200


async def test_held_back_webhooks_carry_the_time_of_their_event(broker: Broker, hook: Hook) -> None:
    await broker.open(webhook={"delayMs": 300})
    started = time.monotonic()
    await broker.inbound({"from": MARIA, "text": "oi"})
    assert (await hook.wait(1))[0].at - started >= 0.3


async def test_emit_posts_anything_for_anyone(broker: Broker, hook: Hook) -> None:
    assert (await broker.call("POST", "/_sim/ghost/emit", {"event": "X", "payload": {"a": [1]}}))[0] == 200
    body = (await hook.wait(1))[0].body
    assert (body["event"], body["instanceId"], body["payload"]) == ("X", "ghost", {"a": [1]})
    assert isinstance(body["timestamp"], int)


async def test_two_runs_with_one_seed_give_the_same_bodies(start: StartBroker, hook: Hook) -> None:
    runs = []
    for _ in range(2):
        broker = await start(seed=42)
        hook.got.clear()
        await broker.open(ackDelayMs=1)
        for number in range(5):
            await broker.inbound({"from": f"551190000000{number}", "text": "oi", "timestamp": 1795293693})
            await broker.text(f"551190000000{number}")
        await hook.wait(5 * 6)
        runs.append(sorted(timeless(one.raw) for one in hook.got))
    assert runs[0] == runs[1]


def timeless(raw: bytes) -> str:
    """Writes a body without its times."""

    def strip(value: object, name: str = "") -> object:
        if name in ("timestamp", "messageTimestamp", "mediaKeyTimestamp", "senderTimestampMs", "url"):
            return None
        if isinstance(value, dict):
            return {key: strip(item, key) for key, item in value.items()}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return json.dumps(strip(json.loads(raw)), sort_keys=True)
