"""The facts of row level security that the code relies on (spec/sessions.md section 5), as the application role."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.utils import ProgrammingError

from leadengine.accounts.scopes import current_scope, owner_scope, service_scope, tenant_scope, user_scope
from leads.models import Contact
from tests.conftest import World
from tests.tickets.desk import arrive
from tests.walls import without_guards
from tickets.models import Queue
from whatsapp.models import SessionEvent, WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.persistence import saving

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
    with without_guards():
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
            saving(),
            pytest.raises(ProgrammingError, match="row-level security"),
            transaction.atomic(),
        ):
            write()


def test_owner_sees_own_connections_and_supervisors_all_of_the_tenant(world: World) -> None:
    with service_scope("test"), saving():
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
    with owner_scope(world.agent), saving(), pytest.raises(ProgrammingError), transaction.atomic():
        WhatsAppSession.objects.filter(pk=own.pk).update(owner=world.agent2)


def test_session_n02_nested_scopes_put_the_outer_one_back_also_after_an_error(world: World) -> None:
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
        with without_guards():
            assert Queue.objects.count() == 0
    with tenant_scope(world.ipe.pk):
        transaction.on_commit(lambda: seen.append(settings_now()[1:]))
        seen: list[tuple[str, ...]] = []
    assert seen == [("", "", "")], "what runs after the commit is outside the scope"


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
def test_updated_at_is_kept_by_the_database() -> None:
    triggers = {row[0] for row in ask("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE '%%_touch'")}
    assert set(PROTECTED) <= triggers


@pytest.mark.django_db
def test_no_policy_lets_everything_through() -> None:
    for table, using in ask("SELECT polrelid::regclass::text, pg_get_expr(polqual, polrelid) FROM pg_policy"):
        assert not re.fullmatch(r"\(*true\)*", using), table
