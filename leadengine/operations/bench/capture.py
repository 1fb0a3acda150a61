"""What the drain really says to PostgreSQL for one message (its two twins), caught while it says it.

Run as a program in the floors' database: prints `{"new": [...], "known": [...]}`, the statements of the transaction that
records a contact's first message and of the one that records a later one, as text for pgbench (script.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import django
import psycopg
from django.conf import settings

from leadengine.operations.bench.backlog import fill_backlog
from leadengine.operations.bench.bodies import Written
from leadengine.operations.bench.script import Names, write_statement

LINE = "capture"
PHONE = "5511977770000"
POSITION, NUMBER = 70_000, 900_000  # counters that no other value of a statement can be mistaken for


@dataclass(frozen=True, slots=True)
class Said:
    """One statement as Django was given it."""

    sql: str
    parameters: list[Any]
    begins: bool  # a transaction


def main() -> None:
    """Catch both kinds of message and print their scripts."""
    django.setup()
    first, later = Written(0xF, 1, LINE, PHONE), Written(0xF, 2, LINE, PHONE)
    existing = Names.of_tenant(_rows)
    new = _catch(first, existing, phone=None)
    _set_counters()
    known = _catch(later, Names.of_tenant(_rows), phone=PHONE)
    print(json.dumps({"new": new, "known": known}))  # noqa: T201


def _catch(message: Written, names: Names, *, phone: str | None) -> list[str]:
    """Drain one message; returns the statements of its transaction, with names in the place of its own values."""
    from django.db import connection
    from whatsapp.services.drain import BATCH, drain_inbox

    fill_backlog(settings.DATABASE_URL, [])
    fill = _as_service()
    fill_backlog(fill, [message])
    said: list[Said] = []

    def listen(execute: Callable[..., Any], sql: Any, parameters: Any, many: bool, context: dict[str, Any]) -> Any:
        idle = context["connection"].connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        said.append(Said(str(sql), list(parameters or ()), idle))
        return execute(sql, parameters, many, context)

    connection.ensure_connection()
    with connection.execute_wrapper(listen):
        drain_inbox()
    names.add_message(message.external_id, known_phone=phone, new_phone=message.phone)
    names.add_counters({POSITION + 1: "position", NUMBER + 1: "number"}, {BATCH: 2})
    return [write_statement(each.sql, each.parameters, names) for each in _longest(said)]
