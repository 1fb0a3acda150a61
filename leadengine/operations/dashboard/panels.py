"""Tiles and charts made from the figures: words, tones and the lists they open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils import formats
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from leadengine.accounts.models import User
from leadengine.admin_site.display import EMPTY, lasting, screen
from leadengine.operations.dashboard.charts import (
    Column,
    Frame,
    Part,
    Row,
    draw_columns,
    draw_ranges,
    draw_rows,
    scale_count,
    scale_time,
)
from leadengine.operations.dashboard.figures import MOST, MOST_LEADS, Figures
from leadengine.webhooks.models import Endpoint
from leads.models import Lead
from tickets.models import Message, Queue, Ticket
from whatsapp.models import DeadLetter, WhatsAppSession


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that opens its list. `tone` is blank, `warn` or `bad`."""

    label: str
    value: str
    hint: str
    icon: str
    link: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with its title, the definition of what it shows, its legend and the same values as a table."""

    title: str
    hint: str
    link: str
    svg: SafeString
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    empty: str = ""  # said instead of the figure when there is nothing to draw
    legend: Sequence[tuple[str, str]] = field(default_factory=tuple)
    wide: bool = False


def make_tiles(figures: Figures, now: datetime) -> list[tuple[str, list[Tile]]]:
    """Two groups: now, and today."""
    return [(_("Now"), _present(figures, now)), (_("Today"), _day(figures))]


def _present(figures: Figures, now: datetime) -> list[Tile]:
    live, waiting, late = (sum(getattr(q, name) for q in figures.queues) for name in ("live", "waiting", "late"))
    oldest = min((queue.oldest for queue in figures.queues if queue.oldest), default=None)
    queues = ngettext("in %d queue", "in %d queues", len(figures.queues)) % len(figures.queues)
    past = _("%d past the target") % late if late else _("all within target")
    long = lasting((now - oldest).total_seconds()) if oldest else EMPTY
    since = _("since %s") % _clock(oldest, now) if oldest else _("nobody waits")
    waiting_list, tone = screen(Ticket, state="waiting"), "bad" if late else ""
    online, down = screen(User, availability="ONLINE"), screen(WhatsAppSession, state="down")
    nobody = "warn" if waiting and not figures.online else ""
    return [
        Tile(_("Live tickets"), str(live), queues if live else _("none open"), "forum", screen(Ticket, state="live")),
        Tile(_("Waiting for an answer"), str(waiting), past, "hourglass_top", waiting_list, tone),
        Tile(_("Longest wait"), long, since, "timer", waiting_list, tone),
        Tile(_("People online"), str(figures.online), _("of %d") % figures.people, "group", online, nobody),
        Tile(
            _("Sessions down"), str(figures.down), _("of %d") % figures.lines, "smartphone", down,
            "bad" if figures.down else "",
        ),
    ]  # fmt: skip


def _day(figures: Figures) -> list[Tile]:
    today, words = figures.today, _("messages")
    received, sent, failed = (screen(Message, state=state, when="today") for state in ("received", "sent", "failed"))
    open_question, dead = screen(Message, state="unconfirmed"), screen(DeadLetter)
    doubt, left = "warn" if figures.unconfirmed else "", _("may or may not have left")
    return [
        Tile(_("Received today"), str(today.received), words, "south_west", received),
        Tile(_("Sent today"), str(today.sent), words, "north_east", sent),
        Tile(_("Failed today"), str(today.failed), words, "error", failed, "bad" if today.failed else ""),
        Tile(_("Not confirmed"), _capped(figures.unconfirmed), left, "help", open_question, doubt),
        Tile(
            _("Dead letters"), _capped(figures.dead), _("of the webhook"), "report", dead, "bad" if figures.dead else ""
        ),
    ]  # fmt: skip


def webhooks_off(number: int) -> Tile:
    """For administrators, when there is one: they switch it on again, or repair what it leads to."""
    there = screen(Endpoint, state="off")
    return Tile(_("Webhooks off"), str(number), _("they failed too often"), "sync_disabled", there, "bad")


def make_charts(figures: Figures) -> list[Chart]:
    """The five charts, the widest first."""
    return [_hours(figures), _queues(figures), _answers(figures), _causes(figures), _stages(figures)]


def _hours(figures: Figures) -> Chart:
    columns = []
    for hour in figures.hours:
        words = _("%(hour)s: %(received)d received, %(sent)d sent") % {
            "hour": _hour(hour.at), "received": hour.received, "sent": hour.sent,
        }  # fmt: skip
        label = _hour(hour.at) if hour.at.hour % 3 == 0 else ""
        columns.append(Column(label, (hour.received, hour.sent), words))
    ticks = {tick: f"{tick:.0f}" for tick in scale_count(max(max(h.received, h.sent) for h in figures.hours))}
    nothing = not any(hour.received or hour.sent for hour in figures.hours)
    return Chart(
        title=_("Messages per hour"),
        hint=_("received from contacts and sent to them, last 24 hours"),
        link=screen(Message),
        svg=draw_columns(columns, ("le-in", "le-out"), Frame(232, 5, ticks, _("messages"))),
        headers=(_("Hour"), _("Received"), _("Sent")),
        rows=[(_hour(hour.at), hour.received, hour.sent) for hour in figures.hours],
        empty=_("No message in the last 24 hours.") if nothing else "",
        legend=(("le-in", _("Received")), ("le-out", _("Sent"))),
        wide=True,
    )


def _queues(figures: Figures) -> Chart:
    rows = []
    for queue in figures.queues[:6]:
        shares = (
            (queue.late, "le-late", _("%(queue)s: %(n)d past the target")),
            (queue.waiting - queue.late, "le-soon", _("%(queue)s: %(n)d waiting")),
            (queue.live - queue.waiting, "le-calm-bar", _("%(queue)s: %(n)d answered")),
        )
        parts = [Part(n, fill, words % {"queue": queue.name, "n": n}) for n, fill, words in shares]
        rows.append(Row(queue.name, parts, str(queue.live)))
    return Chart(
        title=_("Live tickets by queue"),
        hint=_("by whether the contact waits for us, and longer than the queue's target"),
        link=screen(Queue),
        svg=draw_rows(rows),
        headers=(_("Queue"), _("Live"), _("Waiting"), _("Past the target")),
        rows=[(queue.name, queue.live, queue.waiting, queue.late) for queue in figures.queues],
        empty="" if rows else _("No live ticket: everybody has been answered."),
        legend=(("le-late", _("Past the target")), ("le-soon", _("Waiting")), ("le-calm-bar", _("Answered"))),
    )


def _answers(figures: Figures) -> Chart:
    ticks = {tick: lasting(tick) for tick in scale_time(max(answer.most or 0 for answer in figures.answers))}
    columns = []
    for answer in figures.answers:
        day, label = formats.date_format(answer.day, "D j"), formats.date_format(answer.day, "D")
        words = _("%s: no first answer") % day
        if answer.count:
            words = _("%(day)s: half within %(half)s, nine of ten within %(most)s") % {
                "day": day, "half": lasting(answer.half), "most": lasting(answer.most),
            }  # fmt: skip
        columns.append(Column(label, (answer.half, answer.most), words))
    return Chart(
        title=_("First response"),
        hint=_("time from the first message of a ticket to our first answer, by day of the answer"),
        link=screen(Ticket),
        svg=draw_ranges(columns, ("le-half", "le-most"), Frame(216, 13, ticks, "")),
        headers=(_("Day"), _("Half within"), _("Nine of ten within"), _("Tickets")),
        rows=[
            (formats.date_format(one.day, "SHORT_DATE_FORMAT"), lasting(one.half), lasting(one.most), one.count)
            for one in figures.answers
        ],
        empty="" if any(one.count for one in figures.answers) else _("No first answer in the last 7 days."),
        legend=(("le-half", _("Half of them (p50)")), ("le-most", _("Nine of ten (p90)"))),
    )


def _causes(figures: Figures) -> Chart:
    causes = sorted(figures.causes.items(), key=lambda pair: -pair[1])
    rows = [Row(cause or _("unknown"), (Part(n, "le-late", f"{cause}: {n}"),), str(n)) for cause, n in causes[:6]]
    return Chart(
        title=_("Failures by cause"),
        hint=_("messages of the last 24 hours that ended as failed"),
        link=screen(Message, state="failed"),
        svg=draw_rows(rows),
        headers=(_("Cause"), _("Messages")),
        rows=[(cause or _("unknown"), n) for cause, n in causes],
        empty="" if rows else _("No failure in the last 24 hours."),
    )


def _stages(figures: Figures) -> Chart:
    rows = [
        Row(name, (Part(leads, colour, f"{name}: {leads}"),), _capped(leads, MOST_LEADS))
        for name, colour, leads in figures.stages
    ]
    return Chart(
        title=_("Leads by stage"),
        hint=_("all leads of the pipeline"),
        link=screen(Lead),
        svg=draw_rows(rows),
        headers=(_("Stage"), _("Leads")),
        rows=[(name, _capped(leads, MOST_LEADS)) for name, _colour, leads in figures.stages],
        empty=""
        if any(leads for _name, _colour, leads in figures.stages)
        else _("No lead yet: the first message makes one."),
    )


def _capped(count: int, most: int = MOST) -> str:
    return f"{most - 1}+" if count >= most else str(count)


def _hour(at: datetime) -> str:
    return f"{at:%H}h"


def _clock(at: datetime | None, now: datetime) -> str:
    if at is None:
        return EMPTY
    local = at.astimezone(now.tzinfo)
    return formats.date_format(local, "H:i" if local.date() == now.date() else "j/m H:i")
