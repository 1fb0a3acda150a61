"""The load generator against the constant server, both as the processes that they are."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from leadengine.embedded import serve
from leadengine.operations.bench.load import Plan, Result
from tests.operations.conftest import ROOT, eventually


def run(plan: Plan) -> Result:
    words = [sys.executable, "-m", "leadengine.operations.bench.load"]
    done = subprocess.run(words, input=json.dumps(asdict(plan)), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return Result(**json.loads(done.stdout))


@pytest.fixture(params=serve.SERVERS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    if serve.missing_for(request.param):
        pytest.skip(f"{request.param} is not installed")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        words = ["--server", request.param, "--fd", str(listener.fileno())]
        server = subprocess.Popen(
            [sys.executable, "-m", "leadengine.operations.bench.constant", *words],
            cwd=ROOT, pass_fds=(listener.fileno(),),
        )  # fmt: skip
        number = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", number), timeout=20) as probe:
            probe.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            assert probe.recv(12) == b"HTTP/1.1 204"
        yield number
        server.terminate()
        server.wait(10)


def test_as_fast_as_it_can(port: int) -> None:
    result = run(Plan("constant", port, ["a"], 0.5, 1, connections=4))
    assert set(result.statuses) == {"204"}
    assert result.sent > 100
    assert 0.5 <= result.seconds < 2
    assert sum(result.statuses.values()) == result.sent + result.warm_up
    assert 0 < result.p50 <= result.p99


def test_at_a_rate(port: int) -> None:
    result = run(Plan("path", port, ["a"], 1, 1, connections=4, rate=50))
    assert result.statuses == {"204": 100}
    assert 0.9 < result.seconds < 2


def test_a_server_that_hangs_up_is_counted() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        words = [sys.executable, "-m", "leadengine.operations.bench.load"]
        plan = Plan("path", listener.getsockname()[1], ["a"], 0.2, 1, connections=1, rate=10)
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(asdict(plan)))
        process.stdin.close()
        listener.settimeout(20)
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                break
            connection.close()
            listener.settimeout(2)
        result = Result(**json.loads(process.stdout.read()))
        process.stdout.close()
        eventually(lambda: process.poll() is not None)
    assert result.statuses == {"0": 4}


def test_doors_at_a_rate(port: int) -> None:
    doors = [["key-1", "/api/tickets/1/messages"], ["key-2", "/api/tickets/2/messages"]]
    result = run(Plan("doors", port, [], 1, 1, connections=4, rate=50, doors=doors))
    assert result.statuses == {"204": 50}
    assert 0.9 < result.seconds < 2
    assert 0 < result.p50 <= result.p95 <= result.p99
