"""The door: who gets in, what is answered, what is kept. `test_02`, `test_03`: spec/inbound.md section 17."""

from __future__ import annotations

import hashlib
import hmac
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.test import override_settings

from leadengine.accounts.scopes import service_scope
from leadengine.redis import client
from tests.conftest import World
from tests.samples import samples
from tests.whatsapp.door import KEY, PATH, call, post
from tests.whatsapp.inbound import text_event
from whatsapp.models import WebhookEvent

pytestmark = pytest.mark.django_db(transaction=True)


def counted(reason: str) -> float:
    return sum(one.value for one in samples("whatsapp_webhook_events_total") if one.labels["reason"] == reason)


def signature(raw: bytes, secret: str = "broker-key-1") -> str:
    return hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()


def events() -> list[WebhookEvent]:
    with service_scope("test"):
        return list(WebhookEvent.objects.order_by("id"))


@pytest.mark.parametrize("path", [PATH, PATH + "/", "/api/webhooks/whatsapp", "/api/webhooks/whatsapp/"])
def test_a_right_key_is_accepted_and_the_row_is_there_before_the_answer(committed_world: World, path: str) -> None:
    raw = json.dumps(text_event("Oi")).encode()
    answer = call("POST", raw, {**KEY, "X-Request-Id": "abc-1"}, path=path)
    assert (answer.status, answer.json) == (202, {"accepted": True, "queued": 1})
    assert answer.headers["x-request-id"] == "abc-1"
    (event,) = events()
    assert (event.status, event.session_id, event.tenant_id) == (
        "PENDING", committed_world.line.pk, committed_world.ipe.pk,
    )  # fmt: skip
    assert zlib.decompress(bytes(event.body or b"")) == raw


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing_authorization"),
        ({"X-API-Key": ""}, "missing_authorization"),
        ({"X-API-Key": "wrong"}, "invalid_api_key"),
        ({"X-API-Key": "wrong", "Authorization": "Bearer hook-key"}, "invalid_api_key"),
        ({"Authorization": "Bearer wrong"}, "invalid_api_key"),
        ({"Authorization": "Basic hook-key"}, "missing_authorization"),
        ({"Authorization": ""}, "missing_authorization"),
        ({"Authorization": "hook-key"}, "missing_authorization"),
        ({"X-Authorization": "wrong"}, "invalid_api_key"),
        ({"X-Authorization": ""}, "missing_authorization"),
        ({"X-API-Key": "wrong", "X-Authorization": "hook-key"}, "invalid_api_key"),
        ({"X-API-Key": "hook-key,second-key"}, "invalid_api_key"),
        ({"Authorization": "Bearer wrong", "X-Authorization": "hook-key"}, "invalid_api_key"),
        ({"X-Forwarded-For": "127.0.0.1", "X-Tenant-Id": "ipe"}, "missing_authorization"),
    ],
)
def test_inbound_02_a_wrong_or_missing_key_is_401_and_counted(
    committed_world: World, headers: dict[str, str], reason: str
) -> None:
    before = counted(reason)
    answer = post(text_event(), headers or {"Accept": "*/*"})
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
    assert counted(reason) == before + 1
    assert not events()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "hook-key"},
        {"X-API-Key": "second-key"},
        {"Authorization": "Bearer hook-key"},
        {"Authorization": "bearer second-key"},
        {"X-Authorization": "hook-key"},
        {"X-API-Key": "", "X-Authorization": "second-key"},
    ],
)
def test_inbound_02_each_header_and_each_of_two_keys_opens(committed_world: World, headers: dict[str, str]) -> None:
    with override_settings(WHATSAPP_WEBHOOK_API_KEY=["hook-key", "second-key"]):
        assert post(text_event(), headers).status == 202


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization", "X-Authorization"])
def test_inbound_02_no_key_configured_refuses_all(committed_world: World, header: str) -> None:
    before = counted("no_key_configured")
    with override_settings(WHATSAPP_WEBHOOK_API_KEY=[]):
        for key in ("hook-key", "", "None"):
            word = f"Bearer {key}" if header == "Authorization" else key
            assert post(text_event(), {header: word}).status == 401
    assert counted("no_key_configured") == before + 3
    assert not events()


