from django.db import migrations

from leadengine.accounts.rls import refer


class Migration(migrations.Migration):
    dependencies = [("whatsapp", "0004_listening"), ("tickets", "0004_polls")]

    operations = [refer("tickets_poll", "session_id", "whatsapp_sessions")]
