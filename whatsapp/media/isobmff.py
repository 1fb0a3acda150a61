"""The family of MP4 (ISO/IEC 14496-12): which member a file is, by its brands and its tracks."""

from __future__ import annotations

from typing import IO

_VIDEO = {b"isom", b"mp41", b"mp42", b"avc1", b"MSNV", b"dash", b"M4V ", b"M4VH", b"M4VP", b"f4v "}
_SOUND = {b"M4A ", b"M4B ", b"M4P "}
_MOST_BOXES = 64
_MOST_MOOV = 4_194_304


def read_isobmff(file: IO[bytes]) -> str:
    """`mp4`, `m4a`, `3gp`, or `unknown` for others of the family (QuickTime, HEIC, AVIF, …).

    A file that may hold pictures and has tracks of sound alone is `m4a`, as what browsers record.
    """
    file.seek(0)
    length = int.from_bytes(file.read(4), "big")
    brands = file.read(min(max(length, 16), 512) - 4)[4:]
    major = brands[:4]
    every = {major, *(brands[place : place + 4] for place in range(8, len(brands) - 3, 4))}
    if major in _SOUND:
        return "m4a"
    if major.startswith((b"3gp", b"3g2")):
        return "3gp"
    if major == b"qt  " or not any(brand in _VIDEO or brand.startswith(b"iso") for brand in every):
        return "unknown"
    return "m4a" if _has_sound_only(file) else "mp4"


def _has_sound_only(file: IO[bytes]) -> bool:
    movie = _find_movie(file)
    return b"soun" in movie and b"vide" not in movie


def _find_movie(file: IO[bytes]) -> bytes:
    """The box `moov`, which names the tracks; nothing where it is not found."""
    place, size = 0, file.seek(0, 2)
    for _ in range(_MOST_BOXES):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            break
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if head[4:8] == b"moov":
            file.seek(place)
            return file.read(min(length or _MOST_MOOV, _MOST_MOOV))
        if length < 8 or place + length >= size:
            break
        place += length
    return b""
