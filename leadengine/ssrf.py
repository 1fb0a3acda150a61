"""Fetching what others name, without being led into our own network.

An address is refused by its looks first, then by what its name resolves to, and the connection goes to an address
that was checked: a name that answers differently the second time changes nothing. Each redirect passes the same gate.
The proxies of the environment are not used: behind one, nobody could say where a connection ends.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

import certifi
import urllib3
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

CONNECT_SECONDS, READ_SECONDS = 5, 30
MOST_REDIRECTS = 3
MOST_ADDRESSES = 3  # of one name, tried in turn
CHUNK = 65_536
_REDIRECTS = {301, 302, 303, 307, 308}
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".localdomain", ".home.arpa")


class Blocked(Exception):
    """The address must not be called. `hop` is 0 for the address that was asked for, else the redirect's number."""

    def __init__(self, why: str, hop: int = 0) -> None:
        super().__init__(why)
        self.hop = hop


class Unreachable(Exception):
    """Nobody answered, or not to the end: worth another try."""


class TooManyRedirects(Exception):
    """The fourth redirect."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Which addresses may be called: https to public ones, and `allowed` (`host` or `host:port`) in any way."""

    allowed: frozenset[str] = field(default_factory=frozenset)

    def check(self, url: str) -> Target:
        """Read an address and refuse it by its looks; nothing is looked up. Raises: Blocked."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip(".").lower(), parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise Blocked("not an address") from error
        if not host or parts.scheme not in _PORTS or parts.username is not None or parts.password is not None:
            raise Blocked("not a plain http(s) address")
        trusted = host in self.allowed or f"{host}:{port}" in self.allowed
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
        with _get(target, addresses) as response:
            where = response.headers.get("Location") if response.status in _REDIRECTS else None
            if where is None:
                yield Answer(response.status, response.headers, _chunks(response))
                return
        url = urljoin(url, where)
    raise TooManyRedirects


def require_public(url: str) -> None:
    """Look a name up and refuse it when any address of it is not public. Raises: Blocked, Unreachable."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if not all(is_public(address) for address in _resolve(host, None)):
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
    return found.is_global and not found.is_multicast


def _addresses(target: Target) -> list[str]:
    found = _resolve(target.host, target.port)
    if not target.trusted and not all(is_public(address) for address in found):
        raise Blocked("not public")
    return found[:MOST_ADDRESSES]


def _resolve(host: str, port: int | None) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise Unreachable("the name was not found") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@contextmanager
def _get(target: Target, addresses: list[str]) -> Iterator[urllib3.BaseHTTPResponse]:
    """The answer of the first address that takes the connection."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    named = host if target.port == _PORTS[target.parts.scheme] else f"{host}:{target.port}"
    path = (target.parts.path or "/") + (f"?{target.parts.query}" if target.parts.query else "")
    failure: Exception | None = None
    for address in addresses:
        pool = _pool(target, address)
        try:
            response = pool.urlopen(
                "GET", path, headers={"Host": named, "Accept-Encoding": "identity", "User-Agent": "LeadEngine"},
                redirect=False, retries=False, preload_content=False, decode_content=False,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            failure = error
            pool.close()
            continue
        try:
            yield response
        finally:
            response.close()
            pool.close()
        return
    raise Unreachable(type(failure).__name__) from failure


def _pool(target: Target, address: str) -> HTTPConnectionPool:
    host = f"[{address}]" if ":" in address else address
    timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
    if target.parts.scheme == "http":
        return HTTPConnectionPool(host, target.port, timeout=timeout, maxsize=1)
    return HTTPSConnectionPool(
        host, target.port, timeout=timeout, maxsize=1, cert_reqs="CERT_REQUIRED", ca_certs=certifi.where(),
        server_hostname=target.host, assert_hostname=target.host,
    )  # fmt: skip


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from response.stream(CHUNK, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(type(error).__name__) from error
