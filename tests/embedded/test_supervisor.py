from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from leadengine.embedded import supervisor as module
from leadengine.embedded.processes import UnableToStart, identity
from leadengine.embedded.supervisor import Program, Supervisor, end_leftovers
from leadengine.embedded.terminal import Terminal
from tests.embedded.conftest import eventually

ROOT = Path(__file__).resolve().parents[2]
STAY = "import time; print('here', flush=True); time.sleep(60)"
POLITE = """
    import signal, sys, time
    def end(*_):
        print("bye", flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    print("here", flush=True)
    time.sleep(60)
"""
STUBBORN = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("here", flush=True)
    time.sleep(60)
"""


def program(code: str, name: str = "one", role: str = "worker", environ: Mapping[str, str] | None = None) -> Program:
    return Program(name, role, [sys.executable, "-c", dedent(code)], {**os.environ, **(environ or {})}, ROOT)


class Watched(Supervisor):
    """A supervisor whose terminal is a text."""

    def __init__(self, ledger: Path) -> None:
        self.stream = io.StringIO()
        super().__init__(Terminal(self.stream), ledger)

    @property
    def lines(self) -> list[str]:
        """What it showed."""
        return self.stream.getvalue().splitlines()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "processes.json")


async def test_lines_carry_the_name(watched: Watched) -> None:
    child = await watched.start(program(POLITE, "web-1"))
    await child.said("here", 10)
    await watched.stop()
    assert watched.lines == ["web-1        | here", "web-1        | bye"]


async def test_dead_child_is_started_again_ever_more_slowly(watched: Watched) -> None:
    child = await watched.start(program("import sys; sys.exit(3)"))
    await eventually(lambda: child.deaths == 3)
    await watched.stop()
    assert watched.lines[:3] == [
        "one          | ended with exit code 3: starting it again in 0.2 s",
        "one          | ended with exit code 3: starting it again in 0.4 s",
        "one          | ended with exit code 3: starting it again in 0.8 s",
    ]


async def test_what_a_dead_child_left_behind_is_ended(watched: Watched, tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    code = f"""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open({str(note)!r}, "a").write(f"{{child.pid}} ")
        print("here", flush=True)
        time.sleep(60)
    """
    child = await watched.start(program(code))
    await child.said("here", 10)
    grandchild = int(note.read_text(encoding="ascii").split()[0])
    os.kill(child.pid, signal.SIGKILL)
    await eventually(lambda: identity(grandchild) is None)
    await eventually(lambda: len(note.read_text(encoding="ascii").split()) == 2)
    await watched.stop()


async def test_end_is_in_order(watched: Watched) -> None:
    roles = ("postgres", "valkey", "simulator", "worker", "beat", "web")
    for role in roles:
        await (await watched.start(program(POLITE, role, role))).said("here", 10)
    await watched.stop()
    assert [line.split()[0] for line in watched.lines if "bye" in line] == list(reversed(roles))
    assert not watched.ledger.exists()


async def test_stubborn_children_are_killed_within_ten_seconds(watched: Watched) -> None:
    children = [await watched.start(program(STUBBORN, role, role)) for role, _ in module.STAGES]
    await asyncio.gather(*(child.said("here", 20) for child in children))
    started = time.monotonic()
    await watched.stop()
    assert 8 < time.monotonic() - started < 10
    assert not any(child.alive for child in children)
    killed = [line.split()[0] for line in watched.lines if line.endswith("did not end in time: killed")]
    assert sorted(killed) == sorted(role for role, _ in module.STAGES)


async def test_second_ctrl_c_hurries(watched: Watched) -> None:
    child = await watched.start(program(STUBBORN))
    await child.said("here", 10)
    started = time.monotonic()
    stopping = asyncio.create_task(watched.stop())
    await asyncio.sleep(0)
    watched.hurry.set()
    await stopping
    assert time.monotonic() - started < 3


async def test_stop_while_a_child_is_about_to_come_back(watched: Watched) -> None:
    child = await watched.start(program("import sys; sys.exit(1)"))
    await eventually(lambda: child.deaths == 2)
    started = time.monotonic()
    await watched.stop()
    assert time.monotonic() - started < 1
    assert not child.alive


async def test_step_that_fails_says_what_it_said(watched: Watched) -> None:
    await watched.run(program("print('fine')"))
    with pytest.raises(UnableToStart, match=r"(?s)no such table.*migrate ended with exit code 4"):
        await watched.run(program("import sys; print('no such table'); sys.exit(4)", "migrate"))
    with pytest.raises(UnableToStart, match="cannot be run"):
        await watched.run(Program("gone", "command", ["/nowhere"], {}, ROOT))
    assert watched.lines == []


async def test_long_lines_are_cut_and_bytes_survive(watched: Watched) -> None:
    code = """
        import sys
        sys.stdout.buffer.write(b"x" * 200_000 + b"\\n\\xff\\xfe end\\n")
        sys.stdout.flush()
        import time; time.sleep(60)
    """
    child = await watched.start(program(code))
    await child.said("end", 10)
    await watched.stop()
    assert sum(line.count("x") for line in watched.lines) == 200_000
    assert max(map(len, watched.lines)) < 150_000


async def test_children_do_not_get_the_terminals_ctrl_c(watched: Watched) -> None:
    child = await watched.start(program(STAY))
    await child.said("here", 10)
    assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
    await watched.stop()


SUPERVISOR = """
    import asyncio, io, sys
    from pathlib import Path
    from leadengine.embedded.supervisor import Program, Supervisor
    from leadengine.embedded.terminal import Terminal

    async def main():
        supervisor = Supervisor(Terminal(), Path(sys.argv[1]))
        for name in ("tied", "loose"):
            tie = "from leadengine.embedded.processes import die_with_parent; die_with_parent()\\n" * (name == "tied")
            code = tie + "import time; print('here', flush=True); time.sleep(60)"
            child = await supervisor.start(Program(name, "worker", [sys.executable, "-c", code], {}, Path.cwd()))
            await child.said("here", 20)
        print("both", flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
"""


def test_killed_supervisor_leaves_nothing_for_the_next_start(tmp_path: Path) -> None:
    ledger = tmp_path / "processes.json"
    command = [sys.executable, "-c", dedent(SUPERVISOR), str(ledger)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while process.stdout.readline() != "both\n":
            assert process.poll() is None
        tied, loose = (entry[0] for entry in json.loads(ledger.read_text(encoding="utf-8")).values())
        assert identity(tied)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while identity(tied) and time.monotonic() < deadline:  # Linux ends it with its parent
            time.sleep(0.02)
        assert not identity(tied)
        assert identity(loose)
        assert end_leftovers(ledger) == 1
        assert not identity(loose)
        assert not ledger.exists()
        process.stdout.close()


def test_numbers_that_others_have_now_are_left_alone(tmp_path: Path) -> None:
    ledger = tmp_path / "processes.json"
    ledger.write_text(json.dumps({"one": [os.getppid(), "another boot:1", 15], "two": [4194303, None, 15]}))
    assert end_leftovers(ledger) == 0
    assert identity(os.getppid())
    assert end_leftovers(ledger) == 0
