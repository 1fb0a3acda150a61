"""Floor F2: the very server process of the product, answering a constant 204.

`python -m leadengine.operations.bench.constant --server daphne|uvicorn --fd N` runs leadengine.embedded.serve with
another application in the place of ours.
"""

from __future__ import annotations

import sys
import types
from typing import Any


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ARG001 - named by daphne
    """Read the body and say nothing."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    stand_in = types.ModuleType("leadengine.asgi")
    stand_in.application = application  # type: ignore[attr-defined]
    sys.modules["leadengine.asgi"] = stand_in
    from leadengine.embedded.serve import main

    sys.exit(main())
