"""`python3 manage.py test`: linters and the whole test suite; with arguments only pytest (spec/run.md section 1)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.core.management.base import BaseCommand

from leadengine.embedded import environment
from leadengine.embedded.processes import UnableToStart, hold
from leadengine.embedded.suite import Suite
from leadengine.embedded.terminal import Terminal

HELP = """\
usage: manage.py test [arguments of pytest]

Start an embedded PostgreSQL and Valkey in .data-test, run the linters and then pytest. With arguments only pytest runs:

  python3 manage.py test tests/tickets -k race

`python3 manage.py test -- --help` shows the help of pytest.
"""


@contextmanager
def own_data_dir() -> Iterator[Path]:
    """Hold .data-test, or the first of .data-test-2 … -9 when other runs have the ones before it."""
    for name in (".data-test", *(f".data-test-{number}" for number in range(2, 10))):
        data_dir = environment.open_data_dir(environment.ROOT / name)
        try:
            lock = hold(data_dir / "lock", f"`manage.py test` (process {os.getpid()})")
        except UnableToStart as error:
            busy = error
            continue
        with lock:
            yield data_dir
        return
    raise busy


class Command(BaseCommand):
    help = "Run the linters and the test suite; arguments are passed on to pytest."

    def run_from_argv(self, argv: list[str]) -> None:
        """Read no options: all of them are pytest's."""
        arguments = argv[2:]
        if arguments[:1] in (["--help"], ["-h"]):
            self.stdout.write(HELP)
            return
        if arguments[:1] == ["--"]:
            arguments = arguments[1:]
        try:
            with own_data_dir() as data_dir:
                code = asyncio.run(Suite(arguments, data_dir, Terminal()).run())
        except UnableToStart as error:
            self.stderr.write(str(error))
            sys.exit(1)
        sys.exit(code)
