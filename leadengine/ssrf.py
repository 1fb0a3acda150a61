"""Calling what others name, without being led into our own network.

An address is refused by its looks first, then by what its name resolves to, and the connection goes to an address
that was checked: a name that answers differently the second time changes nothing. Each redirect passes the same gate.
The proxies of the environment are not used: behind one, nobody could say where a connection ends.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimedOut
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, TimeoutError

NAME_SECONDS, CONNECT_SECONDS, READ_SECONDS = 3, 5, 30
MOST_REDIRECTS = 3
MOST_ADDRESSES = 3  # of one name, tried in turn
CHUNK = 65_536
_REDIRECTS = {301, 302, 303, 307, 308}
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Nothing beside it was given out as unicast: what lies elsewhere is reserved, or an IPv4 address in a form of old.
_UNICAST = ipaddress.ip_network("2000::/3")
_EXAMPLES = ipaddress.ip_network("3fff::/20")  # for documentation; not in the tables of every Python
_NOT_CONNECTED = (NewConnectionError, ConnectTimeoutError)
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".localdomain", ".home.arpa")


class Blocked(Exception):
    """The address must not be called. `hop` is 0 for the address that was asked for, else the redirect's number."""

    def __init__(self, why: str, hop: int = 0) -> None:
        super().__init__(why)
        self.hop = hop


class Unreachable(Exception):
    """Nobody answered, or not to the end: worth another try."""


class TimedOut(Unreachable):
    """It took longer than it may."""


class TooManyRedirects(Exception):
    """The fourth redirect."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Which addresses may be called: https to public ones, and `allowed` (`host` or `host:port`) in any way.

    `anywhere`: every host is allowed (development).
    """

    allowed: frozenset[str] = field(default_factory=frozenset)
    anywhere: bool = False

    def check(self, url: str) -> Target:
        """Read an address and refuse it by its looks; nothing is looked up. Raises: Blocked."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip(".").lower(), parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise Blocked("not an address") from error
        if not host or parts.scheme not in _PORTS or parts.username is not None or parts.password is not None:
            raise Blocked("not a plain http(s) address")
        trusted = self.anywhere or host in self.allowed or f"{host}:{port}" in self.allowed
        if not trusted and parts.scheme != "https":
            raise Blocked("not https")
        if not trusted and is_private_host(host):
            raise Blocked("not public")
        return Target(url, parts, host, port, trusted)


@dataclass(frozen=True, slots=True)
class Target:
    """An address that passed the gate by its looks. `trusted` ones may be private."""

    url: str
    parts: SplitResult
    host: str
    port: int
    trusted: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """How many seconds a call may take: to connect, between two bytes, and altogether (0: as long as it goes on)."""

    connect: float = CONNECT_SECONDS
    read: float = READ_SECONDS
    total: float = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered to a POST, and the first bytes of the body."""

    status: int
    head: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers. `chunks` may raise Unreachable on the way."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


@contextmanager
def opened(url: str, gate: Gate) -> Iterator[Answer]:
    """GET an address, over at most three redirects. Raises: Blocked, Unreachable, TooManyRedirects."""
    for hop in range(MOST_REDIRECTS + 1):
        try:
            target = gate.check(url)
            addresses = _addresses(target)
        except Blocked as error:
            error.hop = hop
            raise
        with _call("GET", target, addresses) as response:
            where = response.headers.get("Location") if response.status in _REDIRECTS else None
            if where is None:
                yield Answer(response.status, response.headers, _chunks(response))
                return
        url = urljoin(url, where)
    raise TooManyRedirects


def post(url: str, gate: Gate, *, body: bytes, headers: Mapping[str, str], limits: Limits, most_bytes: int) -> Reply:
    """POST to an address; a redirect is not followed. An answer that breaks off in its body is an answer all the same.

    Raises: Blocked, TimedOut, Unreachable.
    """
    began = time.monotonic()
    target = gate.check(url)
    addresses = _addresses(target, min(NAME_SECONDS, limits.total))
    with _Watch(max(0.0, limits.total - (time.monotonic() - began))) as watch:
        try:
            with _call("POST", target, addresses, body=body, headers=headers, limits=limits, watch=watch) as response:
                if watch.ended:  # the end of the connection looks like the end of the headers
                    raise TimedOut("headers")
                return Reply(response.status, _head(response, most_bytes))
        except Unreachable as error:
            timed_out = isinstance(error.__cause__, TimeoutError) and not isinstance(
                error.__cause__, NewConnectionError
            )
            if watch.ended or timed_out:
                raise TimedOut(str(error)) from error
            raise


def look_up(url: str, gate: Gate) -> None:
    """Refuse an address as a call of it would be refused now, without calling. Raises: Blocked, Unreachable."""
    target = gate.check(url)
    if not target.trusted:
        _addresses(target)


