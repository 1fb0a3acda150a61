from django.db import migrations, models

SCHEDULED = models.Q(("scheduled_at__isnull", False), ("status__in", ["SCHEDULED", "QUEUED"]))


class Migration(migrations.Migration):
    """What is scheduled stays in its indexes until it has left, and the list of the outbox gets one."""

    dependencies = [("tickets", "0006_sends_of_a_line")]

    operations = [
        migrations.RemoveIndex(model_name="message", name="message_scheduled"),
        migrations.RemoveIndex(model_name="message", name="message_scheduled_for"),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(condition=SCHEDULED, fields=["scheduled_at"], name="message_scheduled"),
        ),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(condition=SCHEDULED, fields=["contact"], name="message_scheduled_for"),
        ),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(
                condition=models.Q(("direction", "OUTBOUND"), ("status__in", ["SCHEDULED", "QUEUED", "SENDING"])),
                fields=["tenant", "id"],
                name="message_outbox",
            ),
        ),
    ]
