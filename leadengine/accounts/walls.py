"""Whether the second wall stands: who we are in the database, and row level security on every tenant's table."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.apps import apps

from leadengine.accounts.models import ApiKey, User
from leadengine.accounts.scopes import APP_ROLE

# Found by e-mail or by key before anybody knows the tenant, so row level security cannot cover them.
WITHOUT_POLICY = (User, ApiKey)

_FACTS = """
SELECT r.rolname::text, r.rolsuper, r.rolbypassrls,
    min(c.relname::text) FILTER (WHERE pg_has_role(r.oid, c.relowner, 'MEMBER')),
    min(c.relname::text) FILTER (WHERE NOT (row_security_active(c.oid) AND c.relforcerowsecurity)),
    min(c.relname::text) FILTER (WHERE NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))
FROM pg_roles r
LEFT JOIN pg_class c ON c.relname = ANY(%s) AND c.relnamespace = 'public'::regnamespace
WHERE r.rolname = current_user GROUP BY r.oid, r.rolname, r.rolsuper, r.rolbypassrls
"""


@cache
def walled_tables() -> tuple[str, ...]:
    """The tables whose rows belong to a tenant, and are seen in a scope only."""
    return tuple(
        sorted(
            model._meta.db_table
            for model in apps.get_models()
            if model not in WITHOUT_POLICY and any(field.name == "tenant" for field in model._meta.fields)
        )
    )


def find_breach(cursor: Any) -> str:
    """The sentence that says what is wrong with the wall and what to do; empty when it stands. One statement.

    Tables that are not there yet are not missed: readiness speaks of pending migrations.
    """
    cursor.execute(_FACTS, [list(walled_tables())])
    role, is_super, bypasses, owned, inactive, open_table = cursor.fetchone()
    use = f"set it to the role {APP_ROLE} that deploy/postgres/roles.sql makes"
    if is_super:
        return f"DATABASE_URL connects as {role}, a superuser, whom row level security does not bind: {use}."
    if bypasses:
        return f"DATABASE_URL connects as {role}, which has BYPASSRLS and would see all tenants: {use}."
    if owned:
        return f"DATABASE_URL connects as {role}, which owns the tables: {use}; the owner is for ADMIN_DATABASE_URL."
    if inactive:
        turn_on = f"ALTER TABLE {inactive} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
        return f"Row level security is off for the table {inactive}: run `{turn_on}` as its owner, and start again."
    if open_table:
        return f"The table {open_table} has lost its policy: create it as its migration does, and start again."
    return ""
