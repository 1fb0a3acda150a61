"""`manage.py test` from end to end, on a small product."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leadengine.embedded.processes import hold
from tests.embedded import stand_in
from tests.embedded.conftest import directory
from tests.embedded.stand_in import clean_environment

TEST = """
    import json, os, tempfile
    from pathlib import Path

    import psycopg, redis

    def test_it(tmp_path):
        with psycopg.connect(os.environ["TEST_ADMIN_DATABASE_URL"]) as connection:
            assert connection.execute("SELECT usesuper FROM pg_user WHERE usename = user").fetchone() == (True,)
        for key, user in (("DATABASE_URL", "leadengine_app"), ("ADMIN_DATABASE_URL", "leadengine_owner")):
            with psycopg.connect(os.environ[key]) as connection:
                assert connection.execute("SELECT user").fetchone() == (user,)
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
            assert client.ping()
        assert tmp_path.is_relative_to(tempfile.gettempdir())
        Path("seen.json").write_text(json.dumps({**os.environ, "tmp_path": str(tmp_path)}))
"""


@pytest.fixture(scope="module")
def clone() -> Iterator[Path]:
    with directory() as path:
        root = stand_in.build(path / "clone")
        (root / "tests").mkdir()
        stand_in.write(root / "tests" / "test_it.py", TEST)
        (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\n", encoding="utf-8")
        yield root


def run(root: Path, *words: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "test", *words],
        cwd=root,
        env={**clean_environment(), **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_arguments_run_pytest_alone_on_our_servers(clone: Path) -> None:
    foreign = {"DATABASE_URL": "postgresql://nobody@db.example.test/desk", "REDIS_URL": "redis://redis.example.test"}
    done = run(clone, "-q", "tests/test_it.py", environ=foreign)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout.splitlines()[-1]
    assert "ruff" not in done.stdout
    told = json.loads((clone / "seen.json").read_text(encoding="utf-8"))
    assert told["LEADENGINE_DATA_DIR"] == str(clone / ".data-test")
    assert not Path(told["tmp_path"]).exists()
    assert not Path(told["TMPDIR"]).exists()
    assert not (clone / ".data-test" / "processes.json").exists()


def test_exit_code_is_that_of_pytest(clone: Path) -> None:
    assert run(clone, "-q", "-k", "nothing_of_that_name").returncode == 5


def test_second_run_at_the_same_time_has_a_directory_of_its_own(clone: Path) -> None:
    with hold(clone / ".data-test" / "lock", "a test"):
        assert run(clone, "-q", "tests/test_it.py").returncode == 0
    told = json.loads((clone / "seen.json").read_text(encoding="utf-8"))
    assert told["LEADENGINE_DATA_DIR"] == str(clone / ".data-test-2")


def test_whole_list_goes_on_after_a_linter_fails(clone: Path) -> None:
    (clone / "leadengine" / "wrong.py").write_text("import os\n", encoding="utf-8")
    done = run(clone, environ={"CI": "true", "CHROMIUM": "/nowhere"})
    steps = [
        "browser", "ruff check", "ruff format", "mypy", "import contracts", "protected files", "migrations",
        "check --deploy",
    ]  # fmt: skip
    shown = [next(step for step in steps if line.startswith(f"  {step}")) for line in done.stdout.splitlines()
             if line.startswith(tuple(f"  {step}" for step in steps))]  # fmt: skip
    assert sorted(shown) == sorted(steps)
    assert "`os` imported but unused" in done.stdout
    assert "1 passed" in done.stdout.splitlines()[-1]
    assert done.returncode == 1


def test_missing_browser_is_said_and_fails_only_ci(clone: Path) -> None:
    done = run(clone, "-q", "tests/test_it.py", environ={"CHROMIUM": "/nowhere", "CI": ""})
    assert "the browser tests are skipped" in done.stdout
    assert done.returncode == 0
    assert "CHROMIUM" not in json.loads((clone / "seen.json").read_text(encoding="utf-8"))
    assert run(clone, "-q", "tests/test_it.py", environ={"CHROMIUM": "/nowhere", "CI": "true"}).returncode == 1


def test_help_needs_no_server(clone: Path) -> None:
    done = run(clone, "--help", environ={"PATH": os.defpath})
    assert done.stdout.startswith("usage: manage.py test")
