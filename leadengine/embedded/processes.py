"""Facts about processes that must hold after a crash: who is alive, who holds a directory, which port is free."""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LINUX = sys.platform == "linux"
PARENT = "LEADENGINE_PARENT"  # pid of the supervisor, for children that must not outlive it
# Below the range that systems hand out to outgoing connections (32768 on Linux, 49152 on macOS): a client that keeps
# trying a port of that range while its server is down can connect to itself and take the port away.
PORTS = range(20_000, 32_768)


class UnableToStart(Exception):
    """Something that `up` or `test` needs cannot be had. The message is a sentence that says what to do."""


@dataclass(frozen=True)
class Account:
    """The operating system's user that a program runs as; without numbers, the present one."""

    uid: int | None = None
    gid: int | None = None

    def may(self, test: str, path: Path) -> bool:
        """Ask the system itself, so that modes, access lists and mounts all count. `test` is -x, -r, -d …"""
        return not subprocess.run(
            ["/bin/sh", "-c", 'test "$0" "$1"', test, str(path)],
            user=self.uid,
            group=self.gid,
            extra_groups=self.extra_groups,
            cwd="/",
            check=False,
        ).returncode

    @property
    def extra_groups(self) -> list[int] | None:
        """For subprocess: another user gets none of our groups."""
        return None if self.uid is None else []


PRESENT_USER = Account()


def identity(pid: int) -> str | None:
    """Return a text that only this very process has, or None when no process has that number any more.

    Numbers are used again, after a restart of a container even at once: a number alone proves nothing.
    """
    if not LINUX:
        ps = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return ps.stdout.strip() or None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name may hold spaces and brackets
    if fields[0] in "ZX":
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()}:{fields[19]}"


def command(pid: int) -> str:
    """Return the command line of a process, or nothing."""
    if not LINUX:
        ps = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return ps.stdout.strip()
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def end(processes: Collection[tuple[int, str, signal.Signals]], patience: float) -> None:
    """Signal processes, given as (pid, identity, signal); kill with their groups those there after `patience` s."""
    for pid, _, number in processes:
        send(pid, number)
    wait_until(lambda: not any(identity(pid) == text for pid, text, _ in processes), patience)
    for pid, text, _ in processes:
        if identity(pid) == text:
            send(pid, signal.SIGKILL, group=True)
    wait_until(lambda: not any(identity(pid) == text for pid, text, _ in processes), 5)


def send(pid: int, number: signal.Signals, *, group: bool = False) -> None:
    """Signal a process, or the group it leads, that may have ended meanwhile."""
    try:
        (os.killpg if group else os.kill)(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:  # macOS answers so for a group that holds zombies only
        if not group:
            raise


def wait_until(done: Callable[[], bool], patience: float) -> bool:
    """Return whether `done` came true within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def hold(path: Path, holder: str) -> TextIO:
    """Lock a file for as long as the returned file is open, and write into it who holds it.

    Raises: UnableToStart with the words of the present holder.
    """
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        present = file.read().strip() or "another process"
        file.close()
        raise UnableToStart(
            f"{path.parent} is in use by {present}: stop it, or name another directory with --data-dir."
        ) from error
    file.truncate(0)
    file.write(holder)
    file.flush()
    return file


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` when nobody listens there, else a free port of 127.0.0.1."""
    tries = 0
    while preferred is None or not _is_free(preferred):
        preferred = secrets.choice(PORTS)
        tries += 1
        if tries > 1000:
            raise UnableToStart(f"No port between {PORTS[0]} and {PORTS[-1]} is free: close some servers.")
    return preferred


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
        return True


def die_with_parent() -> None:
    """Have Linux end this process gently when the supervisor that started it is killed.

    The supervisor's number is taken out of the environment: it is not the parent of what this process starts.
    """
    parent = os.environ.pop(PARENT, "")
    if not parent or not LINUX:
        return
    set_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
    ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before we asked
        sys.exit(1)
