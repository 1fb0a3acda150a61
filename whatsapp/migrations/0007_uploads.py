import django.db.models.deletion
import django.db.models.functions.comparison
import django.db.models.functions.datetime
import leadengine.ids
from django.db import migrations, models

from leadengine.accounts.rls import protect


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_instance_keys'),
        ('whatsapp', '0006_keeping'),
    ]

    operations = [
        migrations.CreateModel(
            name='Upload',
            fields=[
                ('id', models.UUIDField(default=leadengine.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('actor_id', models.UUIDField(editable=False, null=True)),
                ('state', models.CharField(choices=[('READY', 'ready'), ('ATTACHED', 'attached'), ('EXPIRED', 'expired')], db_default='EXPIRED', default='EXPIRED', max_length=8, verbose_name='state')),
                ('scan_status', models.CharField(choices=[('CLEAN', 'clean')], db_default='CLEAN', default='CLEAN', max_length=8)),
                ('media_type', models.CharField(max_length=10)),
                ('mime_type', models.CharField(max_length=120)),
                ('file_name', models.CharField(max_length=120, verbose_name='file name')),
                ('size', models.BigIntegerField()),
                ('sha256', models.CharField(max_length=64)),
                ('storage_key', models.CharField(max_length=400)),
                ('caption', models.CharField(blank=True, db_default='', default='', max_length=1024)),
                ('ticket_id', models.UUIDField(null=True)),
                ('contact_id', models.UUIDField(null=True)),
                ('last_used_at', models.DateTimeField(null=True)),
                ('file_removed_at', models.DateTimeField(null=True)),
                ('tenant', models.ForeignKey(db_index=False, editable=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'verbose_name': 'upload',
                'verbose_name_plural': 'uploads',
                'indexes': [models.Index(django.db.models.functions.comparison.Coalesce(models.F('last_used_at'), models.F('created_at')), condition=models.Q(('state', 'EXPIRED'), _negated=True), name='upload_idle'), models.Index(condition=models.Q(('file_removed_at', None), ('state', 'EXPIRED')), fields=['created_at'], name='upload_to_remove'), models.Index(fields=['tenant', '-created_at'], name='upload_recent')],
                'constraints': [models.CheckConstraint(condition=models.Q(('state__in', ['READY', 'ATTACHED', 'EXPIRED'])), name='upload_state_known'), models.CheckConstraint(condition=models.Q(('file_removed_at__isnull', True), ('state', 'EXPIRED'), _connector='OR'), name='upload_removed_is_expired')],
            },
        ),
        protect('whatsapp_upload'),
    ]
