"""The command `normalize_webhook`: JSON lines out, exit code 2 for what it cannot read, no database."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.payloads.builders import raw, seed, upsert
from tests.payloads.matchers import CORPUS
from whatsapp.management.commands.normalize_webhook import Command

OPTIONS = ("--raw-fallback", "on", "--default-instance-id", "")


def run(path: Path | str, *options: str) -> list[dict[str, Any]]:
    out = io.StringIO()
    call_command(Command(), "--file", str(path), *(options or OPTIONS), stdout=out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_recorded_webhooks() -> None:
    lines = run(CORPUS / "webhooks.jsonl")
    assert len(lines) == 28
    assert lines[0].keys() == {"kind", "reason", "canonical"}
    assert (lines[0]["kind"], lines[0]["canonical"]["id"]) == ("message", "T1")
    assert {line["kind"] for line in lines} == {"message", "echo", "ignored", "reaction", "revoke", "ack", "vote"}
    assert all(line["canonical"] is None for line in lines if line["kind"] in ("ignored", "ack", "revoke"))


@pytest.mark.parametrize("indent", [None, 2])
def test_one_body(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "body.json"
    body = [seed({"conversation": "olá"}), upsert(raw({"conversation": "a"}), raw({}, {"id": "M2"}))]
    file.write_text(json.dumps(body, indent=indent), "utf-8-sig")
    assert [(line["kind"], line["reason"]) for line in run(file)] == [
        ("message", "ok"),
        ("message", "raw_inbound_normalized"),
        ("ignored", "raw_inbound_ignored"),
    ]


def test_lines_of_bodies_and_options(tmp_path: Path) -> None:
    file = tmp_path / "bodies.jsonl"
    nobody = seed({"conversation": "olá"}, instanceId=None)
    file.write_text(f"{json.dumps(nobody)}\n\n{json.dumps(upsert(raw({'conversation': 'a'})))}\n")
    lines = run(file, "--raw-fallback", "off", "--default-instance-id", "padrao")
    assert lines[0]["canonical"]["instanceId"] == "padrao"
    assert lines[1]["reason"] == "raw_fallback_disabled"


def test_settings_are_the_defaults(tmp_path: Path, settings: Any) -> None:
    settings.WHATSAPP_RAW_FALLBACK_ENABLED = False
    settings.WHATSAPP_DEFAULT_INSTANCE_ID = "padrao"
    file = tmp_path / "body.json"
    file.write_text(json.dumps([upsert(raw({"conversation": "a"})), seed({"conversation": "a"}, instanceId="")]))
    lines = run(file, "--json")
    assert [line["reason"] for line in lines] == ["raw_fallback_disabled", "ok"]


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}\nnot json\n', '{"headers": {}, "body": "{"}'])
def test_bad_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad"
    file.write_text(text)
    with pytest.raises(CommandError) as caught:
        run(file)
    assert caught.value.returncode == 2


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="Cannot read") as caught:
        run(tmp_path / "nothing")
    assert caught.value.returncode == 2


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps(seed({"conversation": "olá"})).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(body)))
    assert run("-")[0]["canonical"]["payload"]["message"]["conversation"] == "olá"
