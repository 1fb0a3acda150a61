from django.apps import AppConfig


class WhatsappConfig(AppConfig):
    name = "whatsapp"
    verbose_name = "WhatsApp"

    def ready(self) -> None:
        """In strict mode, watch every write."""
        from leadengine.accounts.strict import install
        from whatsapp.strict import require_persist

        install(require_persist)
