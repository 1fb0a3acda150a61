"""Without a broker every door, question and connection says what is missing (D5, spec/outbound.md section 6)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import resolve

from tests.api import by_cookie, by_key, send
from tests.conftest import World
from tests.test_tenant_wall import ROUTES

INSTANCES, SIMPLE = "api/integrations/whatsapp/instances", "api/baileys-simple/"
TURBOZAP = re.compile(r"(api/)?(instance/|message/<str:instance>/)")
DOORS = {"api-ticket-messages": "post", "contact-door": "post", "message-resend": "post"}
NEEDS_NONE = {"baileys-health"}
METHODS = ("get", "post", "put", "patch", "delete")


def routes() -> Iterator[tuple[str, str, str]]:
    """(name, method, address) of whatever sends or asks a broker."""
    for route in ROUTES:
        address = "/" + re.sub(r"<uuid:\w+>", "01a2028d-60dd-73fc-bdba-a4917d48e146", route.path)
        address = re.sub(r"<[^>]+>", "inst-ipe-01", address)
        if route.name in DOORS:
            yield route.name, DOORS[route.name], address
        elif route.path.startswith((INSTANCES, SIMPLE)) or TURBOZAP.match(route.path):
            view = resolve(address).func.view_class  # type: ignore[attr-defined]
            found = [method for method in METHODS if hasattr(view, method)] or ["get"]
            yield from ((route.name, method, address) for method in found if route.name not in NEEDS_NONE)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "missing",
    [
        ["WHATSAPP_BROKER_URL"],
        ["WHATSAPP_BROKER_API_KEY"],
        ["WHATSAPP_BROKER_URL", "WHATSAPP_BROKER_API_KEY", "WHATSAPP_WEBHOOK_HMAC_SECRET"],
    ],
)
def test_outbound_05_every_door_and_proxy_names_what_is_missing(
    world: World, settings: Any, missing: list[str]
) -> None:
    for name in missing:
        setattr(settings, name, type(getattr(settings, name))())
    every = list(routes())
    names = {name for name, _, _ in every}
    assert {
        *DOORS, "instance-door", "poll-door", "api-instance-exists", "api-instance-groups", "api-instance-metrics",
        "api-instance-release", "baileys-send", "turbozap-text", "turbozap-media",
    } <= names  # fmt: skip
    client, wrong = by_key(world.admin), set()
    for name, method, address in every:
        status, body = send(client, method, address, {} if method != "get" else None)
        if (status, body["error"]["code"], body["error"]["details"]) != (
            503, "WHATSAPP_NOT_CONFIGURED", {"missing": missing},
        ):  # fmt: skip
            wrong.add(f"{method.upper()} {address} ({name}): {status} {body['error']}")
    assert wrong == set()
    door = f"/{INSTANCES}/inst-ipe-01/polls"
    assert send(by_cookie(world.agent), "post", door, {})[0] == 503
    assert send(Client(), "post", door, {})[0] == 401, "who asks comes first"
