"""Statements of the drain as a pgbench script."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest

from leadengine.operations.bench.script import Names, made_id, write_script, write_statement
from tests.environment import url

TENANT, EVENT, FRESH, OTHER = (UUID(int=number) for number in (1, 2, 3, 4))


def names() -> Names:
    return Names(
        {TENANT: "accounts_tenant_0"}, [EVENT], {"5511900000001": ":phone", "70001": "(70000 + :n)::text"},
        {70001: "(70000 + :n)"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "NULL"),
        (True, "true"),
        (7, "7"),
        (70001, "(70000 + :n)"),
        ("it's", "'it''s'"),
        ('{"a":"b\\n"}', r"""E'{"a"\x3a"b\\n"}'"""),
        (TENANT, "(:accounts_tenant_0)::uuid"),
        (EVENT, "(lpad(to_hex(:base::bigint + 0), 32, '0')::uuid::text)::uuid"),
        (FRESH, "(lpad(to_hex(:base::bigint + 2), 32, '0')::uuid::text)::uuid"),
        (f"{{{TENANT}}}", "('{' || :accounts_tenant_0 || '}')"),
        ("+5511900000001@x", "('+' || :phone || '@x')"),
        ("{70001}", "('{' || (70000 + :n)::text || '}')"),
        (datetime(2026, 1, 1, tzinfo=UTC), r"E'2026-01-01T00\x3a00\x3a00+00\x3a00'::timestamptz"),
        (["a", None], "ARRAY['a', NULL]::text[]"),
        ([], "'{}'"),
    ],
)
def test_values(value: object, written: str) -> None:
    assert write_statement("SELECT %s", [value], names()) == f"SELECT {written};"


def test_an_id_that_was_made_keeps_its_place_in_both_spellings() -> None:
    known = names()
    first = write_statement("SELECT %s, %s", [FRESH, OTHER], known)
    again = write_statement("SELECT %s, %s", [f"x{OTHER.hex}", FRESH], known)
    assert ":base::bigint + 2" in first
    assert ":base::bigint + 3" in first
    assert again == (
        "SELECT ('x' || lpad(to_hex(:base::bigint + 3), 32, '0')), "
        "(lpad(to_hex(:base::bigint + 2), 32, '0')::uuid::text)::uuid;"
    )


def test_roles_that_are_used_are_remembered() -> None:
    known = names()
    write_statement("SELECT 1", [], known)
    assert not known.used
    write_statement("SELECT %s", [f"a {TENANT}"], known)
    assert known.used == {"accounts_tenant_0"}


@pytest.mark.parametrize("sql", ["SELECT ':name'", "SELECT '{\"a\":1}'"])
def test_what_pgbench_would_misread_is_refused(sql: str) -> None:
    with pytest.raises(ValueError, match="variable"):
        write_statement(sql, [], names())


def test_casts_and_percent_signs_stay() -> None:
    assert write_statement("SELECT 1::text LIKE 'a%%'", [], names()) == "SELECT 1::text LIKE 'a%';"


def test_parameters_may_have_names() -> None:
    sql = "SELECT %(b)s, %(a)s, %(b)s LIKE '5%%'"
    assert write_statement(sql, {"a": 1, "b": "x"}, names()) == "SELECT 'x', 1, 'x' LIKE '5%';"


def test_a_script_is_one_transaction() -> None:
    script = write_script(["SELECT 1;"], ["a", "phone"])
    assert script.endswith("BEGIN;\nSELECT 1;\nCOMMIT;\n")
    assert "SELECT a, phone FROM bench_lines" in script


@pytest.mark.django_db(transaction=True)
def test_literals_and_ids_mean_to_postgresql_what_they_should() -> None:
    texts = ["it's", "a:b", "back\\slash", 'json {"k": "v\\n", "q": "\\""}', "ção\n"]
    with psycopg.connect(url("leadengine_owner")) as owner:
        for text in texts:
            row = owner.execute(write_statement("SELECT %s", [text], names()).encode()).fetchone()
            assert row == (text,)
        row = owner.execute(f"SELECT {made_id('255')}::uuid".encode()).fetchone()
    assert row == (UUID(int=255),)
