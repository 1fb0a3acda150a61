"""structlog: constant event names, ids bound by context, secrets and personal data removed before writing."""

from __future__ import annotations

import logging
import logging.handlers
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET_KEYS = re.compile(r"(password|secret|token|api_?key|authorization|cookie|qr|body|content|text|caption)$", re.I)
_LONG_DIGITS = re.compile(r"(?<![\w-])\+?\d{10,15}(?![\w-])")


def configure(options: dict[str, str]) -> None:
    """Send structlog and the standard library's logs to a stream. Django calls it with settings.LOGGING:
    `level`, `form` (`json` lines, or readable ones: `console`), `stream` (stdout or stderr), and `persistence_file`,
    which gets what `whatsapp.persistence` says as JSON lines in the place of that stream."""
    level, form = options["level"], options["form"]
    stream = sys.stderr if options.get("stream") == "stderr" else sys.stdout
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if form == "console" else [structlog.processors.format_exc_info]),
        redact,
    ]
    render: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if form == "console"
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    if options["persistence_file"]:
        _split_off("whatsapp.persistence", options["persistence_file"], shared)
    for name in ("django", "django.server"):
        logging.getLogger(name).handlers.clear()
    for noisy in (
        "daphne",
        "asyncio",
        "celery.worker.strategy",
        "celery.app.trace",
        "urllib3",
        "kombu",
        "psycopg.pool",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def _split_off(name: str, path: str, shared: list[structlog.types.Processor]) -> None:
    """Give a logger a file of its own, which is opened again when it was rotated away."""
    handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8")
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    logger = logging.getLogger(name)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)


def redact(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove what must never be in a log: values of secret-like keys, and phone numbers but for four digits."""
    for key, value in event.items():
        if key in {"event", "timestamp", "level", "logger"}:
            continue
        if _SECRET_KEYS.search(key) and value:
            event[key] = "[removed]"
        elif isinstance(value, str):
            event[key] = _LONG_DIGITS.sub(lambda m: "…" + m.group()[-4:], value)
    if isinstance(event.get("event"), str):
        event["event"] = _LONG_DIGITS.sub(lambda m: "…" + m.group()[-4:], event["event"])
    return event
