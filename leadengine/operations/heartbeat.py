"""Signs of life: one row per worker, sender and beat, written every 10 s; alive = seen within 30 s."""

from __future__ import annotations

import os
import socket

from leadengine.embedded.processes import identity
from leadengine.operations.direct import direct_cursor

PERIOD = 10.0  # seconds
ALIVE = 30.0
LEASE = 30.0
_PATIENCE = 2.0
_FORGOTTEN = "1 day"

_BEAT = """
INSERT INTO operations_heartbeat (name, kind, at) VALUES (%s, %s, now())
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, at = excluded.at
"""
_TAKE = """
INSERT INTO operations_lease (name, holder, until) VALUES (%(name)s, %(holder)s, now() + make_interval(secs => %(for)s))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE operations_lease.until < now() OR operations_lease.holder = ANY(%(from)s)
RETURNING name
"""


def write_heartbeat(*, name: str, kind: str) -> None:
    """Say that a process lives and works; forget processes not seen for a day. Raises: psycopg.Error."""
    with direct_cursor(seconds=_PATIENCE) as cursor:
        cursor.execute(_BEAT, [name, kind])
        cursor.execute(f"DELETE FROM operations_heartbeat WHERE at < now() - interval '{_FORGOTTEN}'")  # noqa: S608


def remove_heartbeat(*, name: str) -> None:
    """Say that a process has ended as it should. Raises: psycopg.Error."""
    with direct_cursor(seconds=_PATIENCE) as cursor:
        cursor.execute("DELETE FROM operations_heartbeat WHERE name = %s", [name])


def take_lease(*, name: str) -> bool:
    """Take or renew a lease of 30 s for this process; False while another living process has it.

    One that was killed on this machine is known to be dead and waits for nobody. Raises: psycopg.Error.
    """
    me = _holder()
    with direct_cursor(seconds=_PATIENCE) as cursor:
        cursor.execute("SELECT holder FROM operations_lease WHERE name = %s", [name])
        row = cursor.fetchone()
        may_follow = [me, *([row[0]] if row and _is_dead(row[0]) else [])]
        cursor.execute(_TAKE, {"name": name, "holder": me, "for": LEASE, "from": may_follow})
        return cursor.fetchone() is not None


def end_lease(*, name: str) -> None:
    """Give the lease back, so that the next process need not wait. Raises: psycopg.Error."""
    with direct_cursor(seconds=_PATIENCE) as cursor:
        cursor.execute("DELETE FROM operations_lease WHERE name = %s AND holder = %s", [name, _holder()])


def _holder() -> str:
    """Host, number and what tells this process from a later one with the same number."""
    return f"{socket.gethostname()} {os.getpid()} {identity(os.getpid())}"


def _is_dead(holder: str) -> bool:
    host, pid, text = holder.split(" ", 2)
    return host == socket.gethostname() and identity(int(pid)) != text
