"""What the drain really says to PostgreSQL for one message (its two twins), caught while it says it.

A program, run as the product is on the floors' database: it reads the superuser's address on standard input, prints a
Caught as JSON, and makes `bench_lines`: for each client of pgbench the ids of a tenant of its own, whose one contact
has written before.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import django
import psycopg

from leadengine.operations.bench.bodies import Written
from leadengine.operations.bench.script import Names, write_statement

LINE, CLIENT = "capture", "client-"
PHONE = "5511977770000"
# Numbers that no other value of a statement can be mistaken for.
POSITION, NUMBER = 70_000, 900_000
_OWNED = """SELECT table_name FROM information_schema.columns
            WHERE table_schema = 'public' AND column_name = 'tenant_id' AND data_type = 'uuid' ORDER BY table_name"""


@dataclass(frozen=True, slots=True)
class Caught:
    """The two scripts' statements, the same as the product words them, the columns of bench_lines that they use, and
    the two events of a message: (kind, stored body in hex)."""

    new: list[str]
    known: list[str]
    new_worded: list[str]
    known_worded: list[str]
    columns: list[str]
    events: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Said:
    sql: str
    parameters: list[Any] | dict[str, Any]
    begins: bool  # a transaction


def main(url: str) -> Caught:
    """Catch a contact's first message and a later one, and let each client's contact write for the first time."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "leadengine.settings")
    django.setup()
    from whatsapp.services.drain import BATCH, drain_inbox

    with psycopg.connect(url, autocommit=True) as server:
        tenant = _one(server, "SELECT tenant_id FROM whatsapp_sessions WHERE connection_id = %s", LINE)
        server.execute("INSERT INTO tickets_ticketcounter (tenant_id, last_number) VALUES (%s, %s)", [tenant, NUMBER])
        numbers = {POSITION + 1: f"({POSITION} + :n)", NUMBER + 1: f"({NUMBER} + :n)", BATCH: "2"}
        texts = {str(value): f"{sql}::text" for value, sql in numbers.items() if value != BATCH}
        texts[_id(2)] = "'3EB0' || lpad(to_hex(:base::bigint), 18, '0')"
        fresh = "'55119' || lpad((:client_id * 10000000 + :n)::text, 8, '0')"
        names = Names(_roles(server, tenant), [], {_id(1): texts[_id(2)], **texts, PHONE: fresh}, numbers)
        new, events = _catch(url, server, _written(1), names)
        server.execute("UPDATE tickets_ticket SET last_position = %s WHERE tenant_id = %s", [POSITION, tenant])
        names_later = Names(_roles(server, tenant), [], {**texts, PHONE: ":phone"}, numbers)
        known, _ = _catch(url, server, _written(2), names_later)
        written = [write_statement(each.sql, each.parameters, names) for each in new]
        written_later = [write_statement(each.sql, each.parameters, names_later) for each in known]
        columns = sorted({"accounts_tenant_0", "whatsapp_sessions_0", *names.used, *names_later.used})
        _write_lines(url, server, columns, drain_inbox)
    return Caught(
        new=written,
        known=written_later,
        new_worded=[" ".join(each.sql.split()) for each in new],
        known_worded=[" ".join(each.sql.split()) for each in known],
        columns=[*columns, "phone"],
        events=events,
    )


def _written(number: int) -> Written:
    return Written(0xF, number, LINE, PHONE)


def _id(number: int) -> str:
    return _written(number).external_id


def _catch(
    url: str, server: psycopg.Connection[Any], message: Written, names: Names
) -> tuple[list[_Said], list[tuple[str, str]]]:
    """Drain one message; returns the statements of the transaction that recorded it, and its two events."""
    from django.db import connection

    from leadengine.operations.bench.backlog import fill_backlog
    from whatsapp.services.drain import drain_inbox

    names.events = fill_backlog(url, [message])
    sql = "SELECT kind, encode(body, 'hex') FROM whatsapp_webhookevent WHERE id = ANY(%s) ORDER BY id"
    events = [(kind, body) for kind, body in server.execute(sql, [names.events]).fetchall()]
    said: list[_Said] = []

    def listen(execute: Callable[..., Any], sql: Any, parameters: Any, many: bool, context: dict[str, Any]) -> Any:
        status = context["connection"].connection.info.transaction_status
        given = parameters if isinstance(parameters, dict) else list(parameters or ())
        said.append(_Said(str(sql), given, status == psycopg.pq.TransactionStatus.IDLE))
        return execute(sql, parameters, many, context)

    connection.ensure_connection()
    with connection.execute_wrapper(listen):
        drain_inbox()
    transactions: list[list[_Said]] = []
    for each in said:
        if each.begins or not transactions:
            transactions.append([])
        transactions[-1].append(each)
    return next(one for one in transactions if any("INSERT INTO tickets_message" in each.sql for each in one)), events


def _roles(server: psycopg.Connection[Any], tenant: UUID) -> dict[UUID, str]:
    """Every row of a tenant by its id: the table's name and the row's place in it."""
    roles = {tenant: "accounts_tenant_0"}
    for (table,) in server.execute(_OWNED).fetchall():
        key = "tenant_id" if table == "tickets_ticketcounter" else "id"
        rows = server.execute(f"SELECT {key} FROM {table} WHERE tenant_id = %s ORDER BY 1", [tenant])  # noqa: S608
        roles |= {row[0]: f"{table}_{place}" for place, row in enumerate(rows.fetchall()) if row[0] != tenant}
    return roles


def _write_lines(url: str, server: psycopg.Connection[Any], columns: Sequence[str], drain: Callable[[], int]) -> None:
    """Give each client of pgbench a contact that has written, and write down the ids that its statements need."""
    from leadengine.operations.bench.backlog import fill_backlog

    sql = "SELECT connection_id, tenant_id FROM whatsapp_sessions WHERE connection_id LIKE %s ORDER BY 1"
    lines = server.execute(sql, [f"{CLIENT}%"]).fetchall()
    phones = [f"55119{number * 10_000_000:08}" for number in range(len(lines))]
    fill_backlog(url, [Written(0xE, n, line, phones[n]) for n, (line, _) in enumerate(lines)])
    drain()
    server.execute(
        f"CREATE TABLE bench_lines (client int PRIMARY KEY, {', '.join(f'{c} text' for c in columns)}, phone text)"
    )
    server.execute("GRANT SELECT ON bench_lines TO leadengine_app")
    for number, (_, tenant) in enumerate(lines):
        rows = {role: str(row) for row, role in _roles(server, tenant).items()}
        values = [number, *(rows[column] for column in columns), phones[number]]
        server.execute(f"INSERT INTO bench_lines VALUES ({', '.join(['%s'] * len(values))})", values)  # noqa: S608


def _one(server: psycopg.Connection[Any], sql: str, *parameters: Any) -> Any:
    row = server.execute(sql, parameters).fetchone()
    return row[0] if row else None


if __name__ == "__main__":
    print(json.dumps(asdict(main(sys.stdin.read()))))  # noqa: T201
