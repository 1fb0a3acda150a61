"""Starts child processes, shows their lines, starts dead ones again, and ends all of them in order.

Every child leads a session of its own, so that Ctrl-C reaches only the supervisor and a child's own children can be
ended with it. The supervisor runs on one event loop in the main thread: Linux ends a child together with the *thread*
that started it (die_with_parent), and that thread must live as long as the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leadengine.embedded.environment import write_private
from leadengine.embedded.processes import PARENT, PRESENT_USER, Account, UnableToStart, end, identity, send
from leadengine.embedded.terminal import Terminal

FIRST_DELAY, LONGEST_DELAY, STEADY = 0.2, 5.0, 10.0  # seconds
LINE_LIMIT = 65_536  # bytes; a longer line is cut
LOG_LIMIT = 5_000_000  # bytes of a server's log file that are kept over a start
# Order of the end, and how long each waits for its own. At the workers' end the web and beat processes must have gone
# too.
LIMIT = 9.4  # seconds that all stages take together at most
STAGES = (("web", 0.3), ("beat", 0.1), ("worker", 8.0), ("simulator", 0.8), ("valkey", 0.2), ("postgres", 0.5))


@dataclass(frozen=True)
class Program:
    """What to run. `role` is its place in STAGES; with `log` its output goes to that file instead of the terminal."""

    name: str
    role: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    account: Account = PRESENT_USER
    fds: tuple[int, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    log: Path | None = None


@dataclass
class Child:
    """A supervised program and its present process."""

    program: Program
    process: asyncio.subprocess.Process | None = None
    deaths: int = 0
    started: float = 0.0
    output: int = -1
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=100))
    wrote: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The number of the present, or last, process."""
        return self.process.pid if self.process else 0

    @property
    def alive(self) -> bool:
        """Whether a process runs now."""
        return self.process is not None and self.process.returncode is None

    async def said(self, text: str, patience: float) -> None:
        """Return when the child has written a line that holds `text`.

        Raises: UnableToStart when it has not within `patience` seconds, or died three times.
        """
        deadline = time.monotonic() + patience
        while not any(text in line for line in self.lines):
            if self.deaths > 2 or time.monotonic() > deadline:
                raise UnableToStart(f"{self.program.name} does not start: {self.last_words()}")
            self.wrote.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wrote.wait(), 0.1)

    def last_words(self) -> str:
        """Say why it may have died: the end of its log, or where its lines are."""
        if not self.program.log:
            return "its last lines are above"
        return "\n".join(self.program.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])


