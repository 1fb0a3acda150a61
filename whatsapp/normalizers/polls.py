"""Votes: POLL_CHOICE, which shares its id with the canonical `poll_update` and the raw vote (section 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whatsapp.addresses import build_address, parse_jid
from whatsapp.normalizers.items import Frame
from whatsapp.normalizers.parties import contact_extras, read_party, refusal
from whatsapp.normalizers.values import (
    as_count,
    as_dict,
    as_id,
    as_label,
    as_text,
    first_text,
    iso,
    present,
    sent_time,
)
from whatsapp.schemas import Content, Ignored

if TYPE_CHECKING:
    from datetime import datetime

    from whatsapp.schemas import Item

_WITHDRAWN = "retirou o voto"
_BROKER = {"type": "baileys", "direction": "inbound", "normalized": True, "messageType": "poll_choice"}


def normalize_choice(entry: dict[str, Any], instance_id: str, received_at: datetime) -> Item:
    """Read one POLL_CHOICE event."""
    payload = as_dict(entry.get("payload"))
    poll_id = as_id(payload.get("pollId"))
    voter_jid = parse_jid(payload.get("voterJid"))
    sent_at, original = sent_time((payload.get("timestamp"), entry.get("timestamp")), received_at)
    moment = as_text(payload.get("timestamp")) or iso(sent_at)
    message_id = as_id(payload.get("messageId"))
    external_id = message_id or as_id(f"poll:{poll_id}:{as_text(payload.get('voterJid'))}:{moment}")
    if poll_id is None or voter_jid is None or external_id is None:
        return Ignored("poll_choice_invalid", None, instance_id, message_id, "poll_choice")
    contact = as_dict(payload.get("contact"))
    chats = (contact.get("remoteJid"), payload.get("chatId"))
    chat_jids = [jid for jid in map(parse_jid, chats) if jid]
    is_group = any(jid.is_group for jid in chat_jids)
    by_contact = not chat_jids or voter_jid in chat_jids or contact.get("owner") == "user"
    if not is_group and not by_contact:
        # The other one of a direct chat is ourselves: our number and name must not become the contact's.
        contact = {}
    party = read_party(contact, chat_jids or [voter_jid], [voter_jid])
    reason = refusal(chat_jids) or "no_sender"
    if party is None or reason != "no_sender":
        return Ignored(reason, None, instance_id, external_id, "poll_choice")
    question = as_text(payload.get("question"))
    options = read_options(payload.get("selectedOptions"))
    poll = {"id": poll_id, **present(question=question, options=options, totals=read_totals(payload))}
    interactive = {"type": "poll_choice", "id": poll_id}
    content = Content("POLL_VOTE", "poll_choice", vote_text(options), interactive=interactive, poll=poll)
    metadata = {
        "source": "poll_choice",
        "broker": {**_BROKER},
        "contact": contact_extras(contact),
        "interactive": interactive,
        "pollChoice": {
            "pollId": poll_id,
            **present(question=question, selectedOptions=options, optionTotals=poll.get("totals")),
        },
    }
    message = {
        "id": external_id,
        "type": "poll_choice",
        "text": content.text,
        "pollUpdateMessage": {"pollCreationMessageId": poll_id, "vote": {"selectedOptions": options}},
    }
    frame = Frame(instance_id, external_id, party, True, sent_at, original)
    return frame.item(
        content,
        origin="canonical",
        reason="poll_choice",
        metadata=metadata,
        canonical=frame.event(external_id, message, metadata),
        voter=None if is_group or by_contact else build_address(voter_jid),
    )


def read_options(value: Any) -> list[str] | None:
    """Give the texts of chosen options; empty when the vote was withdrawn, None when they are not told."""
    if type(value) is not list:
        return None
    return [text for text in map(_option_text, value) if text]


def read_totals(payload: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Give `[{id, text, votes}]` from `aggregates.optionTotals` (a list or a map) or `optionsAggregates`."""
    totals = as_dict(payload.get("aggregates")).get("optionTotals") or payload.get("optionsAggregates")
    if type(totals) is dict:
        totals = [{"id": key, "votes": value, **as_dict(value)} for key, value in totals.items()]
    if type(totals) is not list:
        return None
    read = []
    for total in map(as_dict, totals):
        option, votes = as_label(total.get("id")), as_count(total.get("votes"))
        text = first_text(total.get("text"), total.get("title")) or option
        if text and votes is not None:
            read.append({"id": option, "text": text, "votes": votes})
    return read


def vote_text(options: list[str] | None) -> str | None:
    """Give the content of a vote's row; None while the choice is not known."""
    return None if options is None else ", ".join(options) or _WITHDRAWN


def _option_text(option: Any) -> str | None:
    block = as_dict(option)
    return first_text(option, block.get("text"), block.get("title"), block.get("id"))
