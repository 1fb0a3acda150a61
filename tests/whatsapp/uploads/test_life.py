"""Show 23: an upload hangs on its messages; what nothing needs goes, and nothing is forgotten."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import connection, transaction
from django.utils import timezone
from pytest_django.fixtures import Settings

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.errors import NotFound
from tests.api import by_cookie, refused, send
from tests.conftest import World
from tests.environment import NAME, SERVER
from tests.outbound import at_once
from tests.tickets.desk import arrive, give
from tests.tickets.test_plans import nodes
from tests.whatsapp.bucket import bucket_running, keep_at
from tests.whatsapp.uploads.conftest import URL, Desk, desk_at
from tests.whatsapp.uploads.files import JPEG, PDF
from tickets.models import Message, MessageMedia, Ticket
from tickets.services.outbox.refusals import MediaTooLarge
from tickets.transports import get_transport
from whatsapp.media import store
from whatsapp.models import Upload
from whatsapp.services.persistence import saving
from whatsapp.services.uploads import UploadExpired, require_upload, take_upload
from whatsapp.services.uploads_life import _EXPIRE, expire_uploads

TRANSPORT = get_transport("WHATSAPP")


def line_of(world: World) -> Any:
    found = TRANSPORT.line(world.line.pk)
    assert found is not None
    return found


def attach(desk: Desk, ticket: Ticket, upload: Upload, status: str) -> Message:
    """A message that sends an upload, as a door makes it, and what became of it."""
    client = by_cookie(desk.world.agent)
    code, body = send(
        client, "post", f"/api/tickets/{ticket.pk}/messages", {"type": "image", "uploadId": str(upload.pk)}
    )
    assert code == 202, body
    with service_scope("test"):
        Message.objects.filter(pk=body["data"]["messageId"]).update(status=status)
        made: Message = Message.objects.select_related("media").get(pk=body["data"]["messageId"])
        return made


@pytest.fixture
def ticket(desk: Desk) -> Ticket:
    return give(arrive(desk.world), desk.world.agent)


def test_outbound_23_the_clean_up_removes_what_no_message_needs(
    desk: Desk, ticket: Ticket, django_capture_on_commit_callbacks: Any
) -> None:
    unused, fresh, failed, canceled, sent, unsure = (desk.keep(JPEG) for _ in range(6))
    messages = {
        one.pk: attach(desk, ticket, one, status)
        for one, status in ((failed, "FAILED"), (canceled, "CANCELED"), (sent, "SENT"), (unsure, "UNCONFIRMED"))
    }
    twice = desk.keep(JPEG)
    attach(desk, ticket, twice, "FAILED")
    attach(desk, ticket, twice, "READ")
    for one in (unused, failed, canceled, sent, unsure, twice):
        desk.grow_old(one)
    assert expire_uploads(now=timezone.now() - timedelta(hours=2)) == 0
    assert expire_uploads(now=timezone.now()) == 3
    gone, kept = {unused.pk, failed.pk, canceled.pk}, {fresh.pk, sent.pk, unsure.pk, twice.pk}
    with service_scope("test"):
        states = dict(Upload.objects.values_list("pk", "state"))
        assert {pk for pk, state in states.items() if state == "EXPIRED"} == gone
        assert set(Upload.objects.filter(file_removed_at=None).values_list("pk", flat=True)) == kept
        shown = {row.upload_id: row for row in MessageMedia.objects.exclude(upload_id=twice.pk)}
    assert {word.rpartition("/")[2].partition(".")[0] for word in desk.stored()} == {str(pk) for pk in kept}
    assert {pk: (row.state, row.reason) for pk, row in shown.items()} == {
        failed.pk: ("expired", "upload_expired"), canceled.pk: ("expired", "upload_expired"), sent.pk: ("ready", ""),
        unsure.pk: ("ready", ""),
    }  # fmt: skip
    with service_scope("test"):
        version = Message.objects.get(pk=messages[failed.pk].pk).version
    assert version == messages[failed.pk].version + 1
    entries = [(actor, facts) for action, actor, facts in desk.audited() if action == "upload.expired"]
    assert entries == [(None, {"size": len(JPEG), "mime": "image/jpeg", "sha256": unused.sha256})] * 3
    assert expire_uploads(now=timezone.now()) == 0

    client = by_cookie(desk.world.agent)
    place = f"/api/integrations/whatsapp/media/{shown[failed.pk].pk}"
    for method, url in (("get", place), ("post", f"{place}/retry")):
        assert refused(send(client, method, url)) == (410, "UPLOAD_EXPIRED")
    status = send(client, "post", f"/api/messages/{messages[failed.pk].pk}/resend", {})
    assert refused(status) == (410, "UPLOAD_EXPIRED")
    again = send(client, "post", f"/api/tickets/{ticket.pk}/messages", {"type": "image", "uploadId": str(unused.pk)})
    assert refused(again) == (410, "UPLOAD_EXPIRED")


def test_a_use_gives_it_time(desk: Desk, ticket: Ticket) -> None:
    upload = desk.keep(JPEG)
    desk.grow_old(upload)
    message = attach(desk, ticket, upload, "FAILED")
    row = desk.row(upload.pk)
    assert row.state == "ATTACHED" and row.last_used_at is not None
    assert expire_uploads(now=timezone.now()) == 0
    desk.grow_old(upload)
    with tenant_scope(desk.world.ipe.pk):
        require_upload(tenant_id=desk.world.ipe.pk, source=message.media.source, now=timezone.now())
    assert expire_uploads(now=timezone.now()) == 0
    desk.grow_old(upload)
    assert expire_uploads(now=timezone.now()) == 1


def test_what_a_message_takes(desk: Desk, ticket: Ticket) -> None:
    world, upload = desk.world, desk.keep(JPEG, "foto do tênis.jpg")
    media = attach(desk, ticket, upload, "QUEUED").media
    assert (media.upload_id, media.storage_key, media.sha256) == (upload.pk, upload.storage_key, upload.sha256)
    assert (media.mime_type, media.file_name, media.size, media.state) == (
        "image/jpeg", "foto do tênis.jpg", len(JPEG), "ready",
    )  # fmt: skip
    attach(desk, ticket, upload, "QUEUED")
    assert [word for word, *_ in desk.audited()] == ["upload.created", "upload.attached"]
    assert refused(send(by_cookie(world.agent), "delete", f"{URL}/{upload.pk}")) == (409, "UPLOAD_IN_USE")
    with tenant_scope(world.ipe.pk):
        line = line_of(world)
        for tenant_id, upload_id in ((world.cedro.pk, upload.pk), (world.ipe.pk, uuid4())):
            with pytest.raises(NotFound):
                take_upload(tenant_id=tenant_id, upload_id=upload_id, author=None, line=line, now=timezone.now())
        line = replace(line, capabilities=replace(line.capabilities, media_max_bytes={"image": 10}))
        with pytest.raises(MediaTooLarge):
            take_upload(tenant_id=world.ipe.pk, upload_id=upload.pk, author=None, line=line, now=timezone.now())
        with pytest.raises(UploadExpired):
            require_upload(tenant_id=world.ipe.pk, source={"uploadId": str(uuid4())}, now=timezone.now())
        require_upload(tenant_id=world.ipe.pk, source={"url": "https://example.test/a.jpg"}, now=timezone.now())


def test_a_worker_cut_off_between_two_steps_forgets_nothing(
    desk: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, half = desk.keep(PDF), desk.keep(PDF)
    desk.grow_old(upload)
    with service_scope("test"):  # a web process that was killed while it stored a file
        Upload.objects.filter(pk=half.pk).update(state="EXPIRED")

    def broken(key: str) -> None:
        raise OSError(key)

    with monkeypatch.context() as patch:
        patch.setattr(store, "remove", broken)
        assert expire_uploads(now=timezone.now()) == 1
    assert len(desk.stored()) == 2
    assert expire_uploads(now=timezone.now()) == 0
    assert len(desk.stored()) == 1  # what is this young may still be on its way
    desk.grow_old(half, hours=2)
    assert expire_uploads(now=timezone.now()) == 0
    assert desk.stored() == {}


def test_more_than_one_batch(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whatsapp.services.uploads_life.BATCH", 2)
    for _ in range(5):
        desk.grow_old(desk.keep(PDF))
    assert expire_uploads(now=timezone.now()) == 5
    assert desk.stored() == {}


def test_outbound_24_the_clean_up_of_a_bucket(desk: Desk, settings: Settings) -> None:
    with bucket_running() as bucket:
        keep_at(bucket.url, settings)
        upload = desk.keep(JPEG)
        desk.grow_old(upload)
        bucket.lists = False  # of a file of a message is asked whether it lies there already
        store.save("whatsapp/a.jpg", BytesIO(JPEG), len(JPEG))
        del bucket.objects["/files/whatsapp/a.jpg"]
        desk.keep(JPEG)
        bucket.objects.popitem()
        assert set(bucket.objects) == {f"/files/{upload.storage_key}"}
        assert expire_uploads(now=timezone.now()) == 1
        assert bucket.objects == {}


def test_a_message_and_the_clean_up_at_the_same_moment(
    committed_world: World, settings: Settings, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_at(committed_world, settings, tmp_path, monkeypatch)
    for _ in range(4):
        upload = desk.keep(JPEG)
        desk.grow_old(upload)

        def take(upload: Upload = upload) -> str:
            with tenant_scope(committed_world.ipe.pk):
                line = line_of(committed_world)
                taken = take_upload(
                    tenant_id=committed_world.ipe.pk, upload_id=upload.pk, author=None, line=line, now=timezone.now()
                )  # fmt: skip
                return str(taken.id)

        taken, _ = at_once(take, lambda: expire_uploads(now=timezone.now()))
        row = desk.row(upload.pk)
        lies = upload.storage_key in desk.stored()
        if isinstance(taken, Exception):
            assert isinstance(taken, UploadExpired)
            assert (row.state, lies) == ("EXPIRED", False)
        else:
            assert (row.state, lies) == ("ATTACHED", True)


def test_nobody_sends_the_file_of_another(desk: Desk, ticket: Ticket) -> None:
    world, upload = desk.world, desk.keep(JPEG)
    other = give(arrive(world), world.agent2)
    payload = {"type": "image", "uploadId": str(upload.pk)}
    told = send(by_cookie(world.agent2), "post", f"/api/tickets/{other.pk}/messages", payload)
    assert refused(told) == (404, "NOT_FOUND")
    assert desk.row(upload.pk).state == "READY"
    told = send(by_cookie(world.supervisor), "post", f"/api/tickets/{ticket.pk}/messages", payload)
    assert told[0] == 202, told
    attached = [actor for word, actor, _ in desk.audited() if word == "upload.attached"]
    assert attached == [world.supervisor.pk], "who has sent it, not who has uploaded it"


def test_what_has_failed_late_keeps_its_file_for_a_day(desk: Desk, ticket: Ticket) -> None:
    upload = desk.keep(JPEG)
    message = attach(desk, ticket, upload, "FAILED")
    desk.grow_old(upload)
    now = timezone.now()
    for hours, ended in ((1, 0), (25, 1)):
        with service_scope("test"), saving():
            Message.objects.filter(pk=message.pk).update(failed_at=now - timedelta(hours=hours))
            Upload.objects.filter(pk=upload.pk).update(look_at=None)
        assert expire_uploads(now=now) == ended


def test_what_is_needed_is_looked_at_again_when_it_is_twice_as_old(desk: Desk, ticket: Ticket) -> None:
    upload, now = desk.keep(JPEG), timezone.now()
    message = attach(desk, ticket, upload, "SENT")
    looks: list[int] = []
    at = desk.row(upload.pk).look_at
    for day in range(1, 40):
        expire_uploads(now=now + timedelta(days=day, minutes=1))
        if (seen := desk.row(upload.pk).look_at) != at:
            looks, at = [*looks, day], seen
    assert looks == [1, 3, 7, 15, 31]
    with service_scope("test"), saving():
        Message.objects.filter(pk=message.pk).update(status="FAILED", failed_at=now)
    assert expire_uploads(now=now + timedelta(days=62)) == 0
    assert expire_uploads(now=now + timedelta(days=64)) == 1


FILL = """
SET session_replication_role = replica;
CREATE TEMP TABLE n AS SELECT gen_random_uuid() AS id, gen_random_uuid() AS message, n FROM generate_series(1, 20000) n;
INSERT INTO whatsapp_upload (id, tenant_id, created_at, last_used_at, look_at, state, media_type, mime_type, file_name,
    size, sha256, storage_key)
