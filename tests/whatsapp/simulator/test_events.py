"""The catch-up list of section 6."""

from __future__ import annotations

from tests.whatsapp.simulator.conftest import MARIA, Broker, Hook, StartBroker, until
from whatsapp.simulator.events import EventLog
from whatsapp.simulator.ids import Ids

PATH = "/instances/loja1/events"


async def test_events_are_listed_oldest_first_and_acked_away(broker: Broker, hook: Hook) -> None:
    await broker.open()
    await broker.inbound({"from": MARIA, "text": "oi"})
    await hook.wait(2)
    await until(lambda: broker.simulator.webhooks.counters["delivered"] == 2)
    _, page = await broker.call("GET", PATH)
    kinds = [(one["type"], one["direction"]) for one in page["events"]]
    assert kinds == [("MESSAGE_INBOUND", "inbound"), ("WEBHOOK_DELIVERY", "system"), ("WEBHOOK_DELIVERY", "system")]
    assert page["nextCursor"] == page["events"][-1]["id"]
    message, first, second = page["events"]
    assert message["payload"] == hook.of("MESSAGE_INBOUND")[0]
    assert (message["acknowledged"], message["instanceId"]) == (False, "loja1")
    delivery = message["delivery"]
    assert (delivery["state"], delivery["attempts"], delivery["lastStatus"]) == ("success", 1, 202)
    about = first["payload"]
    assert (about["eventId"], about["attempt"], about["maxAttempts"]) == (message["id"], 1, 6)
    assert about["body"]["event"] == "MESSAGE_INBOUND"
    assert second["payload"]["body"] == hook.received("WHATSAPP_MESSAGES_UPSERT")[0].body
    ids = [one["id"] for one in page["events"]]
    _, acked = await broker.call("POST", PATH + "/ack", {"ids": [*ids, "evt_unknown"]})
    assert acked == {"acknowledged": ids, "missing": ["evt_unknown"]}
    assert (await broker.call("GET", PATH))[1] == {"events": [], "nextCursor": None}
    assert await broker.call("POST", PATH + "/ack", {}) == (400, {"error": "ids_required"})
    assert (await broker.call("GET", "/instances/nobody/events"))[0] == 404


async def test_pages_follow_a_cursor_and_filters(start: StartBroker) -> None:
    broker = await start(webhook_url=None)
    await broker.open(autoAck=[])
    for number in range(5):
        await broker.inbound({"from": MARIA, "text": str(number)})
    await broker.text()
    _, page = await broker.call("GET", PATH + "?limit=4")
    assert len(page["events"]) == 4
    _, rest = await broker.call("GET", f"{PATH}?after={page['nextCursor']}")
    assert [one["type"] for one in rest["events"]] == ["MESSAGE_INBOUND", "MESSAGE_OUTBOUND"]
    assert len((await broker.call("GET", PATH + "?after=evt_unknown"))[1]["events"]) == 6
    assert len((await broker.call("GET", PATH + "?direction=outbound"))[1]["events"]) == 1
    assert len((await broker.call("GET", PATH + "?type=MESSAGE_INBOUND"))[1]["events"]) == 5


async def test_acks_leave_a_message_status_and_group_receipts_nothing_else(broker: Broker, hook: Hook) -> None:
    await broker.open()
    own = {"from": MARIA, "text": "aviso", "group": "12036304", "fromMe": True, "id": "G1"}
    await broker.inbound(own)
    await hook.wait(1)
    await broker.call("POST", "/_sim/loja1/receipt", {"id": "G1", "status": 4})
    _, page = await broker.call("GET", PATH + "?type=MESSAGE_STATUS")
    payload = page["events"][0]["payload"]
    assert sorted(payload) == ["chatId", "messageId", "source", "status", "timestamp"]
    assert (payload["messageId"], payload["chatId"], payload["status"]) == ("G1", "12036304@g.us", 4)
    assert hook.of("WHATSAPP_MESSAGES_UPDATE") == []
    _, sent = await broker.text()
    await broker.call("POST", "/_sim/loja1/ack", {"id": sent["id"], "status": 4})
    await hook.wait(1, "WHATSAPP_MESSAGES_UPDATE")


async def test_an_ack_for_a_message_nobody_knows_needs_its_chat(broker: Broker, hook: Hook) -> None:
    await broker.open()
    call = {"id": "UNKNOWN", "status": 3}
    assert await broker.call("POST", "/_sim/loja1/ack", call) == (404, {"error": "message_not_found"})
    assert (await broker.call("POST", "/_sim/loja1/ack", {**call, "to": MARIA}))[0] == 200
    await hook.wait(1, "WHATSAPP_MESSAGES_UPDATE")


def test_unacked_events_stay_and_acked_ones_to_500() -> None:
    log = EventLog(Ids(1), keep=None)
    ids = [log.add("i", "system", "X", {"n": n}, now=n).id for n in range(1500)]
    assert len(log.page("i", limit=9999, after=None, type_=None, direction=None)) == 1500
    assert len(log.ack("i", ids[:1000])[0]) == 1000
    found, missing = log.ack("i", [ids[0], ids[999]])
    assert (found, missing) == ([ids[999]], [ids[0]])
    after = log.page("i", limit=1, after=ids[999], type_=None, direction=None)
    assert [one.id for one in after] == [ids[1000]]


def test_a_demo_forgets_the_oldest_events() -> None:
    log = EventLog(Ids(1), keep=10)
    for n in range(25):
        log.add("i", "system", "X", {"n": n}, now=n)
    kept = log.page("i", limit=100, after=None, type_=None, direction=None)
    assert [one.payload["n"] for one in kept] == list(range(15, 25))


async def test_a_stream_goes_on_after_the_last_event_it_saw(broker: Broker) -> None:
    log = broker.simulator.events
    ids = [log.add("i", "system", "X", {"n": n}, now=n).id for n in range(3)]
    stream = log.subscribe(ids[0])
    log.add("i", "system", "X", {"n": 3}, now=3)
    assert [stream.get_nowait().payload["n"] for _ in range(stream.qsize())] == [1, 2, 3]
    log.unsubscribe(stream)
    assert log.subscribe("unknown").qsize() == 4
