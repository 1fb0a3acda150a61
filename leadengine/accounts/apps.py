from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "leadengine.accounts"
    label = "accounts"
    verbose_name = "Contas"
