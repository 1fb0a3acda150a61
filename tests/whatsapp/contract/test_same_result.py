"""Show 7 of spec/broker.md: whatever happens to the webhooks on their way, the same conversations come of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope, tenant_scope
from leads.models import Contact, Lead
from tests.conftest import World
from tests.outbound import broker_running
from tests.whatsapp.contract.traffic import speak
from tickets.models import Message, MessageMedia, Ticket
from whatsapp.models import WebhookItem, WhatsAppSession
from whatsapp.services.drain import drain_inbox
from whatsapp.services.media import fetch_due
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)
Result = dict[str, Any]
_clean: Result = {}


@pytest.fixture
def clean(committed_world: World) -> Result:
    """What is there after a run in which nothing goes wrong: the same for all tests, so it is made once."""
    if not _clean:
        run(committed_world.line)
        _clean.update(conversations(committed_world.ipe))
    return _clean


def run(line: WhatsAppSession, **behaviour: Any) -> None:
    """Let the traffic happen with these faults, and let its webhooks into this line, as they came."""
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(broker_instance_id="ipe-01").update(broker_instance_id=None)
        WhatsAppSession.objects.filter(pk=line.pk).update(broker_instance_id="ipe-01")
    with broker_running(seed=7) as broker:  # the same seed: the same ids and keys
        broker.behave(autoAck=[], **behaviour)
        speak(broker)
        broker.hook.let_in()


def conversations(tenant: Tenant) -> Result:
    """What people see of the conversations, whatever the order in which it came."""
    with tenant_scope(tenant.pk):
        found = Contact.objects.filter(merged_into=None)
        messages = Message.objects.select_related("contact", "reply_to", "media").prefetch_related("reactions")
        counts = ("contact__name", "status", "message_count", "inbound_count", "outbound_count")
        return {
            "contacts": sorted((one.name, one.kind, addresses(one)) for one in found),
            "tickets": sorted(Ticket.objects.values_list(*counts)),
            "leads": sorted(Lead.objects.values_list("contact__name", flat=True)),
            "messages": {row.external_id: shown(row) for row in messages},
        }


def addresses(contact: Contact) -> list[Any]:
    """The addresses of a contact, but for the LID that a run with LIDs adds."""
    return sorted(contact.identities.exclude(kind="lid").values_list("kind", "value"))


def shown(row: Message) -> Result:
    """A message; of its file everything but the port of the media server."""
    media = getattr(row, "media", None)
    source = {name: value for name, value in (media.source if media else {}).items() if name != "url"}
    return {
        "contact": row.contact.name, "direction": row.direction, "type": row.type, "content": row.content,
        "caption": row.caption, "status": row.status, "sender": row.sender and row.sender["phone"],
        "replyTo": row.reply_to and row.reply_to.external_id,
        "edited": row.edited_at is not None, "revoked": row.revoked_at is not None,
        "reactions": [(one.actor, one.emoji) for one in row.reactions.all()],
        "file": media and [media.media_type, media.mime_type, media.file_name, media.size, media.voice, source],
        **{name: row.metadata.get(name) for name in ("location", "contacts", "interactive", "vote")},
    }  # fmt: skip


def test_broker_07_the_clean_run_says_what_was_said(clean: Result) -> None:
    messages = clean["messages"].values()
    assert (len(clean["contacts"]), len(clean["tickets"]), len(clean["leads"]), len(messages)) == (3, 3, 2, 21)
    by_text = {one["content"] or one["caption"]: one for one in messages}
    assert {"temporária", "Sim", "Tamanho 42", "chego às 15h", "Olá Maria", "Qual?", "do celular"} <= by_text.keys()
    assert by_text["segredo"]["revoked"]
    assert by_text["chego às 15h"]["edited"]
    assert by_text["Bom dia"]["reactions"] == [("+5511988887777", "👍")]
    assert by_text["resposta"]["replyTo"] in clean["messages"]
    assert (by_text["Olá Maria"]["status"], by_text["veja"]["status"]) == ("READ", "DELIVERED")
    assert {one["type"] for one in messages} == {
        "TEXT", "IMAGE", "AUDIO", "DOCUMENT", "LOCATION", "CONTACT", "POLL", "POLL_VOTE",
    }  # fmt: skip
    assert by_text["olha isso"]["file"][-1]["mediaKey"]


@pytest.mark.parametrize(
    "behaviour",
    [
        {"webhook": {"duplicate": 3}},
        {"webhook": {"shuffle": 8}},
        {"webhook": {"duplicate": 3, "shuffle": 8}},
        {"encoding": {"bytes": "map"}},
        {"encoding": {"bytes": "buffer", "longs": "object"}},
        {"encoding": {"bytes": "map", "longs": "object"}},
        {"lid": True},
        {"lid": True, "webhook": {"duplicate": 3, "shuffle": 8}, "encoding": {"bytes": "map", "longs": "object"}},
        {"webhook": {"dropCanonical": True}},
        {"webhook": {"dropCanonical": True, "duplicate": 3, "shuffle": 8}, "lid": True},
    ],
    ids=str,
)
def test_broker_07_faults_of_the_way_change_nothing(committed_world: World, clean: Result, behaviour: Any) -> None:
    run(committed_world.foreign_line, **behaviour)
    found = conversations(committed_world.cedro)
    for part in ("contacts", "tickets", "leads"):
        assert found[part] == clean[part], part
    assert found["messages"].keys() == clean["messages"].keys()
    for name, message in clean["messages"].items():
        assert found["messages"][name] == message


def test_broker_07_without_raw_events_files_lack_their_keys_and_hollow_messages_are_unknown(
    committed_world: World, clean: Result
) -> None:
    run(committed_world.foreign_line, webhook={"dropRaw": True})
    past = timezone.now() - timedelta(seconds=1)
    with tenant_scope(committed_world.cedro.pk):
        # The grace of the hollow, and the ten minutes of the keys, have passed.
        assert WebhookItem.objects.filter(fate="parked", reason="awaiting_twin").update(due_at=past, expires_at=past)
        long_ago = timezone.now() - timedelta(minutes=11)
        MessageMedia.objects.update(created_at=long_ago, next_attempt_at=past)
    with tenant_scope(committed_world.ipe.pk):
        MessageMedia.objects.all().delete()  # the clean run's: their media server has gone
    drain_inbox()
    fetch_due()
    found = conversations(committed_world.cedro)
    assert found["contacts"] == clean["contacts"]
    unknown = {name: one for name, one in found["messages"].items() if one["type"] == "UNKNOWN"}
    meant = [clean["messages"][name] for name in unknown.keys() & clean["messages"].keys()]
    assert sorted(one["content"] or one["caption"] for one in meant) == ["Bia", "o pedido", "temporária"]
    captions = [one["content"] or one["caption"] for one in unknown.values()]
    assert sorted(filter(None, captions)) == ["o pedido"], "a file with a caption is told without its file"
    assert len(unknown) == len(meant) + 2, "the reaction and the edit say nothing without their twins"
    assert found["messages"].keys() - unknown.keys() < clean["messages"].keys()
    with tenant_scope(committed_world.cedro.pk):
        files = MessageMedia.objects.filter(message__direction="INBOUND").values_list("media_type", "state", "reason")
        assert sorted(files) == [(kind, "failed", "media_keys_missing") for kind in ("audio", "image")]