SELECT id, '{tenant}', now() - interval '9 days', now() - interval '8 days',
    CASE WHEN n > 10 THEN now() END, 'ATTACHED', 'image', '', '', 1, '', '' FROM n;
INSERT INTO tickets_messagemedia (id, tenant_id, message_id, media_type, upload_id)
SELECT gen_random_uuid(), '{tenant}', message, 'image', id FROM n;
INSERT INTO tickets_message (id, tenant_id, ticket_id, contact_id, position, direction, status, source, sent_at)
SELECT message, '{tenant}', gen_random_uuid(), gen_random_uuid(), 1, 'OUTBOUND', 'SENT', 'PHONE', now() FROM n;
ANALYZE whatsapp_upload, tickets_messagemedia, tickets_message;
"""


def test_its_search_goes_over_few_of_those_that_were_ever_sent(
    committed_world: World, settings: Settings, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk_at(committed_world, settings, tmp_path, monkeypatch)
    with psycopg.connect(SERVER._replace(path=f"/{NAME}").geturl(), autocommit=True) as admin:
        admin.execute(FILL.format(tenant=committed_world.ipe.pk))
    now = timezone.now()
    values: dict[str, Any] = {"before": now - timedelta(days=1), "most": 200, "now": now}
    with service_scope("test"), connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {_EXPIRE}", values)
        found = cursor.fetchone()[0]
        transaction.set_rollback(True)
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    read = [node for node in nodes(plan) if node.get("Relation Name")]
    assert {"whatsapp_upload", "tickets_messagemedia", "tickets_message"} == {node["Relation Name"] for node in read}
    assert not [node for node in read if node["Node Type"] == "Seq Scan"], json.dumps(plan, indent=1)
    assert max(node["Actual Rows"] for node in read) <= 10
