from django.db import migrations

from leadengine.accounts.rls import protect, refer, tenant_key, touch

TABLES = ("endpoint", "outgoingevent", "delivery", "attempt")


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0001_initial"), ("accounts", "0002_walls")]

    operations = [
        *(tenant_key(f"webhooks_{name}") for name in ("endpoint", "outgoingevent", "delivery")),
        refer("webhooks_delivery", "endpoint_id", "webhooks_endpoint", on_delete="CASCADE"),
        refer("webhooks_delivery", "event_id", "webhooks_outgoingevent", on_delete="CASCADE"),
        refer("webhooks_attempt", "delivery_id", "webhooks_delivery", on_delete="CASCADE"),
        touch("webhooks_endpoint"),
        *(protect(f"webhooks_{name}") for name in TABLES),
    ]
