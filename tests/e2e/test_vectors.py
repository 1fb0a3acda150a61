"""The vectors of the inbound contract against the running product: web process, worker, PostgreSQL and Valkey.

Those that ask for other switches are in tests/whatsapp/test_vectors.py: here each would cost two starts.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.payloads.matchers import load_vectors
from tests.product import Product
from tests.whatsapp.door import PATH
from tests.whatsapp.vectors import Reasons, provision_document, run_vector, token_of
from tests.whatsapp.wire import Wire

GIVEN = {
    # What no vector contradicts: a secret changes nothing for a request that is not signed.
    "WHATSAPP_WEBHOOK_API_KEY": "chave-ipe-7",
    "WHATSAPP_WEBHOOK_HMAC_SECRET": "hm-ipe",
    "WHATSAPP_BROKER_API_KEY": "brk-99",
}
SWITCHES = {"WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE": "false", "WHATSAPP_RAW_FALLBACK_ENABLED": "true"}


class Running:
    """A product that is emptied before each vector."""

    def __init__(self, data_dir: Path, fake_broker: Wire) -> None:
        self.fake_broker = fake_broker
        self.product = Product(data_dir, "--no-demo", given=GIVEN | {"WHATSAPP_BROKER_URL": fake_broker.url})
        self.kept: list[str] = []

    def prepare(self, vector: Mapping[str, Any]) -> None:
        """Leave nothing in the database but the vector's `db`."""
        if not self.kept:
            self.product.provision(provision_document(vector["given"]["db"]))
            self.kept = [name for name in self._tables() if self.rows(f'SELECT 1 FROM "{name}" LIMIT 1')]
        emptied = ", ".join(f'"{name}"' for name in self._tables() if name not in self.kept)
        self._owner(f"TRUNCATE {emptied}")

    def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        answer = requests.post(self.product.url + PATH, data=body, headers=headers, timeout=30)
        return answer.status_code, answer.json() if answer.content else None

    def finish(self) -> None:
        waiting = """SELECT (SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'PENDING')
                          + (SELECT count(*) FROM whatsapp_webhookitem WHERE fate = 'pending')"""
        self.product.wait_for(lambda: self.rows(waiting)[0][0] == 0)

    def reasons(self, expected: Reasons) -> Reasons:
        with contextlib.suppress(AssertionError):  # the worker counts a moment after its commit
            self.product.wait_for(lambda: self._counted() >= expected, 2)
        return self._counted()

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.product.database() as connection:
            return connection.execute(sql.encode(), parameters).fetchall()

    def ticket(self, ticket_id: str) -> Any:
        key = {"X-API-Key": token_of("t-ipe")}
        answer = requests.get(f"{self.product.url}/api/tickets/{ticket_id}", headers=key, timeout=30)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def _counted(self) -> Reasons:
        found: Reasons = Counter()
        name = "whatsapp_webhook_events_total"
        page = requests.get(f"{self.product.url}/metrics", {"name[]": name}, timeout=30).text
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                found[sample.labels["result"], sample.labels["reason"]] += int(sample.value)
        return found

    def _tables(self) -> list[str]:
        return [name for (name,) in self._owner("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]

    def _owner(self, sql: str) -> list[Any]:
        with psycopg.connect(self.product.env["ADMIN_DATABASE_URL"], autocommit=True) as owner:
            cursor = owner.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Wire() as wire:
        subject = Running(tmp_path_factory.mktemp("vectors"), wire)
        yield subject
        subject.product.stop()


VECTORS: list[dict[str, Any]] = [
    vector for vector in load_vectors() if SWITCHES.items() <= {**SWITCHES, **vector["given"]["env"]}.items()
]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(running: Running, vector: dict[str, Any], record_property: Any) -> None:
    running.prepare(vector)
    seen = run_vector(running, vector, running.fake_broker)
    record_property("vector", ["running product", asdict(seen)])
    assert not seen.wrong, seen.seen
