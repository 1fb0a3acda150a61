"""Settings: one list in three places, and wrong values that stop the start-up with a sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r'(?:text|flag|numbers?|words|paces|clock|get)\(\s*"([A-Z][A-Z0-9_]+)"')


def test_code_reference_and_example_name_the_same_settings() -> None:
    code = set(NAME.findall((ROOT / "leadengine/settings.py").read_text()))
    page = set(re.findall(r"^\| `([A-Z0-9_]+)`", (ROOT / "docs/reference/settings.md").read_text(), re.M))
    example = set(re.findall(r"^#([A-Z0-9_]+)=", (ROOT / "deploy/env.example").read_text(), re.M))
    assert code == page == example


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"WHATSAPP_MODE": "http"}, "WHATSAPP_MODE"),
        ({"WHATSAPP_MODE": ""}, "WHATSAPP_MODE"),
        ({"DEBUG": "maybe"}, "DEBUG"),
        ({"SESSION_HOURS": "many"}, "SESSION_HOURS"),
        ({"WHATSAPP_BROKER_SEND_TIMEOUT_MS": "5000"}, "WHATSAPP_BROKER_SEND_TIMEOUT_MS"),
        ({"WHATSAPP_BROKER_ADAPTER": "nobody"}, "WHATSAPP_BROKER_ADAPTER"),
        ({"WHATSAPP_WEBHOOK_API_KEY": "change-me"}, "WHATSAPP_WEBHOOK_API_KEY"),
        ({"DATABASE_URL": "mysql://x@y/z"}, "DATABASE_URL"),
        ({"LEADENGINE_PROCESS": "web", "DATABASE_URL": ""}, "DATABASE_URL"),
        ({"LEADENGINE_PROCESS": "web", "SECRET_KEY": ""}, "SECRET_KEY"),
        ({"DEBUG": "false", "SECRET_KEY": "short"}, "SECRET_KEY"),
        ({"DEBUG": "false", "API_KEY": f"{'a' * 32},{'b' * 31}"}, "API_KEY"),
    ],
)
def test_wrong_values_stop_the_start_with_the_name_of_the_variable(
    variables: dict[str, str], word: str, tmp_path: Path
) -> None:
    environ = {**os.environ, "LEADENGINE_DATA_DIR": str(tmp_path), **variables}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert len(lines) == 1 and word in lines[0], done.stderr
