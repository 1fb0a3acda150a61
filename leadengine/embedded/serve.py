"""One web process: `python -m leadengine.embedded.serve --server daphne|uvicorn --fd N [--fd M …]`.

It serves leadengine.asgi:application on listening sockets that it inherits (IPv4). Several processes share them, and a
process that dies loses no port: connections wait in the kernel's queue until the next one accepts them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence

from leadengine.embedded.processes import die_with_parent
from leadengine.errors import ConfigurationError

SERVERS = ("daphne", "uvicorn")
SOCKET_MESSAGE_LIMIT = 1_048_576  # bytes of one WebSocket message, on both servers
GRACE = 30  # seconds that requests in flight get under uvicorn (spec/operations.md section 1)


def main() -> str | None:
    """Serve until SIGTERM or SIGINT; return the sentence that says why it cannot."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m leadengine.embedded.serve", description=__doc__)
    parser.add_argument("--server", choices=SERVERS, default="daphne")
    parser.add_argument(
        "--fd", type=int, action="append", required=True, help="number of an inherited listening socket"
    )
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "leadengine.settings")
    if missing := missing_for(options.server):
        return missing
    try:
        (_daphne if options.server == "daphne" else _uvicorn)(options.fd)
    except ConfigurationError as error:
        return str(error)
    return None


def missing_for(server: str) -> str:
    """Return the sentence that says what must be installed for a server, or nothing."""
    websockets = [name for name in ("websockets", "wsproto") if importlib.util.find_spec(name)]
    if server == "daphne" or (websockets and importlib.util.find_spec("uvicorn")):
        return ""
    return (
        "uvicorn with WebSocket support is not installed: run "
        f"`{sys.executable} -m pip install uvicorn uvloop httptools websockets`, or leave --server out."
    )


def _daphne(descriptors: Sequence[int]) -> None:
    # Its import installs the event loop of Twisted, which must be done before anything else does.
    from leadengine.embedded.streaming import StreamingServer

    from leadengine.asgi import application  # isort: skip

    StreamingServer(
        application,
        endpoints=[f"fd:fileno={descriptor}" for descriptor in descriptors],
        http_timeout=None,
        websocket_timeout=-1,  # a screen stays open all day
        ping_interval=1_000_000_000,  # our consumer sends its own heartbeat
        request_buffer_size=65_536,
        websocket_max_message_size=SOCKET_MESSAGE_LIMIT,
        websocket_max_frame_size=SOCKET_MESSAGE_LIMIT,
        application_close_timeout=2,
        verbosity=0,
    ).run()


def _uvicorn(descriptors: Sequence[int]) -> None:
    import uvicorn

    from leadengine.asgi import application

    configuration = uvicorn.Config(
        application,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="off",  # daphne has none, so nothing may depend on it
        ws_ping_interval=None,  # our consumer sends its own heartbeat
        ws_max_size=SOCKET_MESSAGE_LIMIT,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE,
    )
    uvicorn.Server(configuration).run(sockets=[socket.socket(fileno=descriptor) for descriptor in descriptors])


if __name__ == "__main__":
    sys.exit(main())
