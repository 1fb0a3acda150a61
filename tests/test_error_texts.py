"""Refusals speak the caller's language: every sentence has its English, and Portuguese is what is said unasked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polib  # type: ignore[import-untyped]
import pytest
from django.test import Client
from django.utils import translation

from leadengine import validation
from leadengine.envelope import error_body
from leadengine.errors import NotConfigured, NotFound, ValidationFailed
from leadengine.wording import find_english, worded
from tests.api import by_cookie, by_key
from tests.conftest import World

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "leadengine" / "locale" / "en" / "LC_MESSAGES" / "errors.po"
PACKAGES = ("leadengine", "leads", "tickets", "whatsapp")
# The simulator speaks the broker's words; operators read what their own commands say in English.
ELSEWHERE = {"simulator", "migrations", "operations"}
HOLE = re.compile(r"\{\w+\}")


def trees() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not ELSEWHERE.intersection(path.parts):
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def rendered(node: ast.expr) -> str | None:
    """A text as it may come out, `7` for what varies; None when it is no text of ours."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = rendered(node.left), rendered(node.right)
        return None if parts == (None, None) else "".join(part or "7" for part in parts)
    return None


def sentences() -> Iterator[tuple[str, str]]:
    """(where, sentence) of all that a refusal may say: of its class, given when raised, about a field."""
    modules = list(trees())
    classes = [(where, node) for where, tree in modules for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    refusals = {"DomainError"}
    while more := {one.name for _, one in classes if refusals & {name_of(base) for base in one.bases}} - refusals:
        refusals |= more
    for where, one in classes:
        if one.name in refusals - {"DomainError"} and refusals & {name_of(base) for base in one.bases}:
            yield where, (ast.get_docstring(one) or "").splitlines()[0].partition(" Details: ")[0]
    for where, tree in modules:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and name_of(node.func) in refusals | {"ValueError"}:
                said = rendered(node.args[0])
                if said and (" " in said or said.endswith(".")):  # else it is a code
                    # A rule over several fields names the one that it is about in front of its sentence.
                    yield where, re.sub(r"^\w+: ", "", said) if name_of(node.func) == "ValueError" else said
            elif isinstance(node, ast.Dict):
                fields = {getattr(key, "value", None): value for key, value in zip(node.keys, node.values, strict=True)}
                if {"field", "message"} <= set(fields) and (said := rendered(fields["message"])):
                    yield where, said
    yield from (("leadengine/validation.py", HOLE.sub("7", said)) for said in validation.SAID.values())


def test_every_refusal_has_its_english() -> None:
    found = list(sentences())
    assert len(found) > 150
    missing = sorted({f"{where}: {said}" for where, said in found if find_english(said) is None and said != "7"})
    told = "\n".join(missing)
    assert not missing, f"Add the English to {CATALOGUE.relative_to(ROOT)} and compile it (msgfmt):\n{told}"


def test_what_runs_is_what_is_written() -> None:
    written = polib.pofile(str(CATALOGUE))
    assert [one.msgid for one in written if one.fuzzy or not one.translated()] == []
    compiled = polib.mofile(str(CATALOGUE.with_suffix(".mo")))
    assert {one.msgid: one.msgstr for one in written} == {one.msgid: one.msgstr for one in compiled}
    assert all(set(HOLE.findall(one.msgid)) == set(HOLE.findall(one.msgstr)) for one in written)


def test_a_part_that_varies_stays() -> None:
    assert find_english("No máximo 4096 caracteres.") == "At most 4096 characters."
    assert find_english("Deve ser um de: text, poll.") == "Must be one of: text, poll."
    assert find_english("Configure A, B") == "Set A, B"
    assert find_english("O motivo {x} pede uma nota.") == "The reason {x} asks for a note."
    assert find_english("to inválido. Use E.164") is None  # what a broker said stays as it is


def test_portuguese_is_said_unasked() -> None:
    said = NotFound().message
    translation.deactivate()  # what an earlier request of this thread asked for
    assert worded(said) == said
    for language, text in (("pt-br", said), ("en", "Not found."), ("en-gb", "Not found.")):
        with translation.override(language):
            assert worded(said) == text


def test_fields_and_their_summary_are_worded_together() -> None:
    error = ValidationFailed(
        [{"field": "to", "message": "Campo obrigatório."}, {"field": "", "message": "Campo desconhecido."}]
    )
    with translation.override("en"):
        body = error_body(error.code, error.message, error.details, "r")["error"]
        own = error_body("X", "Não encontrado.", {"errors": error.details["errors"]}, "r")["error"]
    assert body["message"] == "to: This field is required.; Unknown field."
    assert [one["message"] for one in body["details"]["errors"]] == ["This field is required.", "Unknown field."]
    assert own["message"] == "Not found."
    assert error.details["errors"][0]["message"] == "Campo obrigatório."


def said_to(client: Client, language: str | None, url: str, body: Any = None) -> tuple[int, str, str]:
    headers = {"Accept-Language": language} if language else {}
    response = client.post(url, body, content_type="application/json", headers=headers)
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


@pytest.mark.django_db
def test_a_door_answers_in_the_language_that_was_asked_for(world: World, settings: Any) -> None:
    client, door = by_key(world.agent), f"/api/tickets/{world.line.pk}/messages"
    portuguese, english = (404, "NOT_FOUND", "Não encontrado."), (404, "NOT_FOUND", "Not found.")
    for language, answer in (
        (None, portuguese), ("pt-BR,pt;q=0.9,en;q=0.1", portuguese), ("fr", portuguese), ("en", english),
        ("en-US,en;q=0.9,pt;q=0.1", english),
    ):  # fmt: skip
        assert said_to(client, language, door, {"text": "Oi"}) == answer, language
    assert said_to(client, "en", "/api/tickets/x/messages")[2] == "Not found."
    settings.WHATSAPP_BROKER_URL = ""
    assert said_to(client, "en", door, {"text": "Oi"}) == (503, NotConfigured.code, "Set WHATSAPP_BROKER_URL")
    assert "Ticket not found." in by_cookie(world.agent).get(
        f"/inbox/tickets/{world.line.pk}/", headers={"Accept-Language": "en"}
    ).content.decode()  # fmt: skip
    # Whoever chose a language for their pages is answered in it there.
    world.agent.locale = "pt-br"
    world.agent.save()
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    assert said_to(by_cookie(world.agent), "en", door, {"text": "Oi"}) == portuguese
