"""The short form of `manage.py chaos sessions`, on the product that all these tests share."""

from __future__ import annotations

import pytest

from leadengine.operations.chaos.owners import Promise
from leadengine.operations.chaos.product import RunningProduct
from leadengine.operations.chaos.sessions import _judge, chaos_sessions
from tests.e2e.conftest import Running
from tests.product import Product

KILLS = 8


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_session_p72_no_acknowledged_wish_is_lost_amid_kills(product: Product) -> None:
    if isinstance(product, Running):
        pytest.skip("the product was started by someone else")
    outcome = chaos_sessions(product=RunningProduct(product.data_dir), kills=KILLS, seed=72)
    assert outcome.good, "\n".join(outcome.as_lines())
    assert outcome.kills.total() == KILLS
    assert outcome.acknowledged >= 10
    assert outcome.slowest_seconds is not None
    assert outcome.slowest_seconds <= 30


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (("A", "connected", True, False, "connected", None), []),
        (("B", "connected", True, False, "connected", None), ["is ('B'"]),
        (("A", "disconnected", True, False, "disconnected", None), ["is ('A', 'disc", "wanted, and"]),
        (("A", "connected", True, False, "connecting", None), ["wanted, and connecting"]),
        (("A", "connected", True, True, "connected", None), ["is ('A', 'connected', True, True)"]),
        (("A", "connected", True, False, "connected", "connect"), ["connect is still pending"]),
    ],
)
def test_session_p72_a_difference_is_found(row: tuple[object, ...], found: list[str]) -> None:
    said = _judge(("id", *row, "le-a"), Promise("A"), {"le-a": {"connected": True}})
    assert len(said) == len(found)
    assert all(part in sentence for part, sentence in zip(found, said, strict=True))