def require_public(url: str) -> None:
    """Look a name up and refuse it when any address of it is not public. Raises: Blocked, Unreachable."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if not all(is_public(address) for address in _resolve_within(NAME_SECONDS, host, None)):
        raise Blocked("not public")


def is_private_host(host: str) -> bool:
    """Whether a host is plainly not public: a private or reserved address, or a name of this machine or network."""
    try:
        return not is_public(host)
    except ValueError:
        name = host.rstrip(".").lower()
        return name == "localhost" or name.endswith(_LOCAL_NAMES) or "." not in name


def is_public(address: str) -> bool:
    """Whether an IP address lies in the open internet, whatever form it is wrapped in. Raises: ValueError."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in _NAT64:
            inner = ipaddress.IPv4Address(found.packed[-4:])
        if inner is not None:
            return inner.is_global and not inner.is_multicast
        if found not in _UNICAST or found in _EXAMPLES:
            return False
    return found.is_global and not found.is_multicast


def _addresses(target: Target, seconds: float | None = None) -> list[str]:
    found = _resolve_within(NAME_SECONDS if seconds is None else seconds, target.host, target.port)
    if not target.trusted and not all(is_public(address) for address in found):
        raise Blocked("not public")
    return found[:MOST_ADDRESSES]


def _resolve_within(seconds: float, host: str, port: int | None) -> list[str]:
    """Look a name up, and wait so long for it: the resolver of the system knows no time-out of ours.

    Raises: TimedOut, Unreachable.
    """
    found: Future[list[str]] = Future()

    def resolve() -> None:
        try:
            found.set_result(_resolve(host, port))
        except BaseException as error:
            found.set_exception(error)

    # Not of a pool: its end would wait for the resolver's.
    threading.Thread(target=resolve, name="resolve", daemon=True).start()
    try:
        return found.result(seconds)
    except FutureTimedOut as error:
        raise TimedOut("the name was not found in time") from error


def _resolve(host: str, port: int | None) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise Unreachable("the name was not found") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@contextmanager
def _call(
    method: str,
    target: Target,
    addresses: list[str],
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    limits: Limits = Limits(),
    watch: _Watch | None = None,
) -> Iterator[urllib3.BaseHTTPResponse]:
    """The answer of the first address that takes the connection. A body is sent to one address only."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    named = host if target.port == _PORTS[target.parts.scheme] else f"{host}:{target.port}"
    path = (target.parts.path or "/") + (f"?{target.parts.query}" if target.parts.query else "")
    ours = {"Host": named, "Accept-Encoding": "identity", "User-Agent": "LeadEngine"}
    failure: Exception | None = None
    for address in addresses:
        pool = _pool(target, address, limits, watch)
        try:
            response = pool.urlopen(
                method, path, body=body, headers={**(headers or {}), **ours},
                redirect=False, retries=False, preload_content=False, decode_content=False,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            failure = error
            pool.close()
            if (watch and watch.ended) or not (body is None or isinstance(error, _NOT_CONNECTED)):
                break
            continue
        try:
            yield response
        finally:
            response.close()
            pool.close()
        return
    raise Unreachable(type(failure).__name__) from failure


def _pool(target: Target, address: str, limits: Limits, watch: _Watch | None) -> HTTPConnectionPool:
    host = f"[{address}]" if ":" in address else address
    timeout = urllib3.Timeout(connect=limits.connect, read=limits.read)
    watched: dict[str, Any] = {} if watch is None else {"watch": watch}
    if target.parts.scheme == "http":
        plain = HTTPConnectionPool(host, target.port, timeout=timeout, maxsize=1, **watched)
        plain.ConnectionCls = _PlainConnection
        return plain
    secure = HTTPSConnectionPool(
        host, target.port, timeout=timeout, maxsize=1, cert_reqs="CERT_REQUIRED", ca_certs=certifi.where(),
        server_hostname=target.host, assert_hostname=target.host, **watched,
    )  # fmt: skip
    secure.ConnectionCls = _SecureConnection
    return secure


class _Watch:
    """Ends a connection when its time is over, whatever it is doing.

    The time-out of a socket begins anew with each byte, so a server that drips would hold a caller for hours.
    """

    def __init__(self, seconds: float) -> None:
        self.ended = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Watch:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._socket is not None:
            self._socket.close()

    def hold(self, connected: socket.socket) -> None:
        """Watch this socket. TLS takes the object over, so a copy of it is held."""
        if self._socket is not None:
            self._socket.close()
        self._socket = connected.dup()
        if self.ended:
            self._end()

    def _end(self) -> None:
        self.ended = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class _Watched:
    """A connection that shows its socket to a watch, when it has one."""

    def __init__(self, *args: Any, watch: _Watch | None = None, **options: Any) -> None:
        self._watch = watch
        super().__init__(*args, **options)

    def _new_conn(self) -> socket.socket:
        connected: socket.socket = super()._new_conn()  # type: ignore[misc]
        if self._watch is not None:
            self._watch.hold(connected)
        return connected


class _PlainConnection(_Watched, HTTPConnection): ...


class _SecureConnection(_Watched, HTTPSConnection): ...


def _head(response: urllib3.BaseHTTPResponse, most: int) -> bytes:
    """The first bytes of a body, as far as they come."""
    kept = b""
    with suppress(urllib3.exceptions.HTTPError):
        while len(kept) < most and (part := response.read1(most - len(kept), decode_content=False)):
            kept += part
    return kept


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from response.stream(CHUNK, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(type(error).__name__) from error
