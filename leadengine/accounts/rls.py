"""Migration operations for the second wall: row level security and foreign keys that carry the tenant.

Use in every migration that makes a tenant-owned table; tests/test_tenant_wall.py fails when one was forgotten.
"""

from __future__ import annotations

from django.db import migrations

from leadengine.accounts.scopes import APP_ROLE, SERVICE_ROLE

TENANT = "(SELECT NULLIF(current_setting('app.tenant_id', true), '')::uuid)"
OWNER = "(SELECT NULLIF(current_setting('app.owner_id', true), '')::uuid)"
WIDE = "(SELECT current_setting('app.session_scope', true)) = 'tenant'"


def protect(table: str, rule: str = "") -> migrations.RunSQL:
    """Enable and force row level security on a table, with its one policy: same tenant, and the rule if given."""
    condition = f"tenant_id = {TENANT}" + (f" AND ({rule})" if rule else "")
    return migrations.RunSQL(
        f"""
        ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
        ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
        CREATE POLICY {table}_scope ON {table} USING ({condition}) WITH CHECK ({condition});
        """,
        reverse_sql=f"DROP POLICY {table}_scope ON {table};",
    )


def tenant_key(table: str) -> migrations.RunSQL:
    """Let other tables refer to (tenant_id, id) of this one."""
    return migrations.RunSQL(
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_tenant_key UNIQUE (tenant_id, id);",
        reverse_sql=f"ALTER TABLE {table} DROP CONSTRAINT {table}_tenant_key;",
    )


def refer(table: str, column: str, target: str, *, on_delete: str = "NO ACTION") -> migrations.RunSQL:
    """A foreign key that also compares the tenant, so that no row can point into another tenant.

    Checks of foreign keys bypass row level security; this is what makes a foreign reference impossible.
    """
    name = f"{table}_{column}_same_tenant"
    return migrations.RunSQL(
        f"""ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY (tenant_id, {column})
            REFERENCES {target} (tenant_id, id) ON DELETE {on_delete} DEFERRABLE INITIALLY IMMEDIATE;""",
        reverse_sql=f"ALTER TABLE {table} DROP CONSTRAINT {name};",
    )


def revoke(table: str, rights: str) -> migrations.RunSQL:
    """Take rights (`DELETE`, `UPDATE, DELETE`) on a table from both runtime roles."""
    return migrations.RunSQL(
        f"REVOKE {rights} ON {table} FROM {APP_ROLE}, {SERVICE_ROLE};",
        reverse_sql=f"GRANT {rights} ON {table} TO {APP_ROLE}, {SERVICE_ROLE};",
    )


def touch(table: str) -> migrations.RunSQL:
    """Keep updated_at by a trigger, so that no statement can forget it."""
    return migrations.RunSQL(
        f"""CREATE TRIGGER {table}_touch BEFORE UPDATE ON {table}
            FOR EACH ROW EXECUTE FUNCTION leadengine_touch();""",
        reverse_sql=f"DROP TRIGGER {table}_touch ON {table};",
    )
