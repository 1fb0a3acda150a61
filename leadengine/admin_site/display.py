"""How values look in the back office: chips, times, durations, links, masked phones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, TypeVar

from django.db.models import Model
from django.urls import reverse
from django.utils import formats, timezone
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from leadengine.accounts.models import User
from leadengine.accounts.permissions import Role

EMPTY = "–"
Shown = TypeVar("Shown", bound=Callable[..., Any])
_viewer: ContextVar[User | None] = ContextVar("back_office_viewer", default=None)
_LONG_NUMBER = re.compile(r"\d{8,}")


def column(title: str | Promise, *, header: bool = False) -> Callable[[Shown], Shown]:
    """Name a method that shows a value. A header is a list `[line, second line, initials]`."""

    def name(method: Shown) -> Shown:
        for word, value in {"short_description": title, "header": header}.items():
            setattr(method, word, value)
        return method

    return name


@contextmanager
def shown_to(user: User) -> Iterator[None]:
    """Values formatted in this block are meant for this person: supervisors get phones masked."""
    token = _viewer.set(user)
    try:
        yield
    finally:
        _viewer.reset(token)


def sees_phones() -> bool:
    """Whether the person at the screen may read whole phone numbers: administrators and superusers."""
    user = _viewer.get()
    return user is not None and (user.is_superuser or user.role == Role.ADMIN)


def phone(value: str | None) -> str:
    """A phone or an address made of one: whole for those who may see it, else its last four digits."""
    if not value:
        return EMPTY
    return value if sees_phones() else mask(value)


def called(name: str) -> str:
    """The name of a contact; who has none is called by their number, which is then shown as one."""
    return name if sees_phones() else mask_numbers(name)


def mask(value: str) -> str:
    """`•••• 7777`."""
    digits = re.sub(r"\D", "", value.split("@")[0].split(":")[0])
    return f"•••• {digits[-4:]}" if digits else "••••"


def mask_numbers(value: str) -> str:
    """The text with every number of eight or more digits masked."""
    return _LONG_NUMBER.sub(lambda match: f"••••{match[0][-4:]}", value)


def chip(tone: str, text: Any, title: str = "") -> SafeString:
    """A status: a coloured dot and a word. Tones: good, info, warn, bad, calm, brand."""
    return format_html('<span class="le-chip le-{}" title="{}">{}</span>', tone, title, text)


def status_chip(tones: Mapping[str, str], row: Model, field: str = "status") -> SafeString:
    """The chip of a choice field, with its word in the reader's language."""
    value = getattr(row, field)
    return chip(tones.get(value, "calm"), getattr(row, f"get_{field}_display")())


def swatch(colour: str, text: Any) -> SafeString:
    """A name with its own colour before it. The colour is an SVG attribute, so it needs no inline style."""
    return format_html(
        '<span class="le-swatch"><svg viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" rx="3" '
        'fill="{}"/></svg>{}</span>',
        colour,
        text,
    )


def when(at: datetime | None) -> SafeString | str:
    """How long ago, with the exact time on hover."""
    if at is None:
        return EMPTY
    now = timezone.now()
    if at > now:
        words = _("in %s") % timesince(now, at, depth=1)
    elif (now - at).total_seconds() < 60:
        words = _("just now")
    else:
        words = _("%s ago") % timesince(at, now, depth=1)
    return _time(at, words)


def last_message(preview: str | None, at: datetime | None) -> SafeString:
    """A line of the last message over how long ago it was."""
    words = preview or EMPTY
    return format_html('<span class="le-last" title="{0}">{0}</span><span class="le-muted">{1}</span>', words, when(at))


def moment(at: datetime | None) -> SafeString | str:
    """The exact local time, with how long ago on hover."""
    if at is None:
        return EMPTY
    return _time(at, formats.date_format(timezone.localtime(at), "SHORT_DATETIME_FORMAT"))


def lasting(seconds: float | None) -> str:
    """A duration in its two largest units: `45 s`, `12 min`, `3 h 05`, `2 dias`."""
    if seconds is None:
        return EMPTY
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d}".removesuffix(" 00")
    return ngettext("%d day", "%d days", whole // 86_400) % (whole // 86_400)


def waiting(since: datetime | None, target_minutes: int) -> SafeString | str:
    """How long a customer has waited: amber from half of the queue's target on, red beyond it."""
    if since is None:
        return EMPTY
    seconds = (timezone.now() - since).total_seconds()
    share = seconds / max(1, target_minutes * 60)
    tone = "bad" if share >= 1 else "warn" if share >= 0.5 else "good"
    return chip(tone, lasting(seconds), formats.date_format(timezone.localtime(since), "SHORT_DATETIME_FORMAT"))


def screen(model: type[Model], name: str = "changelist", *args: Any, **query: Any) -> str:
    """The address of a screen of a model."""
    meta = model._meta
    address = reverse(f"admin:{meta.app_label}_{meta.model_name}_{name}", args=args)
    parts = "&".join(f"{key}={value}" for key, value in query.items())
    return f"{address}?{parts}" if parts else address


def link(model: type[Model], pk: Any, text: Any) -> SafeString | str:
    """A link to the page of a row; a dash when there is none."""
    if pk is None:
        return EMPTY
    return format_html('<a class="le-link" href="{}">{}</a>', screen(model, "change", pk), text)


def pretty(value: Any) -> SafeString:
    """JSON for people, escaped."""
    return code(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def code(value: str) -> SafeString:
    """Text as it is, in a scrolling box."""
    return format_html('<pre class="le-code">{}</pre>', value) if value else SafeString(EMPTY)


def _time(at: datetime, words: str) -> SafeString:
    exact = formats.date_format(timezone.localtime(at), "DATETIME_FORMAT")
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), exact, words)
