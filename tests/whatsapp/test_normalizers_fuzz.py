"""Nothing a broker can post makes the normaliser raise, and every item has a fate (spec/inbound.md 17.5)."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.payloads.builders import RECEIVED_AT, official, poll_choice, raw, seed, update, upsert
from tests.payloads.matchers import expand, load_vectors, load_webhooks
from tests.whatsapp.test_normalizers_raw import TABLE
from whatsapp.normalizers import counts_as_queued, instance_of, normalize, split_body

if TYPE_CHECKING:
    from collections.abc import Iterator

# Section 14, those that need no look-up; section 5.
REASONS = {
    *("ok", "raw_inbound_normalized", "outbound_echo", "reaction", "poll_choice", "ack_applied"),
    *("raw_inbound_ignored", "raw_fallback_disabled", "unsupported_event", "invalid_contract", "missing_instance"),
    *("no_sender", "status_broadcast", "newsletter", "ack_not_outgoing", "ack_unknown_status", "poll_choice_invalid"),
}
CAUSES = {
    *(None, "invalid_entry", "status_broadcast", "newsletter", "from_me", "message_stub", "empty_message"),
    *("protocol_message", "history_sync", "sender_key_only"),
}
RETYPED: tuple[Any, ...] = (None, True, 7, 1.5, "x", [], {}, [{}], {"x": 1})
MESSAGE_TYPES = {
    *("text", "image", "video", "audio", "document", "buttons_response", "list_response", "poll", "poll_choice"),
    *("location", "contact", "reaction", "unknown", "none"),
}
BODIES: list[Any] = [
    *(json.loads(webhook["body"]) for webhook in load_webhooks()),
    *(expand(vector["given"]["body"]) for vector in load_vectors() if "body" in vector["given"]),
    *(upsert(raw(row[0])) for row in TABLE.values()),
    upsert(
        raw({"reactionMessage": {"key": {"id": "T"}, "text": "x"}}),
        raw({"protocolMessage": {"type": 0, "key": {"id": "T"}}}),
    ),
    update(message={"editedMessage": {"message": {"conversation": "x"}}}),
    update(messageStubType=1, messageStubParameters=["x"]),
    official({"type": "media", "media": {"mediaType": "image", "size": 1}}),
    seed({"conversation": "x", "contextInfo": {"stanzaId": "Q", "quotedMessage": {"conversation": "y"}}}),
    poll_choice(),
]
# Every word that is a key somewhere, so that values land under names that are read.
WORDS = [
    "\x00\ud83d",
    *sorted({word for body in BODIES for word in json.dumps(body).split('"') if word.isidentifier()}),
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        [10**40, -(10**40), 1758024000, 1e999, -0.0, 2**63, "5548991001234@s.whatsapp.net", "1@lid", "2@g.us"]
    )
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(st.characters(codec=None, categories=None), max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, child in children for found in paths_of(child, (*path, key)))]


@st.composite
def changed_bodies(draw: st.DrawFn) -> Any:
    """Draw a known body with up to three of its nodes removed, retyped, or nested in something."""
    body = [copy.deepcopy(draw(st.sampled_from(BODIES)))]
    for _ in range(draw(st.integers(1, 3))):
        path = (0, *draw(st.sampled_from(paths_of(body[0]))))
        parents, last = path[:-1], path[-1]
        node: Any = body
        for key in parents:
            node = node[key]
        change = draw(st.sampled_from(["remove", "retype", "nest", "wrap"]))
        if change == "remove" and parents:
            node.pop(last)
        elif change == "nest":
            node[last] = draw(st.sampled_from([[node[last]], {"message": node[last]}, {"body": node[last]}]))
        elif change == "wrap":
            node[last] = {draw(st.sampled_from(WORDS)): node[last], draw(st.sampled_from(WORDS)): draw(values)}
        else:
            node[last] = draw(values)
        if not paths_of(body[0])[1:]:
            break
    return body[0]


def strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for child in (*value.keys(), *value.values()) if isinstance(value, dict) else ():
        yield from strings_of(child)
    for child in value if isinstance(value, list | tuple) else ():
        yield from strings_of(child)


def assert_every_item_has_a_fate(body: Any) -> None:
    for entry in split_body(body):
        instance_of(entry, None)
        for raw_fallback in (True, False):
            items = normalize(entry, received_at=RECEIVED_AT, raw_fallback=raw_fallback, default_instance_id="padrao")
            assert isinstance(items, list)
            for item in items:
                assert_well_formed(item)


def assert_well_formed(item: Any) -> None:
    assert item.reason in REASONS
    assert item.cause in CAUSES
    assert item.payload_type in MESSAGE_TYPES
    assert counts_as_queued(item) == (item.kind != "ignored")
    shown = [item.canonical, asdict(item)]
    json.dumps(shown, allow_nan=False, default=str)
    for text in strings_of(shown):
        assert "\x00" not in text
        text.encode()
    if item.kind == "ignored":
        return
    assert item.instance_id
    if item.kind in ("message", "vote", "echo"):
        assert 1 <= len(item.external_id) <= 255
        assert item.chat
        assert item.address.identities()
        assert item.sent_at.utcoffset() is not None
        media = item.content.media
        assert media is None or media.size is None or 0 <= media.size < 2**63


@given(values)
@settings(max_examples=300, deadline=None)
def test_any_json(value: Any) -> None:
    assert_every_item_has_a_fate(value)


@given(changed_bodies())
@settings(max_examples=1500, deadline=None)
def test_changed_bodies(body: Any) -> None:
    assert_every_item_has_a_fate(body)


def test_every_node_of_every_body_retyped() -> None:
    for body in BODIES:
        for path in paths_of(body)[1:]:
            for value in RETYPED:
                changed = copy.deepcopy(body)
                node: Any = changed
                for key in path[:-1]:
                    node = node[key]
                node[path[-1]] = value
                for entry in split_body(changed):
                    normalize(entry, received_at=RECEIVED_AT, raw_fallback=True, default_instance_id=None)


def test_absurd_nesting() -> None:
    deep: Any = "fundo"
    for _ in range(900):
        deep = {"message": deep}
    for body in (
        deep,
        upsert(raw(deep)),
        upsert(raw({"ephemeralMessage": deep})),
        official({"text": "oi", "extra": deep}),
        official({"text": "oi"}, {"extra": deep}),
        upsert(raw("[" * 5000)),
        upsert(raw={"raw": "[" * 100_000}),
        upsert(raw({"pollUpdateMessage": {"vote": deep}})),
        upsert(raw({"listResponseMessage": {"title": "x", "extra": deep}})),
    ):
        assert_every_item_has_a_fate(body)
