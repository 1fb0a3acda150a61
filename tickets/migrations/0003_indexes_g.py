"""Sort keys of the lists as plain columns, and the indexes that walk them (leadengine/paging.py says why)."""

import datetime
import django.db.models.functions.comparison
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0002_walls'),
        ('leads', '0002_walls'),
        ('tickets', '0002_walls'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='ticket',
            name='ticket_live_waiting',
        ),
        migrations.RemoveIndex(
            model_name='ticket',
            name='ticket_mine_waiting',
        ),
        migrations.RemoveIndex(
            model_name='ticket',
            name='ticket_ended_recent',
        ),
        migrations.AddField(
            model_name='ticket',
            name='active_at',
            field=models.GeneratedField(db_persist=True, expression=django.db.models.functions.comparison.Coalesce('last_message_at', 'created_at'), output_field=models.DateTimeField()),
        ),
        migrations.AddField(
            model_name='ticket',
            name='waiting_key',
            field=models.GeneratedField(db_persist=True, expression=django.db.models.functions.comparison.Coalesce('waiting_since', models.Value(datetime.datetime(9999, 1, 1, 0, 0, tzinfo=datetime.timezone.utc))), output_field=models.DateTimeField()),
        ),
        migrations.AddIndex(
            model_name='message',
            index=models.Index(condition=models.Q(('dismissed_at__isnull', True), ('status__in', ['FAILED', 'UNCONFIRMED'])), fields=['ticket', 'position'], name='message_trouble'),
        ),
        migrations.AddIndex(
            model_name='ticket',
            index=models.Index(condition=models.Q(('status__in', ['OPEN', 'PENDING', 'ASSIGNED'])), fields=['tenant', 'waiting_key', 'id'], name='ticket_live_waiting'),
        ),
        migrations.AddIndex(
            model_name='ticket',
            index=models.Index(condition=models.Q(('assignee__isnull', False), ('status__in', ['OPEN', 'PENDING', 'ASSIGNED'])), fields=['assignee', 'waiting_key', 'id'], name='ticket_mine_waiting'),
        ),
        migrations.AddIndex(
            model_name='ticket',
            index=models.Index(condition=models.Q(('status', 'OPEN')), fields=['queue', 'waiting_key', 'id'], name='ticket_queue_waiting'),
        ),
        migrations.AddIndex(
            model_name='ticket',
            index=models.Index(condition=models.Q(('status__in', ['OPEN', 'PENDING', 'ASSIGNED'])), fields=['tenant', 'active_at', 'id'], name='ticket_live_recent'),
        ),
        migrations.AddIndex(
            model_name='ticket',
            index=models.Index(condition=models.Q(('status__in', ['RESOLVED', 'CLOSED'])), fields=['tenant', 'active_at', 'id'], name='ticket_ended_recent'),
        ),
        migrations.AddIndex(
            model_name='ticket',
            index=models.Index(condition=models.Q(('assignee__isnull', False), ('status__in', ['RESOLVED', 'CLOSED'])), fields=['assignee', 'active_at', 'id'], name='ticket_mine_ended'),
        ),
    ]
