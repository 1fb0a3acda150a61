"""Our webhook as a server: what the simulator posts goes through the real door, within the test's process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.whatsapp.door import Answer, post


@dataclass
class Door:
    """The server's address, and each request with its answer."""

    url: str = ""
    passed: list[tuple[dict[str, str], bytes, Answer]] = field(default_factory=list)

    def statuses(self) -> set[int]:
        """The statuses that were answered."""
        return {answer.status for *_, answer in self.passed}


@contextmanager
def door_running() -> Iterator[Door]:
    """Serve the door for as long as the context lasts."""
    door = Door()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = post(body, headers)
            door.passed.append((headers, body, answer))
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    door.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
