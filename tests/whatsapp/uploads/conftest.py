"""People upload files through the whole stack of Django; the store is a directory of the test."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from leadengine.accounts.models import AuditLog, User
from leadengine.accounts.scopes import service_scope
from leadengine.redis import client as redis
from tests.api import by_cookie
from tests.conftest import World
from tests.whatsapp.bucket import keep_at
from whatsapp.models import Upload
from whatsapp.services.uploads import store_upload

URL = "/api/whatsapp/uploads"


@dataclass
class Desk:
    """What a test does with uploads: send them, let time pass, look."""

    world: World
    root: Path

    def post(self, data: bytes, name: str = "x", *, client: Client | None = None, **fields: str) -> tuple[int, Any]:
        """Upload a file as a browser does: (status, the JSON of the answer)."""
        client = client or by_cookie(self.world.agent)
        answer = client.post(URL, {**fields, "file": SimpleUploadedFile(name, data, "text/html")})
        return answer.status_code, answer.json()

    def keep(self, data: bytes, name: str = "x.jpg", *, actor: User | None = None, **more: Any) -> Upload:
        """Keep a file without HTTP."""
        actor = actor or self.world.agent
        return store_upload(
            tenant_id=self.world.ipe.pk, actor=actor, file=BytesIO(data), file_name=name, now=timezone.now(), **more
        )

    def grow_old(self, upload: Upload, hours: int = 25) -> None:
        with service_scope("test"), connection.cursor() as cursor:
            cursor.execute(
                """UPDATE whatsapp_upload SET created_at = created_at - make_interval(hours => %s),
                       last_used_at = last_used_at - make_interval(hours => %s) WHERE id = %s""",
                [hours, hours, upload.pk],
            )

    def row(self, upload_id: Any) -> Upload:
        with service_scope("test"):
            found: Upload = Upload.objects.get(pk=upload_id)
            return found

    def stored(self) -> dict[str, bytes]:
        """What lies in the store, and in the directory for temporary files."""
        places = (self.root / "media", self.root / "temporary")
        return {str(p.relative_to(place)): p.read_bytes() for place in places for p in place.rglob("*") if p.is_file()}

    def audited(self) -> list[tuple[str, Any, dict[str, Any]]]:
        """(action, actor, changes) of what the audit log says of uploads, oldest first."""
        with service_scope("test"):
            rows = AuditLog.objects.filter(action__startswith="upload.").order_by("at", "id")
            return [(row.action, row.actor_id, row.changes) for row in rows]


def desk_at(world: World, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    keep_at(f"file://{tmp_path}/media", settings)
    redis().flushdb()  # the counts of this minute
    return Desk(world, tmp_path)


@pytest.fixture
def desk(world: World, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return desk_at(world, settings, tmp_path, monkeypatch)
