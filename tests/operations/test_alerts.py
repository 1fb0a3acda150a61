"""The alerts: those of the specification, each proved by promtool, each with words and a runbook for people."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands

from tests.operations.conftest import ROOT
from tests.operations.promtool import NoPromtool, find_promtool

RULES = ROOT / "deploy/prometheus/rules/leadengine.yml"
PROOFS = sorted((ROOT / "deploy/prometheus/tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs/runbooks"
# The table of the specification, section 4, word for word.
RECORDINGS = """
turbozap:messages_sent:rate15m            = sum(rate(turbozap_messages_sent_total[15m]))
whatsapp:persistence_failure:ratio5m      = sum(rate(whatsapp_persistence_operations_total{result="error"}[5m])) / sum(rate(whatsapp_persistence_operations_total{result=~"success|error"}[5m]))
"""  # noqa: E501
ALERTS = """
TurboZapHighErrorRate        5m critical  sum(rate(turbozap_messages_failed_total[5m])) / (sum(rate(turbozap_messages_sent_total[5m])) + sum(rate(turbozap_messages_failed_total[5m]))) > 0.05
TurboZapInstanceDisconnected 2m warning   max by (tenant) (turbozap_instances_active) < max by (tenant) (turbozap_instances_expected)
TurboZapQueueBacklog        10m warning   max by (queue) (turbozap_queue_messages_pending) > 1000
TurboZapHighLatency          5m warning   histogram_quantile(0.99, sum by (le) (rate(turbozap_http_requests_duration_seconds_bucket[5m]))) > 2
TurboZapMessageRateAnomaly  15m warning   (turbozap:messages_sent:rate15m < 0.2 * avg_over_time(turbozap:messages_sent:rate15m[1d] offset 1h) or turbozap:messages_sent:rate15m > 5 * avg_over_time(turbozap:messages_sent:rate15m[1d] offset 1h)) and avg_over_time(turbozap:messages_sent:rate15m[1d] offset 1h) > 0.02
TurboZapDown                 1m critical  up{job="leadengine"} == 0 or absent(up{job="leadengine"})
WhatsAppPersistenceFailureRatio 1m critical   whatsapp:persistence_failure:ratio5m > 0.05
WhatsAppReconnectSlow        0m critical  max(whatsapp_reconnect_oldest_pending_seconds) > 30 or (sum(increase(whatsapp_reconnect_duration_seconds_count[10m])) - sum(increase(whatsapp_reconnect_duration_seconds_bucket{le="30.0"}[10m]))) > 0
WhatsAppQrGenerationFailed   0m critical  sum(increase(whatsapp_qr_codes_generated_total{result="error"}[5m])) > 0
WhatsAppConnectionsLostAfterRestart 1m critical   max(whatsapp_sessions_lost_after_restart) > 0
WhatsAppBackupStale         10m critical  time() - max(whatsapp_backup_last_success_timestamp_seconds) > 93600 or absent(whatsapp_backup_last_success_timestamp_seconds)
WhatsAppBackupUnverified     0m warning   time() - max(whatsapp_backup_last_verified_timestamp_seconds) > 691200
WhatsAppRlsDisabled          0m critical  min by (table) (whatsapp_rls_enforced) < 1
WhatsAppReauthRequired       5m warning   max by (tenant) (whatsapp_sessions_reauth_required) > 0
"""  # noqa: E501
ROLES = {"Tech Lead", "DevOps", "DBA"}
SEED_SUMMARIES = {
    "TurboZapHighErrorRate": "Alta taxa de erros no TurboZap",
    "TurboZapInstanceDisconnected": "Instância desconectada",
    "TurboZapQueueBacklog": "Fila de mensagens acumulada",
}
SECTIONS = ("O que significa", "Primeiro olhar", "Causas", "Reparo", "Quando chamar quem")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@pytest.fixture(scope="session")
def promtool() -> Path:
    try:
        return find_promtool(settings.DATA_DIR / "tools")
    except NoPromtool as error:
        pytest.skip(f"SKIPPED promtool: {error}")


def test_session_p56_and_p57_and_p58_and_p59_alerts_fire_and_at_the_edge_do_not(promtool: Path) -> None:
    run = subprocess.run([promtool, "test", "rules", *PROOFS], capture_output=True, text=True, timeout=90, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    run = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "16 rules found" in run.stdout


def test_each_alert_has_a_series_that_fires_and_one_that_does_not() -> None:
    fires: set[str] = set()
    sleeps: set[str] = set()
    for proof in PROOFS:
        for case in yaml.safe_load(proof.read_text(encoding="utf-8"))["tests"]:
            names = {
                re.findall(r'alertname="(\w+)", alertstate="firing"', one["expr"])[0]
                for one in case["promql_expr_test"]
            }
            assert len(names) == 1, case["name"]
            (fires if any("exp_samples" in one for one in case["promql_expr_test"]) else sleeps).update(names)
    assert fires == set(alerts())
    assert sleeps == set(alerts())


def test_rules_are_those_of_the_specification() -> None:
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    assert recorded == {
        name.strip(): expr for name, expr in (line.split(" = ") for line in RECORDINGS.strip().splitlines())
    }
    wanted = {}
    for line in ALERTS.strip().splitlines():
        name, wait, severity, expr = line.split(maxsplit=3)
        wanted[name] = (wait, severity, expr)
    assert {n: (r.get("for", "0m"), r["labels"]["severity"], r["expr"]) for n, r in alerts().items()} == wanted


@pytest.mark.parametrize("name", sorted(alerts()))
def test_each_alert_says_in_words_what_is_wrong_where_to_read_on_and_whom_to_call(name: str) -> None:
    words = alerts()[name]["annotations"]
    assert words["summary"] == SEED_SUMMARIES.get(name, words["summary"])
    assert words["summary"] and words["description"]
    assert words["role"] in ROLES
    assert words["runbook_url"] == f"docs/runbooks/{name}.md"
    page = (ROOT / words["runbook_url"]).read_text(encoding="utf-8")
    assert page.startswith(f"# {name}: {words['summary']}\n")
    assert re.search(r"^Versão \d+\.\d+\.\d+ · \d{4}-\d{2}-\d{2}$", page, re.M)
    assert re.findall(r"^## (.+)$", page, re.M) == list(SECTIONS)
    assert words["role"] in page.partition("## Quando chamar quem")[2]
    assert "```" in page.partition("## Primeiro olhar")[2].partition("## Causas")[0]


def test_commands_of_the_runbooks_exist() -> None:
    named = {
        (page.name, command)
        for page in RUNBOOKS.glob("*.md")
        for command in re.findall(r"manage\.py (\w+)", page.read_text(encoding="utf-8"))
    }
    known = {*get_commands(), "up", "test"}
    assert {pair for pair in named if pair[1] not in known} == set()


def test_a_machine_without_promtool_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoPromtool, match="apt-get: FileNotFoundError"):
        find_promtool(tmp_path / "cache")
    assert not (tmp_path / "cache/promtool").exists()
