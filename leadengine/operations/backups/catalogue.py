"""What a database holds besides its rows, in a form that can be compared: walls, rights, migrations, sessions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

Cursor = psycopg.Cursor[Any]
Facts = dict[str, Any]

_OURS = """c.relnamespace = 'public'::regnamespace AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')"""
_TABLES = f"SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'p') AND {_OURS} ORDER BY 1"  # noqa: S608
_RLS = f"""SELECT c.relname, ARRAY[c.relrowsecurity, c.relforcerowsecurity] FROM pg_class c
           WHERE c.relkind IN ('r', 'p') AND {_OURS} ORDER BY 1"""  # noqa: S608
_POLICIES = """SELECT tablename || '.' || policyname,
                   ARRAY[permissive, cmd, array_to_string(roles, ','), qual, with_check]
               FROM pg_policies WHERE schemaname = 'public' ORDER BY 1"""
# The owner's own rights are his by being the owner, whether they are written down or not.
_GRANTS = f"""SELECT c.relname || ' ' || a.grantee::regrole, array_agg(a.privilege_type ORDER BY a.privilege_type)
              FROM pg_class c, aclexplode(c.relacl) a
              WHERE c.relkind IN ('r', 'p', 'S', 'v') AND a.grantee <> c.relowner AND a.grantee <> 0 AND {_OURS}
              GROUP BY 1 ORDER BY 1"""  # noqa: S608
_PARTS = f"""SELECT kind, array_agg(name ORDER BY name) FROM (
                 SELECT 'triggers' AS kind, c.relname || '.' || t.tgname AS name
                 FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND {_OURS}
                 UNION ALL SELECT 'indexes', c.relname FROM pg_class c WHERE c.relkind IN ('i', 'I') AND {_OURS}
                 UNION ALL SELECT 'constraints', c.relname || '.' || k.conname
                 FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE k.contype <> 'n' AND {_OURS}
             ) p GROUP BY 1"""  # noqa: S608
# Every table whose rows cannot be there without those of the given ones.
_DEPENDENTS = """WITH RECURSIVE needs AS (
                     SELECT unnest(%s::text[])::regclass::oid AS oid
                     UNION SELECT k.conrelid FROM pg_constraint k JOIN needs ON k.confrelid = needs.oid
                     WHERE k.contype = 'f')
                 SELECT c.relname FROM needs JOIN pg_class c USING (oid)"""


def tables(cursor: Cursor) -> list[str]:
    """The names of our tables."""
    return [name for (name,) in cursor.execute(_TABLES).fetchall()]


def dependents(cursor: Cursor, names: Iterable[str]) -> set[str]:
    """The tables, and those that refer to them, and so on."""
    return {name for (name,) in cursor.execute(_DEPENDENTS, [list(names)]).fetchall()}


def count(cursor: Cursor, names: Iterable[str]) -> dict[str, int]:
    """How many rows each table has."""
    counts = {}
    for name in names:
        row = cursor.execute(sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(name))).fetchone()
        counts[name] = int(row[0]) if row else 0
    return counts


def describe(cursor: Cursor) -> Facts:
    """Walls, rights and parts of the tables, and which migrations made them."""
    return {
        "rls": dict(cursor.execute(_RLS).fetchall()),
        "policies": dict(cursor.execute(_POLICIES).fetchall()),
        "grants": dict(cursor.execute(_GRANTS).fetchall()),
        "parts": dict(cursor.execute(_PARTS).fetchall()),
        "migrations": _migrations(cursor),
    }


def sessions(cursor: Cursor) -> list[list[str]]:
    """Every connection that is not deleted: [id, connection id]."""
    if not exists(cursor, "whatsapp_sessions"):
        return []
    rows = cursor.execute("SELECT id::text, connection_id FROM public.whatsapp_sessions WHERE deleted_at IS NULL")
    return sorted(list(row) for row in rows.fetchall())


def canary(cursor: Cursor) -> Facts | None:
    """The newest configuration snapshot, by version and content: a row that must come back as it was."""
    if not exists(cursor, "operations_configsnapshot"):
        return None
    row = cursor.execute(
        "SELECT version, md5(data::text) FROM public.operations_configsnapshot ORDER BY version DESC LIMIT 1"
    ).fetchone()
    return {"table": "operations_configsnapshot", "version": row[0], "md5": row[1]} if row else None


def extensions(cursor: Cursor) -> list[str]:
    """The extensions that our indexes and searches need."""
    rows = cursor.execute("SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1").fetchall()
    return [name for (name,) in rows]


def exists(cursor: Cursor, table: str) -> bool:
    """Whether a table is there."""
    row = cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [f"public.{table}"]).fetchone()
    return bool(row and row[0])


def differences(expected: Facts, found: Facts, *, leave_out: Iterable[str] = ()) -> list[str]:
    """What differs between two descriptions, as words: `policies: whatsapp_sessions.whatsapp_sessions_scope`."""
    told = []
    for part in expected.keys() - set(leave_out):
        before, after = expected[part], found.get(part)
        if isinstance(before, dict) and isinstance(after, dict):
            told += [f"{part}: {name}" for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        elif before != after:
            told.append(part)
    return sorted(told)


def _migrations(cursor: Cursor) -> list[str]:
    if not exists(cursor, "django_migrations"):
        return []
    return [
        name for (name,) in cursor.execute("SELECT app || '.' || name FROM django_migrations ORDER BY 1").fetchall()
    ]
