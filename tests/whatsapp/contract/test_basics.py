"""What holds for every route (spec/broker.md section 1)."""

from __future__ import annotations

import re

import pytest

from tests.whatsapp.contract.conftest import Contract
from tests.whatsapp.contract.shapes import MILLIS_OR_NULL, NUMBER, STATES, TEXT_OR_NULL, misfits


def test_broker_01_bad_json_is_500_with_the_words_of_the_parser(broker: Contract, made: str) -> None:
    answer = broker.call("PATCH", f"/instances/{made}", b'{"note": ')
    broker.refused(answer, 500, "internal_server_error", "message")


def test_broker_01_a_body_over_one_megabyte_is_500(broker: Contract, made: str) -> None:
    answer = broker.call("PATCH", f"/instances/{made}", b'{"note": "' + b"x" * 1_048_576 + b'"}')
    broker.refused(answer, 500, "internal_server_error", "message")
    assert answer.json()["message"] == "request entity too large"


def test_broker_01_the_key_goes_in_x_api_key_or_the_query_and_nowhere_else(broker: Contract) -> None:
    bearer = {"authorization": f"Bearer {broker.key}"}
    for answer in (
        broker.call("GET", "/instances", keyed=False),
        broker.call("GET", "/instances", keyed=False, headers={"x-api-key": "wrong"}),
        broker.call("GET", "/instances", keyed=False, headers=bearer),
        broker.call("GET", "/stream", keyed=False),
        broker.call("POST", "/instances", {}, keyed=False),
    ):
        broker.refused(answer, 401, "unauthorized")
    assert broker.call("GET", "/instances", keyed=False, params={"apiKey": broker.key}).status_code == 200


def test_broker_01_health_needs_no_key_and_lists_every_instance(broker: Contract, made: str) -> None:
    answer = broker.call("GET", "/health", keyed=False)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "application/json")
    listed = {one["id"]: one for one in answer.json()["instances"]}
    shape = {
        "id": str, "name": TEXT_OR_NULL, "connected": bool, "connectionState": STATES,
        "connectionUpdatedAt": MILLIS_OR_NULL, "hasLastQr": bool, "qrVersion": NUMBER, "queue": dict, "proxy": dict,
    }  # fmt: skip
    assert misfits(listed[made], shape, exact=broker.simulated) == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/no-such-page", 200),
        ("GET", "/", 200),
        ("POST", "/no-such-page", 404),
        ("GET", "/instances/{}/nothing", 404),
        ("POST", "/instances/{}/send-location", 404),
        ("GET", "/instances/{}/media/1", 404),
    ],
)
def test_broker_01_an_unknown_address_is_a_page(
    broker: Contract, made: str, method: str, path: str, status: int
) -> None:
    answer = broker.call(method, path.format(made), {} if method == "POST" else None)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (status, "text/html")
    assert re.match(r"\s*<", answer.text)


def test_broker_01_an_unknown_instance_is_404(broker: Contract) -> None:
    for method, path in (
        ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/pair"), ("POST", "/logout"), ("POST", "/session/wipe"),
        ("GET", "/status"), ("POST", "/send-text"), ("POST", "/exists"), ("GET", "/groups"), ("GET", "/events"),
        ("POST", "/events/ack"), ("GET", "/metrics"), ("GET", "/risk"), ("POST", "/risk/resume"),
    ):  # fmt: skip
        answer = broker.call(method, f"/instances/contract-nobody{path}", {"note": "x"} if method != "GET" else None)
        broker.refused(answer, 404, "instance_not_found")


def test_broker_01_there_are_no_tenants(broker: Contract, made: str) -> None:
    other = {"X-Tenant-Id": "somebody-else", "Idempotency-Key": "k"}
    assert broker.call("GET", f"/instances/{made}", headers=other).json()["id"] == made
