from django.apps import AppConfig


class EmbeddedConfig(AppConfig):
    name = "leadengine.embedded"
    label = "embedded"
