"""The short form of `manage.py chaos send`, on the product that all these tests share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from leadengine.operations.chaos.fates import Arrival, Row, Try, judge_fates
from leadengine.operations.chaos.misbehaving import FAULTS
from leadengine.operations.chaos.product import RunningProduct
from leadengine.operations.chaos.send import FIRST, SHORT, chaos_send
from leadengine.operations.chaos.writers import Promise
from tests.e2e.conftest import Running
from tests.product import Product

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_outbound_06_and_07_and_08_and_12_each_message_is_at_a_phone_once_or_says_why_not(product: Product) -> None:
    if isinstance(product, Running):
        pytest.skip("the product was started by someone else")
    outcome = chaos_send(product=RunningProduct(product.data_dir), size=SHORT, seed=5)
    assert outcome.good, "\n".join(outcome.as_lines())
    assert outcome.accepted == SHORT.messages
    assert outcome.kills.total() == SHORT.kills
    assert set(FIRST) <= set(outcome.kills)
    assert set(outcome.faults) == set(FAULTS)
    assert outcome.replayed >= 1
    assert outcome.found.arrived + sum(outcome.found.ended.values()) == SHORT.messages
    assert outcome.found.arrived >= SHORT.messages / 4


def tried(outcome: str = "SENT", code: str = "OK", at: int = 0, took: int = 1) -> Try:
    begun = T0 + timedelta(seconds=at)
    return Try(outcome, code, begun, begun + timedelta(seconds=took))


def row(number: int, status: str = "SENT", *tries: Try, **more: object) -> Row:
    fields = {"source": "AGENT", "position": number, "external_id": f"x{number}", "error": None, "merged": False}
    return Row(f"id{number}", f"t{number}", status, tries=tries or (tried(at=number),), **{**fields, **more})  # type: ignore[arg-type]


TIMED_OUT = tried("UNCONFIRMED", "BROKER_TIMEOUT", at=1)
LOST = {"code": "WORKER_LOST"}


@pytest.mark.parametrize(
    ("rows", "arrived", "found"),
    [
        ([row(1), row(2)], "12", []),
        ([row(1)], "1", ["t2: accepted, and not in the database"]),
        ([row(1), row(2), row(3)], "12", ["t3: a row of AGENT (SENT) that no door accepted"]),
        ([row(1), row(2), row(3, source="PHONE", merged=True)], "12", []),
        ([row(1), row(2)], "122", ["t2: at the phone 2 times"]),
        ([row(1), row(2)], "123", ["t3: at the phone, and accepted by no door"]),
        ([row(1), row(2)], "1", ["t2: never arrived, and SENT"]),
        ([row(1), row(2, "UNCONFIRMED", error=LOST)], "1", []),
        ([row(1), row(2, "UNCONFIRMED")], "1", ["t2: never arrived, and UNCONFIRMED without a reason"]),
        ([row(1), row(2, "UNCONFIRMED", error=LOST)], "12", ["t2: at the phone, and UNCONFIRMED"]),
        ([row(1), row(2, external_id="other")], "12", ["t2: at the phone as x2, and known as other"]),
        ([row(1), row(2, "QUEUED")], "1", ["t2: never arrived, and QUEUED"]),
        ([row(1), row(2)], "21", ["t1: arrived after ['t2']"]),
        ([row(1, "SENT", TIMED_OUT), row(2)], "21", []),  # the broker sent it late, after it had said that it failed
        ([row(1, "SENT", TIMED_OUT), row(2, "SENT", tried(at=1))], "21", ["t1: arrived after ['t2']"]),
        ([row(1, "SENT", TIMED_OUT, tried(at=5)), row(2)], "12", ["t1: tried again after it may have left"]),
        ([row(1, position=2), row(2, position=1)], "21", ["conversation 0: positions [2, 1]"]),
    ],
)
def test_outbound_06_and_07_an_untrue_fate_is_found(rows: list[Row], arrived: str, found: list[str]) -> None:
    promises = [Promise(f"id{number}", 0, number, f"t{number}") for number in (1, 2)]
    arrivals = [Arrival(f"x{number}", f"t{number}") for number in arrived]
    said = judge_fates(promises=promises, rows=rows, arrivals=arrivals).differences
    assert len(said) == len(found), said
    assert all(sentence.startswith(part) for part, sentence in zip(found, said, strict=True)), said
