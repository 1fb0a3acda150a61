from django.apps import AppConfig


class OperationsConfig(AppConfig):
    name = "leadengine.operations"
    label = "operations"
    verbose_name = "Operação"
