from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0002_walls'),
        ('leads', '0002_walls'),
        ('tickets', '0003_indexes_g'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='ticket',
            name='ticket_pending_has_reason',
        ),
        migrations.AddConstraint(
            model_name='ticket',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('pending_reason__isnull', True), models.Q(('status', 'PENDING'), _negated=True)), models.Q(('pending_reason', 'SNOOZED'), ('pending_reason__isnull', False), ('status', 'PENDING'), ('snoozed_until__isnull', False)), models.Q(('pending_reason', 'WAITING_CUSTOMER'), ('pending_reason__isnull', False), ('status', 'PENDING'), ('snoozed_until__isnull', True)), _connector='OR'), name='ticket_pending_has_reason'),
        ),
    ]
