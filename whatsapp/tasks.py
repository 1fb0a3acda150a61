"""Celery tasks of the channel: they take ids, call one service and decide on retry."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_shutting_down
from django.utils import timezone

from leadengine.celery import app
from leadengine.wake import awake
from whatsapp.services import media
from whatsapp.services.drain import drain_inbox
from whatsapp.services.retention import erase_old_webhooks as erase


@app.task(name="whatsapp.drain")
def drain(**_: Any) -> int:
    """Process the raw inbox until nothing is due. Coalesced: the flag goes first, whoever commits then wakes again."""
    awake("inbound")
    return drain_inbox()


@app.task(name="whatsapp.fetch_media")
def fetch_media(**_: Any) -> int:
    """Fetch every file of a message that is due. Coalesced, as above."""
    awake(media.KEY)
    return media.fetch_due()


@worker_shutting_down.connect
def _stop_fetching(**_: Any) -> None:
    """SIGTERM: what is on its way is put back, for whoever comes next."""
    media.stopping.set()


@app.task(name="whatsapp.erase_old_webhooks")
def erase_old_webhooks(**_: Any) -> None:
    """Erase webhook bodies and delete ledger lines past their time."""
    erase(now=timezone.now())
