"""How WhatsApp encrypts files: AES-256-CBC, then ten bytes of an HMAC; both sums in the message.

Pure and streaming: memory does not grow with the file. Known answers: spec/inbound.md section 10.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.padding import PKCS7

Kind = Literal["Image", "Video", "Audio", "Document"]
KEY_BYTES = 32
MAC_BYTES = 10


class Damaged(Exception):
    """The bytes are not those that were sent. The message names the check that failed."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a media key of 32 bytes expands to for one kind of file."""

    iv: bytes
    cipher: bytes
    mac: bytes


def derive(media_key: bytes, kind: Kind) -> Keys:
    """HKDF-SHA256 to 112 bytes without salt: iv 16, cipher key 32, mac key 32; the rest is not used."""
    info = f"WhatsApp {kind} Keys".encode()
    expanded = HKDF(algorithm=hashes.SHA256(), length=112, salt=None, info=info).derive(media_key)
    return Keys(expanded[:16], expanded[16:48], expanded[48:80])


class Decryptor:
    """Turns the bytes of an encrypted file into the file. Nothing of it may be believed before `finish` returns."""

    def __init__(
        self, *, media_key: bytes, kind: Kind, enc_sha256: bytes | None = None, file_sha256: bytes | None = None
    ) -> None:
        keys = derive(media_key, kind)
        self._expected = (enc_sha256, file_sha256)
        self._mac = hmac.new(keys.mac, keys.iv, sha256)
        self._cipher = Cipher(algorithms.AES(keys.cipher), modes.CBC(keys.iv)).decryptor()
        self._padding = PKCS7(128).unpadder()
        self._stored, self._plain = sha256(), sha256()
        self._tail = b""  # the last ten bytes are no ciphertext, and nobody knows which are the last

    def update(self, chunk: bytes) -> bytes:
        """Take the next bytes as they were fetched; give what is plain by now."""
        self._stored.update(chunk)
        held = self._tail + chunk
        ciphertext, self._tail = held[:-MAC_BYTES], held[-MAC_BYTES:]
        self._mac.update(ciphertext)
        return self._note(self._padding.update(self._cipher.update(ciphertext)))

    def finish(self) -> bytes:
        """Check MAC, `fileEncSha256`, `fileSha256`, and give the last plain bytes. Raises: Damaged."""
        if not hmac.compare_digest(self._mac.digest()[:MAC_BYTES], self._tail):
            raise Damaged("mac")
        stored, plain = self._expected
        if stored is not None and not hmac.compare_digest(self._stored.digest(), stored):
            raise Damaged("fileEncSha256")
        try:
            last = self._note(self._padding.update(self._cipher.finalize()) + self._padding.finalize())
        except ValueError as error:
            raise Damaged("padding") from error
        if plain is not None and not hmac.compare_digest(self._plain.digest(), plain):
            raise Damaged("fileSha256")
        return last

    @property
    def sha256(self) -> str:
        """The sum of the plain bytes so far, in hex."""
        return self._plain.hexdigest()

    def _note(self, plain: bytes) -> bytes:
        self._plain.update(plain)
        return plain


class Plain:
    """The same for a file that is not encrypted."""

    def __init__(self, *, file_sha256: bytes | None = None) -> None:
        self._expected = file_sha256
        self._plain = sha256()

    def update(self, chunk: bytes) -> bytes:
        """Take and give the next bytes."""
        self._plain.update(chunk)
        return chunk

    def finish(self) -> bytes:
        """Check `fileSha256` where the message has one. Raises: Damaged."""
        if self._expected is not None and not hmac.compare_digest(self._plain.digest(), self._expected):
            raise Damaged("fileSha256")
        return b""

    @property
    def sha256(self) -> str:
        """The sum of the bytes so far, in hex."""
        return self._plain.hexdigest()
