"""Tasks run in the scope that asked for them, or say why they may see all tenants: with a real worker and engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Queue as Channel
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker
from celery.signals import task_failure, task_postrun
from django.db import connection

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import ScopeMissing, current_scope, owner_scope, service_scope, tenant_scope
from leadengine.celery import DEFAULT, app, enqueue, publish
from leadengine.redis import client
from tests.conftest import World
from tickets.models import Queue

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # Celery's test worker, not ours.
    pytest.mark.filterwarnings("ignore::celery.exceptions.SecurityWarning", "ignore::RuntimeWarning"),
]
Seen = tuple[str, str, str, bool, list[str]]
seen: Channel[Seen | type[BaseException]] = Channel()


def _note() -> None:
    scope = current_scope()
    names = list(Queue.objects.order_by("name").values_list("name", flat=True)) if scope.session_scope else []
    seen.put((scope.session_scope, scope.tenant_id, scope.owner_id, connection.in_atomic_block, names))


@app.task(name="test.scoped")
def scoped(**_: Any) -> None:
    _note()


@app.task(name="test.served", service="a test of services")
def served(**_: Any) -> None:
    _note()


@pytest.fixture(scope="module")
def worker(django_db_setup: None) -> Iterator[None]:
    def note_failure(exception: BaseException, **_: Any) -> None:
        seen.put(type(exception))

    client().delete(DEFAULT)

    def hang_up(**_: Any) -> None:
        connection.close()

    task_failure.connect(note_failure, weak=False)
    task_postrun.connect(hang_up, weak=False)
    with start_worker(app, perform_ping_check=False, pool="solo", queues=[DEFAULT], loglevel="CRITICAL"):
        yield
    task_failure.disconnect(note_failure)
    task_postrun.disconnect(hang_up)


@pytest.fixture(params=[publish, enqueue], ids=["publish", "enqueue"])
def put(request: pytest.FixtureRequest) -> Callable[..., None]:
    return request.param  # type: ignore[no-any-return]


def next_seen() -> Seen | type[BaseException]:
    return seen.get(timeout=10)


@pytest.mark.usefixtures("worker")
def test_a_task_runs_in_the_scope_that_asked_for_it(committed_world: World, put: Callable[..., None]) -> None:
    world = committed_world
    with owner_scope(world.agent):
        put(scoped)
    assert next_seen() == ("owner", str(world.ipe.pk), str(world.agent.pk), True, ["Recepcao"])
    with tenant_scope(world.cedro.pk):
        put(scoped)
    assert next_seen() == ("tenant", str(world.cedro.pk), "", True, ["Vendas"])


@pytest.mark.usefixtures("worker")
def test_a_task_that_says_why_has_no_scope_and_no_transaction(committed_world: World, put: Callable[..., None]) -> None:
    put(served)
    assert next_seen() == ("", "", "", False, [])
    with owner_scope(committed_world.agent):
        put(served)
    assert next_seen() == ("", "", "", False, [])


@pytest.mark.usefixtures("worker")
def test_a_task_without_a_scope_and_without_a_reason_fails(committed_world: World, put: Callable[..., None]) -> None:
    put(scoped)
    assert next_seen() is ScopeMissing
    with service_scope("test"):  # whoever may see everything hands that on to nobody
        put(scoped)
    assert next_seen() is ScopeMissing


def test_a_call_like_a_functions_stays_in_its_scope(committed_world: World) -> None:
    with pytest.raises(ScopeMissing):
        scoped()
    with tenant_scope(committed_world.ipe.pk):
        scoped()
    assert next_seen() == ("tenant", str(committed_world.ipe.pk), "", True, ["Recepcao"])
    served()
    assert next_seen() == ("", "", "", False, [])


def test_every_task_of_ours_says_why_it_sees_all_tenants() -> None:
    app.loader.import_default_modules()
    ours = {name: task for name, task in app.tasks.items() if not name.startswith(("celery.", "test."))}
    assert len(ours) > 8
    assert {name for name, task in ours.items() if not getattr(task, "service", "")} == set()
    assert Tenant.objects.count() == 0
