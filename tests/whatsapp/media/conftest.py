"""Customers send files through the real simulator, whose media server keeps them encrypted."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from pytest_django.fixtures import Settings

from leadengine.accounts.scopes import service_scope
from tests.conftest import World
from tests.outbound import Broker, broker_running
from tickets.models import MessageMedia
from whatsapp.models import WebhookEvent
from whatsapp.simulator.media import ASSETS

PICTURE = (ASSETS / "tenis.jpg").read_bytes()
MARIA = "5511988887777"


@dataclass
class Files:
    """What a test does with files: send them, let time pass, look."""

    world: World
    broker: Broker
    root: Path

    def sends(self, *bodies: dict[str, Any]) -> list[str]:
        """Customers send messages; their webhooks are processed. Returns the provider ids."""
        before = len(self.all())
        ids: list[str] = self.broker.control("ipe-01/inbound", [{"from": MARIA, **body} for body in bodies])["ids"]
        files = sum(1 for body in bodies if "media" in body or "imageMessage" in str(body))
        self.broker.settle(lambda: len(self.all()) == before + files)
        self.broker.settle(lambda: self.waiting() == 0)
        return ids

    def waiting(self) -> int:
        with service_scope("test"):
            return int(WebhookEvent.objects.filter(status="PENDING").count()) + len(self.broker.hook.bodies)

    def all(self) -> list[MessageMedia]:
        with service_scope("test"):
            return list(MessageMedia.objects.select_related("message").order_by("id"))

    def one(self) -> MessageMedia:
        (found,) = self.all()
        return found

    def due_now(self) -> None:
        """Time passes: whatever waits is due, and leases have ended."""
        past = datetime(2020, 1, 1, tzinfo=UTC)
        with service_scope("test"):
            MessageMedia.objects.exclude(next_attempt_at=None).update(next_attempt_at=past)

    def grow_old(self) -> None:
        """Ten minutes pass."""
        with service_scope("test"), connection.cursor() as cursor:
            cursor.execute("UPDATE tickets_messagemedia SET created_at = created_at - interval '10 minutes'")

    def stored(self) -> dict[str, bytes]:
        """What lies in the store."""
        return {str(p.relative_to(self.root)): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}


def picture(data: bytes = PICTURE, **more: Any) -> dict[str, Any]:
    return attached("image", data, mimetype="image/jpeg", **more)


def attached(kind: str, data: bytes, *, caption: str = "", **more: Any) -> dict[str, Any]:
    """A message with a file, for the simulator's inbound call."""
    body: dict[str, Any] = {"media": {"type": kind, "base64": b64encode(data).decode(), **more}}
    return {**body, "caption": caption} if caption else body


@pytest.fixture
def broker() -> Iterator[Broker]:
    with broker_running() as running:
        yield running


@pytest.fixture
def files(committed_world: World, broker: Broker, settings: Settings, tmp_path: Path) -> Files:
    """The media server is the simulator's, the store a directory of the test."""
    settings.WHATSAPP_MEDIA_ALLOWED_HOSTS = [broker.url.removeprefix("http://")]
    settings.WHATSAPP_MEDIA_HOST = broker.url
    root = tmp_path / "media"
    options = {**settings.STORAGES["media"]["OPTIONS"], "location": str(root)}
    settings.STORAGES = {**settings.STORAGES, "media": {**settings.STORAGES["media"], "OPTIONS": options}}
    return Files(committed_world, broker, root)
