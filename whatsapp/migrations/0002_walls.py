from django.db import migrations

from leadengine.accounts.rls import OWNER, WIDE, protect, refer, revoke, tenant_key, touch

PROTECTED = ("whatsapp_sessions", "whatsapp_atendimentos")


class Migration(migrations.Migration):
    dependencies = [("whatsapp", "0001_initial"), ("tickets", "0002_walls"), ("accounts", "0002_walls")]

    operations = [
        # An INSERT that names only the columns of seed 002 gets the scope's tenant.
        *(
            migrations.RunSQL(
                f"""ALTER TABLE {table} ALTER COLUMN tenant_id
                    SET DEFAULT NULLIF(current_setting('app.tenant_id', true), '')::uuid;""",
                reverse_sql=f"ALTER TABLE {table} ALTER COLUMN tenant_id DROP DEFAULT;",
            )
            for table in PROTECTED
        ),
        tenant_key("whatsapp_sessions"),
        tenant_key("whatsapp_webhookevent"),
        refer("whatsapp_atendimentos", "ticket_id", "tickets_ticket"),
        refer("whatsapp_sessions", "default_queue_id", "tickets_queue"),
        refer("whatsapp_sessionevent", "session_id", "whatsapp_sessions", on_delete="CASCADE"),
        refer("whatsapp_webhookevent", "session_id", "whatsapp_sessions"),
        refer("whatsapp_webhookitem", "event_id", "whatsapp_webhookevent", on_delete="CASCADE"),
        refer("whatsapp_parkedeffect", "session_id", "whatsapp_sessions", on_delete="CASCADE"),
        refer("tickets_ticket", "session_id", "whatsapp_sessions"),
        refer("tickets_message", "session_id", "whatsapp_sessions"),
        *(touch(table) for table in PROTECTED),
        *(protect(table, f"owner_id = {OWNER} OR {WIDE}") for table in PROTECTED),
        *(revoke(table, "DELETE") for table in PROTECTED),
        protect(
            "whatsapp_sessionevent",
            "EXISTS (SELECT 1 FROM whatsapp_sessions s WHERE s.id = whatsapp_sessionevent.session_id)",
        ),
        *(protect(f"whatsapp_{name}") for name in ("webhookevent", "webhookitem", "parkedeffect")),
    ]
