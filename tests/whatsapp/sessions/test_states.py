"""The state machine, the code table and the pauses, cell by cell (spec/sessions.md sections 2 and 8). P-21."""

from __future__ import annotations

import tomllib

import pytest

from tests.conftest import ROOT
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions import states
from whatsapp.services.sessions.states import Trigger, next_status, pause_before, read_ending

Status = WhatsAppSession.Status

# A row per status, a column per trigger; "-" changes nothing.
TABLE = """
               connect     scan    open       gave_up       drop        fail   logout      duplicate  stop
disconnected   connecting  -       connected  -             -           -      logged_out  duplicate  -
connecting     -           qrcode  connected  -             -           error  logged_out  duplicate  disconnected
qrcode         -           -       connected  disconnected  -           -      logged_out  duplicate  disconnected
connected      -           -       -          -             connecting  error  logged_out  duplicate  disconnected
error          connecting  -       connected  -             -           -      logged_out  duplicate  disconnected
duplicate      connecting  -       -          -             -           -      logged_out  -          disconnected
logged_out     connecting  qrcode  connected  -             -           -      -           duplicate  disconnected
"""
_HEAD, *_ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = [
    (row[0], trigger, None if after == "-" else after)
    for row in _ROWS for trigger, after in zip(_HEAD, row[1:], strict=True)
]  # fmt: skip


def test_session_p21_the_table_has_every_pair() -> None:
    assert {(status, trigger) for status, trigger, _ in CELLS} == {(s.value, t.value) for s in Status for t in Trigger}


@pytest.mark.parametrize(("status", "trigger", "after"), CELLS)
def test_session_p21_each_status_and_trigger(status: str, trigger: str, after: str | None) -> None:
    assert next_status(status, Trigger(trigger), paired=False) == after
    if (status, trigger) == ("qrcode", "gave_up"):
        after = "logged_out"  # it was paired before: it stays wanted
    assert next_status(status, Trigger(trigger), paired=True) == after


# code: (what it does to the status, when it is tried again, the reauth reason)
CODES = {
    401: (Trigger.LOGOUT, "never", "session_expired"),
    403: (Trigger.FAIL, "never", "suspicious_block"),
    408: (Trigger.DROP, "later", None),
    411: (Trigger.FAIL, "never", "client_update"),
    428: (Trigger.DROP, "later", None),
    440: (Trigger.FAIL, "never", "session_conflict"),
    500: (Trigger.LOGOUT, "never", "session_expired"),
    503: (Trigger.DROP, "later", None),
    515: (Trigger.DROP, "now", None),
    None: (Trigger.DROP, "later", None),  # the broker did not say: as a link that is lost
    599: (Trigger.DROP, "later", None),
}


@pytest.mark.parametrize("code", CODES)
def test_session_p21_each_code_of_the_broker(code: int | None) -> None:
    ending = read_ending(code, restarts=1)
    assert (ending.trigger, ending.retry, ending.reauth_reason) == CODES[code]
    assert ending.message.endswith(".")
    assert ending.action.endswith(".")


def test_session_p21_five_restarts_in_ten_minutes_count_as_411() -> None:
    assert [read_ending(515, restarts=n).code for n in (1, 4, 5, 6)] == [
        "RESTART_REQUIRED", "RESTART_REQUIRED", "CLIENT_OUTDATED", "CLIENT_OUTDATED",
    ]  # fmt: skip
    assert (states.RESTARTS, states.RESTART_WINDOW.total_seconds()) == (5, 600)


def test_every_ending_has_words_of_its_own() -> None:
    endings = [read_ending(code) for code in CODES] + [
        states.BROKER_RESET, states.REFUSED_BY_BROKER, states.NO_ANSWER, states.QR_EXPIRED, states.UNEXPECTED,
    ]  # fmt: skip
    by_code = {ending.code: (ending.message, ending.action) for ending in endings}
    assert len({message for message, _ in by_code.values()}) == len(by_code)


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [(1, 5), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (8, 300), (50, 300), (2000, 300)],
)
def test_session_p21_the_pauses_double_up_to_their_most(attempt: int, seconds: float) -> None:
    drawn = [pause_before(attempt, most=300) for _ in range(400)]
    assert min(drawn) >= seconds * 0.8
    assert max(drawn) <= seconds * 1.2
    assert max(drawn) - min(drawn) > seconds * 0.3, "spread over the whole fifth either way"


def test_the_most_is_a_setting() -> None:
    assert 24 <= pause_before(9, most=30) <= 36


def test_session_p21_their_files_are_protected() -> None:
    listed = {entry["path"] for entry in tomllib.loads((ROOT / "docs/protected.toml").read_text())["file"]}
    assert "whatsapp/services/sessions/states.py" in listed
