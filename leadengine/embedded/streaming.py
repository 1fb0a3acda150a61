"""Daphne with bodies that reach the application while they arrive, where they are large or may be.

Daphne receives a whole body, puts it aside, and then hands it over in one go, so that each upload would stand in memory
once more, and anybody could fill the disk before we knew who it was. Importing this module installs Twisted's event
loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from daphne import http_protocol
from daphne.server import Server
from twisted.internet import reactor

LARGE = 1_048_576  # bytes: what is smaller, and says so, is put aside
LINGER = 5.0  # seconds in which what still comes is read and dropped, so that the caller gets to read the answer
# Bytes that wait for the application: above the first reading stops, below the second it goes on.
_HIGH, _LOW = 262_144, 65_536
_CLOCK: Any = reactor
_CONSUMED = "leadengine.consumed"


class _Nothing:
    """Stands for the body where it is not put aside: daphne's own reading of it ends at `closed`."""

    closed = True

    def seek(self, *_: int) -> None:
        """Nowhere."""

    def read(self, *_: int) -> bytes:
        return b""

    def tell(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing to close."""


class StreamingRequest(http_protocol.WebRequest):
    """A request whose application starts when its headers are there, unless they say that its body is small."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parsePOSTFormSubmission = False  # Twisted would read every form into memory, for nobody
        self.is_streamed = False
        self._is_whole = True
        self._waiting = 0
        self._is_paused = False
        self._lingering: Any = None

    def gotLength(self, length: int | None) -> None:
        """The headers are there."""
        if length is not None and length <= LARGE:
            super().gotLength(length)
            return
        self.is_streamed, self._is_whole = True, False
        self.content = _Nothing()
        super().requestReceived(self.channel._command, self.channel._path, self.channel._version)

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body is there."""
        if not self.is_streamed:
            super().handleContentChunk(data)
        elif self.application_queue is not None and self._lingering is None and not self.finished:
            self._waiting += len(data)
            self.application_queue.put_nowait({"type": "http.request", "body": data, "more_body": True})
            if self._waiting > _HIGH and not self._is_paused:
                self._is_paused = True
                self.channel._networkProducer.pauseProducing()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The whole body is there."""
        if not self.is_streamed:
            super().requestReceived(command, path, version)
            return
        self._is_whole = True
        if self._lingering is not None:
            self._end()
        elif self.application_queue is not None:
            self.application_queue.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    def consumed(self, size: int) -> None:
        """The application has taken so many bytes."""
        self._waiting -= size
        if self._is_paused and self._waiting < _LOW:
            self._is_paused = False
            if self.channel is not None:
                self.channel._networkProducer.resumeProducing()

    def handle_reply(self, message: dict[str, Any]) -> None:
        """A part of the answer. One that does not wait for the body ends the connection."""
        if not self._is_whole and message["type"] == "http.response.start" and self.channel is not None:
            self.channel.persistent = False
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        super().handle_reply(message)

    def finish(self) -> None:
        """The answer is written. A connection whose body nobody wanted ends after a while, not at once."""
        if self._is_whole or self.channel is None:
            super().finish()
        elif self._lingering is None:
            self.consumed(self._waiting)
            self._lingering = _CLOCK.callLater(LINGER, self._end)

    def connectionLost(self, reason: Any) -> None:
        """The caller has gone."""
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        super().connectionLost(reason)

    def _end(self) -> None:
        if self._lingering.active():
            self._lingering.cancel()
        super().finish()


class StreamingServer(Server):
    """Daphne's server for an application that it streams large bodies to."""

    def __init__(self, application: Callable[..., Awaitable[None]], **options: Any) -> None:
        async def metered(scope: dict[str, Any], receive: Any, send: Any) -> None:
            consumed = scope.pop(_CONSUMED, None)

            async def take() -> Any:
                message = await receive()
                consumed(len(message.get("body", b"")))
                return message

            await application(scope, receive if consumed is None else take, send)

        super().__init__(application=metered, **options)
        http_protocol.WebRequest = StreamingRequest  # what its factory makes

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        if getattr(protocol, "is_streamed", False):
            scope[_CONSUMED] = protocol.consumed
        return super().create_application(protocol, scope)
