"""A limit on the body of a request, held before Django sees it.

Django puts a whole body aside before it knows who is calling; here no more than the limit is ever let through to it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from leadengine.envelope import error_body
from leadengine.errors import DomainError
from leadengine.ids import uuid7

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
CUT = "leadengine.body_cut"  # in the scope: how many bytes there would have been, as far as known
_END = {"type": "http.request", "body": b"", "more_body": False}


def limited(application: Application, *, most: Callable[[], int]) -> Application:
    """An application that gets at most so many bytes of a body; `scope[CUT]` tells it of one that is larger.

    By its Content-Length a body is refused before it is read; what still comes of it is dropped. One without
    Content-Length gets the one that was counted, without which Django reads no form.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        await application(scope, _Body(scope, receive, most()), send)

    return guarded


def capped(application: Application, *, most: int, refusal: DomainError) -> Application:
    """An application that hears of no body above the limit: `refusal` is answered in its place.

    For one that reads the whole body before it answers, as Django does.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(scope, receive, most)

        async def whole() -> Message:
            message = await body()
            if CUT in scope:
                raise _TooLarge
            return message

        try:
            await application(scope, whole, send)
        except _TooLarge:
            await _refuse(send, refusal)

    return guarded


def cut_of(request: Any) -> int | None:
    """The size of a body that was larger than its limit; None for others."""
    size: int | None = getattr(request, "scope", {}).get(CUT)
    return size


class _TooLarge(Exception):
    pass


async def _refuse(send: Send, error: DomainError) -> None:
    request_id = uuid7().hex
    body = json.dumps(error_body(error.code, error.message, error.details, request_id), ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"), (b"x-request-id", request_id.encode()),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Body:
    """`receive` of a request, which counts."""

    def __init__(self, scope: Scope, receive: Receive, most: int) -> None:
        self._scope, self._receive, self._most = scope, receive, most
        self._seen, self._ended = 0, False
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        self._is_counted = declared is None
        if declared is not None and declared.isdigit() and int(declared) > most:
            scope[CUT] = int(declared)

    async def __call__(self) -> Message:
        if self._ended:
            return await self._disconnected()
        if CUT in self._scope:
            self._ended = True
            return _END
        message: Message = await self._receive()
        if message["type"] != "http.request":
            return message
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            self._scope[CUT] = self._seen
            self._ended = True
            return _END
        if not message.get("more_body", False):
            self._ended = True
            if self._is_counted:
                self._scope["headers"] = [*self._scope["headers"], (b"content-length", b"%d" % self._seen)]
        return message

    async def _disconnected(self) -> Message:
        """After the body only the end of the connection is news."""
        while True:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                return message
