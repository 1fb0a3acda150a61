"""What every test starts from: the real PostgreSQL as the application role, the real Valkey, two tenants."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections
from django.test import TransactionTestCase
from xdist.scheduler.loadscope import LoadScopeScheduling

from leadengine.accounts.models import Tenant, User
from leadengine.accounts.scopes import service_scope
from leadengine.embedded.postgres import find_binaries
from leadengine.redis import client
from leads.services import create_default_stages
from tests.environment import NAME, PASSWORD, SERVER
from tests.shows import tell_lines
from tests.whatsapp.vectors import tell_vectors
from tickets.models import CloseReason, Queue, QueueMembership
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving

ROOT = Path(__file__).resolve().parent.parent
E2E = "tests/e2e/"
FIRST = (E2E, "tests/embedded/")
# Several processes migrate once: the others take a copy. Named by the run, so that no run finds that of another.
TEMPLATE = f"migrated_{os.environ['PYTEST_XDIST_TESTRUNUID']}" if "PYTEST_XDIST_TESTRUNUID" in os.environ else ""
# What migrations fill.
KEPT_TABLES = {
    "django_migrations", "django_content_type", "operations_protectedchange", "operations_emergencycontact",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests first: they take longest."""
    for item in items:
        if item.nodeid.startswith(E2E):
            item.add_marker(pytest.mark.e2e)
    items.sort(key=lambda item: not item.nodeid.startswith(E2E))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Of several processes, those whose tests take longest or look at a clock go first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        with suppress(PermissionError):  # only root takes it back
            os.setpriority(os.PRIO_PROCESS, 0, 0 if item.nodeid.startswith(FIRST) else 5)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The tables of what this run has shown."""
    tell_vectors(terminalreporter)
    tell_lines(terminalreporter)


class Files(LoadScopeScheduling):
    """Of several processes each runs whole files; one of them all browser tests, for two products starve."""

    def _split_scope(self, nodeid: str) -> str:
        return E2E if nodeid.startswith(E2E) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    return Files(config, log)


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: Any) -> Iterator[None]:
    """A fresh database with the real roles, migrated by the owner; the tests run as the application role."""
    with psycopg.connect(SERVER.geturl(), autocommit=True) as admin:
        admin.execute("SELECT pg_advisory_lock(1)")  # roles belong to the server, and other processes make them, too
        admin.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        migrated = _copy_of_another(admin)
        passwords = {f"LEADENGINE_{role}_PASSWORD": PASSWORD for role in ("OWNER", "APP", "BACKUP")}
        subprocess.run(
            [str(find_binaries() / "psql"), "-X", "-q", "-v", f"database={NAME}", "-d", SERVER.geturl(), "-f",
             "deploy/postgres/roles.sql"],
            check=True, cwd=ROOT, env={**os.environ, **passwords}, capture_output=True,
        )  # fmt: skip
        if not migrated:
            with django_db_blocker.unblock():
                call_command("migrate", database="owner", verbosity=0)
                connections["owner"].close()
            if TEMPLATE:
                admin.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE {NAME}")
    client().flushdb()
    yield
    for connection in connections.all():
        connection.close()


def _copy_of_another(admin: psycopg.Connection[Any]) -> bool:
    """Make our database from the one that another process of this run has migrated, if there is one."""
    others = admin.execute("SELECT datname FROM pg_database WHERE starts_with(datname, 'migrated_')").fetchall()
    for (name,) in others:
        if name != TEMPLATE:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    if (TEMPLATE,) not in others:
        return False
    admin.execute(f"CREATE DATABASE {NAME} OWNER leadengine_owner TEMPLATE {TEMPLATE}")
    return True


# Deleting from the few tables that have rows takes a tenth of the time of truncating all of them.
EMPTY = """
DO $$ DECLARE name text; found boolean; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND NOT tablename = ANY('%s') LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %%I)', name) INTO found;
        IF found THEN EXECUTE format('DELETE FROM %%I', name); END IF;
    END LOOP;
END $$
"""


def _empty(self: TransactionTestCase) -> None:
    """Empty the tables as a superuser: the application role may not, on purpose."""
    with psycopg.connect(SERVER._replace(path=f"/{NAME}").geturl(), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")  # foreign keys are not looked at: all goes
        admin.execute(EMPTY % ("{" + ",".join(KEPT_TABLES) + "}"))


setattr(TransactionTestCase, "_fixture_teardown", _empty)  # noqa: B010 - private, so unknown to its stubs


@dataclass
class World:
    """Two tenants with their people: `ipe` is where things happen, `cedro` must never see any of it."""

    ipe: Tenant
    cedro: Tenant
    admin: User
    supervisor: User
    agent: User
    agent2: User
    outsider: User
    superuser: User
    queue: Queue
    line: WhatsAppSession
    foreign_queue: Queue
    foreign_line: WhatsAppSession


REASONS = (
    ("SOLVED", "Resolvido", "RESOLVED", True, False),
    ("NO_ANSWER", "Sem resposta", "CLOSED", True, False),
    ("SPAM", "Spam", "CLOSED", False, False),
    ("OTHER", "Outro", "CLOSED", True, True),
)


def make_world() -> World:
    """Create both tenants; call it inside a database test."""

    def user(tenant: Tenant | None, name: str, role: str = "AGENT", **more: Any) -> User:
        made = User(tenant=tenant, email=f"{name.lower()}@example.test", name=name, role=role, **more)
        made.password = "!"
        made.save()
        return made

    with service_scope("test world"), saving():
        ipe = Tenant.objects.create(slug="ipe", name="Ipê Calçados")
        cedro = Tenant.objects.create(slug="cedro", name="Cedro Móveis")
        admin, supervisor = user(ipe, "Alice", "ADMIN"), user(ipe, "Sofia", "SUPERVISOR")
        agent, agent2 = user(ipe, "Ana"), user(ipe, "Bruno")
        outsider = user(cedro, "Otto", "ADMIN")
        superuser = user(None, "Root", "ADMIN", is_superuser=True)
        queue = Queue.objects.create(tenant=ipe, name="Recepcao", is_default=True)
        foreign_queue = Queue.objects.create(tenant=cedro, name="Vendas", is_default=True)
        for member in (agent, agent2):
            QueueMembership.objects.create(tenant=ipe, user=member, queue=queue)
        for tenant in (ipe, cedro):
            create_default_stages(tenant_id=tenant.pk)
            for code, label, outcome, reopens, note in REASONS:
                CloseReason.objects.create(
                    tenant=tenant, code=code, label=label, outcome=outcome, allows_reopen=reopens, requires_note=note
                )
        line = WhatsAppSession.objects.create(
            tenant=ipe, owner=admin, session_name="Loja", connection_id="inst-ipe-01", broker_instance_id="ipe-01",
            status="connected", desired_state="connected", capabilities={"rate": None},  # no limit of the channel's
        )  # fmt: skip
        foreign_line = WhatsAppSession.objects.create(
            tenant=cedro, owner=outsider, session_name="Cedro", connection_id="inst-cedro-01",
            broker_instance_id="cedro-01", status="connected", desired_state="connected",
        )  # fmt: skip
    return World(
        ipe, cedro, admin, supervisor, agent, agent2, outsider, superuser, queue, line, foreign_queue, foreign_line
    )


@pytest.fixture
def world(db: None) -> World:
    """The two tenants, inside a transaction that the test rolls back."""
    return make_world()


@pytest.fixture
def committed_world(transactional_db: None) -> World:
    """The two tenants, really committed: for races, workers and sockets."""
    client().flushdb()
    return make_world()
