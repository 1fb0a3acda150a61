"""Who reaches which connection over the native routes and those of baileys-simple; ways of making one without HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from leadengine.operations.provisioning import provision_tenants, read_file
from leadengine.redis import client as redis
from tests.api import by_cookie, by_key, send
from tests.conftest import World
from tests.outbound import Broker
from tests.test_tenant_wall import picture
from tests.whatsapp.sessions.conftest import asker, make
from tests.whatsapp.sessions.steps import connected, set_columns
from whatsapp.models import SessionEvent, WhatsAppSession
from whatsapp.services.sessions.acting import carry_out
from whatsapp.services.sessions.wishes import Asker, NewSession, create_session

pytestmark = pytest.mark.django_db(transaction=True)
NATIVE, SIMPLE = "api/integrations/whatsapp/", "api/baileys-simple/"
AWAY = "http://127.0.0.1:9"  # nobody listens there
HEALTH = "baileys-health"
# Agents may send over a line of another owner (spec/outbound.md section 4): a wall for other tenants only.
TEAM_MAY = {"instance-door", "poll-door"}
BODIES: dict[str, dict[str, Any]] = {
    "instance-door": {"to": "+5511988887777", "text": "x"},
    "poll-door": {"to": "+5511988887777", "question": "x", "options": ["a", "b"]},
    "api-instance-exists": {"to": "+5511988887777"},
    "baileys-send": {"chatId": "+5511988887777", "text": "x"},
    "baileys-read": {"chatId": "+5511988887777"},
    "baileys-close": {"chatId": "+5511988887777"},
    "api-instance-pair": {"phoneNumber": "+5511988887777"},
    "api-instance": {"name": "tomada"},
    "api-instances": {"name": "nova"},
}


def routes() -> Iterator[tuple[str, str, str]]:
    """(name, method, address with `{}` for an id) of both surfaces' routes about connections."""
    patterns: list[URLPattern | URLResolver] = list(get_resolver().url_patterns)
    while patterns:
        pattern = patterns.pop()
        if isinstance(pattern, URLResolver):
            patterns += pattern.url_patterns
            continue
        path = str(pattern.pattern)
        if not path.startswith((SIMPLE, f"{NATIVE}instances", f"{NATIVE}session", f"{NATIVE}lines")):
            continue
        address = "/" + path.replace("<str:instance_id>", "{}").replace("<str:connection_id>", "{}")
        for method in ("get", "post", "patch", "delete"):
            if hasattr(pattern.callback.view_class, method) or pattern.name == "api-gone":  # type: ignore[attr-defined]
                yield pattern.name or "", method, address


def rows_of(world: World) -> dict[str, str]:
    """A digest of each table of the tenant; a key notes when it was used, whatever came of it."""
    return {table: digest for table, digest in picture(world.ipe).items() if table != "accounts_apikey"}


def asked(broker: Broker) -> dict[str, int]:
    counted: dict[str, int] = broker.control("state", method="GET")["requests"]
    return {call: count for call, count in counted.items() if "/_sim/" not in call}


def test_session_n05_a_foreign_key_gets_nothing_changes_nothing_and_calls_nobody(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    ids = (str(session.pk), session.connection_id, str(session.broker_instance_id))
    every = list(routes())
    assert len({address for _, _, address in every if "{}" in address}) >= 20
    keys = {user: by_key(user) for user in (house.outsider, house.agent2)}
    before, calls = rows_of(house), asked(broker)
    for name, method, address in every:
        body = BODIES.get(name, {}) if method != "get" else None
        redis().flushdb()  # wrong keys are counted
        for nobody in (Client(), Client(headers={"X-API-Key": "wrong"})):
            assert send(nobody, method, address.format(ids[0]), body)[0] == (200 if name == HEALTH else 401), address
        if "{}" not in address:
            continue
        for user, client in keys.items():
            if user == house.agent2 and name in TEAM_MAY:
                continue
            for word in ids:
                assert send(client, method, address.format(word), body)[0] in {403, 404}, (user, method, address)
    assert rows_of(house) == before
    assert asked(broker) == calls


def test_session_p08_connections_of_one_agent_never_reach_another(house: World) -> None:
    session = make(house.agent, "Sigilosa", auto_connect=False)
    set_columns(session.pk, phone_number="+5511912345678", status="connected", desired_state="connected")
    lists = (f"/{NATIVE}instances", f"/{NATIVE}instances?q=Sigilosa", f"/{SIMPLE}connections")
    for user, sees in (
        (house.agent, True), (house.agent2, False), (house.outsider, False), (house.supervisor, True),
        (house.admin, True),
    ):  # fmt: skip
        for client in (by_cookie(user), by_key(user)):
            for address in (*lists, f"/{NATIVE}instances?ownerId={house.agent.pk}", f"/{NATIVE}instances?refresh=1"):
                redis().flushdb()
                text = json.dumps(send(client, "get", address))
                assert ("Sigilosa" in text) is sees, (user.name, address)
                assert ("+5511912345678" in text) is sees
            for word in (str(session.pk), session.connection_id):
                for address in (f"/{NATIVE}instances/{word}", f"/{SIMPLE}connections/{word}/info"):
                    assert send(client, "get", address)[0] == (200 if sees else 404), (user.name, address)
        lines = send(by_key(user), "get", f"/{NATIVE}lines")[1]["data"]
        if user == house.outsider:
            assert lines == []
        else:
            assert lines == [
                {
                    "id": str(session.pk), "name": "Sigilosa", "status": "connected", "connected": True,
                    "circuit": {"state": "closed"},
                }
            ]  # fmt: skip


def test_session_p04_the_admin_service_and_provision_leave_committed_rows_while_the_broker_is_down(
    house: World, settings: Any
) -> None:
    settings.WHATSAPP_BROKER_URL = AWAY
    root = Asker(house.superuser, lambda: service_scope("test of the admin"), "admin")
    wish = NewSession(tenant_id=house.ipe.pk, owner=house.agent, name="Do admin", exempt=True)
    created = create_session(wish=wish, asker=root, now=timezone.now())
    assert carry_out(session=created.session, asker=root).pending
    file = {
        "tenants": [{"slug": "ipe", "name": "Ipê", "sessions": [{"connectionId": "prov-1", "status": "connected"}]}]
    }
    provision_tenants(file=read_file(json.dumps(file)), now=timezone.now())
    with service_scope("test"):
        rows = {row.connection_id: row for row in WhatsAppSession.objects.filter(deleted_at=None)}
        assert SessionEvent.objects.get(session=rows["do-admin"]).source == "admin"
    assert (rows["do-admin"].pending_wish, rows["do-admin"].owner_id) == ("connect", house.agent.pk)
    assert (rows["prov-1"].desired_state, rows["prov-1"].tenant_id) == ("connected", house.ipe.pk)
    shown = send(by_key(house.admin), "get", f"/{NATIVE}instances/do-admin")[1]["data"]
    assert (shown["status"], shown["pending"]) == ("pending", True)


def test_a_wish_of_one_person_counts_for_nobody_else(house: World, settings: Any) -> None:
    """The same idempotency key of two people is two keys."""
    settings.WHATSAPP_BROKER_URL = AWAY
    for user in (house.agent, house.agent2):
        wish = NewSession(tenant_id=house.ipe.pk, owner=user, name="Loja", idempotency_key="k")
        assert not create_session(wish=wish, asker=asker(user), now=timezone.now()).replayed
