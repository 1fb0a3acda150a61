from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "leadengine.accounts"
    label = "accounts"
    verbose_name = "Contas"

    def ready(self) -> None:
        """In strict mode, watch every statement."""
        from leadengine.accounts.strict import install, require_scope

        install(require_scope)
