"""The two forms of a Brazilian mobile: with and without the ninth digit (spec/inbound.md section 7)."""

from __future__ import annotations

import re

_LONG = re.compile(r"(\+?55[1-9][1-9])9([6-9][0-9]{7})")
_SHORT = re.compile(r"(\+?55[1-9][1-9])([6-9][0-9]{7})")
# The same rule for PostgreSQL: the long form of the digits, without the plus.
CANONICAL_SQL = r"regexp_replace(ltrim({}, '+'), '^(55[1-9][1-9])([6-9][0-9]{{7}})$', '\19\2')"


def other_form(number: str) -> str | None:
    """The other form of a mobile, with or without its plus as it came; None for all that has no variant."""
    if match := _LONG.fullmatch(number):
        return match[1] + match[2]
    if match := _SHORT.fullmatch(number):
        return f"{match[1]}9{match[2]}"
    return None
