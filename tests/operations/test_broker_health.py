"""The broker's health record in Redis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from leadengine.redis import client
from whatsapp.broker_health import BrokerHealth, read_broker_health, record_failure, record_success

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def empty() -> None:
    client().flushdb()


def test_nothing_is_known_before_the_first_call() -> None:
    assert read_broker_health() == BrokerHealth()


@pytest.mark.parametrize(("minutes", "degraded"), [(2, True), (3, False)])
def test_three_failures_within_five_minutes_degrade(minutes: int, degraded: bool) -> None:
    for number in range(3):
        record_failure("BROKER_TIMEOUT", now=NOW + timedelta(minutes=minutes * number))
    seen = read_broker_health()
    assert (seen.degraded, seen.consecutive_failures, seen.last_error_code) == (degraded, 3, "BROKER_TIMEOUT")
    assert seen.last_failure_at == NOW + timedelta(minutes=minutes * 2)


def test_a_success_ends_the_streak_and_keeps_the_history() -> None:
    for _ in range(4):
        record_failure("BROKER_UNREACHABLE", now=NOW)
    record_success(now=NOW + timedelta(seconds=1))
    record_failure("BROKER_ERROR", now=NOW + timedelta(seconds=2))
    seen = read_broker_health()
    assert (seen.degraded, seen.consecutive_failures) == (False, 1)
    assert (seen.last_success_at, seen.last_failure_at) == (NOW + timedelta(seconds=1), NOW + timedelta(seconds=2))
