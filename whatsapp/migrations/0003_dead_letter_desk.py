from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("whatsapp", "0002_walls")]

    operations = [
        migrations.CreateModel(
            name="DeadLetter",
            fields=[],
            options={
                "verbose_name": "dead letter",
                "verbose_name_plural": "dead letters",
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("whatsapp.webhookevent",),
        ),
        migrations.AddField(
            model_name="webhookevent",
            name="original_body",
            field=models.BinaryField(null=True),
        ),
        migrations.AddField(
            model_name="webhookevent",
            name="entries",
            field=models.IntegerField(db_default=1, default=1),
        ),
        migrations.AddField(
            model_name="webhookevent",
            name="note",
            field=models.TextField(blank=True, db_default="", default=""),
        ),
        migrations.AddIndex(
            model_name="webhookevent",
            index=models.Index(
                condition=Q(("body__isnull", False), Q(("status", "PENDING"), _negated=True)),
                fields=["id"],
                name="webhook_event_bodies",
            ),
        ),
        migrations.AddIndex(
            model_name="webhookitem",
            index=models.Index(
                condition=Q(("expires_at__isnull", False), ("fate", "parked")),
                fields=["expires_at"],
                name="webhook_item_expiry",
            ),
        ),
        migrations.AddIndex(
            model_name="webhookitem",
            index=models.Index(
                condition=Q(
                    ("fate", "ignored"), ("reason__in", ["invalid_contract", "no_sender", "poll_choice_invalid"])
                ),
                fields=["tenant", "-id"],
                name="webhook_item_unread",
            ),
        ),
    ]
