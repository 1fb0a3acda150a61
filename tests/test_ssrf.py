"""The guard: refused by looks, refused by what a name resolves to, and connected to what was checked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from leadengine import ssrf
from leadengine.ssrf import (
    Blocked,
    Gate,
    Limits,
    TimedOut,
    TooManyRedirects,
    Unreachable,
    is_public,
    look_up,
    opened,
    post,
    require_public,
)


@contextmanager
def serving(answer: Any) -> Iterator[str]:
    """A server on loopback; `answer(path)` gives (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.path, self.headers)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(url: str, *allowed: str) -> tuple[int, bytes]:
    with opened(url, Gate(frozenset(allowed))) as answer:
        return answer.status, b"".join(answer.chunks)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",  # noqa: S104
        "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
        "64:ff9b:1::a9fe:a9fe", "::127.0.0.1", "::ffff:0:127.0.0.1", "fec0::1", "4000::1", "5f00::1", "3fff::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "157.240.12.53", "2606:4700::1111", "64:ff9b::101:101"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/", "https://169.254.169.254/latest", "https://127.0.0.1/", "https://[::1]/",
        "https://localhost/", "https://redis/", "https://x.localhost/", "https://metadata.google.internal/",
        "http://mmg.whatsapp.net/x", "ftp://mmg.whatsapp.net/x", "file:///etc/passwd", "https://me:you@a.test/",
        "https://a.test:99999/", "https://[::1", "https:///x", "", "//mmg.whatsapp.net/x", "gopher://a.test/",
    ],
)  # fmt: skip
def test_refused_by_looks_without_asking_anybody(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("looked up"))
    with pytest.raises(Blocked) as caught:
        get(url)
    assert caught.value.hop == 0


@pytest.mark.parametrize("name", ["127.1", "0x7f.1", "2130706433.", "127.0.0.1.", "0177.0.0.1"])
def test_a_name_that_resolves_to_loopback_is_refused(name: str) -> None:
    for look in (lambda: get(f"https://{name}/"), lambda: require_public(f"https://{name}/")):
        with pytest.raises(Blocked):
            look()


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, limits = threading.Event(), Limits(connect=1, read=1, total=0.2)
    monkeypatch.setattr(ssrf, "NAME_SECONDS", 0.2)

    def hang(*_: Any, **__: Any) -> list[Any]:
        answers.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    calls: list[Any] = [
        lambda url: post(url, Gate(), body=b"", headers={}, limits=limits, most_bytes=1), require_public,
        lambda url: look_up(url, Gate()), get,
    ]  # fmt: skip
    try:
        for call in calls:
            began = time.monotonic()
            with pytest.raises(TimedOut):
                call("https://slow.example.test/")
            assert time.monotonic() - began < 2
    finally:
        answers.set()


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssrf, "_resolve", lambda *_: ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(Blocked):
        get("https://cdn.example.test/")


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when it is checked and loopback when it is called (rebinding)."""
    asked: list[str] = []
    called: list[tuple[str, int]] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        address = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> Any:
        called.append(address)
        raise OSError("no route")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    with pytest.raises(Unreachable):
        get("https://rebinding.example.test/x")
    assert (asked, called) == (["rebinding.example.test"], [("93.184.215.14", 443)])


def test_an_allowed_host_may_be_private_and_http_but_only_on_its_port() -> None:
    with serving(lambda path, headers: (200, {}, f"{path} {headers['Host']}".encode())) as host:
        assert get(f"http://{host}/a?b=1", host) == (200, f"/a?b=1 {host}".encode())
        assert get(f"http://{host}/a", "127.0.0.1")[0] == 200
        for allowed in ("127.0.0.1:1", "127.0.0.2"):
            with pytest.raises(Blocked):
                get(f"http://{host}/", allowed)


@pytest.mark.parametrize("where", ["http://169.254.169.254/", "https://127.1/", "//169.254.169.254/x", "file:///etc/x"])
def test_a_redirect_passes_the_same_gate(where: str) -> None:
    with serving(lambda *_: (302, {"Location": where}, b"")) as host, pytest.raises(Blocked) as caught:
        get(f"http://{host}/", host)
    assert caught.value.hop == 1


def test_three_redirects_are_followed_and_the_fourth_is_not() -> None:
    def answer(path: str, _: Any) -> Any:
        left = int(path[1:])
        return (302, {"Location": f"/{left - 1}"}, b"") if left else (200, {}, b"here")

    with serving(answer) as host:
        assert get(f"http://{host}/3", host) == (200, b"here")
        with pytest.raises(TooManyRedirects):
            get(f"http://{host}/4", host)


def test_an_answer_that_breaks_off_is_unreachable() -> None:
    with serving(lambda *_: (200, {"Content-Length": "100"}, b"x" * 10)) as host, pytest.raises(Unreachable):
        get(f"http://{host}/", host)
    with pytest.raises(Unreachable):
        get(f"http://{host}/", host)  # nobody listens any more
