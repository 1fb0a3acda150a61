"""Who may enter the back office, in which scope its screens run, and what another tenant's people find there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.test import Client, RequestFactory

from leadengine.accounts.models import ApiKey, AuditLog, Tenant, User
from leadengine.accounts.scopes import Scope, current_scope, service_scope
from leads.models import Contact
from tests.admin_site.conftest import SCREENS, Office, address
from tests.conftest import World
from tickets.models import Message, Queue, Ticket
from whatsapp.models import WebhookEvent

pytestmark = pytest.mark.django_db
Enter = Callable[[User], Client]


def test_agents_stay_outside(office: Office, enter: Enter) -> None:
    client = enter(office.world.agent)
    for path in ("/admin/", address(Ticket), address(Ticket, office.ours[Ticket]), "/admin/search/?s=a"):
        assert client.get(path).status_code == 403, path
    assert client.post("/admin/logout/").status_code == 403


def test_nobody_is_sent_to_the_login_of_the_product(client: Client, db: None) -> None:
    for path in ("/admin/", address(Ticket), "/admin/login/?next=/admin/x/"):
        answer = client.get(path)
        assert answer.status_code == 302, path
        assert answer["Location"].startswith("/login/?next=/admin/"), path


def test_leaving_needs_a_post_and_ends_the_session(office: Office, enter: Enter) -> None:
    client = enter(office.world.supervisor)
    assert client.get("/admin/logout/").status_code == 405
    assert client.get("/admin/").status_code == 200
    assert client.post("/admin/logout/")["Location"] == "/login/?next=/admin/"
    assert client.get("/admin/").status_code == 302


def test_people_of_a_closed_tenant_stay_outside(office: Office, enter: Enter) -> None:
    client = enter(office.world.supervisor)
    Tenant.objects.filter(pk=office.world.ipe.pk).update(is_active=False)
    assert client.get("/admin/").status_code == 403


def test_a_demoted_supervisor_is_out_at_the_next_request(office: Office, enter: Enter) -> None:
    client = enter(office.world.supervisor)
    assert client.get("/admin/").status_code == 200
    User.objects.filter(pk=office.world.supervisor.pk).update(role="AGENT")
    assert client.get("/admin/").status_code == 403


def test_every_view_of_the_site_runs_in_the_scope_of_the_person(world: World) -> None:
    """The wrapper decides, not the screen: a view that knows nothing of scopes is inside one, streams included."""
    seen: list[Scope] = []

    def page(request: HttpRequest) -> TemplateResponse:
        answer = TemplateResponse(request, "admin/dead_letters.html", {"causes": []})
        answer.add_post_render_callback(lambda _answer: seen.append(current_scope()))
        return answer

    def stream(_request: HttpRequest) -> StreamingHttpResponse:
        def pieces() -> Iterator[bytes]:
            seen.append(current_scope())
            yield b"piece"

        return StreamingHttpResponse(pieces())

    def run(view: Callable[..., Any], user: User, **session: str) -> Any:
        request = RequestFactory().get("/admin/")
        request.user, request.session = user, session  # type: ignore[assignment]
        return admin.site.admin_view(view)(request)

    assert run(page, world.supervisor).is_rendered
    assert b"".join(run(stream, world.supervisor).streaming_content) == b"piece"
    run(page, world.superuser)
    run(page, world.superuser, back_office_tenant=str(world.cedro.pk))
    tenants = [(scope.tenant_id, scope.role) for scope in seen]
    ipe, cedro = str(world.ipe.pk), str(world.cedro.pk)
    assert tenants == [(ipe, "none"), (ipe, "none"), ("", "leadengine_service"), (cedro, "none")]
    assert current_scope().tenant_id == ""


@pytest.mark.parametrize("model", SCREENS)
def test_another_tenants_row_is_not_found(office: Office, enter: Enter, model: type[Model]) -> None:
    client, row = enter(office.world.admin), office.theirs[model]
    for name in ("change", "delete", "history"):
        assert client.get(address(model, row, name)).status_code in {403, 404}, name
    assert client.get(address(model, row)).status_code == 404
    assert client.post(address(model, row), {"name": "roubado"}).status_code in {403, 404}


def test_another_tenants_row_has_no_dialogs(office: Office, enter: Enter) -> None:
    client = enter(office.world.admin)
    dialogs: dict[type[Model], tuple[str, ...]] = {
        Ticket: ("take", "assign", "unassign", "close", "reopen"), Message: ("resend", "cancel", "dismiss"),
        User: ("password_reset",), ApiKey: ("revoke",),
    }  # fmt: skip
    for model, names in dialogs.items():
        for name in names:
            where = address(model, office.theirs[model], name)
            assert client.get(where).status_code == 404, where
            assert client.post(where, {"_form_submitted": "1"}).status_code == 404, where


@pytest.mark.parametrize("model", SCREENS)
def test_lists_filters_and_choices_hold_nothing_foreign(office: Office, enter: Enter, model: type[Model]) -> None:
    with service_scope("test"):
        User.objects.filter(tenant=office.world.cedro).update(name="CEDROSECRETO")
        Contact.objects.filter(tenant=office.world.cedro).update(name="CEDROSECRETO")
        Queue.objects.filter(tenant=office.world.cedro).update(name="CEDROSECRETO")
    client = enter(office.world.admin)
    page = client.get(address(model)).content.decode()
    assert str(office.ours[model].pk) in page
    assert str(office.theirs[model].pk) not in page
    assert "CEDROSECRETO" not in page
    assert (
        "CEDROSECRETO" not in client.get(address(model, office.ours[model])).content.decode()
    )  # nor a choice of a form


def test_a_filter_with_a_foreign_id_finds_nothing(office: Office, enter: Enter) -> None:
    client = enter(office.world.admin)
    for query in (f"queue={office.theirs[Queue].pk}", f"contact={office.theirs[Contact].pk}"):
        page = client.get(f"{address(Ticket)}?{query}").content.decode()
        assert str(office.ours[Ticket].pk) not in page
        assert str(office.theirs[Ticket].pk) not in page


@pytest.mark.parametrize(
    ("model", "lookup"),
    [
        (ApiKey, "sha256__startswith=a"), (User, "password__startswith=a"), (User, "tenant__slug=cedro"),
        (Ticket, "contact__name__startswith=M"), (Message, "payload__isnull=1"), (WebhookEvent, "body__isnull=1"),
    ],
)  # fmt: skip
def test_only_declared_filters_are_taken(office: Office, enter: Enter, model: type[Model], lookup: str) -> None:
    """A list that filters by any column would tell a hash bit by bit."""
    assert enter(office.world.admin).get(f"{address(model)}?{lookup}").status_code == 400


@pytest.mark.parametrize("query", ["queue=x", "assignee=1", "contact=%27", "e=1", "p=999999", "p=x", "o=-99.1.x"])
def test_a_bad_address_is_no_error(office: Office, enter: Enter, query: str) -> None:
    assert enter(office.world.admin).get(f"{address(Ticket)}?{query}").status_code in {200, 302}


def test_superusers_see_all_or_the_tenant_they_chose(office: Office, enter: Enter) -> None:
    client = enter(office.world.superuser)
    ours, theirs = str(office.ours[Ticket].pk), str(office.theirs[Ticket].pk)

    def shown() -> tuple[bool, bool]:
        page = client.get(address(Ticket)).content.decode()
        return ours in page, theirs in page

    assert shown() == (True, True)
    assert client.get(f"/admin/tenant/?to={office.world.cedro.pk}").status_code == 302
    assert shown() == (False, True)
    assert client.get(address(Ticket, office.ours[Ticket])).status_code == 404
    assert "Cedro Móveis" in client.get("/admin/").content.decode()
    assert client.get("/admin/tenant/?to=x").status_code == 404
    client.get("/admin/tenant/")
    assert shown() == (True, True)


def test_only_superusers_choose_tenants_and_see_what_belongs_to_none(office: Office, enter: Enter) -> None:
    with service_scope("test"):
        orphan = WebhookEvent.objects.create(status="ORPHAN", instance_id="ninguem-77")
    insider, root = enter(office.world.admin), enter(office.world.superuser)
    assert insider.get("/admin/tenant/").status_code == 404
    assert insider.get(address(Tenant)).status_code == 403
    assert insider.get(address(WebhookEvent, orphan)).status_code == 404
    assert "ninguem-77" not in insider.get(address(WebhookEvent)).content.decode()
    assert root.get(address(Tenant)).status_code == 200
    assert "ninguem-77" in root.get(f"{address(WebhookEvent)}?status=ORPHAN").content.decode()


def test_superusers_write_only_inside_a_chosen_tenant(office: Office, enter: Enter) -> None:
    client = enter(office.world.superuser)
    assert client.get(address(Queue, name="add/")).status_code == 403
    client.get(f"/admin/tenant/?to={office.world.cedro.pk}")
    assert client.get(address(Queue, name="add/")).status_code == 200
    # In conversations they look on: a person of the tenant acts.
    assert client.get(address(Ticket, office.theirs[Ticket], "close")).status_code == 403


def test_keys_are_for_administrators(office: Office, enter: Enter) -> None:
    supervisor = enter(office.world.supervisor)
    assert supervisor.get(address(ApiKey)).status_code == 403
    assert "/admin/accounts/apikey/" not in supervisor.get("/admin/").content.decode()
    assert "/admin/accounts/apikey/" in enter(office.world.admin).get("/admin/").content.decode()
    assert supervisor.get(address(AuditLog)).status_code == 200
