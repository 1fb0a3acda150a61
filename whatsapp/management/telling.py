"""What the ledger's commands have in common: times as people write them, a progress bar, exit codes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from django.core.management.base import BaseCommand, CommandError, CommandParser

FOUND, BAD_USE = 1, 2
INTERRUPTED = 130
_SPAN = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_WIDTH = 30


def read_moment(word: str, *, now: datetime) -> datetime:
    """A moment from `24h`, `30m`, `7d` (before `now`) or ISO 8601 (without a zone: UTC). Raises: CommandError."""
    if span := _SPAN.fullmatch(word.strip()):
        return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        at = datetime.fromisoformat(word)
    except ValueError as error:
        sentence = f"{word!r} is no time: write 24h, 30m, 7d or 2026-11-22T03:00:00Z."
        raise CommandError(sentence, returncode=BAD_USE) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


class Bar:
    """A line on standard error that moves, on a terminal only. Without a known total it counts."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self.shown = sys.stderr.isatty()

    def step(self, amount: int = 1, what: str = "") -> None:
        """So much more is done; `what` names what comes next."""
        self.done += amount
        self.what = what or self.what
        if not self.shown:
            return
        if self.total:
            filled = min(_WIDTH, _WIDTH * self.done // self.total)
            text = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {self.done}/{self.total}"
        else:
            text = str(self.done)
        sys.stderr.write(f"\r\033[K  {text} {self.what}")
        sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


class LedgerCommand(BaseCommand):
    """A command with `--json` that ends with 0 (good), 1 (found something), 2 (bad use) or 130 (stopped)."""

    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.add_argument("--json", action="store_true", help="print JSON")
        return parser

    def end(self, code: int) -> None:
        """Exit with a code that is not 0."""
        if code:
            sys.exit(code)


@contextmanager
def stoppable(hint: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C ends the command with a sentence that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"\nStopped: {hint()}\n")
        sys.exit(INTERRUPTED)
