"""A JSON body that carries a file as base64: the file goes to disk as it is read, the rest is small and stays.

A file of 16 MiB is a text of 22 MB in such a body. Read as any other body it would stand in memory three times.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, Any

from leadengine.accounts.api.base import BodyTooLarge
from leadengine.errors import ValidationFailed
from whatsapp.services.uploads import FileTooLarge, most_bytes

REST = 1_048_576  # bytes of the body without the file, as of any other body
_DATA_URL = 512  # bytes in which the comma of `data:image/png;base64,` must come
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OPENING, _CLOSING = b"{[", b"}]"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BLANKS = (b"\\n", b"\\r", b"\\t", b" ")


@dataclass(slots=True)
class Parcel:
    """The body without its file, where its text is empty; the file's size and SHA-256, where there was one."""

    rest: bytes = b""
    size: int | None = None
    sha256: str = ""


def most_body_bytes() -> int:
    """What no body with a file may pass: base64 is a third longer, and some write it in lines."""
    return 2 * most_bytes()


def read_parcel(chunks: Iterable[bytes], into: IO[bytes], *, name: str, most: int) -> Parcel:
    """Read a JSON object, and decode the text of its field `name` into a file.

    What is no JSON goes into `rest` as it is, for whoever parses that to say so. Raises: ValidationFailed for a text
    that is no base64, FileTooLarge for more than `most` bytes of file, BodyTooLarge for 1 MiB of anything else.
    """
    scanner = _Scanner(name.encode())
    decoder = _Decoder(into, name, most)
    for chunk in chunks:
        for part, is_file in scanner.split(chunk):
            if is_file:
                decoder.feed(part)
        if len(scanner.rest) > REST:
            raise BodyTooLarge(maxBytes=REST)
    if scanner.found:
        decoder.end()
        return Parcel(bytes(scanner.rest), decoder.size, decoder.digest.hexdigest())
    return Parcel(bytes(scanner.rest))


@dataclass(slots=True)
class _Scanner:
    """Where a body is: how deep, in a text or not, and behind which name of the outermost object."""

    name: bytes
    rest: bytearray = field(default_factory=bytearray)
    found: bool = False
    depth: int = 0
    in_text: bool = False
    in_file: bool = False
    escaped: bool = False
    text: bytearray = field(default_factory=bytearray)
    behind: bytes | None = None  # the name whose value is next

    def split(self, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """The parts of a chunk that belong to the file; the others are kept in `rest`."""
        at = 0
        while at < len(chunk):
            if self.in_file:
                end = chunk.find(b'"', at)  # none is escaped: base64 has no quotes
                yield chunk[at : end if end >= 0 else len(chunk)], True
                if end < 0:
                    return
                at, self.in_file, self.behind = end, False, None
            self._step(chunk[at])
            at += 1

    def _step(self, byte: int) -> None:
        self.rest.append(byte)
        if self.in_text:
            if self.escaped:
                self.escaped = False
            elif byte == _BACKSLASH:
                self.escaped = True
            elif byte == _QUOTE:
                self.in_text = False
                return
            self.text.append(byte)
        elif byte == _QUOTE:
            if self.depth == 1 and self.behind == self.name and not self.found:
                self.found = self.in_file = True
                self.in_text, self.behind = True, None
            else:
                self.in_text = True
            self.text.clear()
        elif byte in _OPENING:
            self.depth += 1
        elif byte in _CLOSING:
            self.depth -= 1
        elif self.depth == 1 and byte == ord(":"):
            self.behind = bytes(self.text)
        elif self.depth == 1 and byte == ord(","):
            self.behind = None


@dataclass(slots=True)
class _Decoder:
    """Decodes base64 as it comes: in four letters at a time, behind the head of a data URL, if there is one."""

    into: IO[bytes]
    name: str
    most: int
    size: int = 0
    digest: Any = field(default_factory=sha256)
    waiting: bytes = b""
    begun: bool = False
    ended: bool = False  # padding was seen

    def feed(self, part: bytes) -> None:
        self.waiting += part
        if not self.begun and not self._begin(final=False):
            return
        # A backslash at the end may be half of an escaped slash.
        self._decode(final=False)

    def end(self) -> None:
        if not self.begun:
            self._begin(final=True)
        self._decode(final=True)

    def _begin(self, *, final: bool) -> bool:
        """Drop the head of a data URL; False while it is not known yet whether there is one."""
        if len(self.waiting) < _DATA_URL and b"," not in self.waiting and not final:
            return False
        if self.waiting.startswith(b"data:"):
            head, comma, rest = self.waiting.partition(b",")
            if not comma or not head.endswith(b";base64"):
                raise self._wrong()
            self.waiting = rest
        self.begun = True
        return True

    def _decode(self, *, final: bool) -> None:
        held = b""
        if self.waiting.endswith(b"\\") and not final:
            self.waiting, held = self.waiting[:-1], b"\\"
        letters = self.waiting.replace(b"\\/", b"/")
        for blank in _BLANKS:
            letters = letters.replace(blank, b"")
        letters = letters.translate(_URL_SAFE)
        if final and len(letters) % 4:
            letters = letters.rstrip(b"=")
            letters += b"=" * (-len(letters) % 4)
        whole = len(letters) - len(letters) % 4
        self.waiting = letters[whole:] + held
        if not whole:
            return
        if self.ended:
            raise self._wrong()
        try:
            data = binascii.a2b_base64(letters[:whole], strict_mode=True)
        except binascii.Error as error:
            raise self._wrong() from error
        self.ended = letters[:whole].endswith(b"=")
        self.size += len(data)
        if self.size > self.most:
            raise FileTooLarge(maxBytes=self.most)
        self.digest.update(data)
        self.into.write(data)

    def _wrong(self) -> ValidationFailed:
        return ValidationFailed([{"field": self.name, "message": "Não é base64."}])
