"""Portuguese is complete: nothing missing, nothing fuzzy, and what runs (.mo) is what is written (.po)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polib  # type: ignore[import-untyped]
import pytest

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "leadengine" / "locale" / "pt_BR" / "LC_MESSAGES" / "django.po"


def texts(catalogue: polib.POFile | polib.MOFile) -> dict[tuple[str | None, str], object]:
    """Every entry's translation by context and msgid."""
    return {(one.msgctxt, one.msgid): one.msgstr or dict(one.msgstr_plural) for one in catalogue if not one.obsolete}


def test_nothing_is_missing_or_fuzzy() -> None:
    catalogue = polib.pofile(str(CATALOGUE))
    assert [one.msgid for one in catalogue if one.fuzzy or not one.translated()] == []


def test_what_runs_is_what_is_written() -> None:
    assert texts(polib.mofile(str(CATALOGUE.with_suffix(".mo")))) == texts(polib.pofile(str(CATALOGUE)))


def test_placeholders_are_kept() -> None:
    names = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w+\}")
    for one in polib.pofile(str(CATALOGUE)):
        for text in [one.msgstr, *one.msgstr_plural.values()]:
            assert not text or set(names.findall(text)) <= set(names.findall(one.msgid + one.msgid_plural)), one.msgid
            assert one.msgid_plural or set(names.findall(text)) == set(names.findall(one.msgid)), one.msgid


@pytest.mark.skipif(
    shutil.which("xgettext") is None, reason="gettext is a tool for writing translations, not needed to run"
)
def test_every_text_of_the_product_is_in_the_catalogue(tmp_path: Path) -> None:
    """What makemessages would find now, found in a copy of the tree."""
    for folder in ("leadengine", "leads", "tickets", "whatsapp"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "static", "assets")
        )
    made = subprocess.run(
        [sys.executable, "-m", "django", "makemessages", "-l", "pt_BR", "--no-location", "--no-obsolete", "-v0"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    found = polib.pofile(str(tmp_path / CATALOGUE.relative_to(ROOT)))
    known = {(one.msgctxt, one.msgid) for one in polib.pofile(str(CATALOGUE)) if one.translated()}
    assert [one.msgid for one in found if (one.msgctxt, one.msgid) not in known] == []
