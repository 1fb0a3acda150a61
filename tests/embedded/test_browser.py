from __future__ import annotations

from pathlib import Path

import pytest

from leadengine.embedded import browser


def program(path: Path, code: int) -> str:
    path.write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_first_that_starts_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(browser, "MACOS", tmp_path / "none")
    assert browser.find({}) == ""
    program(tmp_path / "chromium-browser", 1)  # Ubuntu's, which asks for a snap
    assert browser.find({}) == ""
    chrome = program(tmp_path / "google-chrome", 0)
    assert browser.find({}) == chrome


def test_named_one_is_the_only_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path / "chromium", 0)
    named = program(tmp_path / "mine", 0)
    assert browser.find({"CHROMIUM": named}) == named
    assert browser.find({"CHROMIUM": str(tmp_path / "gone")}) == ""
