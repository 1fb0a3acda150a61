from django.apps import AppConfig


class RealtimeConfig(AppConfig):
    name = "leadengine.realtime"
    label = "realtime"
