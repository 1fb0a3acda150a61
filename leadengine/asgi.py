"""The ASGI application: the slim webhook door, static files, the socket, and Django for everything else."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "leadengine.settings")
_django = get_asgi_application()

from asgiref.sync import sync_to_async  # noqa: E402 - Django is set up above
from asgiref.wsgi import WsgiToAsgiInstance  # noqa: E402
from django.conf import settings  # noqa: E402
from whitenoise import WhiteNoise  # noqa: E402

from leadengine.realtime.consumer import SocketConsumer  # noqa: E402
from leadengine.slim import slim_application  # noqa: E402
from whatsapp.api.webhook import WebhookView  # noqa: E402

Scope = dict[str, Any]
DOORS = ("/api/integrations/whatsapp/webhook", "/api/webhooks/whatsapp")

_webhook = slim_application(WebhookView.as_view())
_socket = SocketConsumer.as_asgi()


def _no_such_file(_environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return [b""]


settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)
_files = WhiteNoise(
    _no_such_file,
    root=str(settings.STATIC_ROOT),
    prefix=settings.STATIC_URL,
    immutable_file_test=r"\.[0-9a-f]{12}\.",
)


class _StaticFiles(WsgiToAsgiInstance):
    """Files from a pool of threads. On asgiref's one shared thread, files asked for at once met an executor that had
    just ended, and a page came without one of its scripts (`CurrentThreadExecutor already quit`)."""

    run_wsgi_app = sync_to_async(WsgiToAsgiInstance.__dict__["run_wsgi_app"].func, thread_sensitive=False)


async def _no_such_socket(_scope: Scope, _receive: Any, send: Any) -> None:
    await send({"type": "websocket.close", "code": 4404})


async def application(
    scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Route by type and path; the door comes first because it is the hottest."""
    if scope["type"] == "http":
        path = scope["path"]
        if path.rstrip("/") in DOORS:
            await _webhook(scope, receive, send)
        elif path.startswith(settings.STATIC_URL):
            await _StaticFiles(_files)(scope, receive, send)  # type: ignore[no-untyped-call]
        else:
            await _django(scope, receive, send)
    elif scope["type"] == "websocket":
        await (_socket if scope["path"].rstrip("/") == "/ws" else _no_such_socket)(scope, receive, send)
