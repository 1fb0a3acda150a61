"""The vectors of the inbound contract, through the real door, the real drain and the real database."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from django.test import override_settings
from prometheus_client import REGISTRY

from leadengine.accounts.models import Tenant, User
from leadengine.accounts.scopes import service_scope
from leads.models import Contact
from tests.payloads.matchers import differences, expand, load_vectors
from tests.whatsapp.door import Answer, post
from tickets.models import Message, Queue, Ticket
from tickets.services.state import timeline_of
from whatsapp.models import WhatsAppSession
from whatsapp.services.drain import drain_inbox

pytestmark = pytest.mark.django_db(transaction=True)
VECTORS = load_vectors()


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(transactional_db: None, vector: dict[str, Any]) -> None:
    given, expected = expand(vector["given"]), vector["expect"]
    _provision(given["db"])
    with override_settings(**_settings(given["env"])):
        for earlier in given.get("before", []):
            post(earlier["body"], earlier["headers"])
            drain_inbox()
        before = _reasons()
        answer = _send(given)
        drain_inbox()
    grown = _reasons() - before
    assert answer.status == expected["http_status"], answer.body
    if answer.status == 202:
        assert answer.json["queued"] == expected["queued"]
    if "error_code" in expected:
        assert answer.code == expected["error_code"]
    if "metric" in expected:
        assert grown[expected["metric"]["result"], expected["metric"]["reason"]] >= 1, grown
    for reason, growth in expected.get("metric_values", {}).items():
        assert sum(amount for (_, name), amount in grown.items() if name == reason) == growth
    for name, value in expected.get("persisted", {}).items():
        assert not differences(value, _persisted(name)), (name, value, _persisted(name))


def _send(given: dict[str, Any]) -> Answer:
    body = given["raw_body"].encode() if "raw_body" in given else given["body"]
    return post(body, given["headers"] or {"Accept": "*/*"})


def _provision(db: dict[str, Any]) -> None:
    with service_scope("test"):
        tenants = {slug: Tenant.objects.create(slug=slug, name=slug) for slug in db["tenants"]}
        for number, row in enumerate(db["instances"]):
            tenant = tenants[row["tenantId"]]
            owner, _ = User.objects.get_or_create(
                tenant=tenant, email=f"{tenant.slug}@example.test", defaults={"name": "Dona", "role": "ADMIN"}
            )
            WhatsAppSession.objects.create(
                tenant=tenant, owner=owner, session_name=f"Linha {number}", connection_id=row["id"],
                broker_instance_id=row["brokerId"], status="connected",
            )  # fmt: skip
        for row in db["queues"]:
            Queue.objects.create(tenant=tenants[row["tenantId"]], name=row["name"], is_default=True)


def _settings(env: dict[str, str]) -> dict[str, Any]:
    """What settings.py makes of these variables, every other WHATSAPP_* being unset."""

    def words(name: str) -> list[str]:
        return [word.strip() for word in env.get(name, "").split(",") if word.strip()]

    broker = words("WHATSAPP_BROKER_API_KEY")
    return {
        "WHATSAPP_WEBHOOK_API_KEY": words("WHATSAPP_WEBHOOK_API_KEY") or broker,
        "WHATSAPP_WEBHOOK_HMAC_SECRET": words("WHATSAPP_WEBHOOK_HMAC_SECRET")
        or broker + words("WHATSAPP_WEBHOOK_API_KEY"),
        "WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE": env.get("WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE") == "true",
        "WHATSAPP_RAW_FALLBACK_ENABLED": env.get("WHATSAPP_RAW_FALLBACK_ENABLED", "true") == "true",
        "WHATSAPP_DEFAULT_INSTANCE_ID": env.get("WHATSAPP_DEFAULT_INSTANCE_ID", ""),
    }


def _reasons() -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for metric in REGISTRY.collect():
        if metric.name == "whatsapp_webhook_events":
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    found[sample.labels["result"], sample.labels["reason"]] += int(sample.value)
    return found


def _persisted(name: str) -> Any:
    """One key of `persisted`, as spec/inbound.md section 16 names them."""
    with service_scope("test"):
        thing, _, path = name.partition(".")
        kind, _, where = thing.partition("@")
        if kind == "messages":
            rows = Message.objects.all()
            if where in {"INBOUND", "OUTBOUND"}:
                rows = rows.filter(direction=where)
            elif where:
                rows = rows.filter(tenant__slug=where)
            return rows.count()
        if name == "contacts":
            return Contact.objects.filter(merged_into=None).count()
        if name == "tickets":
            return Ticket.objects.count()
        if name == "instances.brokerIds":
            return list(WhatsAppSession.objects.order_by("session_name").values_list("broker_instance_id", flat=True))
        if thing == "contact":
            contact = Contact.objects.latest("created_at")
            phone = contact.identities.filter(kind="phone").values_list("value", flat=True).first()
            return {"name": contact.name, "phone": phone}[path]
        if thing == "message":
            row = Message.objects.latest("created_at", "position")
            return {"content": row.content or row.caption, "externalId": row.external_id, "status": row.status}[path]
        ticket = Ticket.objects.latest("number")
        timeline = timeline_of(ticket)
        shown: Any = {
            "lastMessagePreview": ticket.last_message_preview,
            "timeline": timeline,
            "metadata": {**ticket.metadata, "timeline": timeline},
        }
        for part in path.split("."):
            shown = shown[part]
        return shown
