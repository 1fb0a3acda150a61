"""What `up` and `test` say: one calm line per step, and the children's lines with a coloured name before them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

COLOURS = (36, 35, 33, 32, 34, 96, 95, 93, 92, 94)
RED, FAINT = 31, 2
WIDTH = 13


class Terminal:
    """Writes to standard output. A reader that has gone away silences it: a lost log must not stop the product."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.colour = self.stream.isatty() and "NO_COLOR" not in os.environ
        self.names: list[str] = []

    def say(self, text: str) -> None:
        """Write one line."""
        try:
            print(text, file=self.stream, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def child(self, name: str, text: str) -> None:
        """Write a line of a child with its name before it."""
        if name not in self.names:
            self.names.append(name)
        colour = COLOURS[self.names.index(name) % len(COLOURS)]
        self.say(f"{self.paint(name.ljust(WIDTH), colour)}{self.paint('|', FAINT)} {text}")

    def step(self, name: str, text: str, seconds: float | None = None, *, bad: bool = False) -> None:
        """Write what a step did and how long it took."""
        time_text = "" if seconds is None else self.paint(f"{seconds:7.1f} s", FAINT)
        self.say(f"  {name.ljust(24)}{self.paint(text.ljust(10), RED) if bad else text.ljust(10)}{time_text}".rstrip())

    @contextmanager
    def timed(self, name: str, text: str = "ready") -> Iterator[None]:
        """Time a step that says nothing when it fails: its error does."""
        started = time.monotonic()
        yield
        self.step(name, text, time.monotonic() - started)

    def paint(self, text: str, colour: int) -> str:
        """Colour a text on a terminal; leave it alone elsewhere."""
        return f"\033[{colour}m{text}\033[0m" if self.colour else text
