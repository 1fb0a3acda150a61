"""Celery tasks of the channel: they take ids, call one service and decide on retry."""

from __future__ import annotations

from typing import Any

from leadengine.celery import app
from leadengine.wake import awake
from whatsapp.services.drain import drain_inbox


@app.task(name="whatsapp.drain")
def drain(**_: Any) -> int:
    """Process the raw inbox until nothing is due. Coalesced: the flag goes first, whoever commits then wakes again."""
    awake("inbound")
    return drain_inbox()
