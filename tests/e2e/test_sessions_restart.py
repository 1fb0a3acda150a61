"""A connection outlives its processes: made over the API, paired, everything killed, and it is there again."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
import requests

from tests.e2e.conftest import Running
from tests.product import Product

KILLED = ("simulator", "web", "worker-1", "sender", "valkey")
INSTANCES = "/api/integrations/whatsapp/instances"


class Caller:
    """An integration with a key of an admin of a tenant of its own."""

    def __init__(self, product: Product, slug: str) -> None:
        self.product, self.slug = product, slug
        admin = f"admin@{slug}.test"
        tenant = {
            "slug": slug, "name": "Volta", "queues": [{"name": "Recepção"}],
            "users": [{"email": admin, "name": "Vera", "role": "ADMIN", "queues": ["Recepção"]}],
            "apiTokens": [{"name": "e2e", "user": admin}],
        }  # fmt: skip
        made = product.provision({"tenants": [tenant]})
        self.headers = {"X-API-Key": made["tenants"][0]["apiTokens"][0]["token"]}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, self.product.url + path, json=body, headers=self.headers, timeout=15)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.product.database() as connection:
            return connection.execute(sql, parameters).fetchall()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_session_p42_and_p43_and_p48_and_p49_and_p50_everything_restarts_and_it_is_connected_again(
    product: Product,
) -> None:
    if isinstance(product, Running):
        pytest.skip("the product was started by someone else")
    caller = Caller(product, f"volta-{uuid.uuid4().hex[:6]}")
    made = caller.call("POST", INSTANCES, {"name": "Loja"})
    one = f"{INSTANCES}/{made['id']}"
    ((instance,),) = caller.rows("SELECT broker_instance_id FROM whatsapp_sessions WHERE id = %s", made["id"])

    def connected() -> bool:
        try:
            return bool(caller.call("GET", one)["status"] == "connected")
        except requests.RequestException:
            return False

    product.simulate(f"/_sim/{instance}/open", {"phone": "5511940005555", "name": "Loja"})
    product.wait_for(connected)

    product.simulate(f"/_sim/{instance}/close", {"statusCode": 428})  # and the link has to come back, too
    before = {name: product.pid_of(name) for name in KILLED}
    for name in KILLED:
        product.kill(name)
    product.wait_for(lambda: all(product.pid_of(name) != pid for name, pid in before.items()))
    product.wait_for(lambda: _well(product), 40)
    back = time.monotonic()
    product.wait_for(lambda: at_broker(product, instance) and connected(), 30)
    assert time.monotonic() - back <= 30
    listed = caller.call("GET", INSTANCES)
    assert [(row["id"], row["instanceId"], row["status"]) for row in listed] == [
        (made["id"], made["instanceId"], "connected")
    ]

    text = uuid.uuid4().hex
    product.simulate(f"/_sim/{instance}/inbound", {"from": "5511977776666", "pushName": "Maria", "text": text})
    found = "SELECT ticket_id FROM tickets_message WHERE content = %s AND status = %s"
    product.wait_for(lambda: bool(caller.rows(found, text, "RECEIVED")))
    ((ticket,),) = caller.rows(found, text, "RECEIVED")
    caller.call("POST", f"/api/tickets/{ticket}/messages", {"text": f"resposta {text}"})
    product.wait_for(lambda: any(text in str(sent) for sent in product.simulate(f"/_sim/{instance}/sent")))


def at_broker(product: Product, instance: str) -> bool:
    found = {row["id"]: row for row in product.simulate("/_sim/state")["instances"]}
    return bool(found[instance]["connected"])


def _well(product: Product) -> bool:
    try:
        return bool(requests.get(f"{product.url}/healthz", timeout=5).json()["status"] == "ok")
    except (requests.RequestException, ValueError):
        return False
