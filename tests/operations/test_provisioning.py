"""Provisioning as a service: what it makes, that it may be repeated, and that an error changes nothing."""

from __future__ import annotations

import json
import threading
import time
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.hashers import check_password
from django.db import connection

from leadengine.accounts.models import ApiKey, AuditLog, Tenant, User
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.accounts.services import find_key_owner
from leadengine.operations.provisioning import UnableToProvision, provision_tenants, read_file
from leads.models import PipelineStage
from tests.whatsapp.inbound import receive, text_event
from tickets.models import CloseReason, Message, Queue, QueueMembership
from whatsapp.models import SessionEvent, WebhookItem, WhatsAppSession
from whatsapp.services.drain import drain_inbox

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FILE: dict[str, Any] = {
    "tenants": [
        {
            "slug": "ipe", "name": "Ipê", "timezone": "America/Sao_Paulo",
            "users": [
                {
                    "email": "Ana@ipe.test", "name": "Ana", "role": "AGENT", "password": "segredo-1",
                    "queues": ["Recepcao"],
                },
                {"email": "alice@ipe.test", "name": "Alice", "role": "ADMIN"},
            ],
            "queues": [{"name": "Recepcao", "active": True, "reopenWindowMinutes": 90}, {"name": "Vendas"}],
            "sessions": [
                {
                    "connectionId": "inst-ipe-01", "brokerInstanceId": "ipe-01", "name": "Loja", "status": "connected",
                    "owner": "ana@ipe.test",
                },
                {"connectionId": "inst-ipe-02"},
            ],
            "apiTokens": [{"name": "ci", "user": "ana@ipe.test"}],
        },
        {"slug": "cedro", "name": "Cedro", "sessions": [{"connectionId": "inst-cedro-01"}]},
    ]
}  # fmt: skip


def provision(file: dict[str, Any], now: datetime = NOW) -> dict[str, Any]:
    return provision_tenants(file=read_file(json.dumps(file)), now=now)


def changed(path: str, value: Any) -> dict[str, Any]:
    """FILE with one value set, `tenants.0.users.0.role`; ... removes it."""
    file = deepcopy(FILE)
    *parents, last = path.split(".")
    part: Any = file
    for name in parents:
        part = part[int(name) if isinstance(part, list) else name]
    if value is ...:
        del part[last]
    elif isinstance(part, list) and int(last) == len(part):
        part.append(value)
    else:
        part[int(last) if isinstance(part, list) else last] = value
    return file


def test_makes_what_the_file_says() -> None:
    done = provision(FILE)
    ipe, cedro = done["tenants"]
    assert (ipe["slug"], ipe["created"]) == ("ipe", True)
    assert ipe["users"] == [{"email": "ana@ipe.test", "created": True}, {"email": "alice@ipe.test", "created": True}]
    assert ipe["queues"] == [{"name": "Recepcao", "created": True}, {"name": "Vendas", "created": True}]
    assert [(s["connectionId"], s["created"]) for s in ipe["sessions"]] == [
        ("inst-ipe-01", True),
        ("inst-ipe-02", True),
    ]
    assert cedro["users"] == [{"email": "admin@cedro.invalid", "created": True}]
    token = ipe["apiTokens"][0]["token"]
    found = find_key_owner(key=token)
    assert found
    assert (found[0].email, len(token)) == ("ana@ipe.test", 64)
    with service_scope("test"):
        assert str(WhatsAppSession.objects.get(connection_id="inst-ipe-01").pk) == ipe["sessions"][0]["id"]
        ana = User.objects.get(email="ana@ipe.test")
        assert check_password("segredo-1", ana.password)
        assert ana.password.startswith("argon2")
        assert not User.objects.get(email="alice@ipe.test").has_usable_password()
        assert list(QueueMembership.objects.values_list("user__name", "queue__name")) == [("Ana", "Recepcao")]
        queues = Queue.objects.filter(tenant__slug="ipe").order_by("order_index")
        assert list(queues.values_list("name", "is_default", "reopen_window_minutes")) == [
            ("Recepcao", True, 90), ("Vendas", False, 120),
        ]  # fmt: skip


