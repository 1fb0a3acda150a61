"""The whole product from one command: what `manage.py up` does, in order (spec/run.md).

Contract with the commands that are started here, by name only:
- every process finds its whole configuration in its environment, and LEADENGINE_PROCESS says what it is:
  web, worker, sender, beat, simulator, command;
- `migrate`, `collectstatic --noinput`, `seed_demo` end with 0 and print no secret;
- `simulate_broker --port P --webhook-url U --profile demo --state-file F` prints `simulator ready` when it listens;
- `worker --name N [--queues Q]` and `beat` run until SIGTERM and put back what they have not done;
- GET /ready answers 200.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leadengine.embedded import engines, environment, serve
from leadengine.embedded.environment import ROOT, State
from leadengine.embedded.postgres import EmbeddedPostgres
from leadengine.embedded.processes import UnableToStart, free_port
from leadengine.embedded.supervisor import Child, Program, Supervisor, end_leftovers
from leadengine.embedded.terminal import Terminal
from leadengine.embedded.valkey import EmbeddedValkey

SENDING_QUEUE = "whatsapp.send.messages"
SERVING = ("web", "worker", "sender", "beat")
WEBHOOK = "/api/integrations/whatsapp/webhook"
DEFAULT_PORT = 8000
EVERYWHERE = "0.0.0.0"  # noqa: S104
DEFAULT_COMPAT_PORTS = "8080,3000"
PATIENCE = 120  # seconds for a process to become ready on a slow machine
PATIENCE_WITH_WORKERS = 10


@dataclass(frozen=True)
class Options:
    """The command line of `up`."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int | None = None
    web: int = 1
    workers: int = 1
    server: str = "daphne"
    demo: bool = True
    simulator: bool = True
    once_ready: str = ""


