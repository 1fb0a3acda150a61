"""The facts of row level security that the code relies on (spec/sessions.md section 5), as the application role."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, transaction
from django.db.utils import ProgrammingError

from leadengine.accounts.scopes import current_scope, owner_scope, service_scope, tenant_scope, user_scope
from leads.models import Contact
from tests.conftest import World
from tests.environment import url
from tests.tickets.desk import arrive
from tickets.models import Queue
from whatsapp.models import SessionEvent, WhatsAppAtendimento, WhatsAppSession

PROTECTED = ("whatsapp_sessions", "whatsapp_atendimentos")
ROOT = Path(__file__).resolve().parent.parent.parent


def ask(sql: str, *parameters: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def settings_now() -> tuple[str, ...]:
    names = ("role", "app.tenant_id", "app.owner_id", "app.session_scope")
    return tuple(ask("SELECT coalesce(current_setting(%s, true), '')", name)[0][0] for name in names)


# --- What a scope shows ------------------------------------------------------------------------------------------


def test_application_role_is_bounded(world: World) -> None:
    row = ask(
        """SELECT current_user::text, rolsuper, rolbypassrls, rolinherit, row_security_active('tickets_ticket')
           FROM pg_roles WHERE rolname = current_user"""
    )[0]
    assert row == ("leadengine_app", False, False, False, True)


def test_no_scope_no_rows_and_a_foreign_scope_none_of_ours(world: World) -> None:
    arrive(world)
    assert (Queue.objects.count(), Contact.objects.count(), WhatsAppSession.objects.count()) == (0, 0, 0)
    with tenant_scope(world.cedro.pk):
        assert list(Queue.objects.all()) == [world.foreign_queue]
        assert not Contact.objects.exists()
        assert Queue.objects.filter(pk=world.queue.pk).update(name="x") == 0
        assert Queue.objects.filter(pk=world.queue.pk).delete()[0] == 0
    with tenant_scope(world.ipe.pk):
        assert Contact.objects.count() == 1


def test_row_of_another_tenant_cannot_be_written(world: World) -> None:
    for write in (
        lambda: Queue.objects.create(tenant=world.cedro, name="Intruso"),
        lambda: Queue.objects.filter(pk=world.queue.pk).update(tenant=world.cedro),
        lambda: WhatsAppSession.objects.create(
            tenant=world.cedro, owner=world.outsider, session_name="x", connection_id="x"
        ),
    ):
        with (
            tenant_scope(world.ipe.pk),
            pytest.raises(ProgrammingError, match="row-level security"),
            transaction.atomic(),
        ):
            write()


def test_owner_sees_own_connections_and_supervisors_all_of_the_tenant(world: World) -> None:
    with service_scope("test"):
        own = WhatsAppSession.objects.create(
            tenant=world.ipe, owner=world.agent, session_name="Minha", connection_id="inst-ana"
        )
        for session in (world.line, own):
            SessionEvent.objects.create(tenant=world.ipe, session=session, new_status="connected", source="api")
            WhatsAppAtendimento.objects.create(
                tenant=world.ipe, owner_id=session.owner_id, connection_id=session.connection_id, chat_id="c"
            )
    for user, sessions in (
        (world.agent, {own}), (world.agent2, set()), (world.supervisor, {world.line, own}),
        (world.outsider, {world.foreign_line}), (world.superuser, {world.line, own, world.foreign_line}),
    ):  # fmt: skip
        with user_scope(user):
            assert set(WhatsAppSession.objects.all()) == sessions, user.name
            assert {event.session for event in SessionEvent.objects.all()} == sessions - {world.foreign_line}
            assert {row.owner_id for row in WhatsAppAtendimento.objects.all()} == {
                session.owner_id for session in sessions - {world.foreign_line}
            }
    with owner_scope(world.agent), pytest.raises(ProgrammingError), transaction.atomic():
        SessionEvent.objects.create(tenant=world.ipe, session_id=world.line.pk, new_status="x", source="api")
    with owner_scope(world.agent), pytest.raises(ProgrammingError), transaction.atomic():
        WhatsAppSession.objects.filter(pk=own.pk).update(owner=world.agent2)


def test_nested_scopes_put_the_outer_one_back_also_after_an_error(world: World) -> None:
    nothing = settings_now()
    with owner_scope(world.agent):
        outer = settings_now()
        assert outer[1:] == (str(world.ipe.pk), str(world.agent.pk), "owner")
        with service_scope("test"):
            assert settings_now() == ("leadengine_service", "", "", "tenant")
            with tenant_scope(world.cedro.pk):
                assert settings_now()[:2] == ("none", str(world.cedro.pk))
            assert settings_now()[0] == "leadengine_service"
        assert settings_now() == outer
        with pytest.raises(ValueError, match="ours"), tenant_scope(world.cedro.pk):
            raise ValueError("ours")
        assert settings_now() == outer
        assert current_scope().owner_id == str(world.agent.pk)
        with pytest.raises(DatabaseError), service_scope("test"):
            ask("SELECT nonsense")
        assert settings_now() == outer
        assert not Queue.objects.exclude(tenant=world.ipe).exists()
    assert settings_now() == nothing
    assert current_scope().tenant_id == ""


@pytest.mark.django_db(transaction=True)
def test_scope_ends_with_its_transaction_and_leaves_the_connection_clean(committed_world: World) -> None:
    world = committed_world
    for leave in (None, ValueError):
        try:
            with user_scope(world.superuser):
                assert Queue.objects.count() == 2
                if leave:
                    raise leave
        except ValueError:
            pass
        assert settings_now() == ("none", "", "", "")
        assert Queue.objects.count() == 0
    with tenant_scope(world.ipe.pk):
        transaction.on_commit(lambda: seen.append(Queue.objects.count()))
        seen: list[int] = []
    assert seen == [0], "what runs after the commit is outside the scope"


@pytest.mark.django_db(transaction=True)
def test_scopes_of_threads_do_not_meet(committed_world: World) -> None:
    world, seen = committed_world, {}
    gate = threading.Barrier(2)

    def look(tenant: Any) -> None:
        with tenant_scope(tenant.pk):
            gate.wait()
            seen[tenant.slug] = list(Queue.objects.values_list("name", flat=True))
            gate.wait()
        connection.close()

    threads = [threading.Thread(target=look, args=(tenant,)) for tenant in (world.ipe, world.cedro)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"ipe": ["Recepcao"], "cedro": ["Vendas"]}


def test_service_role_is_named_in_one_module_only() -> None:
    word = "leadengine_" + "service"
    naming = {
        str(path.relative_to(ROOT))
        for folder in ("leadengine", "leads", "tickets", "whatsapp", "deploy")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".sql", ".sh", ".yaml"} and word in path.read_text()
    }
    assert naming == {"leadengine/accounts/scopes.py", "deploy/postgres/roles.sql"}


# --- What the application may not do -----------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["tenant", "service"])
@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE tickets_ticket CASCADE",
        *(f"{verb} {table}" for table in PROTECTED for verb in ("DELETE FROM", "TRUNCATE")),
        "DELETE FROM accounts_auditlog",
        "UPDATE accounts_auditlog SET action = 'x'",
        "ALTER TABLE tickets_ticket DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE tickets_ticket NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY tickets_ticket_scope ON tickets_ticket",
        "CREATE TABLE extra (id int)",
        "SET ROLE leadengine_owner",
    ],
)
def test_runtime_roles_may_not(world: World, scope: str, statement: str) -> None:
    enter = tenant_scope(world.ipe.pk) if scope == "tenant" else service_scope("test")
    with enter, pytest.raises(ProgrammingError, match=r"permission denied|must be owner"), transaction.atomic():
        ask(statement)


@pytest.mark.django_db
def test_owner_without_a_scope_sees_nothing_either() -> None:
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        for table in ("tickets_queue", *PROTECTED):
            assert owner.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
            forced = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE relname = %s"
            assert owner.execute(forced, [table]).fetchone() == (True,)


# --- The two protected tables (seed 002) -------------------------------------------------------------------------

FROZEN = {
    "whatsapp_sessions": [
        ("id", "uuid", None, "NO", "gen_random_uuid()"),
        ("owner_id", "uuid", None, "NO", None),
        ("session_name", "character varying", 255, "NO", None),
        ("status", "character varying", 50, "NO", "'disconnected'::character varying"),
        ("connection_id", "character varying", 255, "NO", None),
        ("qr_code", "text", None, "YES", None),
        ("phone_number", "character varying", 20, "YES", None),
        ("whatsapp_id", "character varying", 255, "YES", None),
        ("whatsapp_info", "jsonb", None, "YES", None),
        ("connected_at", "timestamp with time zone", None, "YES", None),
        ("disconnected_at", "timestamp with time zone", None, "YES", None),
        ("created_at", "timestamp with time zone", None, "YES", "now()"),
        ("updated_at", "timestamp with time zone", None, "YES", "now()"),
        ("duplicate_reason", "character varying", 100, "YES", None),
    ],
    "whatsapp_atendimentos": [
        ("id", "uuid", None, "NO", "gen_random_uuid()"),
        ("chat_id", "character varying", 255, "NO", None),
        ("status", "character varying", 50, "NO", "'ATIVO'::character varying"),
        ("owner_id", "uuid", None, "NO", None),
        ("connection_id", "character varying", 255, "NO", None),
        ("created_at", "timestamp with time zone", None, "YES", "now()"),
        ("updated_at", "timestamp with time zone", None, "YES", "now()"),
    ],
}


@pytest.mark.django_db
@pytest.mark.parametrize("table", PROTECTED)
def test_protected_columns_are_as_the_seed_has_them_and_added_ones_may_be_left_out(table: str) -> None:
    columns = ask(
        """SELECT column_name::text, data_type::text, character_maximum_length, is_nullable::text, column_default::text
           FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s""",
        table,
    )
    assert set(FROZEN[table]) <= set(columns)
    for name, _, _, nullable, default in set(columns) - set(FROZEN[table]):
        assert nullable == "YES" or default is not None, name


def test_insert_with_only_the_required_columns_of_the_seed_works_in_a_scope(world: World) -> None:
    session = (
        "INSERT INTO whatsapp_sessions (owner_id, session_name, connection_id) VALUES (%s, 'Nova', 'nova') RETURNING id"
    )
    chat = "INSERT INTO whatsapp_atendimentos (chat_id, owner_id, connection_id) VALUES ('c', %s, 'nova') RETURNING id"
    for statement, model in ((session, WhatsAppSession), (chat, WhatsAppAtendimento)):
        with owner_scope(world.agent):
            row = model.objects.get(pk=ask(statement, world.agent.pk)[0][0])
            assert (row.tenant_id, row.owner_id) == (world.ipe.pk, world.agent.pk)
            assert row.status in {"disconnected", "ATIVO"}
        with pytest.raises(DatabaseError), transaction.atomic():
            ask(statement, world.agent.pk)


@pytest.mark.django_db
def test_updated_at_is_kept_by_the_database() -> None:
    triggers = {row[0] for row in ask("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE '%%_touch'")}
    assert set(PROTECTED) <= triggers


@pytest.mark.django_db
def test_no_policy_lets_everything_through() -> None:
    for table, using in ask("SELECT polrelid::regclass::text, pg_get_expr(polqual, polrelid) FROM pg_policy"):
        assert not re.fullmatch(r"\(*true\)*", using), table
