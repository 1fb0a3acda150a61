"""The platform's own screens: the operations page, whom to call, the log of protected changes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from leadengine import health
from leadengine.accounts.models import AuditLog, User
from leadengine.accounts.scopes import service_scope
from leadengine.operations.models import EmergencyContact, ProtectedChange
from tests.admin_site.conftest import address
from tests.conftest import World
from whatsapp.models import PersistenceJournal, RecoveryRun

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("examined")]
Enter = Callable[[User], Client]
PAGE = "/admin/operations/"
SENT = {"_form_submitted": "1"}


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page looks at the health of the product; here only whether it shows what it sees."""
    seen = health.Report("degraded", {"database": {"ok": True, "latencyMs": 1.5}, "beat": {"ok": False}}, {})
    monkeypatch.setattr(health, "examine", lambda: seen)


def checked() -> dict[str, str]:
    out = StringIO()
    with contextlib.redirect_stdout(out):
        call_command("production_check", json=True)
    return {one["item"]: one["level"] for one in json.loads(out.getvalue())}


def deeds(action: str) -> list[AuditLog]:
    with service_scope("test"):
        return list(AuditLog.objects.filter(action=action))


def test_session_p67_admin_can_add_to_the_change_log(world: World, enter: Enter) -> None:
    client = enter(world.superuser)
    page = client.get(address(ProtectedChange)).content.decode()
    assert "Criação do sistema de persistência" in page
    assert "Adição de retry automático" in page
    form = {"date": "2026-11-22", "version": "9.9.9", "change": "Correção da reconexão", "approved_by": "Ana,Bruno"}
    answer = client.post(address(ProtectedChange, name="add/"), {**form, "status": "Ativo", **SENT})
    assert answer.status_code == 302, answer.content.decode()
    made = ProtectedChange.objects.get(version="9.9.9")
    assert (str(made.date), made.approved_by) == ("2026-11-22", ["Ana", "Bruno"])
    assert "Correção da reconexão" in client.get(address(ProtectedChange)).content.decode()
    assert [line.object_id for line in deeds("protected_change.added")] == [str(made.pk)]
    twice = client.post(address(ProtectedChange, name="add/"), {**form, "status": "Ativo", **SENT})
    assert twice.status_code == 200
    assert ProtectedChange.objects.filter(version="9.9.9").count() == 1
    assert client.post(address(ProtectedChange, made), {**form, "change": "x"}).status_code == 403
    assert client.get(address(ProtectedChange, made)).status_code == 200


def test_session_p68_contacts_show_on_the_operations_page_and_empty_ones_are_warned_of(
    world: World, enter: Enter
) -> None:
    client = enter(world.superuser)
    page = client.get(PAGE).content.decode()
    for role in ("Tech Lead", "DevOps", "DBA", "API indisponível", "Instância bloqueada", "Vazamento de dados",
                 "Alta carga", "Rotação de secrets", "Security Team"):  # fmt: skip
        assert role in page, role
    assert checked() == {"emergency_contacts": "WARN"}
    for number, role in enumerate(("Tech Lead", "DevOps", "DBA")):
        contact = EmergencyContact.objects.get(role=role)
        form: dict[str, Any] = {
            "role": role, "name": f"Pessoa {number}", "email": f"p{number}@example.test",
            "phone": f"+551190000000{number}", "action": "", "team": "",
        }  # fmt: skip
        answer = client.post(address(EmergencyContact, contact), {**form, **SENT})
        assert answer.status_code == 302, answer.content.decode()
    page = client.get(PAGE).content.decode()
    assert "Pessoa 2" in page
    assert "p2@example.test" in page
    assert "+5511900000002" in page
    assert checked() == {"emergency_contacts": "PASS"}
    assert len(deeds("emergency_contact.saved")) == 3


def test_a_superuser_who_looks_at_one_tenant_writes_them_all_the_same(world: World, enter: Enter) -> None:
    client = enter(world.superuser)
    client.get(f"/admin/tenant/?to={world.ipe.pk}")
    form = {"role": "Plantão", "name": "Ana", "email": "", "phone": "+5511900000009", "action": "", "team": ""}
    assert client.post(address(EmergencyContact, name="add/"), {**form, **SENT}).status_code == 302
    assert EmergencyContact.objects.filter(role="Plantão").exists()
    assert client.get(address(EmergencyContact)).status_code == 200


def test_lists_of_the_platform_are_for_superusers(world: World, enter: Enter) -> None:
    for user in (world.admin, world.supervisor, world.outsider):
        client = enter(user)
        for model in (EmergencyContact, ProtectedChange):
            assert client.get(address(model)).status_code == 403
            assert client.get(address(model, name="add/")).status_code == 403


def test_the_page_is_for_administrators_and_shows_their_own_rows(world: World, enter: Enter) -> None:
    now = timezone.now()
    with service_scope("test"):
        for tenant, trigger in ((world.ipe, "start-ipe"), (world.cedro, "start-cedro")):
            RecoveryRun.objects.create(
                tenant=tenant, trigger=trigger, started_at=now, expected=3, reconnected=2, lost=1
            )
            PersistenceJournal.objects.create(
                tenant=tenant, line_id=tenant.pk, operation=f"observe-{tenant.slug}", status="failed", recorded_at=now
            )
    assert enter(world.agent).get(PAGE).status_code == 403
    assert enter(world.supervisor).get(PAGE).status_code == 403
    assert Client().get(PAGE).status_code == 302
    page = enter(world.admin).get(PAGE).content.decode()
    assert "start-ipe" in page
    assert "observe-ipe" in page
    assert "2/3" in page
    assert "cedro" not in page
    assert "degraded" in page
    assert "latencyMs 1.5" in page
    page = enter(world.superuser).get(PAGE).content.decode()
    assert "start-ipe" in page
    assert "start-cedro" in page


def test_runbooks_are_read_in_the_back_office(world: World, enter: Enter) -> None:
    client = enter(world.admin)
    assert f"{PAGE}runbooks/WhatsAppRlsDisabled/" in client.get(PAGE).content.decode()
    page = client.get(f"{PAGE}runbooks/WhatsAppRlsDisabled/").content.decode()
    assert "Isolamento de dados desligado" in page
    assert "## Primeiro olhar" in page
    for name in ("Nothing", "..%2F..%2Fchangelog", "x.md"):
        assert client.get(f"{PAGE}runbooks/{name}/").status_code == 404, name
    assert enter(world.supervisor).get(f"{PAGE}runbooks/WhatsAppRlsDisabled/").status_code == 403
