"""What may be changed from the back office, by whom, through which service, and what it leaves in the audit log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from leadengine.accounts.models import ApiKey, User
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.accounts.services import UnableToChangeUser, save_user
from leads.models import Contact, PipelineStage, Tag
from tests.admin_site.conftest import Office, address, audits
from tests.conftest import World
from tests.tickets.desk import give
from tests.whatsapp.inbound import receive, text_event
from tickets.models import CloseReason, Message, Queue, QueueMembership, Ticket, TicketEvent
from whatsapp.models import DeadLetter, WebhookEvent, WebhookItem, WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.drain import drain_inbox

Enter = Callable[[User], Client]
NO_MEMBERS = {"memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0"}
PASSWORD = "quinze-cavalos-9"
SENT = {"_form_submitted": "1"}


def queue_form(name: str = "Vendas", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "colour": "#175CD3", "order_index": "1", "reopen_window_minutes": "60",
        "response_target_minutes": "10", "is_active": "on", **NO_MEMBERS, **more,
    }  # fmt: skip


def user_form(user: User, **more: Any) -> dict[str, Any]:
    form = {"name": user.name, "email": user.email, "role": user.role, "capacity": user.capacity, "is_active": "on"}
    return {**form, **more}


@pytest.mark.django_db
@pytest.mark.parametrize("model", [Ticket, Message, WhatsAppSession, WhatsAppAtendimento, WebhookEvent, DeadLetter])
def test_what_has_one_writer_has_no_form(office: Office, enter: Enter, model: Any) -> None:
    client, row = enter(office.world.admin), office.ours[model]
    assert client.get(address(model, name="add/")).status_code == 403
    assert client.get(address(model, row, "delete")).status_code == 403
    for user in (office.world.admin, office.world.superuser):
        assert enter(user).post(address(model, row), {"status": "CLOSED", "content": "x"}).status_code == 403
        page = enter(user).get(address(model, row)).content.decode()
        assert 'name="_save"' not in page


@pytest.mark.django_db
@pytest.mark.parametrize("model", [Queue, CloseReason, PipelineStage, Tag, User])
def test_supervisors_read_what_administrators_set_up(office: Office, enter: Enter, model: Any) -> None:
    client = enter(office.world.supervisor)
    assert client.get(address(model, office.ours[model])).status_code == 200
    assert client.post(address(model, office.ours[model]), queue_form()).status_code == 403
    assert client.get(address(model, name="add/")).status_code == 403
    assert enter(office.world.admin).get(address(model, office.ours[model], "delete")).status_code == 403


# --- Queues, reasons, stages, tags, contacts ---------------------------------------------------------------------


@pytest.mark.django_db
def test_a_queue_is_made_and_changed_with_its_difference_in_the_audit(office: Office, enter: Enter) -> None:
    world, client = office.world, enter(office.world.admin)
    assert client.post(address(Queue, name="add/"), queue_form(is_default="on")).status_code == 302
    with tenant_scope(world.ipe.pk):
        made, old = Queue.objects.get(name="Vendas"), Queue.objects.get(name="Recepcao")
    assert (made.tenant_id, made.is_default, old.is_default) == (world.ipe.pk, True, False)
    members = {"memberships-TOTAL_FORMS": "2", "memberships-0-user": str(world.agent.pk),
               "memberships-0-visibility": "QUEUE", "memberships-1-visibility": "OWN_UNASSIGNED"}  # fmt: skip
    form = queue_form("Vendas", response_target_minutes="5", **members)
    assert client.post(address(Queue, made), form).status_code == 302
    with tenant_scope(world.ipe.pk):
        assert QueueMembership.objects.get(queue=made).visibility == "QUEUE"
        assert Queue.objects.get(pk=made.pk).response_target_minutes == 5
    first, second = audits(world, "queue.saved")[-2:]
    assert first.request_id
    assert first.request_id != second.request_id
    assert (first.actor, first.changes["name"]) == (world.admin, [None, "Vendas"])
    assert second.changes == {"response_target_minutes": [10, 5], "is_default": [True, False]}
    [joined] = audits(world, "membership.saved")
    assert joined.changes["user_id"] == [None, str(world.agent.pk)]


@pytest.mark.django_db
def test_a_member_is_taken_out_of_a_queue(office: Office, enter: Enter) -> None:
    world, queue = office.world, office.ours[Queue]
    with tenant_scope(world.ipe.pk):
        one, two = QueueMembership.objects.filter(queue=queue).order_by("user__name")
    form = queue_form(queue.name, is_default="on", **{"memberships-TOTAL_FORMS": "2", "memberships-INITIAL_FORMS": "2"})
    for number, row in enumerate((one, two)):
        values = {"id": row.pk, "queue": queue.pk, "user": row.user_id, "visibility": row.visibility}
        form |= {f"memberships-{number}-{name}": str(value) for name, value in values.items()}
    answer = enter(world.admin).post(address(Queue, queue), {**form, "memberships-0-DELETE": "on"})
    assert answer.status_code == 302
    with tenant_scope(world.ipe.pk):
        assert list(QueueMembership.objects.filter(queue=queue)) == [two]
    assert audits(world, "membership.removed")[0].changes["user_id"] == [str(one.user_id), None]


@pytest.mark.django_db
def test_a_stranger_is_no_choice_for_a_queue(office: Office, enter: Enter) -> None:
    world, queue = office.world, office.ours[Queue]
    form = queue_form(queue.name, **{"memberships-TOTAL_FORMS": "1", "memberships-0-user": str(world.outsider.pk),
                                     "memberships-0-visibility": "ALL"})  # fmt: skip
    answer = enter(world.admin).post(address(Queue, queue), form)
    assert answer.status_code == 200
    assert audits(world, "membership.saved") == []


@pytest.mark.django_db
def test_a_taken_name_is_said_over_the_form_and_changes_nothing(office: Office, enter: Enter) -> None:
    answer = enter(office.world.admin).post(address(Queue, name="add/"), queue_form("Recepcao", is_default="on"))
    assert answer.status_code == 200
    page = answer.content.decode()
    assert "Já existe uma fila" in page
    assert 'value="#175CD3"' in page  # what was typed is still there
    with tenant_scope(office.world.ipe.pk):
        assert [queue.is_default for queue in Queue.objects.all()] == [True]
    assert audits(office.world, "queue.saved") == audits(office.world, "queue.saved")[:1]


@pytest.mark.django_db
def test_a_colour_must_be_one(office: Office, enter: Enter) -> None:
    answer = enter(office.world.admin).post(address(Queue, name="add/"), queue_form(colour='"><i>'))
    assert answer.status_code == 200
    with tenant_scope(office.world.ipe.pk):
        assert Queue.objects.count() == 1


def test_a_queue_made_later_releases_what_waited_for_one(committed_world: World, enter: Enter) -> None:
    with service_scope("test"):
        Queue.objects.filter(tenant=committed_world.ipe).update(is_active=False, is_default=False)
    receive(text_event("esperei"))
    with tenant_scope(committed_world.ipe.pk):
        assert WebhookItem.objects.get().reason == "queue_missing"
        assert not Ticket.objects.exists()
    assert enter(committed_world.admin).post(address(Queue, name="add/"), queue_form("Nova")).status_code == 302
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        assert Ticket.objects.get().queue.name == "Nova"
        assert Message.objects.get().content == "esperei"


@pytest.mark.django_db
def test_reasons_stages_and_tags_are_set_up_with_audit(office: Office, enter: Enter) -> None:
    world, client = office.world, enter(office.world.admin)
    forms: list[tuple[Any, dict[str, str], str]] = [
        (CloseReason, {"label": "Duplicado", "code": "DUP", "outcome": "CLOSED", "order_index": "9", "is_active": "on"},
         "close_reason.saved"),
        (PipelineStage, {"name": "Engajado", "status": "ENGAGED", "colour": "#175CD3", "order_index": "3"},
         "stage.saved"),
        (Tag, {"name": "Atacado", "colour": "#B25E09"}, "tag.saved"),
    ]  # fmt: skip
    for model, form, action in forms:
        assert client.post(address(model, name="add/"), form).status_code == 302, model
        [made] = audits(world, action)
        assert made.actor == world.admin
        taken = client.post(address(model, name="add/"), form)
        assert taken.status_code == 200, model
        assert "Já existe" in taken.content.decode(), model
        assert len(audits(world, action)) == 1


@pytest.mark.django_db
def test_what_a_reason_or_a_stage_stands_for_is_fixed(office: Office, enter: Enter) -> None:
    client, reason, stage = enter(office.world.admin), office.ours[CloseReason], office.ours[PipelineStage]
    client.post(address(CloseReason, reason), {"label": "Feito", "code": "X", "outcome": "CLOSED", "order_index": "0"})
    client.post(
        address(PipelineStage, stage), {"name": "Novos", "status": "LOST", "colour": "#175CD3", "order_index": "0"}
    )
    with tenant_scope(office.world.ipe.pk):
        reason.refresh_from_db()
        stage.refresh_from_db()
    assert (reason.label, reason.code, reason.outcome) == ("Feito", "SOLVED", "RESOLVED")
    assert (stage.name, stage.status) == ("Novos", "NEW")


@pytest.mark.django_db
def test_a_corrected_name_is_the_persons_and_the_broker_leaves_it(office: Office, enter: Enter) -> None:
    world, contact = office.world, office.ours[Contact]
    answer = enter(world.supervisor).post(address(Contact, contact), {"name": "Maria Aparecida", "notes": "VIP"})
    assert answer.status_code == 302
    with tenant_scope(world.ipe.pk):
        contact.refresh_from_db()
    assert (contact.name, contact.name_source, contact.notes) == ("Maria Aparecida", "AGENT", "VIP")
    [entry] = audits(world, "contact.saved")
    assert entry.changes["name"] == ["Maria", "Maria Aparecida"]
    enter(world.supervisor).post(address(Contact, contact), {"name": "Maria Aparecida", "notes": "VIP"})
    assert len(audits(world, "contact.saved")) == 1


# --- People ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_administrator_makes_a_person_who_can_sign_in(office: Office, enter: Enter) -> None:
    form = {
        "name": "Nina",
        "email": "Nina@Example.test",
        "role": "AGENT",
        "capacity": "10",
        "password": PASSWORD,
    }
    client = enter(office.world.admin)
    assert "password" in client.post(address(User, name="add/"), {**form, "password": "1234567890"}).content.decode()
    assert client.post(address(User, name="add/"), form).status_code == 302
    made = User.objects.get(email="nina@example.test")
    assert (made.tenant_id, made.role, made.check_password(PASSWORD)) == (office.world.ipe.pk, "AGENT", True)
    [entry] = audits(office.world, "user.saved")
    assert "password" not in str(entry.changes)


@pytest.mark.django_db
def test_an_address_in_use_is_refused_by_the_form(office: Office, enter: Enter) -> None:
    form = {
        "name": "X",
        "email": "OTTO@example.test",
        "role": "AGENT",
        "capacity": "10",
        "password": PASSWORD,
    }
    assert enter(office.world.admin).post(address(User, name="add/"), form).status_code == 200
    assert User.objects.filter(email="otto@example.test").count() == 1


@pytest.mark.django_db
def test_nobody_changes_their_own_role_and_the_last_administrator_stays(office: Office, enter: Enter) -> None:
    world, client = office.world, enter(office.world.admin)
    client.post(address(User, world.admin), user_form(world.admin, role="AGENT", name="Alice B", is_active=""))
    world.admin.refresh_from_db()
    assert (world.admin.role, world.admin.is_active, world.admin.name) == ("ADMIN", True, "Alice B")
    assert client.post(address(User, world.agent), user_form(world.agent, role="ADMIN")).status_code == 302
    second = User.objects.get(pk=world.agent.pk)
    assert enter(second).post(address(User, world.admin), user_form(world.admin, role="AGENT")).status_code == 302
    root = enter(world.superuser)
    root.get(f"/admin/tenant/?to={world.ipe.pk}")
    for change in ({"role": "SUPERVISOR"}, {"is_active": ""}):
        answer = root.post(address(User, second), user_form(second, **change))
        assert "O último administrador ativo" in answer.content.decode()
    second.refresh_from_db()
    assert (second.role, second.is_active) == ("ADMIN", True)


@pytest.mark.django_db
def test_rules_hold_in_the_service_whoever_calls_it(world: World) -> None:
    with service_scope("test"):
        world.agent.role = "ADMIN"
        with pytest.raises(UnableToChangeUser):
            save_user(actor=world.supervisor, user=world.agent)
        world.admin.role = "AGENT"
        with pytest.raises(UnableToChangeUser, match="próprio papel"):
            save_user(actor=User.objects.get(pk=world.admin.pk), user=world.admin)


def test_two_administrators_who_demote_each_other_leave_one(committed_world: World) -> None:
    world = committed_world
    User.objects.filter(pk=world.supervisor.pk).update(role="ADMIN")
    refused: list[str] = []
    ready = threading.Barrier(2)

    def demote(actor_id: Any, user_id: Any) -> None:
        try:
            actor, user = User.objects.get(pk=actor_id), User.objects.get(pk=user_id)
            user.role = "AGENT"
            ready.wait()
            with tenant_scope(world.ipe.pk):
                save_user(actor=actor, user=user)
        except UnableToChangeUser as error:
            refused.append(error.message)
        finally:
            connection.close()

    pairs = [(world.admin.pk, world.supervisor.pk), (world.supervisor.pk, world.admin.pk)]
    threads = [threading.Thread(target=demote, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert User.objects.filter(tenant=world.ipe, role="ADMIN", is_active=True).count() == 1


@pytest.mark.django_db
def test_a_deactivated_person_loses_keys_and_tickets(office: Office, enter: Enter) -> None:
    world, ticket = office.world, give(office.ours[Ticket], office.world.agent)
    with service_scope("test"):
        ApiKey.objects.filter(pk=office.ours[ApiKey].pk).update(owner=world.agent)
    assert enter(world.admin).post(address(User, world.agent), user_form(world.agent, is_active="")).status_code == 302
    with tenant_scope(world.ipe.pk):
        ticket.refresh_from_db()
        assert (ticket.status, ticket.assignee_id) == ("OPEN", None)
        assert TicketEvent.objects.filter(ticket=ticket, kind="UNASSIGNED", actor=world.admin).exists()
    assert ApiKey.objects.get(pk=office.ours[ApiKey].pk).revoked_at is not None
    assert [entry.changes for entry in audits(world, "user.saved")] == [{"is_active": [True, False]}]


@pytest.mark.django_db
def test_a_password_is_reset_for_somebody_else_only(office: Office, enter: Enter) -> None:
    world, client, other = office.world, enter(office.world.admin), enter(office.world.agent)
    where = address(User, world.agent, "password_reset")
    assert client.get(where).status_code == 200
    assert client.post(where, {**SENT, "password": "123"}).status_code == 200
    assert client.post(where, {**SENT, "password": PASSWORD}).status_code == 302
    assert User.objects.get(pk=world.agent.pk).check_password(PASSWORD)
    assert other.get("/inbox/").status_code == 302  # the old session has ended
    assert len(audits(world, "user.password_reset")) == 1
    assert client.get(address(User, world.admin, "password_reset")).status_code == 403
    assert enter(world.supervisor).post(where, {**SENT, "password": PASSWORD}).status_code == 403


@pytest.mark.django_db
def test_a_key_is_revoked_once(office: Office, enter: Enter) -> None:
    client, key = enter(office.world.admin), office.ours[ApiKey]
    assert client.post(address(ApiKey, key, "revoke"), SENT).status_code == 302
    assert ApiKey.objects.get(pk=key.pk).revoked_at is not None
    assert client.post(address(ApiKey, key, "revoke"), SENT).status_code == 403
    assert len(audits(office.world, "key.revoked")) == 1


# --- Tickets and messages ----------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_ticket_is_taken_assigned_returned_closed_and_reopened(office: Office, enter: Enter) -> None:
    world, ticket = office.world, office.ours[Ticket]
    client = enter(world.supervisor)

    def do(name: str, **form: Any) -> tuple[str, Any]:
        answer = client.post(address(Ticket, ticket, name), {**SENT, **form})
        assert answer.status_code == 302, (name, answer.content.decode())
        with tenant_scope(world.ipe.pk):
            ticket.refresh_from_db()
        return ticket.status, ticket.assignee_id

    for name in ("take", "assign", "close"):
        assert client.get(address(Ticket, ticket, name)).status_code == 200
    with tenant_scope(world.ipe.pk):
        ticket.refresh_from_db()
    assert ticket.status == "OPEN"  # looking at a dialog changes nothing
    assert do("take") == ("ASSIGNED", world.supervisor.pk)
    assert do("assign", user=str(world.agent.pk)) == ("ASSIGNED", world.agent.pk)
    assert do("unassign") == ("OPEN", None)
    assert do("close", reason="SOLVED")[0] == "RESOLVED"
    assert do("reopen")[0] == "OPEN"
    with tenant_scope(world.ipe.pk):
        kinds = list(TicketEvent.objects.filter(ticket=ticket).order_by("seq").values_list("kind", flat=True))
    assert kinds[-5:] == ["ASSIGNED", "ASSIGNED", "UNASSIGNED", "CLOSED", "REOPENED"]
    assert audits(world, "ticket.closed")
    assert client.post(address(Ticket, ticket, "reopen"), SENT).status_code == 403  # no such button now


@pytest.mark.django_db
def test_a_refusal_is_said_in_the_dialog(office: Office, enter: Enter) -> None:
    world, ticket = office.world, office.ours[Ticket]
    answer = enter(world.supervisor).post(address(Ticket, ticket, "close"), {**SENT, "reason": "OTHER"})
    assert answer.status_code == 200
    assert "pede uma nota" in answer.content.decode()
    stranger = {**SENT, "user": str(world.outsider.pk)}
    assert enter(world.supervisor).post(address(Ticket, ticket, "assign"), stranger).status_code == 200
    with tenant_scope(world.ipe.pk):
        ticket.refresh_from_db()
    assert (ticket.status, ticket.assignee_id) == ("OPEN", None)


@pytest.mark.django_db
def test_the_browser_is_led_back_by_htmx(office: Office, enter: Enter) -> None:
    where = address(Ticket, office.ours[Ticket], "take")
    answer = enter(office.world.supervisor).post(where, SENT, headers={"HX-Request": "true"})
    assert (answer.status_code, answer["HX-Redirect"]) == (200, address(Ticket, office.ours[Ticket]))


@pytest.mark.django_db
def test_a_failed_message_is_sent_again_withdrawn_or_dismissed(office: Office, enter: Enter) -> None:
    world, message = office.world, office.ours[Message]
    client = enter(world.supervisor)

    def state() -> tuple[str, bool]:
        with tenant_scope(world.ipe.pk):
            message.refresh_from_db()
        return message.status, message.dismissed_at is None

    with tenant_scope(world.ipe.pk):
        Message.objects.filter(pk=message.pk).update(external_id=None, payload={"type": "text", "text": "Resposta"})
    assert client.post(address(Message, message, "dismiss"), SENT).status_code == 302
    assert state() == ("FAILED", False)
    assert client.post(address(Message, message, "resend"), SENT).status_code == 302
    assert state() == ("QUEUED", True)
    assert client.post(address(Message, message, "cancel"), SENT).status_code == 302
    assert state()[0] == "CANCELED"
    assert client.post(address(Message, message, "resend"), SENT).status_code == 403


@pytest.mark.django_db
def test_a_message_that_may_have_left_asks_before_it_goes_again(office: Office, enter: Enter) -> None:
    world, message = office.world, office.ours[Message]
    with tenant_scope(world.ipe.pk):
        Message.objects.filter(pk=message.pk).update(status="UNCONFIRMED", payload={"type": "text", "text": "Resposta"})
    client, where = enter(world.supervisor), address(Message, message, "resend")
    assert client.post(where, SENT).status_code == 200
    with tenant_scope(world.ipe.pk):
        assert not Message.objects.filter(resend_of=message).exists()
    assert client.post(where, {**SENT, "confirm": "on"}).status_code == 302
    with tenant_scope(world.ipe.pk):
        assert Message.objects.get(resend_of=message).author == world.supervisor
