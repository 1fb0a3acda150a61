"""Extensions, the trigger of updated_at, and the audit log's walls."""

from django.db import migrations
from django.db.utils import DatabaseError

from leadengine.accounts.rls import protect, revoke
from leadengine.errors import ConfigurationError

EXTENSIONS = ("unaccent", "pg_trgm")


def require_extensions(apps, schema_editor):
    for name in EXTENSIONS:
        try:
            schema_editor.execute(f"CREATE EXTENSION IF NOT EXISTS {name} WITH SCHEMA public")
        except DatabaseError as error:
            raise ConfigurationError(
                f"PostgreSQL has no extension {name}: install it as a superuser with CREATE EXTENSION {name}."
            ) from error


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.RunPython(require_extensions, migrations.RunPython.noop),
        migrations.RunSQL(
            """CREATE FUNCTION leadengine_touch() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN NEW.updated_at = clock_timestamp(); RETURN NEW; END $$;""",
            reverse_sql="DROP FUNCTION leadengine_touch();",
        ),
        migrations.RunSQL(
            "ALTER TABLE accounts_user ADD CONSTRAINT accounts_user_tenant_key UNIQUE (tenant_id, id);",
            reverse_sql="ALTER TABLE accounts_user DROP CONSTRAINT accounts_user_tenant_key;",
        ),
        protect("accounts_auditlog"),
        revoke("accounts_auditlog", "UPDATE, DELETE"),
    ]
