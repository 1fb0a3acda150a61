"""A server that keeps what it was asked and answers as the test says."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Wire:
    """One HTTP server. `status`, `body` and `kind` are the answer; `cut` hangs up without one."""

    def __init__(self, status: int = 200, body: Any = None, kind: str = "application/json", *, port: int = 0) -> None:
        self.status, self.kind = status, kind
        self.body = body if isinstance(body, str) else json.dumps(body if body is not None else {"id": "X1"})
        self.headers: dict[str, str] = {}
        self.cut = False
        self.hold: Callable[[], Any] = lambda: None
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        wire = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                wire.asked.append((self.command, self.path, dict(self.headers), json.loads(raw) if raw else None))
                wire.hold()
                if wire.cut:
                    linger = struct.pack("ii", 1, 0)  # close with RST
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.close_connection = True
                    self.connection.close()
                    return
                data = wire.body.encode()
                self.send_response(wire.status)
                for name, value in {"Content-Type": wire.kind, **wire.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_DELETE = do_POST

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def finish(self) -> None:
                if not wire.cut:
                    super().finish()

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.02])

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def closed_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
