import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import leadengine.ids
from leadengine.accounts.rls import protect


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_walls"), ("tickets", "0002_walls")]

    operations = [
        migrations.CreateModel(
            name="TimelineRun",
            fields=[
                ("id", models.UUIDField(default=leadengine.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ("updated_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ("trigger", models.CharField(choices=[("nightly", "Nightly"), ("manual", "Manual")], max_length=8)),
                ("night", models.DateField(blank=True, null=True)),
                ("started_at", models.DateTimeField()),
                ("alive_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                ("tickets_checked", models.PositiveIntegerField(db_default=0, default=0)),
                ("tickets_changed", models.PositiveIntegerField(db_default=0, default=0)),
                ("fields", models.JSONField(db_default={}, default=dict)),
                (
                    "tenant",
                    models.ForeignKey(
                        db_index=False, editable=False, on_delete=django.db.models.deletion.PROTECT,
                        related_name="+", to="accounts.tenant",
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["tenant", "-started_at"], name="timeline_run_latest")],
                "constraints": [
                    models.UniqueConstraint(fields=("tenant", "night"), name="timeline_run_one_a_night"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("night__isnull", False), ("trigger", "nightly")),
                            models.Q(("night__isnull", True), ("trigger", "manual")),
                            _connector="OR",
                        ),
                        name="timeline_run_nightly_has_a_night",
                    ),
                ],
            },
        ),
        protect("tickets_timelinerun"),
    ]