def test_new_tenants_have_stages_and_close_reasons() -> None:
    provision(FILE)
    for slug in ("ipe", "cedro"):
        with tenant_scope(Tenant.objects.get(slug=slug).pk):
            assert PipelineStage.objects.count() == 7
            reasons = CloseReason.objects.order_by("order_index")
            assert list(reasons.values_list("code", "outcome", "allows_reopen", "requires_note")) == [
                ("SOLVED", "RESOLVED", True, False), ("NO_ANSWER", "CLOSED", True, False),
                ("SPAM", "CLOSED", False, False), ("WRONG_NUMBER", "CLOSED", True, False),
                ("LOST", "CLOSED", True, False), ("MERGED", "CLOSED", True, False), ("OTHER", "CLOSED", True, True),
            ]  # fmt: skip


def test_sessions_belong_to_their_owner_or_the_first_admin() -> None:
    provision(FILE)
    with service_scope("test"):
        rows = WhatsAppSession.objects.order_by("connection_id").values_list(
            "connection_id", "broker_instance_id", "session_name", "owner__email", "status", "desired_state"
        )
        assert list(rows) == [
            ("inst-cedro-01", None, "inst-cedro-01", "admin@cedro.invalid", "disconnected", "disconnected"),
            ("inst-ipe-01", "ipe-01", "Loja", "ana@ipe.test", "connected", "connected"),
            ("inst-ipe-02", None, "inst-ipe-02", "alice@ipe.test", "disconnected", "disconnected"),
        ]
        loja = WhatsAppSession.objects.get(connection_id="inst-ipe-01")
        assert (loja.connected_at, loja.state_changed_at) == (NOW, NOW)
        assert SessionEvent.objects.get(session=loja).new_status == "connected"


def test_a_second_time_changes_nothing() -> None:
    provision(FILE)
    with service_scope("test"):
        audits = AuditLog.objects.count()
        password = User.objects.get(email="ana@ipe.test").password
    done = provision(FILE, NOW + timedelta(hours=1))
    for tenant in done["tenants"]:
        assert not tenant["created"]
        assert not [row for kind in ("users", "queues", "sessions") for row in tenant[kind] if row["created"]]
    assert done["tenants"][0]["apiTokens"] == [{"name": "ci", "user": "ana@ipe.test", "token": None}]
    with service_scope("test"):
        assert (AuditLog.objects.count(), SessionEvent.objects.count()) == (audits, 3)
        assert User.objects.get(email="ana@ipe.test").password == password
        assert (Tenant.objects.count(), User.objects.count(), ApiKey.objects.count()) == (2, 3, 1)
        assert WhatsAppSession.objects.get(connection_id="inst-ipe-01").connected_at == NOW


