"""What `bench send` makes of its figures; the whole of it runs by hand, for it starts a product."""

from __future__ import annotations

import json

from leadengine.operations.bench import bodies, send
from leadengine.operations.bench.ingest import PIPELINE
from leadengine.operations.bench.report import Report, describe


def test_the_best_server_is_held_to_the_targets() -> None:
    report = Report(describe("18.6", "9.1"))
    report.add(PIPELINE, "messages/s", 400)
    for server, rate, p95 in (("daphne", 80, 150), ("uvicorn", 120, 80)):
        report.add(send._path(server), "messages/s", rate)
        report.add(send._door(server, "p95"), "ms", p95)
    report.add(send.SENDER, "messages/s", 200)
    send._judge(report, ["daphne", "uvicorn"])
    found = {ratio.name: (round(ratio.value, 2), ratio.target, ratio.holds(1)) for ratio in report.ratios}
    assert found == {
        "Q7 door to broker on daphne / F3": (0.2, None, True),
        "Q7 door p95 on daphne / 100 ms": (1.5, None, True),
        "Q7 door to broker on uvicorn / F3": (0.3, 0.25, True),
        "Q7 door p95 on uvicorn / 100 ms": (0.8, 1.0, True),
        "sender alone / F3": (0.5, None, True),
    }


def test_an_order_is_a_request_with_a_key_of_its_own() -> None:
    head, _, body = bodies.order(3, 7, "/api/tickets/1/messages", "key", 80).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/tickets/1/messages HTTP/1.1\r\n")
    assert b"Idempotency-Key: bench-3-7\r\n" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["text"].startswith("#0003000000007 ")


def test_short_form_measures_the_same_as_the_full_one() -> None:
    assert (send.SHORT.runs, send.FULL.runs) == (1, 3)
    assert set(send.SHORT.servers) <= set(send.FULL.servers)
