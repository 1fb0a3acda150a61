"""The lines under "Shows" that tests name, and the table of what became of them at the end of a run.

`test_inbound_07_…` shows line 7 of the page on inbound events, `test_broker_06_and_17_…` lines 6 and 17 of the page on
the broker, `test_session_p40_and_n08_…` the lines P-40 and N-08 of the page on connections.
`python3 manage.py test -k session_` prints the table of the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

NAME = re.compile(r"\btest_(inbound|broker|session|outbound)_([pn]?\d\d(?:_and_[pn]?\d\d)*)_")
# What a page marks NEXT is not built yet.
LINES = {
    "inbound": {f"{number:02}" for number in range(1, 23)},
    "broker": {f"{number:02}" for number in range(1, 19)},
    "outbound": {f"{number:02}" for number in range(1, 28)},
    "session": {f"p{n:02}" for n in range(1, 74) if n != 24 and not 28 <= n <= 39} | {f"n{n:02}" for n in range(1, 17)},
}


def lines_in(text: str) -> Iterator[tuple[str, str]]:
    """(page, line) of each line that names of tests in a text name."""
    for page, lines in NAME.findall(text):
        for line in lines.split("_and_"):
            yield page, line


def tell_lines(terminalreporter: Any) -> None:
    """A row of the table for each line of the page on connections that was shown in this run."""
    outcomes: dict[str, list[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            if outcome == "passed" and report.when != "call":
                continue
            for page, line in lines_in(report.nodeid):
                if page == "session":
                    outcomes.setdefault(line, []).append(outcome)
    if not outcomes:
        return
    terminalreporter.section("connections: lines P and N", sep="-")
    for line in sorted(LINES["session"], key=lambda line: (line[0] == "n", line)):
        found = outcomes.get(line, [])
        word = next((word for word in ("error", "failed", "skipped") if word in found), "shown" if found else "not run")
        terminalreporter.write_line(f"  {line[0].upper()}-{line[1:]}  {word:<8} {len(found)} tests")
