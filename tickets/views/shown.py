"""What rows and threads need to be drawn, made from tickets.queries: words, icons, groups. No query of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _

from leadengine.accounts.models import User
from tickets.models import Message, Note, Ticket, TicketEvent
from tickets.queries import ThreadItem, ThreadMessage, TicketRow
from tickets.services.following import PARTED
from tickets.templatetags.desk import waited

GROUP = timedelta(minutes=5)
LATE_SECONDS = 120
KIND_ICONS = {
    "IMAGE": "image", "VIDEO": "video", "AUDIO": "mic", "DOCUMENT": "file", "STICKER": "sticker", "LOCATION": "pin",
    "CONTACT": "contact", "POLL": "poll", "POLL_VOTE": "poll", "TEMPLATE": "note", "UNKNOWN": "question",
}  # fmt: skip


@dataclass(slots=True)
class ShownRow:
    """A row of the list. `who` leads the preview ("You: "), `icon` is of the kind of the last message."""

    row: TicketRow
    who: str = ""
    icon: str = ""
    text: str = ""
    revoked: bool = False
    late: bool = False
    wait: tuple[str, str] | None = None


def show_row(row: TicketRow, user: User, now: datetime) -> ShownRow:
    """Words for one row."""
    ticket, last = row.ticket, row.last
    shown = ShownRow(row, text=ticket.last_message_preview)
    if last is not None:
        shown.revoked = last.revoked_at is not None
        shown.icon = KIND_ICONS.get(last.type, "")
        shown.text = " ".join((last.content or last.caption or kind_word(last)).split())[:160]
        shown.late = int(last.metadata.get("lateBySeconds") or 0) >= LATE_SECONDS
        shown.who = _author_word(last, user)
    if ticket.is_live and ticket.waiting_since:
        shown.wait = waited(ticket.waiting_since, ticket.queue.response_target_minutes, now)
    return shown


def _author_word(message: Message, user: User) -> str:
    if message.direction == "INBOUND":
        return str((message.sender or {}).get("name") or "").split(" ")[0]
    if message.author_id == user.pk:
        return _("You")
    return message.author.get_short_name() if message.author else _("On the phone")


def kind_word(message: Message) -> str:
    """A message without text, in one word."""
    words = {
        "IMAGE": _("Photo"), "VIDEO": _("Video"), "AUDIO": _("Audio"), "DOCUMENT": _("Document"),
        "STICKER": _("Sticker"), "LOCATION": _("Location"), "CONTACT": _("Contact"), "POLL": _("Poll"),
        "POLL_VOTE": _("Vote in a poll"), "TEMPLATE": _("Template"),
    }  # fmt: skip
    return words.get(message.type, _("Unsupported message"))


@dataclass(slots=True)
class Shown:
    """One item of the thread with what depends on its neighbours. `sort` orders items as text."""

    kind: str
    id: str
    sort: str
    at: datetime
    day: date
    version: int = 0
    author: str = ""
    item: ThreadItem | None = None
    one: ThreadMessage | None = None
    state: State | None = None
    words: str = ""
    new_day: bool = False
    joined: bool = False
    last: bool = True
    unread_line: bool = False

    @property
    def epoch(self) -> int:
        """Milliseconds since 1970, as scripts count."""
        return int(self.at.timestamp() * 1000)


def show_thread(items: Sequence[ThreadItem], user: User, *, unread: tuple[UUID, int] | None = None) -> list[Shown]:
    """Items with day headers, groups and the unread line before the first unread message.

    `unread`: the ticket that has unread messages, and the position that the user has read up to.
    """
    shown = show_items(items, user)
    before: Shown | None = None
    for one in shown:
        one.new_day = before is None or before.day != one.day
        message = one.one.message if one.one else None
        if (
            unread
            and message
            and message.direction == "INBOUND"
            and message.ticket_id == unread[0]
            and message.position > unread[1]
        ):
            one.unread_line, unread = True, None
        one.joined = bool(
            before and one.author and before.author == one.author and not one.new_day and not one.unread_line
            and one.at - before.at < GROUP
        )  # fmt: skip
        if one.joined and before:
            before.last = False
        before = one
    return shown


def show_items(items: Sequence[ThreadItem], user: User) -> list[Shown]:
    """Items one by one, without the opening of a ticket: its separator says that."""
    return [show_item(item, user) for item in items if getattr(item.entry, "kind", "") != "OPENED"]


def show_item(item: ThreadItem, user: User) -> Shown:
    """One item by itself: what a catch-up sends; the browser decides about groups and days."""
    micro = int(item.at.timestamp() * 1_000_000)
    day = timezone.localtime(item.at).date()
    if item.message is not None:
        message = item.message.message
        return Shown(
            "message", str(message.pk), f"{micro:016d}.0.{message.position:010d}", item.at, day, message.version,
            _author_key(message), item, item.message, state_of(message, user),
        )  # fmt: skip
    if item.entry is not None:
        entry = item.entry
        version = int(entry.edited_at.timestamp()) if isinstance(entry, Note) and entry.edited_at else 0
        author = f"note-{entry.author_id}" if isinstance(entry, Note) else ""
        words = event_words(entry, item.ticket) if isinstance(entry, TicketEvent) else ""
        sort = f"{micro:016d}.1.{entry.seq:010d}"
        return Shown(item.kind, str(entry.pk), sort, item.at, day, version, author, item, words=words)
    return Shown("ticket", f"ticket-{item.ticket.pk}", f"{micro:016d}.-", item.at, day, item.ticket.version, "", item)


def show_message(one: ThreadMessage, ticket: Any, user: User) -> Shown:
    """A message as it is now."""
    return show_item(ThreadItem("message", one.message.sent_at, ticket, message=one), user)


def _author_key(message: Message) -> str:
    if message.direction == "INBOUND":
        sender = message.sender or {}
        return f"in-{sender.get('actor') or sender.get('jid') or ''}"
    return f"out-{message.author_id or message.source}"


@dataclass(frozen=True, slots=True)
class State:
    """How a message of ours stands (the table of spec/inbox.md section 6).

    `tone`: empty for the ordinary ones that stand in the bubble; waiting, doubt, failed, canceled stand below it.
    """

    icon: str
    words: str
    tone: str = ""
    actions: tuple[str, ...] = ()
    read: bool = False


def state_of(message: Message, user: User) -> State | None:
    """Icon, words and ways out; None for a message of the customer."""
    if message.direction == "INBOUND":
        return None
    mine = message.author_id == user.pk or user.is_supervisor
    ways: tuple[str, ...]
    match message.status:
        case "SENT":
            return State("tick", _("sent"))
        case "DELIVERED":
            return State("ticks", _("delivered"))
        case "READ":
            return State("ticks", _("listened") if message.played_at else _("read"), read=True)
        case "SENDING":
            return State("clock", _("sending"))
        case "SCHEDULED":
            return State("calendar", _schedule_words(message), "waiting", ("cancel",) if mine else ())
        case "QUEUED":
            way = "undo" if message.wait_reason == "UNDO_WINDOW" else "cancel"
            return State(
                "clock", _wait_words(message), "waiting" if message.wait_reason else "", (way,) if mine else ()
            )
        case "UNCONFIRMED":
            ways = ("resend", "dismiss") if mine and not message.dismissed_at else ()
            return State("question", _("not confirmed: it may have arrived"), "doubt", ways)
        case "FAILED":
            ways = ("resend", "copy", "dismiss") if mine and not message.dismissed_at else ("copy",)
            return State("alert", _failure_words(message), "failed", ways)
    return State("clock-off", _cancel_words(message), "canceled", ("copy",))


def _schedule_words(message: Message) -> str:
    """With day and time in the tenant's zone, and the year where it is another one."""
    if message.scheduled_at is None:
        return _("scheduled")
    at = timezone.localtime(message.scheduled_at)
    day = f"{at:%d/%m}" if at.year == timezone.localdate().year else f"{at:%d/%m/%Y}"
    return _("scheduled for %(when)s") % {"when": f"{day} {at:%H:%M}"}


