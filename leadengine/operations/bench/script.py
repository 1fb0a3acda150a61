"""Statements of the drain as a pgbench script: the same text, with values that each of its transactions makes anew."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

STEP = 1_000_000_000  # transactions of one client at most
IDS = 64  # ids of one transaction at most
EVENTS = 2  # of them the first are those of the webhook events, which stand there before

_TYPES = {UUID: "uuid", str: "text", bool: "boolean", int: "bigint", float: "float8", datetime: "timestamptz"}
_VARIABLE = re.compile(r"(?<!:):(?!:)\w")
_PLACE = re.compile(r"%s|%%|%\((\w+)\)s")
_ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

HEADER = """\\set n :n + 1
\\set base ((:client_id + 1) * {step} + :n) * {ids}
\\if :n = :first
SELECT {columns} FROM bench_lines WHERE client = :client_id \\gset
\\endif
BEGIN;
"""


@dataclass
class Names:
    """What stands for the values of one caught transaction.

    `roles` are rows that were there before, by id: their columns of `bench_lines`. `texts` are parts of texts and
    `numbers` whole numbers, each with the SQL that takes their place. Every other id is one that the transaction made.
    """

    roles: dict[UUID, str]
    events: Sequence[UUID]
    texts: dict[str, str]
    numbers: dict[int, str]
    used: set[str] = field(default_factory=set)
    made: dict[UUID, int] = field(default_factory=dict)

    def id_as_text(self, value: UUID) -> str:
        """SQL text that gives an id as text."""
        if value in self.roles:
            self.used.add(self.roles[value])
            return f":{self.roles[value]}"
        return f"{self._hex(value)}::uuid::text"

    def _hex(self, value: UUID) -> str:
        if value in self.events:
            index = self.events.index(value)
        else:
            index = self.made.setdefault(value, EVENTS + len(self.made))
        return made_id(f":base::bigint + {index}")

    def in_text(self, part: str) -> str:
        """SQL text that takes the place of a part of a text that `found` has found."""
        if part in self.texts:
            return self.texts[part]
        return self.id_as_text(UUID(part)) if "-" in part else self._hex(UUID(part))

    def found(self) -> re.Pattern[str]:
        """What has to be replaced inside texts: ids, the bare digits of ids that the transaction made, and `texts`."""
        words = [*(value.hex for value in self.made), *sorted(self.texts, key=len, reverse=True)]
        return re.compile("|".join([_ID, *map(re.escape, words)]))


def made_id(number: str) -> str:
    """SQL for 32 hexadecimal digits that rise with a number, as the product's own ids rise with time."""
    return f"lpad(to_hex({number}), 32, '0')"


def write_statement(sql: str, parameters: Sequence[Any] | Mapping[str, Any], names: Names) -> str:
    """A statement with its parameters, in their order or by name, written into it.

    Raises: ValueError for text that pgbench would misread.
    """
    if _VARIABLE.search(sql):
        raise ValueError(f"pgbench would take a part of this for a variable: {sql[:200]}")
    values = iter(parameters)

    def fill(place: re.Match[str]) -> str:
        if place[0] == "%%":
            return "%"
        return _value(parameters[place[1]] if isinstance(parameters, Mapping) else next(values), names)

    return _PLACE.sub(fill, sql).strip() + ";"


def _value(value: Any, names: Names) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list | tuple):
        kind = next((_TYPES[type(each)] for each in value if each is not None), None)
        return f"ARRAY[{', '.join(_value(each, names) for each in value)}]::{kind}[]" if kind else _literal("{}")
    if isinstance(value, UUID):
        return f"({names.id_as_text(value)})::uuid"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return names.numbers.get(value, str(value))
    if isinstance(value, datetime):
        return f"{_literal(value.isoformat())}::timestamptz"
    if isinstance(value, str):
        return _text(value, names)
    if isinstance(value, float):
        return repr(value)
    raise ValueError(f"A parameter of a kind that no statement had before: {type(value).__name__}")


def _text(value: str, names: Names) -> str:
    parts: list[str] = []
    last = 0
    for found in names.found().finditer(value):
        parts += [_literal(value[last : found.start()]), names.in_text(found[0])]
        last = found.end()
    parts.append(_literal(value[last:]))
    parts = [part for part in parts if part != "''"] or ["''"]
    return parts[0] if parts == [_literal(value)] else f"({' || '.join(parts)})"


def _literal(text: str) -> str:
    """A string constant without a colon: pgbench looks for its variables in strings, too."""
    plain = text.replace("'", "''")
    if ":" not in text and "\\" not in text:
        return f"'{plain}'"
    return "E'" + plain.replace("\\", "\\\\").replace(":", "\\x3a") + "'"


def write_script(statements: Sequence[str], columns: Sequence[str]) -> str:
    """The file for pgbench: one transaction."""
    header = HEADER.format(step=STEP, ids=IDS, columns=", ".join(columns))
    return header + "\n".join(statements) + "\nCOMMIT;\n"
