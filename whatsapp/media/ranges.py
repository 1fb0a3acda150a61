"""The `Range` header of one part (RFC 9110 section 14). Pure."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
    """No byte of the file lies in the range: 416."""


def read_range(header: str, size: int) -> tuple[int, int] | None:
    """(first byte, length) of the one part that is asked for; None for the whole file.

    Several parts and what is not a range are answered with the whole file, as the RFC allows. Raises: Unsatisfiable.
    """
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise Unsatisfiable
        return size - length, length
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    if first >= size:
        raise Unsatisfiable
    return first, last - first + 1