def _cancel_words(message: Message) -> str:
    match message.metadata.get("canceledBy"):
        case "CUSTOMER_REPLY":
            return _("canceled: the customer wrote first")
        case "TICKET_CLOSED":
            return _("canceled: the ticket was closed")
    return _("canceled")


def _wait_words(message: Message) -> str:
    seconds = int((message.not_before - timezone.now()).total_seconds()) if message.not_before else 0
    match message.wait_reason:
        case "SESSION_OFFLINE":
            return _("waiting for the reconnection")
        case "CIRCUIT_OPEN" | "RETRY":
            if seconds > 0:
                return _("WhatsApp could not be reached, next try in %(n)d s") % {"n": seconds}
            return _("WhatsApp could not be reached, trying again")
        case "PACING" | "FIRST_CONTACT_BUDGET":
            return _("at the number's own pace")
        case "UNDO_WINDOW":
            return _("sending in %(n)d s") % {"n": max(0, seconds)}
        case "RISK_PAUSED":
            return _("paused by risk (a supervisor releases it)")
        case "ORDER":
            return _("waiting for the message before it")
    return _("in the queue")


def _failure_words(message: Message) -> str:
    """The reason in plain words; what the service wrote is the fallback."""
    error = message.error or {}
    known = {
        "INVALID_TO": _("not sent: this number has no WhatsApp"),
        "SCHEDULE_MISSED": _("not sent: its scheduled time had passed"),
        "EXPIRED": _("not sent: WhatsApp stayed out of reach for too long"),
        "UNSUPPORTED_OPERATION": _("not sent: this line cannot send this kind of message"),
        "MEDIA_TOO_LARGE": _("not sent: the file is too large"),
        "REJECTED": _("not sent: WhatsApp refused it"),
    }
    return known.get(str(error.get("code")), "") or str(error.get("message") or _("not sent"))


