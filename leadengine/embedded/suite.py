"""The linters and the test suite, on an embedded PostgreSQL and Valkey: what `manage.py test` does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from leadengine.embedded import browser, engines, environment
from leadengine.embedded.environment import ROOT, State
from leadengine.embedded.postgres import EmbeddedPostgres
from leadengine.embedded.supervisor import Supervisor, end_leftovers
from leadengine.embedded.terminal import Terminal
from leadengine.embedded.valkey import EmbeddedValkey

LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"
# Of the whole suite a third is waiting for other processes; of a part, one wants to see the output.
IN_PARALLEL = ("-n", "4", "--no-loadscope-reorder", "--durations", "25", "--durations-min", "5")
# What a careful operator sets; `check --deploy` judges the settings that come of it.
DEPLOYED = {
    "DEBUG": "false",
    "PUBLIC_BASE_URL": "https://desk.example.test",
    "ALLOWED_HOSTS": "desk.example.test",
}


class Suite:
    """One run of the suite. Made with the lock of its data directory held."""

    def __init__(self, arguments: Sequence[str], data_dir: Path, terminal: Terminal) -> None:
        self.arguments = list(arguments)
        self.terminal = terminal
        self.data_dir = data_dir
        end_leftovers(data_dir / "processes.json")
        state = State(data_dir)
        self.postgres = EmbeddedPostgres(data_dir, state)
        self.valkey = EmbeddedValkey(data_dir, state)
        self.supervisor = Supervisor(terminal, data_dir / "processes.json")
        self.failed: list[str] = []
        # In the system's own directory and not in ours: sockets of browsers are made here, and their paths are short.
        self.temporary = Path(tempfile.mkdtemp(prefix="leadengine-test-"))
        self.temporary.chmod(0o711)

    async def run(self) -> int:
        """Run linters (only without arguments) and pytest; return the exit code, and leave nothing running.

        Raises: UnableToStart.
        """
        told = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        work = asyncio.create_task(self._work())
        waiting = asyncio.create_task(told.wait())
        try:
            await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            return 130
        finally:
            waiting.cancel()
            await self.supervisor.stop()
            self.postgres.remove_outside()
            shutil.rmtree(self.temporary, ignore_errors=True)

    async def _work(self) -> int:
        await engines.start(self.supervisor, self.postgres, self.valkey)
        environ = self._environment()
        # A browser is fetched while mypy, which takes longest, has one core and the other linters what is left.
        linters = [] if self.arguments else [self._check_types(environ), self._lint(environ)]
        await asyncio.gather(self._find_browser(environ), *linters)
        if self.failed:
            self.terminal.say(f"  failed: {', '.join(self.failed)}")
        code = await self._pytest(environ)
        return code or int(bool(self.failed))

    async def _find_browser(self, environ: dict[str, str]) -> None:
        """Set CHROMIUM for the browser tests; without one, say how to get it. In CI its lack is a failure."""
        found = await asyncio.to_thread(browser.find, environ)
        if not found and "CHROMIUM" not in environ and browser.may_install():
            started = time.monotonic()
            error = await asyncio.to_thread(browser.install)
            found = await asyncio.to_thread(browser.find, environ)
            self.terminal.step("browser", "installed" if found else error, time.monotonic() - started, bad=not found)
        environ.pop("CHROMIUM", None)
        if found:
            environ["CHROMIUM"] = found
        elif environment.truth(environ.get("CI", "")):
            self.failed.append("browser")
            self.terminal.step("browser", f"missing: {browser.HOW_TO}", bad=True)
        else:
            self.terminal.step("browser", f"the browser tests are skipped: {browser.HOW_TO}")

    async def _check_types(self, environ: dict[str, str]) -> None:
        await self._check("mypy", environ, sys.executable, "-m", "mypy", ".")

    async def _lint(self, environ: dict[str, str]) -> None:
        python = sys.executable
        manage = (python, str(ROOT / "manage.py"))
        templates = [str(path) for app in environment.apps() for path in app.rglob("templates/**/*.html")]
        await self._check("ruff check", environ, python, "-m", "ruff", "check")
        await self._check("ruff format", environ, python, "-m", "ruff", "format", "--check")
        await self._check("import contracts", environ, python, "-c", LINT_IMPORTS)
        if templates:
            await self._check("templates", environ, str(Path(python).with_name("djade")), "--check", *templates)
        await self._check("protected files", environ, *manage, "protected_check")
        await self._check("migrations", environ, *manage, "makemigrations", "--check", "--dry-run")
        deployed = {**environ, **DEPLOYED}
        await self._check("check --deploy", deployed, *manage, "check", "--deploy", "--fail-level", "WARNING")

    async def _check(self, name: str, environ: dict[str, str], *argv: str) -> None:
        """Run one linter; show its words when it fails, and go on."""
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environ,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        bad = process.returncode != 0
        self.terminal.step(name, "FAILED" if bad else "ok", time.monotonic() - started, bad=bad)
        if bad:
            self.failed.append(name)
            self.terminal.say(output.decode(errors="replace").rstrip())

    async def _pytest(self, environ: dict[str, str]) -> int:
        """Run pytest in the foreground: Ctrl-C and a debugger reach it."""
        arguments = self.arguments or IN_PARALLEL
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pytest", *arguments, env=environ, cwd=ROOT
        )
        try:
            return await process.wait()
        except asyncio.CancelledError:
            if not sys.stdin.isatty():  # a terminal has told it already; told twice, it would leave its fixtures be
                process.send_signal(signal.SIGINT)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 30)
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise

    def _environment(self) -> dict[str, str]:
        """What linters, pytest and all that they start find: our own servers, whatever the caller's shell holds."""
        values = {
            "TEST_ADMIN_DATABASE_URL": self.postgres.url("postgres"),
            "DATABASE_URL": self.postgres.url("app"),
            "ADMIN_DATABASE_URL": self.postgres.url("owner"),
            "DATABASE_BACKUP_URL": self.postgres.url("backup"),
            "REDIS_URL": self.valkey.url,
            "SECRET_KEY": secrets.token_urlsafe(50),
            "DEBUG": "true",
            "LEADENGINE_DATA_DIR": str(self.data_dir),
            "LEADENGINE_PROCESS": "command",
            **dict.fromkeys(("TMPDIR", "PYTEST_DEBUG_TEMPROOT"), str(self.temporary)),
            **dict.fromkeys(("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(self.temporary / "home")),
        }
        shell = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**shell, **values}  # hundreds of processes are started: none should compile what another has compiled
