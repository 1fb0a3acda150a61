"""Deliveries over loopback: allowed for these tests, each with a receiver of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from leadengine.webhooks.services import delivering
from tests.webhooks.receiver import Receiver, receiving


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    """An integrator whose address may be called."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    delivering._slow.clear()
    with receiving() as running:
        yield running
