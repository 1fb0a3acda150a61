from django.apps import AppConfig


class OperationsConfig(AppConfig):
    name = "leadengine.operations"
    label = "operations"
    verbose_name = "Operação"

    def ready(self) -> None:
        """All apps are loaded: prepare the metrics and the health checks of this process."""
        from django.conf import settings
        from django.db.models.signals import post_migrate

        from leadengine import metrics
        from leadengine.accounts import changes
        from leadengine.operations.change_log import fill_change_log
        from leadengine.operations.checks import register_checks
        from leadengine.operations.snapshots import note_configuration
        from leadengine.operations.starting import refuse_broken_wall

        metrics.prepare()
        register_checks()
        changes.watch(note_configuration)
        post_migrate.connect(fill_change_log, sender=self)
        if settings.SERVING:
            refuse_broken_wall()
