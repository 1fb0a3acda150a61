"""Media are encrypted as WhatsApp does, and the media server fails when it is told to."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any

import pytest
from aiohttp import ClientSession
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.whatsapp.simulator.conftest import MARIA, Broker, Hook
from whatsapp.simulator.media import ASSETS, asset, encrypt, encrypt_vote, image_size, ogg_seconds

PICTURE = (ASSETS / "tenis.jpg").read_bytes()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("image", "09ae0f60fbc3dc32246358f2fae71339de565348b61e581ac193"),
        ("audio", "6a5db5eebc683b9c05daca1b1c6dab64437222d0ceddc8400a5a"),
    ],
)
def test_the_known_answers_of_the_spec(kind: str, expected: str) -> None:
    assert encrypt(bytes(range(32)), kind, "olá".encode()).hex() == expected


async def test_a_picture_is_served_encrypted_and_decrypts(broker: Broker, hook: Hook) -> None:
    await broker.open()
    body = await inbound_picture(broker, hook)
    assert (body["width"], body["height"], body["fileLength"]) == (640, 640, str(len(PICTURE)))
    assert body["url"] == broker.url + body["directPath"]
    assert body["directPath"].startswith("/_sim/cdn/")
    assert b64decode(body["jpegThumbnail"])[:2] == b"\xff\xd8"
    async with ClientSession() as anyone, anyone.get(body["url"]) as response:
        stored = await response.read()
    assert sha256(stored).digest() == b64decode(body["fileEncSha256"])
    plain = decrypt(b64decode(body["mediaKey"]), b"WhatsApp Image Keys", stored)
    assert plain == PICTURE
    assert sha256(plain).digest() == b64decode(body["fileSha256"])


async def test_the_media_server_fails_as_told(broker: Broker, hook: Hook) -> None:
    await broker.open()
    body = await inbound_picture(broker, hook)
    key = b64decode(body["mediaKey"])
    for keys, status in (
        ({"failSeconds": 60}, 503),
        ({"failSeconds": 0, "gone": True}, 404),
        ({"gone": False, "redirectTo": "http://169.254.169.254/"}, 302),
        ({"redirectTo": None, "corrupt": True}, 200),
    ):
        await broker.call("POST", "/_sim/loja1/behaviour", {"cdn": keys})
        async with broker.session.get(body["url"], allow_redirects=False) as response:
            assert response.status == status
            stored = await response.read()
    with pytest.raises(AssertionError, match="mac"):
        decrypt(key, b"WhatsApp Image Keys", stored)
    assert (await broker.call("GET", "/_sim/cdn/unknown.enc"))[0] == 404


async def inbound_picture(broker: Broker, hook: Hook) -> Any:
    media = {"type": "image", "base64": b64encode(PICTURE).decode(), "mimetype": "image/jpeg"}
    await broker.inbound({"from": MARIA, "media": media, "caption": "olha"})
    await hook.wait(2)
    raw = hook.of("WHATSAPP_MESSAGES_UPSERT")[-1]["messages"][0]["message"]["imageMessage"]
    assert raw["caption"] == "olha"
    return raw


def decrypt(media_key: bytes, info: bytes, stored: bytes) -> bytes:
    expanded = HKDF(algorithm=hashes.SHA256(), length=112, salt=None, info=info).derive(media_key)
    ciphertext, mac = stored[:-10], stored[-10:]
    assert hmac.digest(expanded[48:80], expanded[:16] + ciphertext, "sha256")[:10] == mac, "mac"
    decryptor = Cipher(algorithms.AES(expanded[16:48]), modes.CBC(expanded[:16])).decryptor()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    return padded[: -padded[-1]]


async def test_a_document_with_caption_is_wrapped_and_a_voice_note_has_its_length(broker: Broker, hook: Hook) -> None:
    await broker.open()
    pdf = {"type": "document", "base64": "AAAA", "fileName": "a.pdf"}
    voice = b64encode((ASSETS / "audio-pedido.ogg").read_bytes()).decode()
    await broker.inbound({"from": MARIA, "media": pdf, "caption": "segue"})
    await hook.wait(2)
    await broker.inbound({"from": MARIA, "media": {"type": "audio", "base64": voice, "ptt": True}})
    await hook.wait(4)
    document, audio = hook.of("MESSAGE_INBOUND")
    assert (document["message"]["type"], "media" in document["message"]) == ("media", False)
    assert (audio["message"]["media"]["seconds"], audio["message"]["media"]["ptt"]) == (10, True)
    wrapped = hook.of("WHATSAPP_MESSAGES_UPSERT")[0]["messages"][0]["message"]["documentWithCaptionMessage"]
    assert wrapped["message"]["documentMessage"]["fileName"] == "a.pdf"


def test_a_vote_opens_with_the_secret_of_its_poll() -> None:
    names: dict[str, Any] = {"poll_id": "P", "author": "a@s.whatsapp.net", "voter": "v@s.whatsapp.net"}
    sealed = encrypt_vote(bytes(32), bytes(12), options=["Sim"], **names)
    inner = hmac.digest(bytes(32), bytes(32), "sha256")
    key = hmac.digest(inner, b"Pa@s.whatsapp.netv@s.whatsapp.netPoll Vote\x01", "sha256")
    opened = AESGCM(key).decrypt(bytes(12), sealed, b"P\0v@s.whatsapp.net")
    assert opened == b"\x0a\x20" + sha256(b"Sim").digest()


def test_sizes_are_read_out_of_the_files() -> None:
    assert image_size(PICTURE) == (640, 640)
    assert image_size(b"GIF89a") is None
    assert image_size(b"\xff\xd8\xff") is None
    assert ogg_seconds((ASSETS / "audio-produto.ogg").read_bytes()) == 7
    assert ogg_seconds(b"RIFF") is None
    assert asset("comprovante.jpg").thumbnail is not None