class Launch:
    """One run of the product. Made with the data directory's lock held."""

    def __init__(self, options: Options, terminal: Terminal) -> None:
        """Listen, choose ports and secrets, and write run.env; start nothing yet.

        Raises: UnableToStart.
        """
        if missing := serve.missing_for(options.server):
            raise UnableToStart(missing)
        self.options = options
        self.terminal = terminal
        self.data_dir = options.data_dir
        if count := end_leftovers(self.data_dir / "processes.json"):  # first of all: they hold our ports
            terminal.step("left running before", f"{count} ended")
        self.state = State(self.data_dir)
        self.given = self.state.given(os.environ)
        self.sockets = [listen(options.host, self._port())]
        host, self.port = self.sockets[0].getsockname()
        self.address = f"http://{'127.0.0.1' if host == EVERYWHERE else host}:{self.port}"
        self.compat = self._compat_sockets()
        self.sockets += self.compat
        if host != EVERYWHERE and not host.startswith("127."):
            self.sockets.append(listen("127.0.0.1", self.port))
        self.host = host if host.startswith("127.") else "127.0.0.1"  # where we and the simulator ask
        self.postgres = None if "DATABASE_URL" in self.given else EmbeddedPostgres(self.data_dir, self.state)
        self.valkey = None if "REDIS_URL" in self.given else EmbeddedValkey(self.data_dir, self.state)
        debug = environment.truth(self.given.get("DEBUG", "true"))
        self.simulator_port = 0
        if options.simulator and debug and "WHATSAPP_BROKER_URL" not in self.given:
            section = self.state.section("simulator")
            self.simulator_port = section["port"] = free_port(section.get("port"))
        self.run_env = environment.build(
            self.given, self.state, self._computed(), demo=options.demo, simulator=bool(self.simulator_port)
        )
        environment.write_env(self.data_dir / "run.env", self.run_env)
        for key in environment.RUN_ENV_KEYS:
            os.environ.pop(key, None)
        os.environ.update(self.run_env)
        self.supervisor = Supervisor(terminal, self.data_dir / "processes.json")
        self.simulated = asyncio.Event()

    async def run(self) -> int:
        """Start everything, and end everything when told to, when --once-ready has ended, or when the start failed.

        Returns the exit code. Raises: UnableToStart.
        """
        told = asyncio.Event()

        def stop() -> None:
            (self.supervisor.hurry if told.is_set() else told).set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        work = asyncio.create_task(self._work())
        waiting = asyncio.create_task(told.wait())
        try:
            await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            return 130 if self.options.once_ready else 0
        finally:
            waiting.cancel()
            started = time.monotonic()
            await self.supervisor.stop()
            self.terminal.step("stopped", "", time.monotonic() - started)

    async def _work(self) -> int:
        began = time.monotonic()
        shutil.rmtree(self.data_dir / "metrics", ignore_errors=True)
        (self.data_dir / "metrics").mkdir()
        await engines.start(self.supervisor, self.postgres, self.valkey)
        await engines.together(self._start_simulator(), self._start_product())
        self._welcome(time.monotonic() - began)
        if self.options.once_ready:
            return await self._once_ready()
        await asyncio.Event().wait()
        return 0

    async def _start_product(self) -> None:
        await engines.together(self._migrate(), self._collect_static())
        await self._seed()
        await self._start_processes()

    async def _migrate(self) -> None:
        files = [path for app in environment.apps() for path in app.rglob("migrations/*.py")]
        facts = self._facts(files)
        if self._done("migrate", facts):
            return
        with self.terminal.timed("database", "migrated"):
            await self.supervisor.run(self._command("migrate", "migrate"))
        self._stamp("migrate", facts)

    async def _collect_static(self) -> None:
        from django.conf import settings

        files = [path for app in environment.apps() for path in app.rglob("static/**/*") if path.is_file()]
        facts = _digest([*files, ROOT / "requirements" / "base.txt"], str(settings.STATIC_ROOT))
        if (Path(settings.STATIC_ROOT) / "staticfiles.json").exists() and self._done("static", facts):
            return
        with self.terminal.timed("static files", "collected"):
            await self.supervisor.run(self._command("collectstatic", "collectstatic", "--noinput"))
        self._stamp("static", facts)

    async def _start_simulator(self) -> None:
        if not self.simulator_port:
            self.simulated.set()
            return
        with self.terminal.timed("broker simulator"):
            state_file = self.data_dir / "simulator.json"
            arguments = [
                "--port",
                str(self.simulator_port),
                "--webhook-url",
                f"http://{self.host}:{self.port}{WEBHOOK}",
            ]
            arguments += ["--profile", "demo", "--state-file", str(state_file)]
            program = self._command("simulator", "simulate_broker", *arguments, process="simulator")
            child = await self.supervisor.start(program)
            await child.said("simulator ready", PATIENCE)
        self.simulated.set()

    async def _seed(self) -> None:
        if not self.options.demo:
            return
        files = [path for app in environment.apps() for path in app.rglob("seed_demo.py")]
        simulated = self.data_dir / "simulator.json"
        forgotten = self.simulator_port and not simulated.exists()  # the broker has lost its lines: make them anew
        demo = (f"{key}={value}" for key, value in self.run_env.items() if key.startswith(("DEMO_", "OUTSIDER_")))
        facts = self._facts(files, *demo)
        if not forgotten and self._done("seed", facts):
            return
        await self.simulated.wait()  # the demo's connections are made at the broker too
        with self.terminal.timed("demo data"):
            await self.supervisor.run(self._command("seed_demo", "seed_demo"))
        self._stamp("seed", facts)

    async def _start_processes(self) -> None:
        with self.terminal.timed("web, workers, beat"):
            web = [await self.supervisor.start(self._web(name)) for name in _numbered("web", self.options.web)]
            for number in range(self.options.workers):
                name = f"worker-{number + 1}"
                await self.supervisor.start(self._command(name, "worker", "--name", name, process="worker"))
            sending = ("--name", "sender", "--queues", SENDING_QUEUE)
            await self.supervisor.start(self._command("sender", "worker", *sending, process="sender"))
            await self.supervisor.start(self._command("beat", "beat", process="beat"))
            await self._wait_ready(web)

    async def _wait_ready(self, web: list[Child]) -> None:
        deadline = time.monotonic() + PATIENCE
        while (status := (await get(self.host, self.port, "/ready"))[0]) != 200:
            if time.monotonic() > deadline or any(child.deaths > 2 for child in web):
                answer = f"GET /ready answers {status}" if status else "it does not answer"
                raise UnableToStart(f"The web process does not become ready ({answer}): {web[0].last_words()}.")
            await asyncio.sleep(0.2)
        # Whoever looks at /healthz next finds all parts up. A worker that cannot start does not hold up the rest.
        deadline = time.monotonic() + PATIENCE_WITH_WORKERS
        while b'"ok": false' in (await get(self.host, self.port, "/healthz"))[1]:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)

    async def _once_ready(self) -> int:
        """Run the command of --once-ready in the foreground; return its exit code."""
        process = await asyncio.create_subprocess_shell(self.options.once_ready, env=self._environment("command"))
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 2)
            raise
        return code if code >= 0 else 128 - code

    def _welcome(self, seconds: float) -> None:
        self.terminal.step("everything", "started", seconds)
        self.terminal.say(f"ready {self.address}")
        where = _short(self.data_dir / "run.env")
        lines = [f"Inbox      {self.address}/inbox/"]
        if self.options.demo:
            people = [self.run_env[f"DEMO_{who}_EMAIL"] for who in ("ADMIN", "SUPERVISOR", "AGENT", "AGENT2")]
            lines += [f"Sign in    {', '.join(people)}", f"Password   DEMO_PASSWORD in {where}"]
        self.terminal.say("\n" + "".join(f"  {line}\n" for line in [*lines, f"Settings   {where}"]))

    def _web(self, name: str) -> Program:
        descriptors = tuple(each.fileno() for each in self.sockets)
        arguments = [word for number in descriptors for word in ("--fd", str(number))]
        argv = [sys.executable, "-m", "leadengine.embedded.serve", "--server", self.options.server, *arguments]
        return Program(name, "web", argv, self._environment("web"), ROOT, fds=descriptors)

    def _command(self, name: str, *arguments: str, process: str = "command") -> Program:
        role = "worker" if process == "sender" else process
        argv = [sys.executable, str(ROOT / "manage.py"), *arguments]
        return Program(name, role, argv, self._environment(process), ROOT)

    def _environment(self, process: str) -> dict[str, str]:
        extra = {"PROMETHEUS_MULTIPROC_DIR": str(self.data_dir / "metrics")} if process in SERVING else {}
        return {**os.environ, "LEADENGINE_PROCESS": process, "PYTHONUNBUFFERED": "1", **extra}

    def _computed(self) -> dict[str, str]:
        """The addresses of this start."""
        values = {
            "BASE_URL": self.address,
            "PUBLIC_BASE_URL": self.address,
            "PORT": str(self.port),
            "COMPAT_PORTS": ",".join(str(each.getsockname()[1]) for each in self.compat),
            "LEADENGINE_DATA_DIR": str(self.data_dir),
        }
        if self.postgres:
            values["DATABASE_URL"] = self.postgres.url("app")
            values["ADMIN_DATABASE_URL"] = self.postgres.url("owner")
            values["DATABASE_BACKUP_URL"] = self.postgres.url("backup")
        if self.valkey:
            values["REDIS_URL"] = self.valkey.url
        if self.simulator_port:
            values["WHATSAPP_BROKER_URL"] = f"http://127.0.0.1:{self.simulator_port}"
            values["WHATSAPP_MEDIA_ALLOWED_HOSTS"] = f"127.0.0.1:{self.simulator_port}"  # its files lie there, too
        return values

    def _port(self) -> int:
        if self.options.port is not None:
            return self.options.port
        word = self.given.get("PORT", str(DEFAULT_PORT))
        if not word.isdigit():
            raise UnableToStart(f"PORT must be a number, not {word!r}: correct it and start again.")
        return int(word)

    def _compat_sockets(self) -> list[socket.socket]:
        """Listen where the seeds' commands look, as far as those ports are free."""
        words = {**environment.read_env(ROOT / ".env"), **os.environ}.get("COMPAT_PORTS", DEFAULT_COMPAT_PORTS)
        sockets: list[socket.socket] = []
        busy: list[str] = []
        for word in words.replace(",", " ").split():
            try:
                sockets.append(listen(self.options.host, int(word)))
            except (UnableToStart, ValueError):
                if word != str(self.port):
                    busy.append(word)
        if busy:
            self.terminal.step("also listening", f"not on {', '.join(busy)}: in use")
        return sockets

    def _done(self, step: str, facts: str) -> bool:
        return self.state.section("stamps").get(step) == facts

    def _stamp(self, step: str, facts: str) -> None:
        self.state.section("stamps")[step] = facts
        self.state.save()

    def _facts(self, files: Iterable[Path], *words: str) -> str:
        """Fold what a step depends on into one word that is never the same for a database we know nothing of."""
        cluster = self.postgres.cluster if self.postgres else secrets.token_hex(8)
        return _digest([*files, ROOT / "requirements" / "base.txt"], cluster, *words)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening IPv4 socket.

    Raises: UnableToStart when the port is taken or not ours to take.
    """
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
        server.listen(1024)
    except (OSError, OverflowError) as error:
        server.close()
        raise UnableToStart(
            f"Cannot listen on {host}:{port} ({getattr(error, 'strerror', None) or error}): "
            "end what uses it, or choose others with --host and --port."
        ) from error
    return server


async def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Return the status that a GET is answered with, 0 when it is not, and all that came."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read()
                return int(answer.split(None, 2)[1]), answer
            finally:
                writer.close()
    except (OSError, TimeoutError, IndexError):
        return 0, b""


def check_settings() -> None:
    """Load the settings with the environment that all processes will have. Raises: ConfigurationError."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "leadengine.settings")
    from django.conf import settings

    settings.INSTALLED_APPS  # noqa: B018


def _digest(files: Iterable[Path], *words: str) -> str:
    """Fold names, sizes and times of files into one word."""
    facts = [f"{path.relative_to(ROOT)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(files)]
    return hashlib.sha256("\n".join([*words, *facts]).encode()).hexdigest()


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}-{number + 1}" for number in range(count)]


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
