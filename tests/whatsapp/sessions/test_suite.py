"""What the suite itself promises of connections: it needs no other service, and CI runs the three tests of seed 002."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings

from tests.environment import SERVER
from tests.shows import lines_in

ROOT = Path(__file__).resolve().parents[3]
# Persistence, QR code, messages: the tests that seed 002 demands.
DEMANDED = {f"p{number}" for number in range(40, 51)}


def test_session_p22_the_suite_needs_no_other_service() -> None:
    addresses = (settings.DATABASE_URL, settings.REDIS_URL, settings.WHATSAPP_BROKER_URL, SERVER.geturl())
    assert {urlsplit(address).hostname for address in addresses} <= {"127.0.0.1", "localhost"}


def test_session_p25_and_p26_and_p27_ci_runs_the_tests_of_persistence_qr_code_and_messages() -> None:
    called = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines() if "manage.py test" in line]
    assert called and all(line.endswith('manage.py test "$@"') for line in called), "the whole suite, and no part of it"
    named = {
        line
        for path in ROOT.glob("tests/**/test_*.py")
        for page, line in lines_in(path.read_text(encoding="utf-8"))
        if page == "session"
    }
    assert named >= DEMANDED
