"""What the outbox accepts and refuses, in which order (spec/outbound.md sections 2, 4, 5, 6, 10)."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import tenant_scope, user_scope
from leadengine.errors import DomainError, NotConfigured, NotFound, ValidationFailed
from leads.models import Contact, ContactIdentity
from tests.conftest import World
from tests.outbound import accept, conversation, queue, reload
from tests.whatsapp.inbound import receive, text_event
from tickets.models import CloseReason, Message, QueueMembership, Ticket
from tickets.payloads import parse_payload
from tickets.services.lifecycle import close_ticket
from tickets.services.outbox import Wish, queue_message, queue_to_contact
from tickets.services.outbox.refusals import (
    ContactBlocked,
    IdempotencyKeyMismatch,
    IdempotencyKeyRequired,
    IdempotencyKeyReused,
    InstanceDisconnected,
    InstanceRequired,
    NewerMessage,
    NotAssignee,
    TicketClosed,
    UnsupportedOperation,
)
from tickets.transports import get_transport
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving
from whatsapp.transport import GroupsNotSupported, RecipientNotAddressable, UnsupportedRecipient

pytestmark = pytest.mark.django_db(transaction=True)

LOCATION = {"type": "location", "location": {"latitude": -23.5, "longitude": -46.6, "name": "Loja"}}


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        ({}, {"text"}),
        ({"text": ""}, {"text"}),
        ({"text": " \u200b\n\u2060"}, {"text"}),
        ({"text": "\u3164\u2800\ufe0f\u034f"}, {"text"}),
        ({"type": 5}, {"type"}),
        ({"text": "a", "previewUrl": 1}, {"previewUrl"}),
        ({"text": "x" * 4097}, {"text"}),
        ({"text": "a\0b"}, {"text"}),
        ({"text": "a\ud800b"}, {"text"}),
        ({"text": 5}, {"text"}),
        ({"text": "a", "scheduledAt": "2030-01-01T00:00:00Z", "foo": 1}, {"scheduledAt", "foo"}),
        ({"text": "a", "content": "b"}, {"content"}),
        ({"text": "a", "externalId": "x" * 129, "replyTo": "1"}, {"externalId", "replyTo"}),
        ({"text": "a", "metadata": {"k": "x" * 8200}}, {"metadata"}),
        ({"text": "a", "metadata": []}, {"metadata"}),
        ({"type": "sms", "text": "a"}, {"type"}),
        ({"type": "image"}, {"mediaUrl"}),
        ({"type": "video", "caption": "x"}, {"mediaUrl"}),
        ({"type": "audio", "voice": True}, {"mediaUrl"}),
        ({"type": "document", "uploadId": "x"}, {"uploadId"}),
        ({"type": "image", "uploadId": str(uuid4()), "mediaUrl": "http://a.com/x"}, {"mediaUrl"}),
        ({"type": "image", "uploadId": str(uuid4()), "media": {"url": "http://a.com/x"}}, {"mediaUrl"}),
        ({"type": "audio", "mediaUrl": "http://a.com/x", "voice": "yes"}, {"voice"}),
        ({"type": "text", "text": "a", "mediaUrl": "http://a.com/x"}, {"mediaUrl"}),
        ({"type": "image", "mediaUrl": "http://a.com/x", "media": {"url": "http://a.com/x"}}, {"mediaUrl"}),
        ({"type": "image", "mediaUrl": "ftp://a.com/x"}, {"mediaUrl"}),
        ({"type": "image", "mediaUrl": "/x.png"}, {"mediaUrl"}),
        ({"type": "image", "mediaUrl": "http://user:pw@a.com/x"}, {"mediaUrl"}),
        ({"type": "image", "mediaUrl": "http://169.254.169.254/latest"}, {"mediaUrl"}),
        ({"type": "image", "mediaUrl": "http://[::ffff:10.0.0.1]/x"}, {"mediaUrl"}),
        ({"type": "image", "mediaUrl": "http://localhost/x"}, {"mediaUrl"}),
        ({"type": "image", "mediaUrl": "http://redis:6379/x"}, {"mediaUrl"}),
        ({"type": "image", "mediaUrl": "http://a.com/x", "caption": "x" * 1025}, {"caption"}),
        ({"type": "audio", "mediaUrl": "http://a.com/x", "caption": "no"}, {"caption"}),
        ({"type": "document", "media": {"url": "http://a.co/x", "size": -1, "a": 1}}, {"media.size", "media.a"}),
        ({"type": "location"}, {"location"}),
        ({"type": "location", "location": {"latitude": 90.5, "longitude": 0}}, {"location.latitude"}),
        ({"type": "location", "location": {"latitude": 0, "longitude": -180.1}}, {"location.longitude"}),
        ({"type": "location", "location": {"latitude": "0", "longitude": 0}}, {"location.latitude"}),
        ({"type": "location", "location": {"latitude": 0, "longitude": 0, "name": "x" * 257, "address": "x" * 257}},
         {"location.name", "location.address"}),
        ({"type": "contact"}, {"contact"}),
        ({"type": "contact", "contacts": []}, {"contacts"}),
        ({"type": "contact", "contact": {"fullName": "A"}, "contacts": [{"fullName": "B"}]}, {"contact"}),
        ({"type": "contact", "contact": {"phones": [{"type": "CELL"}]}}, {"contact.phones.0.phoneNumber"}),
        ({"type": "contact", "contact": {"organization": "Ipê"}}, {"contact"}),
        ({"type": "contact", "contacts": [{"fullName": "A"}] * 11}, {"contacts"}),
        ({"type": "template"}, {"template"}),
        ({"type": "template", "template": {"name": "oi"}}, {"template.language"}),
        ({"type": "poll"}, {"poll"}),
        ({"type": "poll", "poll": {"question": "q", "options": ["a", "x" * 101]}}, {"poll.options.1"}),
        ({"type": "poll", "poll": {"question": "q" * 256, "options": ["a", "b"]}}, {"poll.question"}),
        ({"type": "poll", "poll": {"question": "q", "options": ["a", "b"], "allowMultipleAnswers": "no"}},
         {"poll.allowMultipleAnswers"}),
        ({"type": "poll", "poll": {"question": "", "options": ["a"]}}, {"poll.question", "poll.options"}),
        ({"type": "poll", "poll": {"question": "q", "options": ["a", "a"]}}, {"poll"}),
        ({"type": "poll", "poll": {"question": "q", "options": [str(n) for n in range(13)]}}, {"poll.options"}),
    ],
)  # fmt: skip
def test_outbound_02_each_rule_of_the_payload_names_every_bad_field(payload: dict[str, Any], fields: set[str]) -> None:
    with pytest.raises(ValidationFailed) as refused:
        parse_payload(payload)
    errors = refused.value.details["errors"]
    assert {error["field"] for error in errors} == fields
    assert all(error["message"] for error in errors)


def test_what_the_payload_takes() -> None:
    assert parse_payload({"type": " TEXT ", "message": " oi "}).content == " oi "
    assert parse_payload({"content": "👍" * 4096}).kind == "TEXT"  # code points, not bytes or UTF-16 units
    card = parse_payload({"type": "contact", "contact": {"phones": [{"phoneNumber": "+55 11 98888-7777"}]}})
    assert card.shown() == {
        "contacts": [{"displayName": "+55 11 98888-7777", "phones": ["+55 11 98888-7777"], "vcard": None}]
    }
    template = {"type": "template", "template": {"name": "oi", "language": {"code": "pt_BR"}}}
    assert parse_payload(template).stored() == template


def test_accepted_row_holds_what_was_asked(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        first = Message.objects.get()
    queued = accept(
        committed_world, ticket,
        payload={
            "text": "Olá", "replyTo": str(first.pk), "externalId": "crm-1",
            "metadata": {"a": 1, "idempotencyKey": "k1"},
        },
    )  # fmt: skip
    row = reload(queued.message)
    assert (row.position, row.status, row.source, row.author, row.session_id) == (
        2, "QUEUED", "AGENT", committed_world.agent, committed_world.line.pk,
    )  # fmt: skip
    assert (row.reply_to_id, row.external_reference, row.idempotency_key) == (first.pk, "crm-1", "k1")
    assert row.metadata == {"client": {"a": 1, "idempotencyKey": "k1"}}
    assert row.external_id is None
    with tenant_scope(committed_world.ipe.pk):
        after = Ticket.objects.get()
    assert (after.last_position, after.message_count, after.last_message_preview) == (2, 1, "Oi")


def test_foreign_unknown_and_invisible_tickets_are_not_found(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with user_scope(committed_world.outsider), pytest.raises(NotFound):
        queue_message(ticket_id=ticket.pk, author=committed_world.outsider, payload={}, now=timezone.now())
    with user_scope(committed_world.agent), pytest.raises(NotFound):
        queue_message(ticket_id=uuid4(), author=committed_world.agent, payload={}, now=timezone.now())
    with tenant_scope(committed_world.ipe.pk):
        QueueMembership.objects.filter(user=committed_world.agent).delete()
    with pytest.raises(NotFound):
        accept(committed_world, ticket)
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 1


def test_the_system_sends_without_an_author(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        queued = queue_message(
            ticket_id=ticket.pk, author=None, payload={"text": "x"}, source="AUTOMATION", now=timezone.now()
        )
    assert (reload(queued.message).author, reload(queued.message).source) == (None, "AUTOMATION")


def test_outbound_05_unconfigured_names_what_is_missing(committed_world: World, settings: Any) -> None:
    ticket = conversation(committed_world)
    settings.WHATSAPP_BROKER_URL, settings.WHATSAPP_BROKER_API_KEY = "", []
    with pytest.raises(NotConfigured) as refused:
        accept(committed_world, ticket)
    assert refused.value.details == {"missing": ["WHATSAPP_BROKER_URL", "WHATSAPP_BROKER_API_KEY"]}


def test_outbound_03_and_04_same_key_is_replayed_and_another_content_refused(
    committed_world: World, settings: Any
) -> None:
    ticket = conversation(committed_world)
    first = accept(committed_world, ticket, "um", idempotency_key="k")
    _line(committed_world, "disconnected")
    again = accept(committed_world, ticket, "um", idempotency_key="k", expected_last_message_id=uuid4())
    assert (again.message.pk, again.replayed, first.replayed) == (first.message.pk, True, False)
    with pytest.raises(IdempotencyKeyReused):
        accept(committed_world, ticket, "dois", idempotency_key="k")
    with pytest.raises(IdempotencyKeyMismatch):
        accept(
            committed_world,
            ticket,
            payload={"text": "um", "metadata": {"idempotencyKey": "other"}},
            idempotency_key="k",
        )
    for bad in ("", "x" * 129, "chave é"):
        with pytest.raises(ValidationFailed):
            accept(committed_world, ticket, "um", idempotency_key=bad)
    settings.OUTBOUND_REQUIRE_IDEMPOTENCY_KEY = True
    with pytest.raises(IdempotencyKeyRequired):
        accept(committed_world, ticket, "sem")
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.filter(direction="OUTBOUND").count() == 1


def test_keys_of_two_tenants_are_strangers(committed_world: World) -> None:
    accept(committed_world, conversation(committed_world), idempotency_key="k")
    receive(text_event(instance="cedro-01"))
    with user_scope(committed_world.outsider):
        foreign = queue_message(
            ticket_id=Ticket.objects.get().pk, author=committed_world.outsider, payload={"text": "x"},
            idempotency_key="k", now=timezone.now(),
        )  # fmt: skip
    assert not foreign.replayed


def test_offline_line_refuses_or_queues(committed_world: World) -> None:
    ticket = conversation(committed_world)
    _line(committed_world, "logged_out")
    with pytest.raises(InstanceDisconnected) as refused:
        accept(committed_world, ticket)
    assert refused.value.details == {"status": "logged_out", "connected": False, "instanceId": "inst-ipe-01"}
    row = queue(committed_world, ticket, when_unavailable="queue")
    assert (reload(row).status, reload(row).wait_reason) == ("QUEUED", "SESSION_OFFLINE")


def test_state_of_ticket_and_contact(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        Contact.objects.update(is_blocked=True)
    with pytest.raises(ContactBlocked):
        accept(committed_world, ticket)
    with tenant_scope(committed_world.ipe.pk):
        Contact.objects.update(is_blocked=False)
        close_ticket(actor=committed_world.supervisor, ticket_id=ticket.pk, reason_code="SOLVED", now=timezone.now())
    with pytest.raises(TicketClosed):
        accept(committed_world, ticket)
    queued = accept(committed_world, ticket, reopen=True, author=committed_world.supervisor)
    with tenant_scope(committed_world.ipe.pk):
        state = Ticket.objects.get()
        assert state.status in {"OPEN", "ASSIGNED"}
        assert CloseReason.objects.filter(code="SOLVED").exists()
    assert queued.message.position == 2


def test_only_the_assignee_replies_when_the_tenant_says_so(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        Ticket.objects.update(status="ASSIGNED", assignee=committed_world.agent2)
    committed_world.supervisor.tenant.settings = {"onlyAssigneeReplies": True}  # type: ignore[union-attr]
    with pytest.raises(NotAssignee) as refused:
        accept(committed_world, ticket, author=committed_world.supervisor)
    assert refused.value.details["assignee"] == {"id": str(committed_world.agent2.pk), "name": "Bruno"}
    accept(committed_world, ticket, author=committed_world.supervisor, source="API")
    accept(committed_world, ticket, author=committed_world.agent2)


def test_type_beyond_the_capabilities_is_501_and_never_degrades(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with pytest.raises(UnsupportedOperation) as refused:
        accept(committed_world, ticket, payload=LOCATION)
    assert refused.value.details["type"] == "location"
    assert refused.value.details["supported"] == ["audio", "document", "image", "poll", "text", "video"]
    with tenant_scope(committed_world.ipe.pk), saving():
        WhatsAppSession.objects.update(capabilities={"types": ["text", "location"]})
    row = reload(queue(committed_world, ticket, payload=LOCATION))
    assert (row.type, row.content) == ("LOCATION", "Loja")
    assert row.metadata["location"] == {"latitude": -23.5, "longitude": -46.6, "name": "Loja"}


@pytest.mark.parametrize(
    ("identities", "kind", "refusal"),
    [
        ([("phone", "+14155551234"), ("wa_address", "14155551234")], "PERSON", UnsupportedRecipient),
        ([("lid", "123456789")], "PERSON", RecipientNotAddressable),
        ([("jid", "123-456@g.us")], "GROUP", GroupsNotSupported),
    ],
)  # fmt: skip
def test_recipients_the_broker_cannot_reach(
    committed_world: World, identities: list[tuple[str, str]], kind: str, refusal: type[DomainError]
) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        Contact.objects.update(kind=kind)
        ContactIdentity.objects.all().delete()
        for name, value in identities:
            ContactIdentity.objects.create(
                tenant=committed_world.ipe, contact_id=ticket.contact_id, kind=name, value=value
            )
    with pytest.raises(refusal):
        accept(committed_world, ticket)


def test_reply_to_must_be_of_the_same_contact(committed_world: World) -> None:
    ticket, other = conversation(committed_world), conversation(committed_world, phone="+5511977776666")
    with tenant_scope(committed_world.ipe.pk):
        foreign = Message.objects.get(ticket=other)
    with pytest.raises(ValidationFailed):
        accept(committed_world, ticket, payload={"text": "a", "replyTo": str(foreign.pk)})


def test_outbound_17_collision_shows_the_other_answer_and_force_sends(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        seen = Message.objects.get().pk
    mine = queue(committed_world, ticket, "minha", expected_last_message_id=seen)
    accept(committed_world, ticket, "minha também", expected_last_message_id=seen)  # one's own never blocks
    conversation(committed_world, "mais uma coisa")
    accept(committed_world, ticket, "e mais", expected_last_message_id=seen)  # nor does a customer
    with pytest.raises(NewerMessage) as refused:
        accept(committed_world, ticket, "do Bruno", author=committed_world.agent2, expected_last_message_id=seen)
    newer = refused.value.details["newer"]
    assert [row["content"] for row in newer] == ["minha", "minha também", "e mais"]
    assert newer[0]["author"] == {"id": str(committed_world.agent.pk), "name": "Ana"}
    with tenant_scope(committed_world.ipe.pk):
        last = Message.objects.order_by("-position").first()
        Message.objects.filter(pk=mine.pk).update(status="CANCELED")
    assert last is not None
    assert refused.value.details["lastMessageId"] == str(last.pk)
    accept(
        committed_world, ticket, "do Bruno", author=committed_world.agent2, expected_last_message_id=seen, force=True
    )
    with pytest.raises(ValidationFailed):
        accept(committed_world, ticket, expected_last_message_id=uuid4())


def test_outbound_17_a_message_of_another_ticket_tells_what_was_seen_here(committed_world: World) -> None:
    """The thread shows all of a contact's tickets: what stood here before that message has been seen with it."""
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk), saving():
        other = WhatsAppSession.objects.create(
            tenant=committed_world.ipe, owner=committed_world.admin, session_name="B", connection_id="b-line",
            status="connected",
        )  # fmt: skip
    queue(committed_world, ticket, "antes")
    with tenant_scope(committed_world.ipe.pk):
        line = get_transport("WHATSAPP").line(other.pk)
        assert line is not None
        wish = Wish(author=committed_world.supervisor, payload={"text": "por outra conexão"})
        elsewhere = queue_to_contact(contact_id=ticket.contact_id, line=line, wish=wish, now=timezone.now()).message
    assert elsewhere.ticket_id != ticket.pk
    seen: Any = {"author": committed_world.agent2, "expected_last_message_id": elsewhere.pk}
    accept(committed_world, ticket, "do Bruno", **seen)
    queue(committed_world, ticket, "depois")
    with pytest.raises(NewerMessage) as refused:
        accept(committed_world, ticket, "também do Bruno", **seen)
    assert [row["content"] for row in refused.value.details["newer"]] == ["depois"]


