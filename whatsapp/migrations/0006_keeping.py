import django.db.models.deletion
import django.db.models.functions.datetime
import leadengine.ids
from django.db import migrations, models

from leadengine.accounts.rls import protect, refer


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0002_walls'),
        ('whatsapp', '0005_poll_sessions'),
    ]

    operations = [
        migrations.CreateModel(
            name='Duty',
            fields=[
                ('name', models.CharField(max_length=40, primary_key=True, serialize=False)),
                ('holder', models.UUIDField(null=True)),
                ('until', models.DateTimeField(null=True)),
                ('done_at', models.DateTimeField(null=True)),
            ],
        ),
        migrations.AddField(
            model_name='whatsappsession',
            name='pending_wish',
            field=models.CharField(blank=True, choices=[('connect', 'connect'), ('logout', 'log out'), ('wipe', 'wipe'), ('delete', 'delete')], max_length=20, null=True),
        ),
        migrations.CreateModel(
            name='Maintenance',
            fields=[
                ('id', models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ('is_on', models.BooleanField(db_default=False, default=False)),
                ('closed', models.BooleanField(db_default=False, default=False)),
                ('reason', models.CharField(blank=True, db_default='', default='', max_length=200)),
                ('changed_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('id', 1)), name='maintenance_one_row')],
            },
        ),
        migrations.CreateModel(
            name='PersistenceJournal',
            fields=[
                ('id', models.UUIDField(default=leadengine.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('line_id', models.UUIDField()),
                ('session_id', models.UUIDField(null=True)),
                ('operation', models.CharField(max_length=40)),
                ('entry', models.JSONField(db_default={})),
                ('status', models.CharField(choices=[('applied', 'applied'), ('superseded', 'superseded'), ('failed', 'failed')], max_length=12, verbose_name='status')),
                ('reason', models.CharField(blank=True, db_default='', default='', max_length=200)),
                ('recorded_at', models.DateTimeField()),
                ('replayed_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('tenant', models.ForeignKey(db_index=False, editable=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'verbose_name': 'journal entry',
                'verbose_name_plural': 'persistence journal',
                'indexes': [models.Index(fields=['tenant', '-replayed_at'], name='persistence_journal_recent')],
                'constraints': [models.UniqueConstraint(fields=('line_id',), name='persistence_journal_line')],
            },
        ),
        migrations.CreateModel(
            name='RecoveryRun',
            fields=[
                ('id', models.UUIDField(default=leadengine.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('trigger', models.CharField(max_length=20)),
                ('started_at', models.DateTimeField()),
                ('finished_at', models.DateTimeField(null=True)),
                ('expected', models.IntegerField(db_default=0, default=0)),
                ('reconnected', models.IntegerField(db_default=0, default=0)),
                ('lost', models.IntegerField(db_default=0, default=0)),
                ('slowest_seconds', models.FloatField(null=True)),
                ('tenant', models.ForeignKey(db_index=False, editable=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'verbose_name': 'recovery',
                'verbose_name_plural': 'recoveries',
                'indexes': [models.Index(fields=['tenant', '-started_at'], name='recovery_run_recent')],
            },
        ),
        protect('whatsapp_persistencejournal'),
        protect('whatsapp_recoveryrun'),
        refer('whatsapp_persistencejournal', 'session_id', 'whatsapp_sessions'),
    ]
