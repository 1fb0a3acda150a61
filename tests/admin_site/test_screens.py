"""What the screens show, to whom, with how many queries, and what they never show."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.contrib import admin
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext

from leadengine.accounts.models import ApiKey, AuditLog, Tenant, User
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.operations.admin import PlatformAdmin
from leadengine.webhooks.models import Delivery, Endpoint
from leads.models import Contact, ContactMerge, Lead, PipelineStage, Tag
from tests.admin_site.conftest import PHONE, QR, SCREENS, Office, address, furnish
from tests.api import by_cookie
from tests.conftest import World
from tests.tickets.desk import arrive
from tests.tickets.test_plans import filled, plans, scanned
from tickets.models import CloseReason, Message, MessageMedia, Queue, Ticket
from whatsapp.models import (
    DeadLetter,
    PersistenceJournal,
    RecoveryRun,
    WebhookEvent,
    WebhookItem,
    WhatsAppAtendimento,
    WhatsAppSession,
)

Enter = Callable[[User], Client]
__all__ = ["filled"]

# Statements of a screen, with those that open and close its scope and find the session and the person. A list costs the
# same with one row and with many.
QUERIES: dict[type[Model], tuple[int, int]] = {  # (list, page of a row)
    Ticket: (10, 17), Message: (8, 16), Queue: (8, 12), CloseReason: (8, 8), WhatsAppSession: (9, 12),
    WhatsAppAtendimento: (9, 9), WebhookEvent: (9, 10), DeadLetter: (10, 13), Contact: (9, 17), Lead: (10, 13),
    ContactMerge: (8, 9),
    PipelineStage: (8, 8), Tag: (8, 8), User: (9, 11), ApiKey: (9, 9), AuditLog: (9, 8),
    PersistenceJournal: (8, 8), RecoveryRun: (8, 8), Endpoint: (8, 9), Delivery: (9, 11),
}  # fmt: skip


@pytest.mark.django_db
def test_every_screen_is_in_these_tests() -> None:
    # Those of the platform have no tenant's rows, and are for superusers (test_operations.py).
    registered = {model for model, made in admin.site._registry.items() if not isinstance(made, PlatformAdmin)} - {
        Tenant
    }
    assert registered == set(SCREENS) == set(QUERIES)


@pytest.mark.django_db
@pytest.mark.parametrize("model", SCREENS)
def test_list_and_page_keep_their_number_of_queries(office: Office, enter: Enter, model: type[Model]) -> None:
    client, row = enter(office.world.admin), office.ours[model]
    client.get(address(model, row))  # Django finds the content type of a model once per process
    one = _queries(client, address(model)), _queries(client, address(model, row))
    for number in range(2, 5):
        furnish(office.world, office.world.ipe, number)
    assert (_queries(client, address(model)), _queries(client, address(model, row))) == one == QUERIES[model]


@pytest.mark.django_db
@pytest.mark.parametrize("model", SCREENS)
@pytest.mark.parametrize("who", ["supervisor", "admin", "superuser"])
def test_every_screen_renders_without_a_secret(office: Office, enter: Enter, model: type[Model], who: str) -> None:
    user = getattr(office.world, who)
    if model in {ApiKey, Endpoint, Delivery} and who == "supervisor":
        return
    with service_scope("test"):
        key = ApiKey.objects.get(pk=office.ours[ApiKey].pk).sha256
        MessageMedia.objects.create(
            tenant=office.world.ipe,
            message=office.ours[Message],
            media_type="image",
            source={"mediaKey": "MEDIASECRET"},
        )
        User.objects.filter(tenant=office.world.ipe).update(password="argon2$HASHSECRET")
    client = enter(User.objects.get(pk=user.pk))
    for where in (address(model), address(model, office.ours[model])):
        answer = client.get(where)
        assert answer.status_code == 200, where
        page = answer.content.decode()
        for secret in (QR, key, "HASHSECRET", "MEDIASECRET", "WEBHOOKSECRET"):
            assert secret not in page, (where, secret)
        assert "Authorization" not in page
        if who == "supervisor":
            assert PHONE.removeprefix("+") not in page, where


@pytest.mark.django_db
@pytest.mark.parametrize("model", SCREENS)
def test_each_row_of_a_list_leads_to_its_page(office: Office, enter: Enter, model: type[Model]) -> None:
    page = enter(office.world.admin).get(address(model)).content.decode()
    links = re.findall(
        r'<a href="([^"?]+)[^"]*"[^>]*>((?:(?!</a>).)*)</a>', page[page.index('id="result_list"') :], re.S
    )
    own = [inside for where, inside in links if where == address(model, office.ours[model])]
    assert own
    assert "<a" not in own[0]  # a link in a link would take its place


@pytest.mark.django_db
def test_phones_are_whole_for_administrators_and_masked_for_supervisors(office: Office, enter: Enter) -> None:
    for model in (Contact, WhatsAppSession):
        assert PHONE in enter(office.world.admin).get(address(model)).content.decode()
        assert "•••• 7777" in enter(office.world.supervisor).get(address(model)).content.decode()


@pytest.mark.django_db
def test_a_contact_called_by_its_number_is_masked_too(office: Office, enter: Enter) -> None:
    with tenant_scope(office.world.ipe.pk):
        Contact.objects.update(name=PHONE)
    for model in (Contact, Ticket, Message, Lead, WhatsAppAtendimento):
        page = enter(office.world.supervisor).get(address(model)).content.decode()
        assert "+••••7777" in page, model
        assert PHONE not in page, model


@pytest.mark.django_db
def test_a_payload_keeps_texts_and_phones_from_supervisors_and_keys_from_all(office: Office, enter: Enter) -> None:
    where = address(WebhookEvent, office.ours[WebhookEvent])
    whole = enter(office.world.admin).get(where).content.decode()
    assert "corpo secreto" in whole
    assert "5511988887777@s.whatsapp.net" in whole
    part = enter(office.world.supervisor).get(where).content.decode()
    assert "corpo secreto" not in part
    assert "••••7777@s.whatsapp.net" in part
    assert "MESSAGE_INBOUND" in part


@pytest.mark.django_db
def test_hostile_text_stays_text(office: Office, enter: Enter) -> None:
    evil = "<script>alert(1)</script>"
    with tenant_scope(office.world.ipe.pk):
        Contact.objects.update(name=evil)
        Message.objects.update(content=evil)
        Ticket.objects.update(last_message_preview=evil, subject=evil)
        Queue.objects.update(colour='"><i>x')
        WebhookItem.objects.update(error=evil, reason=evil[:40])
    client = enter(office.world.admin)
    for model in (Ticket, Message, Contact, Queue, WebhookEvent, DeadLetter, Lead):
        for where in (address(model), address(model, office.ours[model])):
            assert "<script>alert(1)" not in client.get(where).content.decode(), where


@pytest.mark.django_db
def test_search_finds_by_protocol_number_name_and_phone(office: Office, enter: Enter) -> None:
    ticket = office.ours[Ticket]
    other = arrive(office.world, "Oi", phone="+5521977776666", name="Zuleica Prado")
    client = enter(office.world.supervisor)

    def found(model: type[Model], term: str) -> set[str]:
        page = client.get(address(model), {"q": term}).content.decode()
        keys = [row.pk if model is Ticket else row.contact_id for row in (ticket, other)]
        return {str(key) for key in keys if f"/{key}/change/" in page}

    for term in (ticket.protocol, f"#{ticket.number}", "maria", "11 98888-7777", PHONE, "8777"):
        assert found(Ticket, term) == {str(ticket.pk)}, term
    assert found(Ticket, "zuleica") == {str(other.pk)}
    assert found(Contact, "(21) 97777-6666") == {str(other.contact_id)}
    assert found(Contact, "nada disso") == set()
    assert found(Ticket, "99999999999999999") == set()


@pytest.mark.django_db
def test_the_message_list_reaches_a_day_back_and_all_the_way_for_one_ticket(office: Office, enter: Enter) -> None:
    client, ticket = enter(office.world.supervisor), office.ours[Ticket]
    with tenant_scope(office.world.ipe.pk):
        Message.objects.filter(ticket=ticket, direction="INBOUND").update(
            content="ANTIGA", sent_at="2020-01-01T00:00:00Z"
        )
    assert "ANTIGA" not in client.get(address(Message)).content.decode()
    assert "ANTIGA" in client.get(f"{address(Message)}?ticket={ticket.pk}").content.decode()
    assert "ANTIGA" in client.get(f"{address(Message)}?contact={ticket.contact_id}").content.decode()


@pytest.mark.django_db
def test_an_echo_that_was_our_own_message_is_not_shown(office: Office, enter: Enter) -> None:
    client, ticket = enter(office.world.supervisor), office.ours[Ticket]
    with tenant_scope(office.world.ipe.pk):
        Message.objects.filter(pk=office.ours[Message].pk).update(
            content="DUPLICADA", status="CANCELED", metadata={"mergedInto": "x"}
        )
    for where in (address(Message), f"{address(Message)}?ticket={ticket.pk}", address(Ticket, ticket)):
        assert "DUPLICADA" not in client.get(where).content.decode(), where


@pytest.mark.django_db
def test_the_audit_log_is_found_by_action_object_and_person(office: Office, enter: Enter) -> None:
    client = enter(office.world.supervisor)
    for query, number in (
        ("q=queue", 1),
        ("q=TAG", 1),
        ("q=login", 0),
        (f"actor={office.world.agent.pk}", 0),
        ("when=1h", 1),
    ):
        assert len(client.get(f"{address(AuditLog)}?{query}").context["cl"].result_list) == number, query


@pytest.mark.django_db
def test_the_ticket_page_shows_its_last_twenty_messages_in_order(office: Office, enter: Enter) -> None:
    for number in range(25):
        arrive(office.world, f"mensagem-{number:02d}")
    page = enter(office.world.supervisor).get(address(Ticket, office.ours[Ticket])).content.decode()
    shown = [number for number in range(25) if f"mensagem-{number:02d}" in page]
    assert shown == list(range(5, 25))
    assert page.index("mensagem-05") < page.index("mensagem-24")


@pytest.mark.django_db
def test_pages_speak_portuguese_and_english(office: Office, enter: Enter) -> None:
    page = enter(office.world.supervisor).get("/admin/").content.decode()
    assert "Painel" in page
    assert "Dashboard" not in page
    User.objects.filter(pk=office.world.supervisor.pk).update(locale="en")
    page = enter(office.world.supervisor).get("/admin/").content.decode()
    assert "Dashboard" in page
    assert "Painel" not in page


# --- On large tables ---------------------------------------------------------------------------------------------


@pytest.fixture
def lists() -> list[str]:
    return [
        address(Ticket), f"{address(Ticket)}?state=live", f"{address(Ticket)}?state=waiting", f"{address(Ticket)}?p=9",
        f"{address(Ticket)}?q=77", f"{address(Ticket)}?q=C77", f"{address(Ticket)}?q=5577",
        address(Message), f"{address(Message)}?state=received&when=today", f"{address(Message)}?state=unconfirmed",
        f"{address(Message)}?state=failed&when=7d", address(Contact), address(Lead), address(WebhookEvent),
        f"{address(WebhookEvent)}?status=FAILED", address(DeadLetter),
        f"{address(DeadLetter)}?state=overdue", f"{address(DeadLetter)}?state=unread", address(AuditLog),
        address(WhatsAppAtendimento),
        address(Queue), address(User),
    ]  # fmt: skip


def test_no_list_of_a_tenant_scans_a_table(filled: World, lists: list[str]) -> None:
    client = by_cookie(filled.supervisor)
    with tenant_scope(filled.ipe.pk):
        ticket = Ticket.objects.filter(status="OPEN")[0]
    for where in [*lists, f"{address(Message)}?ticket={ticket.pk}", f"{address(Message)}?contact={ticket.contact_id}"]:
        with plans() as found:
            assert client.get(where).status_code == 200, where
        assert found, where
        assert not scanned(found), where


def _queries(client: Client, where: str) -> int:
    with CaptureQueriesContext(connection) as seen:
        assert client.get(where).status_code == 200, where
    return len(seen)
