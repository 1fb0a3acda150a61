"""The ASGI application: the slim webhook door, static files, the socket, and Django for everything else."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "leadengine.settings")
_everything = get_asgi_application()

from django.conf import settings  # noqa: E402 - Django is set up above
from whitenoise import WhiteNoise  # noqa: E402

from leadengine import health  # noqa: E402
from leadengine.accounts.api.base import BodyTooLarge  # noqa: E402
from leadengine.bodies import capped, limited  # noqa: E402
from leadengine.celery import publish  # noqa: E402
from leadengine.realtime.consumer import SocketConsumer  # noqa: E402
from leadengine.slim import slim_application  # noqa: E402
from whatsapp.api import parcels  # noqa: E402
from whatsapp.api.closed import closable, sign  # noqa: E402
from whatsapp.api.uploads import UPLOADS, most_body_bytes  # noqa: E402
from whatsapp.api.webhook import WebhookView  # noqa: E402
from whatsapp.tasks import fill_gaps, recover_sessions  # noqa: E402

Scope = dict[str, Any]
DOORS = ("/api/integrations/whatsapp/webhook", "/api/webhooks/whatsapp")
_PARCELS = re.compile(r"(/api)?/message/[^/]+/media")

_webhook = slim_application(WebhookView.as_view())
# Nobody is known yet when a body is read: no more of it than its address can use.
_django = capped(
    _everything,
    most=settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
    refusal=BodyTooLarge(maxBytes=settings.DATA_UPLOAD_MAX_MEMORY_SIZE),
)
_uploads = limited(_everything, most=most_body_bytes)
_parcels = limited(_everything, most=parcels.most_body_bytes)
_socket = SocketConsumer.as_asgi()


def _after_a_start() -> None:
    """What came while nobody was at the door is read from the broker's list, and connections are looked at."""
    publish(fill_gaps, everything=True)
    publish(recover_sessions)


if settings.PROCESS == "web":
    threading.Thread(target=_after_a_start, daemon=True).start()

settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)
_files = WhiteNoise(
    None,
    root=str(settings.STATIC_ROOT),
    prefix=settings.STATIC_URL,
    immutable_file_test=r"\.[0-9a-f]{12}\.",
)


async def _send_file(scope: Scope, send: Callable[[Any], Awaitable[None]]) -> None:
    """A static file. Not through WsgiToAsgi: it answers from a thread by async_to_sync, whose executor stays in the
    context of the connection and breaks the next request on it (500, `CurrentThreadExecutor already quit`)."""
    file = _files.files.get(scope["path"])
    if file is None:
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return
    names = ((name.decode("latin-1").upper().replace("-", "_"), value) for name, value in scope["headers"])
    answer = file.get_response(scope["method"], {f"HTTP_{name}": value.decode("latin-1") for name, value in names})
    body = b""
    if answer.file is not None:
        with answer.file:
            body = await asyncio.to_thread(answer.file.read)
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": int(answer.status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _no_such_socket(_scope: Scope, _receive: Any, send: Any) -> None:
    await send({"type": "websocket.close", "code": 4404})


async def _route(scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Route by type and path; the door comes first because it is the hottest."""
    if scope["type"] == "http":
        path = scope["path"]
        if path.rstrip("/") in DOORS:
            await _webhook(scope, receive, send)
        elif path.startswith(settings.STATIC_URL):
            await _send_file(scope, send)
        elif path.rstrip("/") == UPLOADS:
            await _uploads(scope, receive, send)
        elif _PARCELS.fullmatch(path):
            await _parcels(scope, receive, send)
        else:
            await _django(scope, receive, send)
    elif scope["type"] == "websocket":
        await (_socket if scope["path"].rstrip("/") == "/ws" else _no_such_socket)(scope, receive, send)


health.close_when(sign.is_closed)
application = closable(_route)