def event_words(event: TicketEvent, ticket: Ticket) -> str:
    """One event of a ticket's history as a sentence."""
    who = event.actor.get_short_name() if event.actor else ""
    words = {
        "WOKEN": _("Back from the snooze"),
        "SLA_BREACHED": _("The response target was missed"),
        "CONTACT_MERGED": _("Merge of contacts undone") if event.reason == PARTED else _("Contacts merged"),
    }
    if event.kind in words:
        return words[event.kind]
    values = {"who": who, "to": event.to_value.split(" ")[0]}
    match event.kind, bool(who):
        case "ASSIGNED", True if event.actor and event.to_value == event.actor.name:
            return _("%(who)s took the ticket") % values
        case "ASSIGNED", True:
            return _("%(who)s assigned the ticket to %(to)s") % values
        case "CLOSED", True:
            return (_("%(who)s closed the ticket") % values) + _reason_words(event, ticket)
        case "CLOSED", False:
            return _("Ticket closed") + _reason_words(event, ticket)
        case "REOPENED", True:
            return _("%(who)s reopened the ticket") % values
        case "REOPENED", False:
            return _("Reopened by a new message")
        case "UNASSIGNED", True:
            return _("%(who)s returned the ticket to its queue") % values
        case "TRANSFERRED", True:
            return _("%(who)s transferred the ticket") % values
    return " · ".join(part for part in (who, event.get_kind_display()) if part)


def _reason_words(event: TicketEvent, ticket: Ticket) -> str:
    """The label of the reason while the ticket still stands ended by it; its note after the colon of the event."""
    code, _colon, note = event.reason.partition(": ")
    label = ticket.close_reason.label if ticket.close_reason and ticket.close_reason.code == code else ""
    return "".join(f" · {part}" for part in (label, note) if part)
