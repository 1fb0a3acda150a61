"""Small parts that the templates of the desk share: icons, avatars, names of times, WhatsApp's own text format."""

from __future__ import annotations

import re
import zlib
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import phonenumbers
from django import template
from django.template.defaultfilters import date as format_date
from django.templatetags.static import static
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

register = template.Library()

HUES = 8
# In the order in which their elements depend on each other's presence.
MODULES = (
    "event-socket", "inbox-list", "list-pages", "message-thread", "thread-scroll", "thread-sync", "message-outbox",
    "message-composer", "media-view", "presence-strip", "pane-layout", "page-dialogs", "hotkeys", "relative-time",
    "desktop-notify", "session-guard",
)  # fmt: skip
_TOKENS = re.compile(
    r"```(?P<block>.+?)```|`(?P<code>[^`\n]+)`|(?P<link>https?://[^\s<>\"'`]+)|"
    r"(?<![\w*])\*(?P<bold>\S(?:[^*\n]*\S)?)\*(?![\w*])|"
    r"(?<![\w_])_(?P<italic>\S(?:[^_\n]*\S)?)_(?![\w_])|"
    r"(?<![\w~])~(?P<strike>\S(?:[^~\n]*\S)?)~(?![\w~])",
    re.DOTALL,
)
_TAGS = {"bold": "strong", "italic": "em", "strike": "s"}
_DEEPEST = 3
_EMOJI_ONLY = re.compile(r"[\U0001F000-\U0001FAFF\u2600-\u27BF\u2B00-\u2BFF\uFE0F\u200D\s]{1,12}")


@register.simple_tag
def icon(name: str, more: str = "") -> SafeString:
    """An icon of the sprite; decoration only: the words stand beside it or in the label."""
    return format_html(
        '<svg class="icon{}" aria-hidden="true"><use href="{}#{}"/></svg>',
        f" {more}" if more else "", static("leadengine/icons.svg"), name,
    )  # fmt: skip


@register.simple_tag
def dot(colour: str) -> SafeString:
    """A spot of a colour that people chose: as an attribute of SVG, since the policy forbids inline styles."""
    return format_html(
        '<svg class="dot" viewBox="0 0 8 8" aria-hidden="true"><circle cx="4" cy="4" r="4" fill="{}"/></svg>', colour
    )


@register.simple_tag
def avatar(name: str, more: str = "", *, kind: str = "PERSON") -> SafeString:
    """Initials, or the sign of a group, on a tint that always belongs to the same name."""
    inside = icon("users") if kind == "GROUP" else initials(name)
    return format_html(
        '<span class="avatar hue-{}{}" aria-hidden="true">{}</span>', hue(name), f" {more}" if more else "", inside
    )


@register.filter
def hue(name: str) -> int:
    """One of eight tints, the same for the same name."""
    return zlib.crc32(name.encode()) % HUES


@register.filter
def initials(name: str) -> str:
    """The first letters of the first and the last word; `#` where a name has no letter."""
    words = [word for word in re.findall(r"\w+", name) if not word.isdigit()]
    letters = words[:1] + words[-1:] if len(words) > 1 else words
    return "".join(word[0] for word in letters).upper() or "#"


@register.filter
def phone(value: str | None) -> str:
    """An E.164 number as people write it: +55 11 98888-7777."""
    try:
        number = phonenumbers.parse(value or "")
    except phonenumbers.NumberParseException:
        return value or ""
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)


@register.filter
def whatsapp(text: str) -> SafeString:
    """WhatsApp's bold, italic, strike and monospace, and http(s) links; everything else is escaped."""
    return mark_safe(_formatted(text, 0))  # noqa: S308 - built from escaped parts below


@register.filter
def emoji_only(text: str) -> bool:
    """Up to a handful of emoji and nothing else: shown large."""
    return bool(text.strip()) and bool(_EMOJI_ONLY.fullmatch(text)) and len(text.strip()) <= 6


@register.filter
def short_time(at: datetime | None) -> str:
    """The time of today, `yesterday`, the weekday of the last week, else the date; in the tenant's zone."""
    if at is None:
        return ""
    local, today = timezone.localtime(at), timezone.localdate()
    age = (today - local.date()).days
    if age <= 0:
        return format_date(local, "H:i")
    if age == 1:
        return _("yesterday")
    return format_date(local, "D") if age < 7 else format_date(local, "SHORT_DATE_FORMAT")


