"""Between us and the broker: answers that are lost, and answers that come late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from tests.outbound import Broker


class Proxy:
    """Hands every call on; `lose` says of which (method, path) the answer never comes, `hold` waits before it does."""

    def __init__(self, target: str) -> None:
        self.lose: Callable[[str, str], bool] = lambda _method, _path: False
        self.hold: Callable[[str, str], Any] = lambda _method, _path: None
        self.calls: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _pass(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                call = (self.command, self.path)
                proxy.calls.append(call)
                answer = requests.request(
                    self.command, target + self.path, data=self.rfile.read(length) if length else None, timeout=10,
                    headers={name: value for name, value in self.headers.items() if name.lower() != "host"},
                )  # fmt: skip
                proxy.hold(*call)
                if proxy.lose(*call):
                    self.close_connection = True
                    return
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = do_DELETE = do_PATCH = _pass

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def proxied(broker: Broker) -> Iterator[Proxy]:
    """A proxy before the simulator."""
    proxy = Proxy(broker.url)
    thread = threading.Thread(target=proxy.server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        thread.join()
        proxy.server.server_close()
