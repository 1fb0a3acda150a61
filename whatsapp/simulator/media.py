"""Media as WhatsApp keeps them: files encrypted at a server, keys in the message (spec/inbound.md section 10)."""

from __future__ import annotations

import hmac
import struct
import tomllib
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.padding import PKCS7

from whatsapp.simulator.ids import Ids
from whatsapp.simulator.wire import Json

ASSETS = Path(__file__).parent / "assets"
MAX_BYTES = 16 * 1024 * 1024
MIMETYPES = {
    "image": "image/jpeg",
    "video": "video/mp4",
    "audio": "audio/ogg; codecs=opus",
    "document": "application/pdf",
    "sticker": "image/webp",
}
KEY_INFO = {"image": "Image", "sticker": "Image", "video": "Video", "audio": "Audio", "document": "Document"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFile:
    """A file as a person attaches it."""

    kind: str
    data: bytes
    mimetype: str
    file_name: str | None = None
    caption: str | None = None
    voice: bool = False
    gif: bool = False
    thumbnail: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file at the media server; the ciphertext is made again at each download, which is cheaper than keeping it."""

    instance_id: str
    kind: str
    data: bytes
    media_key: bytes
    stored_at: float

    def ciphertext(self) -> bytes:
        """Gives the bytes that the media server serves."""
        return encrypt(self.media_key, self.kind, self.data)


class Cdn:
    """The media server: files by name, in memory."""

    def __init__(self, ids: Ids) -> None:
        self.base_url = ""
        self._ids = ids
        self._files: dict[str, StoredFile] = {}

    def store(self, instance_id: str, owner: str, file: MediaFile, now: float) -> Json:
        """Stores a file of a person (or of `api`) encrypted; gives its content, `{"imageMessage": {...}}`."""
        media_key = self._ids.media_key(instance_id, owner)
        stored = StoredFile(instance_id, file.kind, file.data, media_key, now)
        name = sha256(media_key).hexdigest()[:16] + ".enc"
        self._files[name] = stored
        return _content(file, stored, f"/_sim/cdn/{name}", self.base_url, now)

    def get(self, name: str) -> StoredFile | None:
        """Finds a file by its name."""
        return self._files.get(name)

    def clear(self) -> None:
        """Forgets every file."""
        self._files.clear()


def encrypt(media_key: bytes, kind: str, data: bytes) -> bytes:
    """Encrypts a file: AES-256-CBC, then the first 10 bytes of the HMAC over iv and ciphertext."""
    info = f"WhatsApp {KEY_INFO[kind]} Keys".encode()
    expanded = HKDF(algorithm=hashes.SHA256(), length=112, salt=None, info=info).derive(media_key)
    iv, cipher_key, mac_key = expanded[:16], expanded[16:48], expanded[48:80]
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(cipher_key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize()
    return ciphertext + hmac.digest(mac_key, iv + ciphertext, "sha256")[:10]


def encrypt_vote(secret: bytes, iv: bytes, *, poll_id: str, author: str, voter: str, options: list[str]) -> bytes:
    """Encrypts a poll vote: the key comes from the poll's secret, the options are sent as hashes in a protobuf."""
    name = f"{poll_id}{author}{voter}Poll Vote".encode() + b"\x01"
    key = hmac.digest(hmac.digest(bytes(32), secret, "sha256"), name, "sha256")
    vote = b"".join(b"\x0a\x20" + sha256(option.encode()).digest() for option in options)
    return AESGCM(key).encrypt(iv, vote, f"{poll_id}\0{voter}".encode())


@cache
def asset(name: str) -> MediaFile:
    """Loads one of the files that customers send, as `assets/assets.toml` describes it."""
    about = _asset_table()[name]
    thumbnail = ASSETS / (Path(name).stem + ".thumb.jpg")
    return MediaFile(
        kind=about["kind"],
        data=(ASSETS / name).read_bytes(),
        mimetype=about.get("mimetype", MIMETYPES[about["kind"]]),
        file_name=about.get("file_name"),
        voice=about["kind"] == "audio",
        thumbnail=thumbnail.read_bytes() if thumbnail.exists() else None,
    )


@cache
def _asset_table() -> dict[str, dict[str, str]]:
    return tomllib.loads((ASSETS / "assets.toml").read_text())


def image_size(data: bytes) -> tuple[int, int] | None:
    """Reads width and height out of a PNG or JPEG; None for anything else."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack(">BH", data[position + 1 : position + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        position += 2 + length
    return None


def ogg_seconds(data: bytes) -> int | None:
    """Reads the length of an Ogg/Opus file from its last page, whose clock runs at 48 kHz."""
    page = data.rfind(b"OggS")
    if page < 0 or page + 14 > len(data):
        return None
    samples: int = struct.unpack("<q", data[page + 6 : page + 14])[0]
    return max(1, round(samples / 48_000))


def _content(file: MediaFile, stored: StoredFile, path: str, base_url: str, now: float) -> Json:
    ciphertext = stored.ciphertext()
    size = image_size(file.data) if file.kind in ("image", "sticker") else None
    seconds = ogg_seconds(file.data) if file.kind == "audio" else None
    caption = file.caption if file.kind != "audio" else None
    fields = {
        "url": base_url + path,
        "mimetype": file.mimetype,
        "caption": caption,
        "fileSha256": _b64(sha256(file.data).digest()),
        "fileLength": str(len(file.data)),
        "height": size and size[1],
        "width": size and size[0],
        "seconds": seconds,
        "ptt": file.voice if file.kind == "audio" else None,
        "gifPlayback": file.gif or None,
        "pageCount": 1 if file.mimetype == "application/pdf" else None,
        "mediaKey": _b64(stored.media_key),
        "fileName": file.file_name if file.kind == "document" else None,
        "fileEncSha256": _b64(sha256(ciphertext).digest()),
        "directPath": path,
        "mediaKeyTimestamp": str(int(now)),
        "jpegThumbnail": _b64(_thumbnail(file)) if file.kind in ("image", "video") else None,
    }
    message = {f"{file.kind}Message": {name: value for name, value in fields.items() if value is not None}}
    if file.kind == "document" and caption:
        return {"documentWithCaptionMessage": {"message": message}}
    return message


def _thumbnail(file: MediaFile) -> bytes:
    """Gives a small picture: the file's own, the file itself when it is one, else a neutral stand-in."""
    if file.thumbnail is not None:
        return file.thumbnail
    small = len(file.data) <= 4096 and file.data[:2] == b"\xff\xd8"
    return file.data if small else (ASSETS / "neutral.thumb.jpg").read_bytes()


def _b64(data: bytes) -> str:
    return b64encode(data).decode()
