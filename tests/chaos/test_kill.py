"""kill -9 of the worker, the web process and Valkey amid traffic: every 2xx is one message, nothing twice."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.product import Product
from tests.whatsapp.inbound import text_event

MESSAGES = 1000
KILLS = ("worker-1", "valkey", "web", "worker-1", "valkey", "web")
TENANT = {
    "tenants": [
        {
            "slug": "caos", "name": "Caos",
            "users": [{"email": "ana@caos.test", "name": "Ana", "role": "ADMIN"}],
            "queues": [{"name": "Recepcao", "active": True}],
            "sessions": [
                {"connectionId": "caos-01", "brokerInstanceId": "caos-01", "name": "Caos", "status": "connected"}
            ],
        }
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    running = Product(Path(tmp_path_factory.mktemp("chaos")), "--no-demo", "--no-simulator")
    yield running
    running.stop()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_acknowledged_event_is_one_message(product: Product) -> None:
    product.provision(TENANT)
    acknowledged: set[str] = set()
    numbers = itertools.count()
    sending = [threading.Thread(target=_broker, args=(product, numbers, acknowledged)) for _ in range(4)]
    for thread in sending:
        thread.start()
    for number, name in enumerate(KILLS, 1):
        product.wait_for(lambda n=number: len(acknowledged) >= n * MESSAGES // (len(KILLS) + 2))  # type: ignore[misc]
        _kill_when_running(product, name)
    for thread in sending:
        thread.join(120)
    product.wait_for(lambda: _waiting(product) == 0, 60)
    rows = _messages(product)
    assert len(acknowledged) == MESSAGES
    assert sorted(row[0] for row in rows) == sorted(acknowledged), "each acknowledged once, and nothing else"
    for ticket, positions in itertools.groupby(sorted((row[1], row[2]) for row in rows), key=lambda row: row[0]):
        listed = [position for _, position in positions]
        assert listed == list(range(1, len(listed) + 1)), ticket


def _broker(product: Product, numbers: Iterator[int], acknowledged: set[str]) -> None:
    """Post each event until it is answered 2xx, as a broker does; some are posted twice."""
    session, random_ = requests.Session(), random.Random(7)
    headers = {"x-api-key": product.env["WHATSAPP_WEBHOOK_API_KEY"], "content-type": "application/json"}
    while (number := next(numbers)) < MESSAGES:
        external_id = f"K{number}"
        body = json.dumps(
            text_event(
                f"mensagem {number}", instance="caos-01", external_id=external_id,
                phone=f"+55119{random_.randrange(40):08d}",
            )
        ).encode()  # fmt: skip
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


def _kill_when_running(product: Product, name: str) -> None:
    before = product.pid_of(name)
    product.kill(name)
    product.wait_for(lambda: product.pid_of(name) != before)


def _waiting(product: Product) -> int:
    with product.database() as db:
        row = db.execute(
            "SELECT (SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'PENDING')"
            " + (SELECT count(*) FROM whatsapp_webhookitem WHERE fate = 'pending')"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _messages(product: Product) -> list[Any]:
    with product.database() as db:
        return db.execute("SELECT external_id, ticket_id, position FROM tickets_message").fetchall()
