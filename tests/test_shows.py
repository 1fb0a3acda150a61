"""Each line under the "Shows" of the pages on inbound events and on the broker has a test that names it.

`test_inbound_07_…` shows line 7 of section 17 of the page on inbound events, `test_broker_06_and_17_…` lines 6 and 17
of section 11 of the page on the broker. `python3 manage.py test -k inbound_07` runs what shows one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NAME = re.compile(r"def test_(inbound|broker)_(\d\d(?:_and_\d\d)*)_")


@pytest.mark.parametrize(("page", "lines"), [("inbound", 22), ("broker", 18)])
def test_each_line_is_named_by_a_test(page: str, lines: int) -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py")]
    found = {
        int(line) for source in sources for kind, named in NAME.findall(source) if kind == page
        for line in named.split("_and_")
    }  # fmt: skip
    assert set(range(1, lines + 1)) - found == set()