class Supervisor:
    """All children of one `up`. `ledger` is a file that lets the next start find those that outlived this one."""

    def __init__(self, terminal: Terminal, ledger: Path) -> None:
        self.terminal = terminal
        self.ledger = ledger
        self.children: list[Child] = []
        self.stopping = False
        self.hurry = asyncio.Event()

    async def start(self, program: Program) -> Child:
        """Start a program and keep it running until stop()."""
        child = Child(program)
        if program.log:
            oversized = program.log.exists() and program.log.stat().st_size > LOG_LIMIT
            child.output = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            if oversized:
                os.truncate(program.log, 0)
        else:
            # One pipe for all lives of the child, and not one of asyncio's, whose wait() may last until grandchildren
            # have closed it too.
            reader, child.output = os.pipe()
            child.tasks.append(asyncio.create_task(self._relay(child, reader)))
        self.children.append(child)
        await self._spawn(child)
        child.tasks.append(asyncio.create_task(self._keep(child)))
        return child

    async def run(self, program: Program) -> None:
        """Run a program to its end, silently.

        Raises: UnableToStart with its output when it fails.
        """
        process = await self._create(program, asyncio.subprocess.PIPE)
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            send(process.pid, signal.SIGKILL, group=True)
            await process.wait()
            raise
        if process.returncode:
            raise UnableToStart(
                f"{output.decode(errors='replace').rstrip()}\n{program.name} {verdict(process.returncode)}."
            )

    async def stop(self) -> None:
        """End all children in the order of STAGES, within 10 s; at once when `hurry` is set."""
        self.stopping = True
        deadline = time.monotonic() + LIMIT
        told: list[Child] = []
        for role, patience in STAGES:
            if role == "postgres":  # what the others left of the time: its last checkpoint may need it
                patience = max(patience, deadline - time.monotonic())
            members = [child for child in self.children if child.program.role == role]
            for child in members:
                if child.alive:
                    send(child.pid, child.program.stop_signal)
            told += members
            last = role not in {"web", "beat"}
            await self._gone(told if last else members, patience)
            if last:
                self._kill([child for child in told if child.alive])
        await self._gone(told, 2)
        for child in self.children:
            os.close(child.output)
            _, late = await asyncio.wait(child.tasks, timeout=0.2) if child.tasks else ((), ())
            for task in late:
                task.cancel()
        self.ledger.unlink(missing_ok=True)

    async def _gone(self, children: Sequence[Child], patience: float) -> None:
        """Return when all have ended, when `patience` seconds have passed, or when told to hurry."""
        ends = [asyncio.create_task(child.process.wait()) for child in children if child.process and child.alive]
        if ends:
            hurry = asyncio.ensure_future(self.hurry.wait())
            all_ended = asyncio.ensure_future(asyncio.wait(ends, timeout=patience))
            await asyncio.wait({all_ended, hurry}, return_when=asyncio.FIRST_COMPLETED)
            for task in (hurry, all_ended, *ends):
                task.cancel()

    def _kill(self, children: Sequence[Child]) -> None:
        for child in children:
            self.terminal.child(child.program.name, "did not end in time: killed")
            send(child.pid, signal.SIGKILL, group=True)

    async def _keep(self, child: Child) -> None:
        """Start the child again whenever it ends."""
        delay = FIRST_DELAY
        while child.process and not self.stopping:
            code = await child.process.wait()
            send(child.pid, signal.SIGKILL, group=True)  # what the dead process left behind
            if self.stopping:
                return
            child.deaths += 1
            if time.monotonic() - child.started > STEADY:
                delay = FIRST_DELAY
            self.terminal.child(child.program.name, f"{verdict(code)}: starting it again in {delay:.1f} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY)
            await self._revive(child)

    async def _revive(self, child: Child) -> None:
        """Start the child's program again, however often the system refuses to (no memory, no process left)."""
        while not self.stopping:
            try:
                await self._spawn(child)
            except UnableToStart as error:
                self.terminal.child(child.program.name, str(error))
                await asyncio.sleep(LONGEST_DELAY)
            else:
                return

    async def _spawn(self, child: Child) -> None:
        child.process = await self._create(child.program, child.output)
        child.started = time.monotonic()
        if self.stopping:  # stop() began while the process was being made, and has not seen it
            send(child.pid, child.program.stop_signal)
        entries = {
            each.program.name: (each.pid, identity(each.pid), int(each.program.stop_signal)) for each in self.children
        }
        write_private(self.ledger, json.dumps(entries))

    async def _create(self, program: Program, output: int) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *program.argv,
                env={**program.env, PARENT: str(os.getpid())},
                cwd=program.cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=program.fds,
                user=program.account.uid,
                group=program.account.gid,
                extra_groups=program.account.extra_groups,
            )
        except OSError as error:
            raise UnableToStart(f"{program.name} cannot be run: {error}.") from error

    async def _relay(self, child: Child, descriptor: int) -> None:
        """Show each line that the child writes."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        rest = b""
        try:
            while chunk := await reader.read(LINE_LIMIT):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) >= LINE_LIMIT:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._show(child, line.decode(errors="replace").rstrip("\r"))
        finally:
            transport.close()

    def _show(self, child: Child, line: str) -> None:
        child.lines.append(line)
        child.wrote.set()
        self.terminal.child(child.program.name, line)


def end_leftovers(ledger: Path) -> int:
    """End the processes that a killed supervisor left running; return how many there were."""
    if not ledger.exists():
        return 0
    entries = json.loads(ledger.read_text(encoding="utf-8")).values()
    alive = [(pid, text, signal.Signals(number)) for pid, text, number in entries if text and identity(pid) == text]
    end(alive, patience=5)
    ledger.unlink()
    return len(alive)


def verdict(code: int) -> str:
    """Say how a process ended."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
