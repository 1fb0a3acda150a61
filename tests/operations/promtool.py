"""Where promtool comes from: PATH, else the cache, else the distribution's package, unpacked and not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_SECONDS = 35


class NoPromtool(Exception):
    """promtool cannot be had here; the message says why."""


def find_promtool(cache: Path) -> Path:
    """The path of promtool. Downloads the package `prometheus` once, into `cache`. Raises: NoPromtool."""
    found = shutil.which("promtool")
    if found:
        return Path(found)
    kept = cache / "promtool"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as place:
            os.replace(_unpack(Path(place)), kept)  # noqa: PTH105 - atomic: test processes may race
    return kept


def _unpack(place: Path) -> Path:
    try:
        _run(place, "apt-get", "download", "prometheus")
    except NoPromtool:  # a fresh machine has no lists of packages
        _run(place, "apt-get", "update", "-qq")
        _run(place, "apt-get", "download", "prometheus")
    package = next(place.glob("prometheus_*.deb"), None)
    if package is None:
        raise NoPromtool("apt-get delivered no package")
    _run(place, "dpkg", "-x", package.name, "unpacked")
    return place / "unpacked/usr/bin/promtool"


def _run(place: Path, *words: str) -> None:
    try:
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoPromtool(f"{words[0]}: {type(error).__name__}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoPromtool(f"{words[0]}: {said[-1]}")
