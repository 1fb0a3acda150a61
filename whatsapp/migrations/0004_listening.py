import django.db.models.deletion
from django.db import migrations, models
from django.db.models.functions import Now

from leadengine.accounts.rls import protect, refer
from leadengine.ids import uuid7

OWNED = [
    ("id", models.UUIDField(default=uuid7, editable=False, primary_key=True, serialize=False)),
    ("created_at", models.DateTimeField(db_default=Now(), editable=False)),
    ("updated_at", models.DateTimeField(db_default=Now(), editable=False)),
]


def tenant() -> tuple[str, models.Field]:
    return (
        "tenant",
        models.ForeignKey(
            db_index=False, editable=False, on_delete=django.db.models.deletion.PROTECT, related_name="+",
            to="accounts.tenant",
        ),
    )  # fmt: skip


class Migration(migrations.Migration):
    dependencies = [("whatsapp", "0003_dead_letter_desk"), ("accounts", "0002_walls")]

    operations = [
        migrations.AddField("whatsappsession", "silent_since", models.DateTimeField(blank=True, null=True)),
        migrations.CreateModel(
            name="GapFill",
            fields=[
                *OWNED,
                ("due_at", models.DateTimeField(db_default=Now())),
                ("holder", models.UUIDField(null=True)),
                ("lease_until", models.DateTimeField(null=True)),
                ("filled_at", models.DateTimeField(null=True)),
                ("failures", models.IntegerField(db_default=0)),
                (
                    "session",
                    models.OneToOneField(
                        db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name="+",
                        to="whatsapp.whatsappsession",
                    ),
                ),
                tenant(),
            ],
            options={"abstract": False},
        ),
        migrations.CreateModel(
            name="InboundHour",
            fields=[
                *OWNED,
                ("hour", models.DateTimeField()),
                ("received", models.IntegerField()),
                (
                    "session",
                    models.ForeignKey(
                        db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE,
                        related_name="+", to="whatsapp.whatsappsession",
                    ),
                ),
                tenant(),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("session", "hour"), name="inbound_hour_unique")],
            },
        ),
        *(refer(f"whatsapp_{name}", "session_id", "whatsapp_sessions", on_delete="CASCADE") for name in ("gapfill", "inboundhour")),
        *(protect(f"whatsapp_{name}") for name in ("gapfill", "inboundhour")),
    ]  # fmt: skip
