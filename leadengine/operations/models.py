"""Signs of life of the processes."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class Heartbeat(models.Model):
    """One row per running process, written every 10 s; alive = seen within 30 s. Holds no tenant's data."""

    name = models.CharField(max_length=80, primary_key=True)
    kind = models.CharField(max_length=10)  # worker, sender, beat, web
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name


class Lease(models.Model):
    """Who does what only one process may do at a time (`beat`), and until when. Holds no tenant's data."""

    name = models.CharField(max_length=40, primary_key=True)
    holder = models.CharField(max_length=200)
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} {self.until:%F %T}"