def test_only_what_stands_in_the_file_is_changed() -> None:
    provision(FILE)
    with service_scope("test"):
        Queue.objects.filter(name="Vendas").update(description="nossa", is_active=False)
    later = NOW + timedelta(hours=1)
    provision(
        {
            "tenants": [
                {
                    "slug": "ipe", "name": "Ipê Calçados",
                    "users": [
                        {"email": "ana@ipe.test", "name": "Ana Maria", "password": "outra-2", "queues": ["Vendas"]}
                    ],
                    "queues": [{"name": "Vendas", "colour": "#112233"}],
                    "sessions": [{"connectionId": "inst-ipe-01", "status": "logged_out"}],
                }
            ]
        },
        later,
    )  # fmt: skip
    with service_scope("test"):
        ana = User.objects.get(email="ana@ipe.test")
        assert (ana.name, ana.role, check_password("outra-2", ana.password)) == ("Ana Maria", "AGENT", True)
        assert [row.queue.name for row in QueueMembership.objects.filter(user=ana).select_related("queue")] == [
            "Vendas"
        ]
        vendas = Queue.objects.get(name="Vendas")
        assert (vendas.description, vendas.is_active, vendas.colour) == ("nossa", False, "#112233")
        loja = WhatsAppSession.objects.get(connection_id="inst-ipe-01")
        assert (loja.status, loja.desired_state, loja.disconnected_at) == ("logged_out", "disconnected", later)
        assert (loja.session_name, loja.broker_instance_id, loja.owner_id) == ("Loja", "ipe-01", ana.pk)
        assert Tenant.objects.get(slug="ipe").name == "Ipê Calçados"


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("0.users.0.role", "BOSS", "[0].users[0].role: "),
        ("0.users.1.email", "no address", "[0].users[1].email: not an e-mail address"),
        ("0.users.0.rolle", "AGENT", "[0].users[0].rolle: "),
        ("0.slug", "Ipê!", "[0].slug: "),
        ("1.name", ..., "[1].name: "),
        ("0.timezone", "Mars/Phobos", "[0].timezone: not a time zone"),
        ("0.users.0.queues.0", "Nada", "[0].users[0].queues[0]: ipe has no queue Nada"),
        ("0.sessions.0.owner", "x@y.test", "[0].sessions[0].owner: ipe has no user x@y.test"),
        ("0.sessions.0.status", "open", "[0].sessions[0].status: "),
        ("0.sessions.0.connectionId", "", "[0].sessions[0].connectionId: "),
        ("0.apiTokens.0.user", "x@y.test", "[0].apiTokens[0].user: ipe has no user x@y.test"),
        ("1.users", [{"email": "ana@ipe.test", "name": "A"}], "[1].users[0].email: stands at tenants[0]"),
        ("1.slug", "ipe", "[1].slug: stands at tenants[0].slug already"),
        ("1.sessions.0.connectionId", "inst-ipe-01", "[1].sessions[0].connectionId: stands at"),
        ("1.sessions.0.brokerInstanceId", "ipe-01", "[1].sessions[0].brokerInstanceId: is the same as"),
        # A broker that says `inst-ipe-01` must never mean a session of Cedro.
        ("1.sessions.0.brokerInstanceId", "inst-ipe-01", "[1].sessions[0].brokerInstanceId: is the same"),
        ("0.sessions.1", {"connectionId": "x", "name": "LOJA", "owner": "ana@ipe.test"}, "[0].sessions[1].name: "),
        ("0.queues.1.name", "Recepcao", "[0].queues[1].name: stands at"),
    ],
)  # fmt: skip
def test_an_error_names_its_path_and_changes_nothing(path: str, value: Any, complaint: str) -> None:
    with pytest.raises(UnableToProvision) as refused:
        provision(changed(f"tenants.{path}", value))
    assert refused.value.message.startswith(f"tenants{complaint}"), refused.value.message
    with service_scope("test"):
        assert (Tenant.objects.count(), User.objects.count(), WhatsAppSession.objects.count()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ({"users": [{"email": "ana@ipe.test", "name": "A"}]}, "users[0].email: ana@ipe.test belongs to"),
        ({"sessions": [{"connectionId": "inst-ipe-01"}]}, "sessions[0].connectionId: inst-ipe-01 belongs to"),
        ({"sessions": [{"connectionId": "x", "brokerInstanceId": "ipe-01"}]}, "sessions[0].brokerInstanceId: "),
        ({"sessions": [{"connectionId": "ipe-01"}]}, "sessions[0].connectionId: is the same as of the session"),
        ({"sessions": [{"connectionId": "x", "owner": "ana@ipe.test"}]}, "sessions[0].owner: ana@ipe.test belongs"),
        ({"apiTokens": [{"name": "ci", "user": "ana@ipe.test"}]}, "apiTokens[0].user: ana@ipe.test belongs to"),
    ],
)  # fmt: skip
def test_nothing_is_taken_from_another_tenant(part: dict[str, Any], complaint: str) -> None:
    provision(FILE)
    with pytest.raises(UnableToProvision) as refused:
        provision({"tenants": [{"slug": "thief", "name": "Thief", **part}]})
    assert refused.value.message.startswith(f"tenants[0].{complaint}"), refused.value.message
    with service_scope("test"):
        assert not Tenant.objects.filter(slug="thief").exists()


