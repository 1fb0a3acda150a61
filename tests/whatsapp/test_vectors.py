"""The vectors of the inbound contract, through the real door, the real drain and the real database."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test import override_settings

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope
from leadengine.operations.provisioning import provision_tenants, read_file
from tests.api import by_cookie, send
from tests.payloads.matchers import load_vectors
from tests.samples import samples
from tests.whatsapp.door import post
from tests.whatsapp.vectors import Reasons, provision_document, run_vector
from tests.whatsapp.wire import Wire
from whatsapp.services.drain import drain_inbox

pytestmark = pytest.mark.django_db(transaction=True)
VECTORS = load_vectors()
NO_HEADERS = {"Accept": "*/*"}


class InProcess:
    """The product within the test's own process."""

    def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        answer = post(body, dict(headers) or NO_HEADERS)
        return answer.status, answer.json if answer.body else None

    def finish(self) -> None:
        drain_inbox()

    def reasons(self, expected: Reasons) -> Reasons:
        found: Reasons = Counter()
        for one in samples("whatsapp_webhook_events_total"):
            found[one.labels["result"], one.labels["reason"]] += int(one.value)
        return found

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with service_scope("test"), connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    def ticket(self, ticket_id: str) -> Any:
        with service_scope("test"):
            admin = User.objects.get(email="admin@t-ipe.test")
        status, answer = send(by_cookie(admin), "get", f"/api/tickets/{ticket_id}")
        assert status == 200, answer
        return answer["data"]


@pytest.fixture(scope="module")
def fake_broker() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(transactional_db: None, fake_broker: Wire, vector: dict[str, Any], record_property: Any) -> None:
    file = read_file(json.dumps(provision_document(vector["given"]["db"])))
    provision_tenants(file=file, now=datetime.now(UTC))
    with override_settings(**_settings(vector["given"]["env"], fake_broker.url)):
        seen = run_vector(InProcess(), vector, fake_broker)
    record_property("vector", ["in process", asdict(seen)])
    assert not seen.wrong, seen.seen


def _settings(env: dict[str, str], fake_broker: str) -> dict[str, Any]:
    """What settings.py makes of these variables, every other WHATSAPP_* being unset."""

    def words(name: str) -> list[str]:
        return [word.strip() for word in env.get(name, "").split(",") if word.strip()]

    broker = words("WHATSAPP_BROKER_API_KEY")
    return {
        "WHATSAPP_BROKER_URL": env.get("WHATSAPP_BROKER_URL", "").replace("$fake_broker", fake_broker),
        "WHATSAPP_BROKER_API_KEY": broker,
        "WHATSAPP_WEBHOOK_API_KEY": words("WHATSAPP_WEBHOOK_API_KEY") or broker,
        "WHATSAPP_WEBHOOK_HMAC_SECRET": words("WHATSAPP_WEBHOOK_HMAC_SECRET")
        or broker + words("WHATSAPP_WEBHOOK_API_KEY"),
        "WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE": env.get("WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE") == "true",
        "WHATSAPP_RAW_FALLBACK_ENABLED": env.get("WHATSAPP_RAW_FALLBACK_ENABLED", "true") == "true",
        "WHATSAPP_DEFAULT_INSTANCE_ID": env.get("WHATSAPP_DEFAULT_INSTANCE_ID", ""),
    }
