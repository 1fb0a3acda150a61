"""Each line under the "Shows" of the pages on inbound events, the broker and connections has a test that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shows import LINES, lines_in


@pytest.mark.parametrize("page", LINES)
def test_each_line_is_named_by_a_test(page: str) -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py")]
    found = {line for source in sources for where, line in lines_in(source) if where == page}
    assert LINES[page] - found == set()
