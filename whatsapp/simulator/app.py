"""The HTTP face: keys, errors, and the pages that an Express application answers with."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from whatsapp.simulator.api import Api
from whatsapp.simulator.control import Control
from whatsapp.simulator.core import Simulator
from whatsapp.simulator.instances import BrokerError
from whatsapp.simulator.sending import ConnectionDropped
from whatsapp.simulator.streams import Streams
from whatsapp.simulator.wire import encode

log = structlog.get_logger()

CONTROL_BODY_MAX = 64 * 1024 * 1024
OPEN_PREFIXES = ("/_sim/cdn/",)
KEYED_PREFIXES = ("/instances/", "/_sim/", "/stream/")
DASHBOARD = "<!doctype html><html><head><title>WhatsApp Broker</title></head><body>WhatsApp Broker</body></html>"
NOT_FOUND = "<!doctype html><html><head><title>Error</title></head><body><pre>Cannot {}</pre></body></html>"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(simulator: Simulator) -> web.Application:
    """Makes the application; it serves, it does not start the simulator."""
    app = web.Application(middlewares=[_errors, _keys(simulator)], client_max_size=CONTROL_BODY_MAX)
    for method, path, handler in [*Streams(simulator).routes(), *Api(simulator).routes(), *Control(simulator).routes()]:
        app.router.add_route(method, path, handler)
        app.router.add_route(method, path + "/", handler)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BrokerError as error:
        return web.Response(body=encode(error.body), status=error.status, content_type="application/json")
    except ConnectionDropped:
        if request.transport is not None:
            request.transport.close()
        return web.Response()
    except web.HTTPRequestEntityTooLarge:
        return _internal_error("request entity too large")
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _page(request)
    except Exception:
        log.exception("simulator_request_failed", method=request.method)
        return _internal_error("unexpected error")


def _keys(simulator: Simulator) -> Any:
    keys = frozenset(simulator.config.api_keys)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path + "/"
        if not path.startswith("/_sim/"):
            simulator.requests[f"{request.method} {request.path}"] += 1
        if path.startswith(KEYED_PREFIXES) and not path.startswith(OPEN_PREFIXES):
            given = request.headers.get("x-api-key") or request.query.get("apiKey")
            by_token = path.endswith(("/qr.png/", "/instances/events/", "/stream/"))
            token = request.query.get("sseToken") if by_token else None
            if given not in keys and not simulator.accepts_sse_token(token, time.time()):
                raise BrokerError(401, "unauthorized")
        return await handler(request)

    return check


def _page(request: web.Request) -> web.Response:
    """Answers an unknown address: a GET outside /instances shows the dashboard, with 200."""
    if request.path.startswith("/_sim/"):
        body = json.dumps({"error": "unknown_control_call"})
        return web.Response(text=body, status=404, content_type="application/json")
    if request.method == "GET" and not (request.path + "/").startswith("/instances/"):
        return web.Response(text=DASHBOARD, content_type="text/html")
    return web.Response(text=NOT_FOUND.format(request.method), status=404, content_type="text/html")


def _internal_error(message: str) -> web.Response:
    body = {"error": "internal_server_error", "message": message}
    return web.Response(body=encode(body), status=500, content_type="application/json")
