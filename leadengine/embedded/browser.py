"""Finds a Chromium for the browser tests, and installs one where that may be done unasked (spec/run.md section 6)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
HOW_TO = "install Chromium (Debian and Ubuntu: apt-get install chromium chromium-driver) or name one in CHROMIUM"


def find(environ: Mapping[str, str]) -> str:
    """Return the path of a browser that starts, or nothing. CHROMIUM names the only candidate when it is set."""
    if named := environ.get("CHROMIUM"):
        return named if starts(named) else ""
    found = [*(shutil.which(name) for name in NAMES), str(MACOS) if MACOS.exists() else None]
    return next((path for path in found if path and starts(path)), "")


def may_install() -> bool:
    """Whether this is Debian or Ubuntu, and we are root."""
    release = Path("/etc/os-release")
    words = release.read_text(encoding="utf-8").lower().split() if release.exists() else []
    debian = any(word in words for word in ("id=debian", "id=ubuntu"))
    return debian and os.geteuid() == 0 and shutil.which("apt-get") is not None


def install() -> str:
    """Install the packages with apt; return what apt said when it failed."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in ("update -qq", "install -qq -y --no-install-recommends chromium chromium-driver"):
        run = subprocess.run(["apt-get", *words.split()], env=environ, capture_output=True, text=True, check=False)
        if run.returncode:
            return run.stderr.strip()
    return ""


def starts(path: str) -> bool:
    """Whether it is a browser: Ubuntu's `chromium-browser` may be a script that only asks for a snap."""
    try:
        run = subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0
