"""Values of a foreign JSON, read without trust: text, ids, numbers, bytes, times (spec/inbound.md section 6).

Nothing here raises for any JSON value: what cannot be read is None.
"""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LABEL = 255
MAX_BIGINT = 2**63 - 1
MAX_INTEGER = 2**31 - 1

# A parsed body may be nested almost as deep as the interpreter's stack; deeper than this is nobody's message.
_MAX_LEVELS = 64
_SURROGATES = re.compile("[\ud800-\udfff]")
_DIGITS = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,9})?")
_FIRST_TIME = datetime(2009, 1, 1, tzinfo=UTC)
_MILLISECONDS_ABOVE = 1e11
_LAST_MILLISECOND = 2.5e14
_CLOCK_TOLERANCE = timedelta(minutes=10)


def clean_text(text: str) -> str:
    """Remove U+0000 and turn each lone surrogate into U+FFFD: PostgreSQL stores neither."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("�", text)
    return text


def deep_clean(value: Any, levels: int = _MAX_LEVELS) -> Any:
    """Copy a JSON value with every string cleaned and what jsonb refuses (infinity, NaN) as null."""
    kind = type(value)
    if kind is str:
        return clean_text(value)
    if kind is dict:
        return {clean_text(k): deep_clean(v, levels - 1) for k, v in value.items()} if levels else None
    if kind is list:
        return [deep_clean(v, levels - 1) for v in value] if levels else None
    if kind is float and not math.isfinite(value):
        return None
    return value


def as_text(value: Any) -> str | None:
    """Give a string cleaned and trimmed, whole; None when it is blank or no string."""
    return (clean_text(value).strip() or None) if type(value) is str else None


def first_text(*values: Any) -> str | None:
    """Give the first that is a text."""
    for value in values:
        if text := as_text(value):
            return text
    return None


def as_label(value: Any) -> str | None:
    """Give a string for a column: as `as_text`, cut at 255."""
    text = as_text(value)
    return text[:MAX_LABEL] if text else None


def as_id(value: Any) -> str | None:
    """Give a string of 1 to 255 after trimming; a longer one is no id, since cutting would make ids collide."""
    text = as_text(value)
    return text if text and len(text) <= MAX_LABEL else None


def as_dict(value: Any) -> dict[str, Any]:
    """Give an object, or an empty one for anything else."""
    return value if type(value) is dict else {}


def as_list(value: Any) -> list[Any]:
    """Give a list, or an empty one for anything else."""
    return value if type(value) is list else []


def as_int(value: Any) -> int | None:
    """Give a whole number from a number, a numeric string or `{low, high, unsigned}`."""
    kind = type(value)
    if kind is int:
        return int(value)
    if kind is float:
        return int(value) if value.is_integer() else None
    if kind is str:
        text = value.strip()
        return int(text) if _DIGITS.fullmatch(text) else None
    if kind is dict:
        low, high = value.get("low"), value.get("high")
        if type(low) is int and type(high) is int:
            number = (high & 0xFFFFFFFF) << 32 | (low & 0xFFFFFFFF)
            return number if value.get("unsigned") is True or number <= MAX_BIGINT else number - 2**64
    return None


def as_count(value: Any, limit: int = MAX_INTEGER) -> int | None:
    """Give a whole number from 0 to what its column holds."""
    number = as_int(value)
    return number if number is not None and 0 <= number <= limit else None


def as_float(value: Any) -> float | None:
    """Give a finite number from a number or a numeric string."""
    if type(value) not in (int, float, str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_flag(value: Any) -> bool:
    """Tell whether a value says yes: true, 1, or the words for them."""
    return value is True or value == 1 or (type(value) is str and value.strip().lower() in ("1", "true"))


def as_base64(value: Any) -> str | None:
    """Give bytes as base64 text, from base64, `{"0": 12, ...}`, `{"type": "Buffer", "data": ...}` or a list."""
    if type(value) is dict:
        value = value.get("data") if value.get("type") == "Buffer" else _numbered(value)
    if type(value) is list:
        try:
            return base64.b64encode(bytes(value)).decode() or None
        except (TypeError, ValueError):
            return None
    return as_text(value)


def _numbered(value: dict[str, Any]) -> list[Any]:
    # None stands for a missing position and makes the list no bytes.
    return [value.get(str(position)) for position in range(len(value))]


def read_time(value: Any) -> datetime | None:
    """Read ISO 8601 (no zone = UTC) or an epoch in seconds or, above 1e11, milliseconds; None before 2009."""
    kind = type(value)
    if kind is str:
        text = value.strip()
        moment = _from_epoch(float(text)) if _NUMBER.fullmatch(text) else _from_iso(text)
    elif kind is int or kind is float:
        moment = _from_epoch(value)
    elif kind is dict:
        moment = _from_epoch(as_int(value) or 0)
    else:
        return None
    return moment if moment is not None and moment >= _FIRST_TIME else None


def _from_epoch(number: float) -> datetime | None:
    if not 0 < number < _LAST_MILLISECOND:
        return None
    return datetime.fromtimestamp(number / 1000 if number > _MILLISECONDS_ABOVE else number, UTC)


def _from_iso(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def sent_time(sources: Iterable[Any], received_at: datetime) -> tuple[datetime, Any]:
    """Give the time a message was sent and the value it was read from; the first readable source wins.

    A clock more than 10 minutes ahead of ours is not believed: the time of receipt, with the value kept.
    """
    for source in sources:
        moment = read_time(source)
        if moment is not None:
            late = moment > received_at + _CLOCK_TOLERANCE
            return received_at.astimezone(UTC) if late else moment, deep_clean(source)
    return received_at.astimezone(UTC), None


def iso(moment: datetime) -> str:
    """Write a UTC time as ISO 8601 with milliseconds and `Z`."""
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def present(**values: Any) -> dict[str, Any]:
    """Give the keywords whose value is not None."""
    return {key: value for key, value in values.items() if value is not None}