def test_inbound_02_a_key_compare_takes_the_same_path_for_every_wrong_key(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many comparisons, with the same keys, whatever was sent; a right one ends it no earlier."""
    keys, compared = ["hook-key", "second-key", "third-key"], list[bytes]()
    compare = hmac.compare_digest

    def watched(sent: bytes, right: bytes) -> bool:
        compared.append(right)
        return compare(sent, right)

    monkeypatch.setattr("hmac.compare_digest", watched)
    sent = ["x", "hook-ke", "hook-key-", "hook-kez", "\u00e9", "x" * 5000, *keys]
    with override_settings(WHATSAPP_WEBHOOK_API_KEY=keys):
        for key in sent:
            compared.clear()
            assert post(text_event(), {"X-API-Key": key}).status == (202 if key in keys else 401)
            assert compared == [one.encode() for one in keys], key[:20]


@pytest.mark.parametrize(
    "name", ["x-signature", "X-Signature-SHA256", "x-webhook-signature", "x-webhook-signature-sha256"]
)
@pytest.mark.parametrize("prefix", ["", "sha256="])
def test_inbound_02_every_signature_header_is_verified(committed_world: World, name: str, prefix: str) -> None:
    raw = json.dumps(text_event()).encode()
    with override_settings(WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE=True):
        assert post(raw, {**KEY, name: prefix + signature(raw).upper()}).status == 202
        wrong = post(raw, {**KEY, name: prefix + signature(raw + b" ")})
        assert (wrong.status, wrong.code) == (401, "INVALID_SIGNATURE")
        assert post(raw, KEY).code == "INVALID_SIGNATURE"
    assert post(raw, {**KEY, name: "0" * 64}).status == 401  # also when it is not required


def test_inbound_02_one_wrong_of_two_signatures_is_refused(committed_world: World) -> None:
    raw = json.dumps(text_event()).encode()
    right, wrong = signature(raw), "0" * 64
    for first, second, status in ((right, wrong, 401), (wrong, right, 401), (right, "sha256=" + right, 202)):
        assert post(raw, {**KEY, "x-signature": first, "x-webhook-signature-sha256": second}).status == status


def test_inbound_02_any_of_several_secrets_signs(committed_world: World) -> None:
    raw = json.dumps(text_event()).encode()
    with override_settings(WHATSAPP_WEBHOOK_HMAC_SECRET=["old", "new"], WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE=True):
        statuses = [post(raw, {**KEY, "x-signature": signature(raw, one)}).status for one in ("old", "new", "other")]
    assert statuses == [202, 202, 401]


@pytest.mark.parametrize(
    "raw",
    [b"{", b"", b"null", b"3", b'"text"', b'{"a": NaN}', b'{"a": Infinity}', b'{"a": "\xff"}', b"[" * 100_000,
     b"{'a': 1}", b'{"n": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_what_is_not_json_is_400_and_kept_for_the_desk(committed_world: World, raw: bytes) -> None:
    before = counted("invalid_json")
    answer = post(raw)
    assert (answer.status, answer.code) == (400, "INVALID_WEBHOOK_JSON")
    assert counted("invalid_json") == before + 1
    (event,) = events()
    assert (event.status, event.reason, event.tenant_id) == ("REJECTED", "invalid_json", None)
    assert zlib.decompress(bytes(event.body or b"")) == raw[:65_536]


def test_bom_and_any_content_type_are_read(committed_world: World) -> None:
    raw = b"\xef\xbb\xbf" + json.dumps(text_event()).encode()
    assert post(raw, {**KEY, "Content-Type": "text/plain"}).status == 202


def test_the_limit_is_held_by_header_and_while_reading(committed_world: World) -> None:
    with override_settings(WHATSAPP_WEBHOOK_MAX_BODY_BYTES=2048):
        declared = post(b"x", {**KEY, "Content-Length": "4096"})
        streamed = post(b"x" * 4096, KEY)
    assert (declared.status, declared.code) == (streamed.status, streamed.code) == (413, "WEBHOOK_BODY_TOO_LARGE")
    assert [event.reason for event in events()] == ["body_too_large"] * 2


def test_bodies_with_nothing_to_do_are_204(committed_world: World) -> None:
    empty, unknown, missing = counted("empty"), counted("unknown_instance"), counted("missing_instance")
    assert post([]).status == 204
    assert post(text_event(instance="nobody")).status == 204
    nameless = text_event()
    del nameless["instanceId"]
    assert post(nameless).status == 204
    assert (counted("empty"), counted("unknown_instance"), counted("missing_instance")) == (
        empty + 1, unknown + 1, missing + 1,
    )  # fmt: skip
    assert [(event.status, event.reason) for event in events()] == [
        ("ORPHAN", "unknown_instance"), ("PROCESSED", "missing_instance"),
    ]  # fmt: skip


def test_a_batch_counts_its_good_entries(committed_world: World) -> None:
    answer = post({"events": [text_event(), "rubbish", {"body": text_event()}]})
    assert (answer.status, answer.json["queued"]) == (202, 2)
    assert len(events()) == 3


def test_inbound_03_refused_callers_are_limited_by_address_and_right_ones_never(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client().flushdb()
    minute = SimpleNamespace(time=lambda: 1_795_293_630.0)
    monkeypatch.setattr("leadengine.limiting.time", minute)  # the count begins anew with each minute
    statuses = [post(text_event(), {"X-API-Key": "wrong"}, address="10.9.9.9").status for _ in range(61)]
    assert statuses == [401] * 60 + [429]
    last = post(text_event(), {"X-API-Key": "wrong"}, address="10.9.9.9")
    assert (last.code, last.headers["retry-after"]) == ("RATE_LIMITED", "30")
    assert post(text_event(), address="10.9.9.9").status == 202
    assert post(text_event(), {"X-API-Key": "wrong"}, address="10.9.9.8").status == 401
    forged = {"X-API-Key": "wrong", "X-Forwarded-For": "10.7.7.7", "X-Real-IP": "10.7.7.7"}
    assert post(text_event(), forged, address="10.9.9.9").status == 429


def test_inbound_03_65_valid_webhooks_of_one_address_at_once(committed_world: World) -> None:
    client().flushdb()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: post(text_event(), address="10.9.9.9").status, range(65)))
    assert statuses == [202] * 65
    assert len(events()) == 65


def test_other_methods_are_405(committed_world: World) -> None:
    for method in ("PUT", "PATCH", "DELETE"):
        answer = call(method, headers=KEY)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")


@pytest.mark.parametrize("path", [PATH, PATH + "/", "/api/webhooks/whatsapp", "/api/webhooks/whatsapp/"])
def test_inbound_02_get_verifies_the_address(committed_world: World, path: str) -> None:
    query = "hub.mode={}&hub.verify_token={}&hub.challenge=42"
    assert call("GET", query=query.format("subscribe", ""), path=path).status == 403, "no token is set"
    with override_settings(WHATSAPP_WEBHOOK_VERIFY_TOKEN="let-me-in"):
        right = call("GET", query=query.format("subscribe", "let-me-in"), path=path)
        assert (right.status, right.body, right.headers["content-type"]) == (200, b"42", "text/plain")
        for wrong in (("subscribe", "wrong"), ("subscribe", ""), ("unsubscribe", "let-me-in"), ("", "let-me-in")):
            assert call("GET", query=query.format(*wrong), path=path).status == 403
        assert call("GET", path=path, headers=KEY).status == 403, "a webhook key verifies nothing"


def test_without_postgresql_the_answer_is_503_and_the_broker_repeats(committed_world: World) -> None:
    before = counted("storage_unavailable")
    with override_settings(DATABASE_URL="postgres://leadengine_app:x@127.0.0.1:1/nothing"):
        answer = post(text_event(external_id="AGAIN"))
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "STORAGE_UNAVAILABLE", "5")
    assert counted("storage_unavailable") == before + 1
    assert post(text_event(external_id="AGAIN")).status == 202


def test_without_redis_the_event_is_stored_all_the_same(committed_world: World, monkeypatch: Any) -> None:
    dead = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.2)
    monkeypatch.setattr("leadengine.wake.client", lambda: dead)
    assert post(text_event()).status == 202
    assert len(events()) == 1
