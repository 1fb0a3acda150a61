"""Array literals: every scalar comes back from PostgreSQL as it went in."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leadengine.sql import dumps, loads, unnest

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.mark.django_db
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(values=st.lists(st.tuples(texts | st.none(), st.binary(), st.integers(-(2**31), 2**31 - 1), st.booleans())))
def test_scalars_survive_the_array_literal(db: None, values: list[tuple[object, ...]]) -> None:
    at, key = datetime(2026, 11, 21, 20, 41, 33, 5, UTC), uuid4()
    rows = [(*row, at, key, dumps({"a": row[0], "b": [row[2]]}), None) for row in values]
    columns = {
        "t": "text", "b": "bytea", "i": "int", "f": "boolean", "at": "timestamptz", "k": "uuid", "j": "jsonb",
        "n": "uuid",
    }  # fmt: skip
    source, arrays = unnest(columns, rows)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {source}", arrays)
        back = [(row[0], bytes(row[1]), *row[2:6], loads(row[6]), row[7]) for row in cursor.fetchall()]
    assert back == [(*row[:6], {"a": row[0], "b": [row[2]]}, None) for row in rows]