def test_outbound_16_a_superuser_names_no_line_of_another_tenant(committed_world: World) -> None:
    """Nobody's tenant is theirs: both the ticket and the line are found."""
    ticket, root = conversation(committed_world), committed_world.superuser
    with user_scope(root):
        foreign = get_transport("WHATSAPP").line(committed_world.foreign_line.pk)
    assert foreign is not None
    with pytest.raises(NotFound):
        accept(committed_world, ticket, author=root, session=foreign, when_unavailable="queue")
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.filter(direction="OUTBOUND").count() == 0


def test_line_of_a_ticket_without_one_replaced_or_overridden(committed_world: World) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk), saving():
        newer = WhatsAppSession.objects.create(
            tenant=committed_world.ipe, owner=committed_world.admin, session_name="Nova", connection_id="nova",
            status="connected",
        )  # fmt: skip
        between = WhatsAppSession.objects.create(
            tenant=committed_world.ipe, owner=committed_world.admin, session_name="Meio", connection_id="meio",
            status="disconnected", replaced_by=newer.pk,
        )  # fmt: skip
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(replaced_by=between.pk, status="disconnected")
    row = reload(queue(committed_world, ticket))
    assert row.session_id == newer.pk
    assert (row.metadata["whatsapp"]["instanceId"], row.metadata["whatsapp"]["instanceOverride"]) == ("nova", False)
    with tenant_scope(committed_world.ipe.pk):
        Ticket.objects.update(session_id=None)
    with pytest.raises(InstanceRequired):
        accept(committed_world, ticket)


def _line(world: World, status: str) -> None:
    with tenant_scope(world.ipe.pk), saving():
        WhatsAppSession.objects.filter(pk=world.line.pk).update(status=status)
