"""The language of `vectors.jsonl`: expectations with matchers, inputs with macros (spec/inbound.md section 16)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
MISSING = object()
"""Stands for a key that is not there, so that `$absent` can be told from null."""


def load_vectors() -> list[dict[str, Any]]:
    """Read the vectors, macros not yet expanded."""
    return _lines("vectors.jsonl")


def load_webhooks() -> list[dict[str, Any]]:
    """Read the recorded webhooks, `{"headers", "body"}` each, the body as the exact text."""
    return _lines("webhooks.jsonl")


def expand(value: Any, **names: str) -> Any:
    """Expand the macros of an input: `$repeat:s:n`, and `$name` for each name given."""
    if isinstance(value, dict):
        return {key: expand(item, **names) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, **names) for item in value]
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    if value.startswith("$repeat:"):
        text, _, times = value.removeprefix("$repeat:").rpartition(":")
        return text * int(times)
    return names.get(value[1:], value)


def differences(expected: Any, actual: Any, path: str = "$") -> list[str]:
    """Compare partially: objects may have more keys than expected, lists not more entries. Empty = it matches."""
    if isinstance(expected, str) and expected.startswith("$"):
        return [] if _matches(expected, actual) else [f"{path}: {actual!r} is not {expected}"]
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [
            difference
            for key, value in expected.items()
            for difference in differences(value, actual.get(key, MISSING), f"{path}.{key}")
        ]
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [
            difference
            for index, (value, item) in enumerate(zip(expected, actual, strict=True))
            for difference in differences(value, item, f"{path}[{index}]")
        ]
    same = expected == actual and isinstance(expected, bool) == isinstance(actual, bool)
    return [] if same else [f"{path}: {'nothing' if actual is MISSING else repr(actual)} is not {expected!r}"]


def _matches(matcher: str, actual: Any) -> bool:
    name, _, argument = matcher[1:].partition(":")
    if name == "absent":
        return actual is MISSING
    if actual is MISSING:
        return False
    match name:
        case "any":
            return True
        case "nonempty":
            return actual not in (None, "", [], {})
        case "not":
            return not _matches_word(argument, actual)
        case "oneof":
            return any(_matches_word(word, actual) for word in argument.split(","))
        case "iso":
            return isinstance(actual, str) and _instant(argument) == _instant(actual)
        case "digits":
            return re.sub(r"\D", "", str(actual)) == re.sub(r"\D", "", argument)
        case "len":
            return hasattr(actual, "__len__") and len(actual) == int(argument)
        case "maxlen":
            return hasattr(actual, "__len__") and len(actual) <= int(argument)
    raise ValueError(f"unknown matcher {matcher!r}")


def _matches_word(word: str, actual: Any) -> bool:
    if word.startswith("$"):
        return _matches(word, actual)
    if actual is None or isinstance(actual, bool | int | float):
        return word == json.dumps(actual)
    return bool(word == actual)


def _instant(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CORPUS / name).read_text("utf-8").splitlines()]
