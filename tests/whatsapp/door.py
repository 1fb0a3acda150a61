"""Posting to the webhook door in process: the real ASGI application, without a server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator

from leadengine.asgi import application
from whatsapp.api import webhook

PATH = "/api/integrations/whatsapp/webhook"
KEY = {"X-API-Key": "hook-key"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


def post(body: Any, headers: dict[str, str] | None = None, **more: Any) -> Answer:
    """One POST; a body that is not bytes is sent as JSON."""
    return call("POST", body if isinstance(body, bytes) else json.dumps(body).encode(), headers or KEY, **more)


def call(
    method: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    path: str = PATH,
    query: str = "",
    address: str = "10.1.1.1",
    chunk: int = 65_536,
) -> Answer:
    """One request, its body in chunks as a server would hand them over."""

    async def run() -> Answer:
        answer = await acall(method, body, headers, path=path, query=query, address=address, chunk=chunk)
        collector = webhook._collectors.pop(asyncio.get_running_loop(), None)
        if collector is not None:
            await collector.close()
        return answer

    return async_to_sync(run)()


async def acall(
    method: str, body: bytes, headers: dict[str, str] | None, *, path: str, query: str, address: str, chunk: int
) -> Answer:
    """The same, inside a running loop."""
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": (address, 4242), "server": ("testserver", 80), "scheme": "http", "http_version": "1.1",
    }  # fmt: skip
    communicator: Any = ApplicationCommunicator(application, scope)  # type: ignore[no-untyped-call]
    parts = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]
    for index, part in enumerate(parts):
        more = index < len(parts) - 1
        await communicator.send_input({"type": "http.request", "body": part, "more_body": more})
    start = await communicator.receive_output(20)
    content = await communicator.receive_output(20)
    await communicator.wait(5)
    headers_sent = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], headers_sent, content["body"])
