"""Bursts at the running product: spec/broker.md 11.18 and spec/inbound.md 17.3."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.e2e.desk import Desk
from tests.product import Product
from tests.whatsapp.door import PATH
from tests.whatsapp.inbound import text_event

MESSAGES, SECONDS, PATIENCE = 300, 2.0, 5.0


@pytest.fixture(scope="module")
def desk(product: Product) -> Desk:
    """A tenant of its own: these customers would push the other tests' out of the first page."""
    return Desk(product, "pico", "Pico")


def test_broker_18_300_inbound_in_2_seconds_are_all_answered_within_5_and_stored_once(desk: Desk) -> None:
    customers = [desk.customer(f"Pico {number}") for number in range(60)]
    before = desk.product.simulate("/_sim/state")["webhooks"]
    began = time.monotonic()

    def write(number: int) -> list[str]:
        time.sleep(max(0.0, began + number * SECONDS / MESSAGES - time.monotonic()))  # the pace is what is asked for
        return customers[number % len(customers)].writes(f"mensagem {number}")

    with ThreadPoolExecutor(16) as pool:
        ids = list(itertools.chain.from_iterable(pool.map(write, range(MESSAGES))))
    assert time.monotonic() - began < SECONDS + 1
    told = "SELECT count(*) FROM whatsapp_webhookevent e JOIN whatsapp_sessions s ON s.id = e.session_id "
    told += "WHERE s.connection_id = %s AND e.source = 'webhook'"
    desk.product.wait_for(lambda: desk.value(told, desk.line_id) == 2 * MESSAGES, PATIENCE)
    after = desk.product.simulate("/_sim/state")["webhooks"]
    assert after.get("retried", 0) == before.get("retried", 0), "none was refused or took 5 s"

    stored = "SELECT external_id, content FROM tickets_message m JOIN whatsapp_sessions s ON s.id = m.session_id "
    stored += "WHERE s.connection_id = %s"
    desk.product.wait_for(lambda: len(desk.rows(stored, desk.line_id)) >= MESSAGES)
    rows = desk.rows(stored, desk.line_id)
    assert sorted(row[0] for row in rows) == sorted(ids)
    assert {row[1] for row in rows} == {f"mensagem {number}" for number in range(MESSAGES)}


def test_inbound_03_65_valid_webhooks_in_a_second_meet_no_429_and_one_after_61_wrong_ones_is_accepted(
    desk: Desk,
) -> None:
    url, key = desk.product.url + PATH, desk.product.env["WHATSAPP_WEBHOOK_API_KEY"]
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=16))

    def post(number: int, key: str = key) -> int:
        customer = f"+55119{70_000_000 + number}"
        body = json.dumps(text_event("oi", instance=desk.line_id, phone=customer, external_id=f"pico-{number}"))
        headers = {"x-api-key": key, "content-type": "application/json"}
        return session.post(url, data=body.encode(), headers=headers, timeout=10).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(post, range(65))) == {202}
    if time.time() % 60 > 50:  # the count begins anew with each minute
        time.sleep(61 - time.time() % 60)
    refused = [post(0, "wrong") for _ in range(61)]
    assert refused == [401] * 60 + [429]
    assert post(99) == 202
