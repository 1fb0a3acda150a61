from __future__ import annotations

import os
import subprocess
from pathlib import Path

import environ
import pytest

from leadengine.embedded import environment
from leadengine.embedded.environment import BROKER_KEYS, State, build, read_env, write_env

COMPUTED = {
    "BASE_URL": "http://127.0.0.1:8000",
    "PUBLIC_BASE_URL": "http://127.0.0.1:8000",
    "DATABASE_URL": "postgresql://leadengine_app:x@127.0.0.1:1/leadengine",
    "ADMIN_DATABASE_URL": "postgresql://leadengine_owner:x@127.0.0.1:1/leadengine",
    "DATABASE_BACKUP_URL": "postgresql://leadengine_backup:x@127.0.0.1:1/leadengine",
    "REDIS_URL": "redis://:x@127.0.0.1:2/0",
    "WHATSAPP_BROKER_URL": "http://127.0.0.1:3",
}
PROMISED = """BASE_URL DATABASE_URL ADMIN_DATABASE_URL REDIS_URL WHATSAPP_BROKER_URL WHATSAPP_BROKER_API_KEY
    WHATSAPP_WEBHOOK_API_KEY WHATSAPP_WEBHOOK_HMAC_SECRET DEMO_ADMIN_EMAIL DEMO_SUPERVISOR_EMAIL DEMO_AGENT_EMAIL
    DEMO_AGENT2_EMAIL DEMO_OUTSIDER_EMAIL DEMO_PASSWORD DEMO_API_TOKEN OUTSIDER_API_TOKEN SUPERUSER_EMAIL
    DATABASE_BACKUP_URL METRICS_TOKEN API_KEY API_KEY_TENANT SECRET_KEY DEBUG"""
SECRETS = ("SECRET_KEY", "API_KEY", "METRICS_TOKEN", "DEMO_PASSWORD", "DEMO_API_TOKEN", "OUTSIDER_API_TOKEN")


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of its own: the developer's .env is not read."""
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    return tmp_path


def start(data_dir: Path, environ: dict[str, str] | None = None, *, simulator: bool = True) -> dict[str, str]:
    """What one start of `up` writes; the servers of a given address are not ours."""
    state = State(data_dir)
    given = state.given(environ or {})
    ours = {key: value for key, value in COMPUTED.items() if key not in given or key == "BASE_URL"}
    return build(given, state, ours, demo=True, simulator=simulator)


def test_all_that_is_promised_is_there_and_lasts(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert set(PROMISED.split()) <= set(first)
    assert start(tmp_path) == first
    assert len({first[key] for key in (*SECRETS, *BROKER_KEYS)}) == len(SECRETS) + len(BROKER_KEYS)
    assert all(len(first[key]) == 64 for key in ("API_KEY", "METRICS_TOKEN", "DEMO_API_TOKEN", *BROKER_KEYS))
    assert first["DEBUG"] == "true"


def test_two_machines_have_different_secrets(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = start(tmp_path / "one"), start(tmp_path / "two")
    assert not [key for key in (*SECRETS, *BROKER_KEYS) if one[key] == two[key]]


def test_environment_wins_over_dot_env_and_both_over_ours(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# our desk\nexport API_KEY='from file'\nMETRICS_TOKEN=file # why\nDEBUG=\n")
    values = start(tmp_path, {"API_KEY": "from environment"})
    assert values["API_KEY"] == "from environment"
    assert values["METRICS_TOKEN"] == "file"
    assert values["DEBUG"] == "true"
    (tmp_path / ".env").unlink()
    again = start(tmp_path)
    assert again["API_KEY"] not in {"from environment", "from file"}
    assert start(tmp_path)["API_KEY"] == again["API_KEY"]


def test_run_env_read_into_the_shell_is_still_ours(tmp_path: Path) -> None:
    first = start(tmp_path)
    state = State(tmp_path)
    assert "DATABASE_URL" not in state.given(first)
    assert "WHATSAPP_BROKER_URL" not in state.given(first)
    assert start(tmp_path, first) == first


def test_foreign_database_brings_all_its_roles(tmp_path: Path) -> None:
    start(tmp_path)
    values = start(tmp_path, {"DATABASE_URL": "postgresql://app@db/desk"})
    assert values["DATABASE_URL"] == values["ADMIN_DATABASE_URL"] == "postgresql://app@db/desk"
    assert "DATABASE_BACKUP_URL" not in values
    roles = {"DATABASE_URL": "postgresql://app@db/desk", "ADMIN_DATABASE_URL": "postgresql://owner@db/desk"}
    assert start(tmp_path, roles)["ADMIN_DATABASE_URL"] == "postgresql://owner@db/desk"
    assert start(tmp_path)["ADMIN_DATABASE_URL"] == COMPUTED["ADMIN_DATABASE_URL"]


def test_no_key_is_made_up_for_a_real_broker(tmp_path: Path) -> None:
    broker = {"WHATSAPP_BROKER_URL": "http://broker", "WHATSAPP_BROKER_API_KEY": "k" * 32}
    values = start(tmp_path, broker, simulator=False)
    assert {key: values[key] for key in values if key.startswith("WHATSAPP")} == broker
    assert set(BROKER_KEYS) <= set(start(tmp_path))


def test_keyless_developer_is_for_development_only(tmp_path: Path) -> None:
    assert start(tmp_path)["BAILEYS_SIMPLE_DEV_OWNER"] == "admin@demo.test"
    assert "BAILEYS_SIMPLE_DEV_OWNER" not in start(tmp_path, {"DEBUG": "false"})


def test_file_is_private_and_read_alike_by_shell_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "run.env"
    path.write_text("old")
    path.chmod(0o644)
    values = {"A": "a b", "B": "x$HOME`id`;#", "C": "postgresql://u:p@h:1/d?x=1&y=2", "D": ""}
    write_env(path, values)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_env(path) == values
    shell = subprocess.run(
        ["/bin/sh", "-c", f'set -a; . "{path}"; env'], env={"HOME": "/h"}, capture_output=True, text=True, check=True
    )
    assert set(shell.stdout.splitlines()) >= {f"{key}={value}" for key, value in values.items()}
    kept = dict(os.environ)
    try:
        environ.Env.read_env(str(path), overwrite=True)
        assert {key: os.environ[key] for key in values} == values
    finally:
        os.environ.clear()
        os.environ.update(kept)


def test_state_is_private(tmp_path: Path) -> None:
    start(tmp_path)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
