"""Files for tests of uploads, made here, and a clamd that says what a test wants."""

from __future__ import annotations

import io
import socketserver
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from whatsapp.media.scanning import EICAR
from whatsapp.simulator.media import ASSETS

JPEG = (ASSETS / "tenis.jpg").read_bytes()
PDF = (ASSETS / "pedido.pdf").read_bytes()
OGG = (ASSETS / "audio-pedido.ogg").read_bytes()
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(32)
EXE = b"MZ\x90\x00\x03" + bytes(200)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><html><script>alert(1)</script></html>"
TEST_VIRUS = EICAR + b"\r\n"
_OLE_FREE, _OLE_END, _OLE_TABLE = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD


def zipped(**parts: bytes | str) -> bytes:
    """A zip of these parts; `__` in a name stands for a dot, `___` for a slash."""
    return zipped_as({name.replace("___", "/").replace("__", "."): content for name, content in parts.items()})


def zipped_as(parts: dict[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def ooxml(main: str, **more: bytes | str) -> bytes:
    """An Office document as its program writes it, with nothing in it."""
    return zipped_as({"[Content_Types].xml": "<Types/>", "_rels/.rels": "<x/>", main: "<x/>", **more})


def odf(kind: str, **more: bytes | str) -> bytes:
    mime = f"application/vnd.oasis.opendocument.{kind}"
    return zipped_as({"mimetype": mime, "content.xml": "<x/>", **more})


def ole(*names: str) -> bytes:
    """A compound file with streams of these names, all empty."""
    header = bytearray(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504))
    header[30:32] = (9).to_bytes(2, "little")
    header[48:52] = (1).to_bytes(4, "little")  # the directory is sector 1
    header[68:72] = _OLE_END.to_bytes(4, "little")
    header[76:512] = b"".join(number.to_bytes(4, "little") for number in [0, *[_OLE_FREE] * 108])
    table = b"".join(number.to_bytes(4, "little") for number in [_OLE_TABLE, _OLE_END, *[_OLE_FREE] * 126])
    directory = b""
    for name in ("Root Entry", *names):
        text = name.encode("utf-16-le") + b"\0\0"
        directory += text.ljust(64, b"\0") + len(text).to_bytes(2, "little") + bytes(62)
    return bytes(header) + table + directory.ljust(512, b"\0")


def isobmff(major: bytes, *brands: bytes, track: bytes = b"vide") -> bytes:
    """A file of the MP4 family with one track."""
    kinds = major + bytes(4) + b"".join(brands)
    movie = b"moov" + b"hdlr" + bytes(8) + track
    return b"".join((len(box) + 4).to_bytes(4, "big") + box for box in (b"ftyp" + kinds, b"free" + bytes(30), movie))


def mp3() -> bytes:
    """Two frames of silence: MPEG 1 layer III, 128 kbit/s, 44.1 kHz."""
    return (b"\xff\xfb\x90\x00" + bytes(413)) * 2


def aac() -> bytes:
    """Two ADTS frames of 64 bytes."""
    return (b"\xff\xf1\x50\x80\x08\x00\xfc" + bytes(57)) * 2


@contextmanager
def clamd(answer: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A scanner that takes files by INSTREAM: its address, and what it was given. No answer: it hangs up."""
    given: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            assert self.rfile.read(10) == b"zINSTREAM\0"
            content = b""
            while length := int.from_bytes(self.rfile.read(4), "big"):
                content += self.rfile.read(length)
            given.append(content)
            if answer is not None:
                self.wfile.write(answer + b"\0")

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread: Any = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.server_address[1]}", given
        finally:
            server.shutdown()
            thread.join()
