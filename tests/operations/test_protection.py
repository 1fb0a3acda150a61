"""Protected files: what changes in silence, what an entry allows, and the log of changes."""

from __future__ import annotations

import json
import re
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.utils import timezone

from leadengine.operations.change_log import fill_change_log
from leadengine.operations.models import ProtectedChange
from leadengine.operations.protection import LIST, PAGE, Change, find_breaches, read_protection, render_page
from tests.operations.conftest import ROOT

RULES = "docs/explanation/persistence.md"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the protected files, as they were approved today."""
    for path in (str(LIST), str(PAGE), *(one.path for one in read_protection(ROOT).files)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    check(tmp_path, update=True, release="99.0.0", change="As they are")
    return tmp_path


def check(root: Path, **options: Any) -> int:
    """The exit code of protected_check."""
    try:
        call_command("protected_check", root=str(root), **options)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def change(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")


def test_session_p01_a_changed_file_needs_an_entry(checkout: Path) -> None:
    assert check(checkout) == 0
    for file in read_protection(checkout).files:
        before = (checkout / file.path).read_bytes()
        change(checkout / file.path)
        assert check(checkout) == 1, file.path
        (checkout / file.path).write_bytes(before)
    change(checkout / RULES)
    assert check(checkout, update=True, release="99.1.0", change="Uma regra a mais", approved_by=["Ana"]) == 0
    newest = read_protection(checkout).changes[-1]
    assert (newest.version, newest.approved_by, list(newest.files)) == ("99.1.0", ("Ana",), [RULES])
    assert check(checkout) == 0


def test_session_p01_a_hash_in_the_list_is_no_entry(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {one.path: one.sha256 for one in read_protection(checkout).files}[RULES]
    change(checkout / RULES)
    check(checkout, update=True, release="99.1.0", change="x")
    new = {one.path: one.sha256 for one in read_protection(checkout).files}[RULES]
    text = (checkout / LIST).read_text(encoding="utf-8")
    # The hash in [[file]] is the new one, the one in the newest entry is that of before.
    (checkout / LIST).write_text(text.replace(f'"{RULES}" = "{new}"', f'"{RULES}" = "{old}"'), encoding="utf-8")
    capsys.readouterr()
    assert check(checkout, json=True) == 1
    assert [RULES in said for said in json.loads(capsys.readouterr().out)["breaches"]] == [True]


def test_a_file_that_is_missing_or_new_on_the_list_is_a_breach(checkout: Path) -> None:
    (checkout / RULES).unlink()
    assert find_breaches(checkout) == [f"{RULES} is protected and is missing."]
    shutil.copy(ROOT / RULES, checkout / RULES)
    (checkout / "new.py").write_text("x = 1\n", encoding="utf-8")
    text = (checkout / LIST).read_text(encoding="utf-8")
    (checkout / LIST).write_text(f'[[file]]\npath = "new.py"\nreason = "because"\n{text}', encoding="utf-8")
    assert [said.partition(" ")[0] for said in find_breaches(checkout)] == ["new.py"]
    assert check(checkout, update=True, release="99.1.0", change="Mais um arquivo") == 0


def test_a_version_is_used_once_and_may_be_made_anew_on_its_day(checkout: Path) -> None:
    change(checkout / RULES)
    assert check(checkout, update=True, release="99.0.0", change="As they are now") == 0
    assert [one.change for one in read_protection(checkout).changes if one.version == "99.0.0"] == ["As they are now"]
    with pytest.raises(CommandError, match="já está no registro"):
        check(checkout, update=True, release="1.0.0", change="x")
    with pytest.raises(CommandError, match="--release and --change"):
        check(checkout, update=True)
    with pytest.raises(CommandError, match="shorten it"):  # the table would refuse it at the next migration
        call_command("protected_check", update=True, release="9.9.9", change="x" * 201)


def test_the_list_survives_being_written(checkout: Path) -> None:
    (checkout / RULES).write_text('quotes "and" \\ é\n', encoding="utf-8")
    before = read_protection(checkout)
    check(checkout, update=True, release="99.1.0", change='Aspas "e" barras \\ | é', approved_by=["Ana", "José"])
    after = read_protection(checkout)
    assert after.changes[:-1] == before.changes
    assert after.changes[-1] == Change(
        date=timezone.localdate(), version="99.1.0", change='Aspas "e" barras \\ | é', approved_by=("Ana", "José"),
        files={RULES: {one.path: one.sha256 for one in after.files}[RULES]},
    )  # fmt: skip
    assert '| 99.1.0 | Aspas "e" barras \\ / é | Ana, José | Ativo |' in (checkout / PAGE).read_text(encoding="utf-8")


def test_this_checkout_is_as_it_was_approved() -> None:
    assert find_breaches(ROOT) == []


def test_a_file_that_comes_into_a_protected_folder_or_leaves_it_needs_an_entry(checkout: Path) -> None:
    new = "whatsapp/services/sessions/zzz.py"
    (checkout / new).write_text("x = 1\n", encoding="utf-8")
    assert [said.partition(" ")[0] for said in find_breaches(checkout)] == [new]
    assert check(checkout, update=True, release="99.1.0", change="Mais um") == 0
    (checkout / new).unlink()
    assert check(checkout) == 1
    assert check(checkout, update=True, release="99.2.0", change="Menos um") == 0
    assert read_protection(checkout).changes[-1].files == {new: "removed"}
    (checkout / new).write_text("x = 1\n", encoding="utf-8")
    assert check(checkout) == 1


def test_a_file_leaves_the_list_by_an_entry_only(checkout: Path) -> None:
    before = read_protection(checkout)
    text = (checkout / LIST).read_text(encoding="utf-8")
    for one in before.files:
        found = re.search(rf'\n\[\[file\]\]\npath = "{re.escape(one.path)}"\n.*\n.*\n', text)
        assert found is not None
        (checkout / LIST).write_text(text.replace(found[0], ""), encoding="utf-8")
        assert [one.path in said for said in find_breaches(checkout)] == [True]
        if one.path == RULES:
            assert find_breaches(checkout) == [f"{RULES} is protected and is no longer listed in {LIST}."]
            without = text.replace(found[0], "")
    (checkout / LIST).write_text(without, encoding="utf-8")
    assert check(checkout, update=True, release="99.1.0", change="Menos um") == 0
    after = read_protection(checkout)
    assert after.changes[-1].files == {RULES: "removed"}
    assert {one.path for one in before.files} - {one.path for one in after.files} == {RULES}


def test_all_that_keeps_connections_alive_is_on_the_list() -> None:
    protection = read_protection(ROOT)
    patterns = {one.pattern for one in protection.folders}
    assert patterns == {"whatsapp/services/sessions/*.py", "tests/payloads/contracts/*.json"}
    assert {one.path for one in protection.files} >= {
        "whatsapp/services/persistence.py", "whatsapp/services/journal.py", "whatsapp/services/atendimentos.py",
        "whatsapp/services/sessions/states.py", "whatsapp/tasks.py", "whatsapp/migrations/0001_initial.py", RULES,
        "leadengine/accounts/rls.py", "deploy/postgres/roles.sql",
    }  # fmt: skip


def test_session_p73_the_page_of_the_rules_shows_its_version_and_date_and_is_protected() -> None:
    newest = [one for one in read_protection(ROOT).changes if RULES in one.files][-1]
    lines = (ROOT / RULES).read_text(encoding="utf-8").splitlines()
    assert f"Versão {newest.version} · {newest.date}" in lines[:4]
    assert RULES in {one.path for one in read_protection(ROOT).files}


@pytest.mark.django_db
def test_session_p23_the_page_of_changes_equals_the_table() -> None:
    rows = [
        Change(row.date, row.version, row.change, tuple(row.approved_by), row.status)
        for row in ProtectedChange.objects.order_by("date", "pk")
    ]
    assert render_page(rows) == (ROOT / PAGE).read_text(encoding="utf-8")


@pytest.mark.django_db
def test_session_p67_the_log_holds_the_two_preloaded_entries_and_keeps_those_of_admin() -> None:
    ProtectedChange.objects.create(date=date(2026, 1, 2), version="1.1.1", change="Correção", approved_by=["Ana"])
    ProtectedChange.objects.filter(version="1.1.0").update(status="?")
    fill_change_log(apps=apps, using="default")  # what each migrate does
    log = {
        row.version: (str(row.date), row.change, row.approved_by, row.status) for row in ProtectedChange.objects.all()
    }
    assert log["1.0.0"] == ("2025-01-12", "Criação do sistema de persistência", [], "Ativo")
    assert log["1.1.0"] == ("2025-01-12", "Adição de retry automático", [], "Ativo")
    assert log["1.1.1"] == ("2026-01-02", "Correção", ["Ana"], "Ativo")
