"""`replay_webhooks` and the promise of every `--dry-run` (spec/inbound.md sections 14 and 17.22)."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.db import connection

from leadengine.accounts.scopes import service_scope
from tests.conftest import World
from tests.payloads.matchers import CORPUS
from tests.whatsapp.inbound import receive, store, text_event
from tests.whatsapp.wire import Wire, closed_port

KEY, SECRET = "hook-key", "broker-key-1"


def record(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def row(text: str, **more: Any) -> dict[str, Any]:
    headers = {"content-type": "application/json", "x-api-key": "recorded", "x-signature": "00", "host": "elsewhere"}
    return {"headers": headers, "body": json.dumps(text_event(text)), **more}


def replay(path: Path, url: str, *arguments: str) -> tuple[int, Any]:
    out, code = io.StringIO(), 0
    try:
        call_command("replay_webhooks", "--file", str(path), "--url", url, "--json", *arguments, stdout=out)
    except SystemExit as end:
        code = int(end.code or 0)
    return code, json.loads(out.getvalue())


def text_of(asked: Any) -> str:
    return str(asked[3]["payload"]["message"]["text"])


def test_lines_go_in_file_order_with_key_and_signature_of_this_side(tmp_path: Path) -> None:
    file = record(tmp_path / "a.jsonl", *(row(f"m{n}") for n in range(20)))
    with Wire(202) as wire:
        code, told = replay(file, wire.url, "--speed", "0", "--resign")
    assert (code, told["posted"], told["statuses"]) == (0, 20, {"202": 20})
    assert 0 < told["ackMs"]["p50"] <= told["ackMs"]["p95"]
    assert [text_of(one) for one in wire.asked] == [f"m{n}" for n in range(20)]
    for line, (_, _, headers, body) in zip(file.read_text().splitlines(), wire.asked, strict=False):
        raw = json.loads(line)["body"].encode()
        assert json.loads(raw) == body
        names = {name.lower(): value for name, value in headers.items()}
        assert names["x-api-key"] == KEY
        assert names["x-signature"] == hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()
        assert not names["host"].startswith("elsewhere")


def test_without_resign_the_recorded_signature_and_with_a_key_that_key(tmp_path: Path) -> None:
    file = record(tmp_path / "a.jsonl", row("um"))
    with Wire(202) as wire:
        replay(file, wire.url, "--key", "other")
    names = {name.lower(): value for name, value in wire.asked[0][2].items()}
    assert (names["x-api-key"], names["x-signature"]) == ("other", "00")


def test_recorded_gaps_are_divided_by_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits are counted, not waited for: the clock of the recording is in the lines or in the bodies."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("whatsapp.management.replay.asyncio.sleep", note)
    at = "2026-11-22T03:00:{:02d}Z"
    file = record(tmp_path / "a.jsonl", *(row("x", receivedAt=at.format(second)) for second in (0, 10, 10, 40)))
    with Wire(202) as wire:
        replay(file, wire.url, "--speed", "10")
        assert waits == [1.0, 0.0, 3.0]
        waits.clear()
        replay(file, wire.url, "--speed", "0")
        assert waits == []
        bodies = [json.dumps({**text_event(), "timestamp": 1_795_293_693 + second}) for second in (0, 8)]
        replay(record(tmp_path / "b.jsonl", *({"body": body} for body in bodies)), wire.url, "--speed", "2")
        assert waits == [4.0]


def test_several_at_once_lose_nothing(tmp_path: Path) -> None:
    file = record(tmp_path / "a.jsonl", *(row(f"m{n}") for n in range(200)))
    with Wire(202) as wire:
        code, told = replay(file, wire.url, "--speed", "0", "--concurrency", "8")
    assert (code, told["posted"]) == (0, 200)
    assert sorted(text_of(one) for one in wire.asked) == sorted(f"m{n}" for n in range(200))


def test_exit_codes(tmp_path: Path) -> None:
    file = record(tmp_path / "a.jsonl", row("um"), row("dois"))
    with Wire(503) as wire:
        assert replay(file, wire.url, "--speed", "0") == (1, {**_any(), "posted": 2, "statuses": {"503": 2}})
    code, told = replay(file, f"http://127.0.0.1:{closed_port()}", "--speed", "0")
    assert (code, told["statuses"]) == (1, {"0": 2})
    with Wire(202) as wire:
        assert replay(file, wire.url, "--from-line", "2", "--speed", "0")[1]["posted"] == 1
    broken = tmp_path / "b.jsonl"
    broken.write_text('{"headers": {}}\n')
    for arguments in (
        ("--file", str(broken)), ("--file", str(tmp_path / "missing")), ("--file", str(file), "--speed", "-1"),
        ("--file", str(file), "--concurrency", "0"),
    ):  # fmt: skip
        with pytest.raises(CommandError) as refusal:
            call_command("replay_webhooks", "--url", f"http://127.0.0.1:{closed_port()}", *arguments)
        assert refusal.value.returncode == 2, arguments


def _any() -> dict[str, Any]:
    class Anything:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    return {"ackMs": Anything()}


# --- Every dry run -----------------------------------------------------------------------------------------------

EXTRA = {
    "replay_webhooks": ["--file", str(CORPUS / "webhooks.jsonl")],
    "merge_contacts": ["--evidence", "phone_variant"],
}


def dry_commands() -> list[str]:
    """Every command of ours that has a --dry-run."""
    ours = {name: app for name, app in get_commands().items() if str(app).split(".")[0] in OURS}
    made = {name: load_command_class(str(app), name).create_parser("manage.py", name) for name, app in ours.items()}
    return [name for name, parser in made.items() if "--dry-run" in parser._option_string_actions]


OURS = {"leadengine", "leads", "tickets", "whatsapp"}


def digests() -> dict[str, Any]:
    """One digest per table of the database."""
    with service_scope("test"), connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        tables = [name for (name,) in cursor.fetchall() if name not in {"django_migrations", "django_session"}]
        found = {}
        for table in tables:
            cursor.execute(
                f"SELECT count(*), md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {table} t"
            )
            found[table] = cursor.fetchone()
    return found


def test_inbound_22_commands_with_a_dry_run_are_known() -> None:
    assert {"reprocess_webhook_events", "erase_old_webhooks", "replay_webhooks"} <= set(dry_commands())


@pytest.mark.django_db(transaction=True)
def test_inbound_22_no_dry_run_changes_a_row(committed_world: World, capsys: pytest.CaptureFixture[str]) -> None:
    receive(text_event("um", external_id="A"), text_event("um", external_id="A"), text_event(instance="nada"))
    receive(text_event("velho", phone="+551188887777"), text_event("novo", phone="+5511988887777"))
    store(text_event("pendente"))
    with service_scope("test"), connection.cursor() as cursor:
        cursor.execute("UPDATE whatsapp_webhookevent SET received_at = received_at - interval '100 days'")
        cursor.execute("UPDATE tickets_ticket SET last_message_preview = 'errado'")
    before = digests()
    for name in dry_commands():
        assert run_dry(name) in (0, 1), name
        after = digests()
        assert {table for table in before if before[table] != after[table]} == set(), name
    assert capsys.readouterr().out


def run_dry(name: str) -> int:
    """The exit code; 1 says that it found something."""
    try:
        call_command(name, "--dry-run", *EXTRA.get(name, []))
    except SystemExit as end:
        return int(end.code or 0)
    return 0