@register.filter
def age(at: datetime | None) -> str:
    """How a row tells its time: now, minutes within the hour, else as `short_time`."""
    if at is None:
        return ""
    seconds = (timezone.now() - at).total_seconds()
    if seconds < 60:
        return _("now")
    return span(seconds) if seconds < 3600 else short_time(at)


@register.filter
def full_time(at: datetime | None) -> str:
    """Date and time in words, for titles."""
    return format_date(timezone.localtime(at), "l, j F Y, H:i:s") if at else ""


@register.filter
def clock(at: datetime | None) -> str:
    """Hour and minute in the tenant's zone."""
    return format_date(timezone.localtime(at), "H:i") if at else ""


@register.filter
def day_name(day: date) -> str:
    """Today, yesterday, the weekday within a week, else the whole date."""
    gap = (timezone.localdate() - day).days
    if gap == 0:
        return _("Today")
    if gap == 1:
        return _("Yesterday")
    return format_date(day, "l") if 0 < gap < 7 else format_date(day, "DATE_FORMAT")


@register.filter
def span(seconds: float) -> str:
    """A length of time in its largest unit: 12 min, 3 h, 2 d."""
    minutes = max(0, int(seconds // 60))
    if minutes < 60:
        return _("%(n)d min") % {"n": minutes}
    if minutes < 48 * 60:
        return _("%(n)d h") % {"n": minutes // 60}
    return _("%(n)d d") % {"n": minutes // 1440}


@register.filter
def money(value: Decimal) -> str:
    """An amount in reais."""
    return "R$\u00a0" + number_format(value, 2, force_grouping=True)


@register.filter
def playing_time(seconds: int | None) -> str:
    """0:07, 12:30."""
    return f"{seconds // 60}:{seconds % 60:02d}" if seconds is not None else ""


@register.filter
def count(number: int) -> str:
    """A count that never grows wide: 99+."""
    return "99+" if number > 99 else str(number)


@register.filter
def many(number: int) -> str:
    """A count of a list: exact to 999."""
    return "999+" if number > 999 else str(number)


@register.simple_tag
def modules() -> list[str]:
    """The desk's scripts: one custom element each."""
    return [f"leadengine/js/{name}.js" for name in MODULES]


@register.simple_tag
def words() -> dict[str, Any]:
    """What relative-time.js needs to speak the page's language."""
    return {
        "now": _("now"),
        "minutes": _("{n} min"),
        "hours": _("{n} h"),
        "days": _("{n} d"),
        "late": _("{time} late"),
    }


def waited(since: datetime, target_minutes: int, now: datetime) -> tuple[str, str]:
    """(level, words) of a waiting timer against the queue's target: calm, soon from 50 %, late from 100 %."""
    elapsed, target = now - since, timedelta(minutes=target_minutes)
    if elapsed >= target:
        return "late", _("{time} late").format(time=span((elapsed - target).total_seconds()))
    return "soon" if elapsed >= target / 2 else "calm", span(elapsed.total_seconds())


def _formatted(text: str, depth: int) -> str:
    parts: list[str] = []
    end = 0
    for match in _TOKENS.finditer(text):
        parts.append(escape(text[end : match.start()]))
        parts.append(_token(match, depth))
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def _token(match: re.Match[str], depth: int) -> str:
    kind, inner = next((name, value) for name, value in match.groupdict().items() if value is not None)
    if kind == "block":
        return f"<pre>{escape(inner.strip(chr(10)))}</pre>"
    if kind == "code":
        return f"<code>{escape(inner)}</code>"
    if kind == "link":
        address = inner.rstrip(".,;:!?)]}*_~")
        link = f'<a href="{escape(address)}" target="_blank" rel="noopener noreferrer nofollow">{escape(address)}</a>'
        return link + escape(inner[len(address) :])
    inside = _formatted(inner, depth + 1) if depth < _DEEPEST else escape(inner)
    return f"<{_TAGS[kind]}>{inside}</{_TAGS[kind]}>"
