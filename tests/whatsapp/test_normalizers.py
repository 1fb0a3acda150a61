"""The normaliser against the vectors and the recorded webhooks, and the shapes of a body."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.payloads.builders import JID, official, raw, read, read_one, seed, upsert
from tests.payloads.matchers import CORPUS, differences, expand, load_vectors, load_webhooks
from whatsapp.normalizers import clean_text, counts_as_queued, instance_of, normalize, split_body

VECTORS = load_vectors()
REFUSED = {400, 401, 413, 429}


def test_corpus_is_the_one_of_the_spec() -> None:
    spec = CORPUS.parents[3] / "shared" / "corpus"
    if not spec.is_dir():
        pytest.skip("../shared/corpus is not here: our copy cannot be compared with it")
    for name in ("vectors.jsonl", "webhooks.jsonl"):
        assert (CORPUS / name).read_bytes() == (spec / name).read_bytes()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    given, expect = vector["given"], vector["expect"]
    if expect["http_status"] in REFUSED:
        pytest.skip("refused at the door, before the normaliser")
    body = json.loads(given["raw_body"]) if "raw_body" in given else expand(given["body"])
    known = {instance["brokerId"] for instance in given["db"]["instances"]}
    items: list[Any] = [
        item
        for entry in split_body(body)
        for item in normalize(
            entry,
            received_at=datetime(2026, 11, 21, 21, 0, tzinfo=UTC),
            raw_fallback=given["env"]["WHATSAPP_RAW_FALLBACK_ENABLED"] == "true",
            default_instance_id=given["env"].get("WHATSAPP_DEFAULT_INSTANCE_ID"),
        )
    ]

    # Only a look-up can tell an unknown instance, a duplicate or a late ack: those reasons are the pipeline's.
    assert sum(counts_as_queued(item) and item.instance_id in known for item in items) == expect["queued"]
    reason = expect["metric"]["reason"]
    if reason not in {"unknown_instance", "message_duplicate", "ack_regression", "empty"}:
        assert reason in {item.reason for item in items}
    for reason, growth in expect.get("metric_values", {}).items():
        assert sum(item.reason == reason for item in items) == growth
    canonicals = [item.canonical for item in items if item.canonical]
    if "normalized" in expect:
        assert differences(expect["normalized"], canonicals[0]) == []
    if "normalized_many" in expect:
        assert differences(expect["normalized_many"], canonicals) == []
    persisted = expect.get("persisted", {})
    if "message.content" in persisted:
        assert items[-1].content.text == persisted["message.content"]
    if "message.externalId" in persisted:
        assert items[-1].external_id == persisted["message.externalId"]


def test_recorded_webhooks_kinds_and_counts() -> None:
    items = _recorded_items()

    assert Counter(item.kind for item in items) == {
        "message": 19,
        "echo": 3,
        "ignored": 2,
        "reaction": 1,
        "revoke": 1,
        "ack": 1,
        "vote": 1,
    }
    # Section 10 of the broker's spec, as far as it can be told without a database.
    stored = {item.external_id for item in items if item.kind in ("message", "vote", "echo")}
    effects = {item.external_id for item in items if item.kind == "reaction"}
    assert len(stored - effects) == 12
    assert len({item.chat for item in items if item.kind in ("message", "vote")}) == 3
    assert {item.name for item in items if item.kind == "message"} == {"Maria", "João", None}


def test_recorded_twins_agree() -> None:
    twins: dict[str, list[Any]] = {}
    for item in _recorded_items():
        if item.kind == "message" and not item.content.hollow:
            twins.setdefault(item.external_id, []).append(item)
    pairs = [pair for pair in twins.values() if len(pair) == 2]
    assert len(pairs) == 8
    for one, other in pairs:
        assert {one.origin, other.origin} == {"canonical", "raw"}
        assert (one.chat, one.sent_at, one.name) == (other.chat, other.sent_at, other.name)
        assert (one.content.type, one.content.text) == (other.content.type, other.content.text)
        assert (one.content.payload_type, one.content.location) == (
            other.content.payload_type,
            other.content.location,
        )


def _recorded_items() -> list[Any]:
    return [
        item
        for webhook in load_webhooks()
        for entry in split_body(json.loads(webhook["body"]))
        for item in normalize(
            entry,
            received_at=datetime(2026, 11, 21, 20, 50, tzinfo=UTC),
            raw_fallback=True,
            default_instance_id=None,
        )
    ]


EVENT = seed({"conversation": "oi"})


@pytest.mark.parametrize(
    ("body", "entries"),
    [
        pytest.param(EVENT, [EVENT], id="one event"),
        pytest.param([EVENT, EVENT], [EVENT, EVENT], id="list"),
        pytest.param({"events": [EVENT, 5]}, [EVENT, 5], id="events"),
        pytest.param([], [], id="empty list"),
        pytest.param({"events": []}, [], id="empty events"),
        pytest.param({"body": EVENT}, [EVENT], id="wrapped"),
        pytest.param({"body": [EVENT, EVENT]}, [EVENT, EVENT], id="wrapped list"),
        pytest.param([{"body": {"events": [EVENT]}}], [EVENT], id="wrapped events"),
        pytest.param({"body": {"body": {"body": EVENT}}}, [EVENT], id="three levels"),
        pytest.param(
            {"body": {"body": {"body": {"body": EVENT}}}}, [{"body": EVENT}], id="a fourth level is not opened"
        ),
        pytest.param({"instanceId": "out", "body": {"event": "X"}}, [{"instanceId": "out", "event": "X"}], id="adds"),
        pytest.param({"instanceId": "out", "body": EVENT}, [EVENT], id="inner keys win"),
        pytest.param({"headers": {"x-api-key": "k"}, "body": EVENT}, [EVENT], id="headers stay outside"),
        pytest.param({"body": "text"}, [{"body": "text"}], id="a text is no wrapped event"),
        pytest.param(None, [None], id="null"),
    ],
)
def test_split_body(body: Any, entries: list[Any]) -> None:
    assert split_body(body) == entries


def test_split_body_gives_the_event_itself() -> None:
    assert split_body(EVENT)[0] is EVENT


@pytest.mark.parametrize(
    "word",
    [
        "MESSAGE_INBOUND",
        "message.inbound",
        " Message Inbound ",
        "message--inbound!",
        "INBOUND_MESSAGE",
        "MESSAGE_RECEIVED",
        "MESSAGE_RECEIVE",
        "MESSAGE_INCOMING",
        "incoming-message",
    ],
)
@pytest.mark.parametrize("field", ["event", "type"])
def test_words_of_an_inbound_message(word: str, field: str) -> None:
    event = {key: value for key, value in EVENT.items() if key != "type"}
    item = read_one({**event, field: word})
    assert (item.kind, item.reason) == ("message", "ok")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "CONNECTION_UPDATE"}, "unsupported_event"),
        ({"event": "webhook.delivery"}, None),
        ({"type": None}, "invalid_contract"),
        ({"type": " ", "event": 5}, "invalid_contract"),
        ({"payload": None}, "invalid_contract"),
        ({"payload": {"message": "text"}}, "invalid_contract"),
        ({"id": None}, "invalid_contract"),
        ({"id": " " * 9}, "invalid_contract"),
        ({"id": "x" * 256}, "invalid_contract"),
        ({"instanceId": None}, "missing_instance"),
        ({"payload": {"message": {"conversation": "oi"}}}, "no_sender"),
    ],
)
def test_what_is_no_event(change: dict[str, Any], reason: str | None) -> None:
    item = read_one({**EVENT, **change})
    assert item.reason == (reason or "ok")
    assert (item.kind == "ignored") == (reason is not None)
    assert counts_as_queued(item) == (reason is None)


@pytest.mark.parametrize("entry", [None, 5, "text", True, 1.5, [], [EVENT]])
def test_entry_that_is_no_object(entry: Any) -> None:
    item = read_one(entry)
    assert (item.kind, item.reason, item.payload_type) == ("ignored", "invalid_contract", "none")


def test_kind_from_the_shape() -> None:
    bare = {"instanceId": "ipe-01", "payload": {"messages": [raw({"conversation": "oi"})]}}
    assert read_one(bare).reason == "raw_inbound_normalized"
    in_raw = {"instanceId": "ipe-01", "payload": {"raw": {"messages": [raw({"conversation": "oi"})]}}}
    assert read_one(in_raw).reason == "raw_inbound_normalized"
    older = {"instanceId": "ipe-01", "from": {"phone": JID}, "message": {"id": "L1", "conversation": "oi"}}
    assert read_one(older).external_id == "L1"


@pytest.mark.parametrize(
    ("entry", "instance_id"),
    [
        ({"instanceId": " a ", "iid": "c", "payload": {"instanceId": "b", "iid": "d"}}, "a"),
        ({"iid": "c", "payload": {"instanceId": "b", "iid": "d"}}, "b"),
        ({"instanceId": "", "iid": "c", "payload": {"iid": "d"}}, "c"),
        ({"instanceId": 5, "payload": {"iid": "d"}}, "d"),
        ({"instanceId": "x" * 256, "payload": []}, "mine"),
        ({"tenantId": "t", "sessionId": "s"}, "mine"),
        (5, "mine"),
    ],
)
def test_instance_of(entry: Any, instance_id: str) -> None:
    assert instance_of(entry, "mine") == instance_id
    assert instance_of({}, "") is None


def test_default_instance_reads_an_event_that_names_none() -> None:
    assert read_one({**EVENT, "instanceId": ""}, default_instance_id="mine").instance_id == "mine"


def test_order_is_that_of_the_event() -> None:
    body = upsert(*(raw({"conversation": str(number)}, {"id": f"M{number}"}) for number in range(200)))
    assert [item.external_id for item in read(body)] == [f"M{number}" for number in range(200)]


def test_clean_text() -> None:
    assert clean_text("antes\x00depois \ud83d fim") == "antesdepois � fim"
    assert clean_text("olá 👍") == "olá 👍"
    assert clean_text("\x00") == ""


def test_every_string_is_cleaned() -> None:
    dirty = "a\x00\ud83db"
    body = official(
        {"type": "text", "text": dirty, dirty: [dirty, {dirty: dirty}]},
        {"displayName": dirty, dirty: {dirty: dirty}},
        cursor=dirty,
    )
    body["payload"]["metadata"]["x"] = dirty
    for item in (read_one(body), read_one(upsert(raw({"conversation": dirty}, pushName=dirty)))):
        text = json.dumps(item.canonical, ensure_ascii=False) + str(item.metadata) + str(item.content)
        assert "\x00" not in text
        assert "\\u0000" not in text
        text.encode()
        assert item.name == "a�b"


def test_numbers_that_json_columns_refuse_become_null() -> None:
    item = read_one(official({"type": "text", "text": "oi", "far": 1e999}))
    assert item.canonical["payload"]["message"]["far"] is None


def test_the_normaliser_is_pure() -> None:
    program = "import sys, whatsapp.normalizers; sys.exit(any(name.startswith('django') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
