from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from leadengine.embedded import serve
from tests.embedded.stand_in import clean_environment

SERVERS = [name for name in serve.SERVERS if not serve.missing_for(name)]


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Two listening sockets, as `up` opens for its port and one of COMPAT_PORTS."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        yield [one, two]


def serve_them(product: Path, sockets: list[socket.socket], server: str) -> subprocess.Popen[bytes]:
    descriptors = [each.fileno() for each in sockets]
    words = [word for number in descriptors for word in ("--fd", str(number))]
    return subprocess.Popen(
        [sys.executable, "-m", "leadengine.embedded.serve", "--server", server, *words],
        cwd=product,
        env={**clean_environment(), "LEADENGINE_DATA_DIR": str(product)},
        pass_fds=descriptors,
    )


def pid_behind(listening: socket.socket) -> int:
    host, port = listening.getsockname()
    with urllib.request.urlopen(f"http://{host}:{port}/", timeout=30) as answer:
        return int(answer.read())


@pytest.mark.parametrize("server", SERVERS)
def test_connections_wait_for_the_next_process(product: Path, sockets: list[socket.socket], server: str) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        with closing(socket.create_connection(sockets[0].getsockname())) as early:
            early.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with serve_them(product, sockets, server) as process:
                early.settimeout(30)
                assert early.recv(12) == b"HTTP/1.1 200"
                assert pid_behind(sockets[0]) == pid_behind(sockets[1]) == process.pid
                process.send_signal(number)
                process.wait(10)


def test_processes_share_the_port(product: Path, sockets: list[socket.socket]) -> None:
    with serve_them(product, sockets, "daphne") as one, serve_them(product, sockets, "daphne") as two:
        seen = {pid_behind(sockets[0]) for _ in range(10)}
        assert seen <= {one.pid, two.pid}
        one.kill()
        one.wait()
        assert {pid_behind(sockets[0]) for _ in range(5)} == {two.pid}
        two.terminate()


def test_missing_server_and_wrong_settings_are_sentences(product: Path, sockets: list[socket.socket]) -> None:
    blocked = "import sys; sys.modules['uvicorn'] = None; from leadengine.embedded import serve; print(serve.main())"
    words = ["--server", "uvicorn", "--fd", "0"]
    run = subprocess.run(
        [sys.executable, "-c", blocked, *words], cwd=product, capture_output=True, text=True, check=False
    )
    assert run.stdout.startswith("uvicorn with WebSocket support is not installed: run `")
    assert run.stderr == ""
    environ = {**clean_environment(), "LEADENGINE_DATA_DIR": str(product), "WHATSAPP_MODE": "http"}
    (product / "leadengine" / "asgi.py").write_text("import leadengine.settings\n")
    command = [sys.executable, "-m", "leadengine.embedded.serve", "--fd", "0"]
    run = subprocess.run(command, cwd=product, env=environ, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "WHATSAPP_MODE is set: remove it.\n")
