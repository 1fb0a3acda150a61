"""Show 14: the life of a file, against the simulator's media server."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django.fixtures import Settings

from leadengine import metrics
from leadengine.accounts.scopes import service_scope
from leadengine.operations.facts import media_jobs
from tests.outbound import at_once, events_of, until
from tests.test_ssrf import serving
from tests.whatsapp.inbound import receive
from tests.whatsapp.media.conftest import MARIA, PICTURE, Files, attached, picture
from tickets.models import Message, MessageMedia
from whatsapp.services.media import fetch_due
from whatsapp.services.media_rows import BACKOFF, LEASE, claim_media, settle_media
from whatsapp.services.media_rows import Verdict as Said
from whatsapp.simulator.media import ASSETS


def outcome(name: str) -> float:
    return float(metrics.totals({"whatsapp_media_total": "outcome"})["whatsapp_media_total"][name])


def media_events(read: Any) -> list[tuple[int, str, str]]:
    """(version, state, reason) of each message.updated about a file."""
    return [
        (data["version"], data["changes"]["media"]["state"], data["changes"]["media"]["reason"])
        for name, data in read()
        if name == "message.updated" and isinstance(data["changes"].get("media"), dict)
    ]


def test_a_picture_is_fetched_decrypted_stored_and_told(files: Files) -> None:
    before = outcome("ready")
    with events_of(files.world) as read:
        files.sends(picture(caption="olha"))
        assert files.one().state == "pending"
        assert fetch_due() == 1
        media, told = files.one(), media_events(read)
    assert (media.state, media.reason, media.size, media.mime_type) == ("ready", "", len(PICTURE), "image/jpeg")
    digest, message = sha256(PICTURE).hexdigest(), media.message
    assert media.sha256 == digest
    assert media.storage_key == (
        f"whatsapp/{files.world.ipe.pk}/{files.world.line.pk}/{media.created_at:%Y/%m}/{message.pk}/{digest}.jpg"
    )
    assert files.stored() == {media.storage_key: PICTURE}
    assert [event[1:] for event in told] == [("downloading", ""), ("ready", "")]
    assert told[-1][0] == message.version
    assert outcome("ready") == before + 1
    assert fetch_due() == 0


def test_inbound_14_a_media_server_dead_for_ten_minutes(files: Files) -> None:
    files.broker.behave(cdn={"failSeconds": 3600})
    with events_of(files.world) as read:
        files.sends(picture(caption="o tênis"))
        with service_scope("test"):
            assert Message.objects.get().caption == "o tênis"  # the text did not wait
        waited = timedelta()
        for number, seconds in enumerate(BACKOFF[:4], 1):
            began = timezone.now()
            assert fetch_due() == 1
            media = files.one()
            assert (media.state, media.reason, media.attempts) == ("pending", "http_503", number)
            assert media.next_attempt_at is not None
            pause = media.next_attempt_at - began
            assert timedelta(seconds=seconds) <= pause < timedelta(seconds=seconds + 5)
            assert fetch_due() == 0, "before its time nothing is tried"
            waited += pause
            files.due_now()
        assert waited > timedelta(minutes=10)
        files.broker.behave(cdn={"failSeconds": 0})
        assert fetch_due() == 1
        told = media_events(read)
    media = files.one()
    assert (media.state, media.message.caption) == ("ready", "o tênis")
    assert [state for _, state, _ in told] == ["downloading", "pending"] * 4 + ["downloading", "ready"]
    assert [version for version, *_ in told] == sorted({version for version, *_ in told})


def test_after_the_last_retry_it_has_failed_and_a_person_may_ask_again(files: Files, settings: Settings) -> None:
    files.broker.behave(cdn={"failSeconds": 3600})
    files.sends(picture())
    for _ in range(len(BACKOFF) + 1):
        assert files.one().state == "pending"
        assert fetch_due() == 1
        files.due_now()
    media = files.one()
    assert (media.state, media.reason, media.next_attempt_at) == ("failed", "http_503", None)
    assert fetch_due() == 0


@pytest.mark.parametrize(
    ("faults", "state", "reason"),
    [
        ({"gone": True}, "expired", "gone"),
        ({"corrupt": True}, "failed", "integrity"),
        ({"redirectTo": "http://169.254.169.254/"}, "failed", "blocked_address"),
        ({"redirectTo": "https://127.1/x"}, "failed", "blocked_address"),
    ],
)
def test_inbound_14_what_the_media_server_may_do(files: Files, faults: dict[str, Any], state: str, reason: str) -> None:
    files.broker.behave(cdn=faults)
    files.sends(picture())
    assert fetch_due() == 1
    media = files.one()
    assert (media.state, media.reason, media.next_attempt_at) == (state, reason, None)
    assert (media.storage_key, files.stored()) == ("", {})
    assert fetch_due() == 0


@pytest.mark.parametrize("direct", ["", "/_sim/cdn/nothing.enc"])
@pytest.mark.parametrize("url", ["http://169.254.169.254/", "https://169.254.169.254/x", "https://127.1/x.enc"])
def test_inbound_14_an_address_in_our_own_network_is_blocked(files: Files, url: str, direct: str) -> None:
    body = {"url": url, "mediaKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "mimetype": "image/jpeg"}
    files.sends({"message": {"imageMessage": {**body, "directPath": direct} if direct else body}})
    assert fetch_due() == 1
    assert (files.one().state, files.one().reason) == ("failed", "blocked_address")


def test_where_the_address_is_not_allowed_the_path_leads_to_the_media_host(files: Files) -> None:
    files.sends(picture())
    with service_scope("test"):
        source = files.one().source
        MessageMedia.objects.update(source={**source, "url": "http://10.0.0.1/x.enc"})
    assert fetch_due() == 1
    assert files.one().state == "ready"


def test_a_worker_that_lost_its_lease_changes_nothing(files: Files) -> None:
    files.sends(picture())
    (first,) = claim_media(now=timezone.now(), most=4, busy=[], fresh=True)
    assert first.lease_until - timezone.now() > LEASE - timedelta(seconds=5)
    assert claim_media(now=timezone.now(), most=4, busy=[], fresh=False) == []
    files.due_now()
    assert fetch_due() == 1
    version = files.one().message.version
    assert not settle_media(claim=first, verdict=Said("failed", "gave_up", "late"), now=timezone.now())
    assert (files.one().state, files.one().message.version) == ("ready", version)


def test_several_claimers_never_take_the_same_file(files: Files) -> None:
    files.sends(*(picture(PICTURE + bytes([number])) for number in range(8)))
    claimed = at_once(*[lambda: claim_media(now=timezone.now(), most=3, busy=[], fresh=True) for _ in range(4)])
    ids = [claim.id for claims in claimed for claim in claims]
    assert len(ids) == len(set(ids)) >= 3


def fetch_and_close() -> None:
    fetch_due()
    connection.close()


def test_what_is_still_to_be_fetched_is_a_gauge(files: Files) -> None:
    files.broker.behave(cdn={"gone": True})
    files.sends(picture(), picture(PICTURE + b"2"))
    claim_media(now=timezone.now(), most=1, busy=[], fresh=True)
    with service_scope("test"), connection.cursor() as cursor:
        assert media_jobs(cursor) == {"pending": 1, "downloading": 1}
    files.due_now()
    assert fetch_due() == 2
    with service_scope("test"), connection.cursor() as cursor:
        assert media_jobs(cursor) == {"pending": 0, "downloading": 0}


def test_one_tenant_and_what_is_tried_again_never_take_every_hand(files: Files) -> None:
    files.sends(*(picture(PICTURE + bytes([number])) for number in range(3)))
    assert claim_media(now=timezone.now(), most=4, busy=[files.world.ipe.pk], fresh=False) == []
    with service_scope("test"):
        MessageMedia.objects.filter(pk=files.all()[0].pk).update(attempts=1)
    assert len(claim_media(now=timezone.now(), most=4, busy=[], fresh=True)) == 2
    assert len(claim_media(now=timezone.now(), most=4, busy=[], fresh=False)) == 1


def test_one_hanging_file_delays_no_other(files: Files, settings: Settings) -> None:
    release = threading.Event()

    def answer(*_: Any) -> Any:
        release.wait(20)
        return 200, {}, b"late"

    with serving(answer) as host:
        settings.WHATSAPP_MEDIA_ALLOWED_HOSTS = [*settings.WHATSAPP_MEDIA_ALLOWED_HOSTS, host]
        files.sends(picture(), picture(PICTURE + b"2"))
        slow, _ = files.all()
        with service_scope("test"):
            MessageMedia.objects.filter(pk=slow.pk).update(source={"url": f"http://{host}/a.jpg"})
        worker = threading.Thread(target=fetch_and_close)
        worker.start()
        try:
            files.broker.settle(lambda: files.all()[1].state == "ready")
            assert files.all()[0].state == "downloading"
            files.sends(picture(PICTURE + b"3"))
            assert fetch_due() == 0  # the loop that runs is told, and takes it
            files.broker.settle(lambda: files.all()[2].state == "ready")
            assert files.all()[0].state == "downloading"
        finally:
            release.set()
            worker.join()
        assert files.all()[0].state == "ready"


def test_more_bytes_than_allowed_stop_the_download(files: Files, settings: Settings) -> None:
    settings.WHATSAPP_MEDIA_MAX_BYTES = len(PICTURE) // 2
    files.sends(picture())
    assert fetch_due() == 1
    assert (files.one().state, files.one().reason, files.stored()) == ("failed", "too_large", {})


def test_a_store_that_is_away_is_tried_again(files: Files) -> None:
    files.root.write_bytes(b"a file where the directory should be")
    files.sends(picture())
    assert fetch_due() == 1
    assert files.one().state == "pending"
    assert files.one().reason.startswith("storage_")
    files.root.unlink()
    files.due_now()
    assert fetch_due() == 1
    assert files.one().state == "ready"


@pytest.mark.parametrize(
    ("body", "mime", "end"),
    [
        (attached("audio", (ASSETS / "audio-pedido.ogg").read_bytes(), ptt=True), "audio/ogg", ".ogg"),
        (attached("document", (ASSETS / "pedido.pdf").read_bytes(), fileName="p.pdf"), "application/pdf", ".pdf"),
        (attached("document", b"<svg onload='x'></svg>", mimetype="image/png"), "application/octet-stream", ".bin"),
        (attached("sticker", b"RIFF\0\0\0\0WEBPVP8 " + bytes(40)), "image/webp", ".webp"),
        (attached("image", b"<html>", mimetype="image/jpeg"), "application/octet-stream", ".bin"),
    ],
)
def test_the_type_is_sniffed_not_believed(files: Files, body: dict[str, Any], mime: str, end: str) -> None:
    files.sends(body)
    assert fetch_due() == 1
    media = files.one()
    assert (media.state, media.mime_type) == ("ready", mime)
    assert media.storage_key.endswith(end)


# --- Keys that come later, or never -------------------------------------------------------------------------------


def test_without_keys_it_waits_ten_minutes_and_a_later_twin_revives_it(files: Files) -> None:
    files.broker.behave(webhook={"dropRaw": True})
    files.broker.control("ipe-01/inbound", [{"from": MARIA, **picture(caption="oi")}])
    files.broker.settle(lambda: len(files.all()) == 1)
    assert fetch_due() == 0
    assert files.one().state == "pending"
    files.grow_old()
    assert fetch_due() == 1
    media = files.one()
    assert (media.state, media.reason) == ("failed", "media_keys_missing")

    files.broker.behave()
    with events_of(files.world) as read:
        receive(raw_twin(files, media))
        assert (files.one().state, files.one().attempts) == ("pending", 0)
        assert fetch_due() == 1
        assert files.one().state == "ready"
        assert any(name == "message.updated" for name, _ in read())


def raw_twin(files: Files, media: MessageMedia) -> bytes:
    """The raw event of a file that the simulator keeps: that of another message, under this one's id."""
    files.broker.behave(webhook={"dropCanonical": True})
    files.broker.control("ipe-01/inbound", [{"from": MARIA, **picture()}])
    until(lambda: files.broker.hook.bodies)
    body = files.broker.hook.bodies.pop()
    other = json.loads(body)["payload"]["messages"][0]["key"]["id"]
    return body.replace(other.encode(), str(media.message.external_id).encode())
