"""One Celery worker process (spec/operations.md section 6)."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from typing import Any

from celery.exceptions import SecurityWarning
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from leadengine.celery import SENDING, app
from leadengine.operations.worker import QUEUES, run_worker


class Command(BaseCommand):
    help = (
        f"Work the task queues until SIGTERM, which lets the running tasks end. Without --queues: {', '.join(QUEUES)}, "
        f"in RABBITMQ_WORKER_COUNT processes. {SENDING} runs on threads, in a worker of its own. "
        "Set LEADENGINE_PROCESS=worker (sender for the sending worker) in its environment: the settings are read "
        f"before this command is known. Example: manage.py worker --name sender --queues {SENDING}"
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        default = f"{socket.gethostname()}-{os.getpid()}"
        parser.add_argument("--name", default=default, help="its name in heartbeats, unique; default host and pid")
        parser.add_argument("--queues", default=",".join(QUEUES), help="comma list")

    def handle(self, *_args: Any, name: str, queues: str, **_options: Any) -> None:
        wanted = tuple(word.strip() for word in queues.split(",") if word.strip())
        known = [queue.name for queue in app.conf.task_queues]
        if not wanted or (unknown := sorted(set(wanted) - set(known))):
            raise CommandError(f"Unknown queue {', '.join(unknown) if wanted else ''}: choose of {', '.join(known)}.")
        # Celery warns root of pickle; we accept JSON only.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
        sys.exit(run_worker(app=app, name=name, queues=wanted, concurrency=settings.WORKER_COUNT))