def test_not_json() -> None:
    with pytest.raises(UnableToProvision, match=r"line 1, column 14: not JSON"):
        read_file('{"tenants": [}')


def test_a_session_may_change_its_broker_name_and_free_the_old_one() -> None:
    provision(FILE)
    file = changed("tenants.0.sessions.0.brokerInstanceId", "ipe-99")
    file["tenants"][1]["sessions"][0]["brokerInstanceId"] = "ipe-98"
    provision(file)
    file = changed("tenants.0.sessions.0.brokerInstanceId", "ipe-97")
    file["tenants"][1]["sessions"][0]["brokerInstanceId"] = "ipe-99"
    provision(file)
    with service_scope("test"):
        assert WhatsAppSession.objects.get(broker_instance_id="ipe-99").connection_id == "inst-cedro-01"


def test_two_connected_lines_of_an_owner_have_two_phones() -> None:
    file = changed("tenants.0.sessions.0.phoneNumber", "+5511999990000")
    file["tenants"][0]["sessions"][1] |= {
        "status": "connected", "owner": "ana@ipe.test", "phoneNumber": "+5511999990000",
    }  # fmt: skip
    with pytest.raises(UnableToProvision, match=r"tenants\[0\]\.sessions\[1\]\.phoneNumber"):
        provision(file)


def test_a_given_token_is_stored_hashed_and_not_made_twice() -> None:
    key = "k" * 40
    file = changed("tenants.0.apiTokens.0.token", key)
    assert provision(file)["tenants"][0]["apiTokens"][0]["token"] == key
    assert provision(file)["tenants"][0]["apiTokens"][0]["token"] is None
    found = find_key_owner(key=key)
    assert found
    assert found[1].sha256 != key
    assert ApiKey.objects.count() == 1


def test_a_first_queue_lets_waiting_messages_in() -> None:
    file = deepcopy(FILE)
    file["tenants"][0]["queues"] = []
    file["tenants"][0]["users"][0]["queues"] = []
    provision(file)
    receive(text_event("espera"))
    with service_scope("test"):
        assert (Message.objects.count(), WebhookItem.objects.get().reason) == (0, "queue_missing")
    provision(FILE, datetime.now(UTC))
    drain_inbox()
    with service_scope("test"):
        assert Message.objects.get().content == "espera"


def test_two_at_once_make_everything_once() -> None:
    problems: list[BaseException] = []

    def run() -> None:
        try:
            provision(FILE)
        except BaseException as error:
            problems.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    with service_scope("test"):
        assert (Tenant.objects.count(), User.objects.count(), WhatsAppSession.objects.count()) == (2, 3, 3)


def test_a_thousand_tenants_take_seconds() -> None:
    file = {
        "tenants": [
            {
                "slug": f"t{n}", "name": f"T {n}", "queues": [{"name": "Fila"}],
                "users": [{"email": f"a{n}@t.test", "name": "A", "role": "ADMIN", "queues": ["Fila"]}],
                "sessions": [{"connectionId": f"c{n}", "status": "connected"}],
                "apiTokens": [{"name": "ci", "user": f"a{n}@t.test"}],
            }
            for n in range(1000)
        ]
    }  # fmt: skip
    began = time.monotonic()
    done = provision(file)
    assert time.monotonic() - began < 30
    assert len(done["tenants"]) == 1000
    with service_scope("test"):
        assert (PipelineStage.objects.count(), CloseReason.objects.count()) == (7000, 7000)
        assert WhatsAppSession.objects.filter(owner__role="ADMIN").count() == 1000
    with connection.cursor() as cursor:
        assert_statements(cursor, file)


def assert_statements(cursor: Any, file: dict[str, Any]) -> None:
    """Ten tenants and a thousand cost the same number of statements."""
    from django.test.utils import CaptureQueriesContext

    counts = []
    for size in (10, 1000):
        with CaptureQueriesContext(connection) as queries:
            provision({"tenants": file["tenants"][:size]})
        counts.append(len(queries))
    assert counts[0] == counts[1]
