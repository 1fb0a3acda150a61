"""Faults amid traffic: every 2xx is one message, nothing twice, and the inbox shows all of it without a reload."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import requests
from playwright.sync_api import expect

from tests.e2e.conftest import Browsers
from tests.e2e.desk import Customer, Desk
from tests.e2e.test_conversation import bubbles, open_ticket, row_of
from tests.product import Product
from tests.whatsapp.inbound import text_event

MESSAGES = 1000
FAULTS = ("worker-1", "valkey", "web", "postgres", "flush", "worker-1", "valkey", "web")


@pytest.fixture
def desk(product: Product) -> Desk:
    """A tenant of its own: these customers would push the other tests' out of the first page."""
    return Desk(product, "caos", "Caos")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_inbound_04_every_acknowledged_event_is_one_message_and_on_the_screen(browsers: Browsers, desk: Desk) -> None:
    if not hasattr(desk.product, "data_dir"):
        pytest.skip("the product was started by someone else")
    browsers.allow(r"ERR_", r"WebSocket", r"status of 50")
    run = uuid.uuid4().hex[:8]
    customers = [desk.customer(f"Caos {number}") for number in range(40)]
    customers[0].writes("antes de tudo")
    page = browsers.page("ana")
    open_ticket(page, customers[0])
    page.evaluate("window.alive = true; document.activeElement.blur()")  # under a focus the list would not move

    acknowledged: set[str] = set()
    numbers = itertools.count()
    sending = [
        threading.Thread(target=_broker, args=(desk, customers, run, numbers, acknowledged), daemon=True)
        for _ in range(4)
    ]
    for thread in sending:
        thread.start()
    for number, name in enumerate(FAULTS, 1):
        desk.product.wait_for(lambda n=number: len(acknowledged) >= n * MESSAGES // (len(FAULTS) + 2))  # type: ignore[misc]
        _provoke(desk.product, name)
    for thread in sending:
        thread.join(120)
    desk.product.wait_for(lambda: _waiting(desk) == 0, 60)

    rows = desk.rows(
        "SELECT external_id, ticket_id, position FROM tickets_message WHERE external_id LIKE %s", f"{run}-%"
    )
    assert len(acknowledged) == MESSAGES
    assert sorted(row[0] for row in rows) == sorted(acknowledged), "each acknowledged once, and nothing else"
    by_ticket = itertools.groupby(sorted((ticket, position) for _, ticket, position in rows), key=lambda row: row[0])
    for ticket, positions in by_ticket:
        listed = [position for _, position in positions]
        first = 2 if str(ticket) == customers[0].ticket_id else 1
        assert listed == list(range(first, first + len(listed))), ticket

    expect(page.locator("event-socket")).to_be_hidden(timeout=60_000)
    expect(bubbles(page)).to_have_count(len(customers[0].messages()))
    assert bubbles(page).all_inner_texts() == [text for text, _ in customers[0].messages()]
    expect(page.locator("[data-rows] > li")).to_have_count(len(customers))
    for customer in customers[1:]:
        expect(row_of(page, customer).locator(".pill [aria-hidden]")).to_have_text(str(len(customer.messages())))
        expect(row_of(page, customer)).to_contain_text(customer.messages()[-1][0])
    assert page.evaluate("window.alive") is True


def _broker(desk: Desk, customers: list[Customer], run: str, numbers: Iterator[int], acknowledged: set[str]) -> None:
    """Post each event until it is answered 2xx, as a broker does; some are posted twice."""
    session, random_ = requests.Session(), random.Random(7)
    product = desk.product
    headers = {"x-api-key": product.env["WHATSAPP_WEBHOOK_API_KEY"], "content-type": "application/json"}
    while (number := next(numbers)) < MESSAGES:
        external_id = f"{run}-{number}"
        customer = random_.choice(customers)
        event = text_event(
            f"mensagem {number}", instance=desk.line_id, external_id=external_id, phone=f"+{customer.phone}",
            name=customer.name,
        )  # fmt: skip
        body = json.dumps(event).encode()
        for _ in range(1 + (number % 5 == 0)):
            _post_until_answered(session, product.url, body, headers)
        acknowledged.add(external_id)


def _post_until_answered(session: requests.Session, url: str, body: bytes, headers: dict[str, str]) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            answer = session.post(f"{url}/api/integrations/whatsapp/webhook", data=body, headers=headers, timeout=10)
        except requests.RequestException:
            answer = None
        if answer is not None and answer.status_code == 202:
            return
        assert answer is None or answer.status_code == 503, answer.text
        assert time.monotonic() < end
        threading.Event().wait(0.2)


def _provoke(product: Product, fault: str) -> None:
    if fault == "flush":
        with redis.Redis.from_url(product.env["REDIS_URL"]) as client:
            client.flushall()
        return
    before = product.pid_of(fault)
    product.kill(fault)
    product.wait_for(lambda: product.pid_of(fault) != before)


def _waiting(desk: Desk) -> Any:
    return desk.value(
        """SELECT (SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'PENDING')
                + (SELECT count(*) FROM whatsapp_webhookitem WHERE fate = 'pending')"""
    )
