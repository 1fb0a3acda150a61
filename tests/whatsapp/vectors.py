"""The vectors of the inbound contract: how one is run, against any product, and how the results are shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from tests.payloads.matchers import differences, expand
from tests.whatsapp.wire import Wire
from whatsapp.normalizers import normalize, split_body

NAMES_OF_COUNTS = {"contacts": "leads_contact WHERE merged_into_id IS NULL", "tickets": "tickets_ticket"}
LAST_CONTACT = "(SELECT id FROM leads_contact WHERE merged_into_id IS NULL ORDER BY created_at DESC LIMIT 1)"
COLUMNS = {
    "contact.name": f"SELECT name FROM leads_contact WHERE id = {LAST_CONTACT}",
    "contact.phone": f"SELECT value FROM leads_contactidentity WHERE kind = 'phone' AND contact_id = {LAST_CONTACT}",
    "message.content": "SELECT coalesce(nullif(content, ''), caption) FROM tickets_message {}",
    "message.externalId": "SELECT external_id FROM tickets_message {}",
    "message.status": "SELECT status FROM tickets_message {}",
}
LAST_MESSAGE = "ORDER BY created_at DESC, position DESC LIMIT 1"
Reasons = Counter[tuple[str, str]]


class Subject(Protocol):
    """A product to which the vectors are put."""

    def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        """One request to the webhook: status and JSON of the answer (None without one)."""

    def finish(self) -> None:
        """Return when everything that came in has been processed."""

    def reasons(self, expected: Reasons) -> Reasons:
        """The counter of webhook events by (result, reason), once it shows what is expected or a moment has passed."""

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Read all tenants' rows."""

    def ticket(self, ticket_id: str) -> Any:
        """A ticket as the REST API shows it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one vector, for the table."""

    name: str
    expected: str
    seen: str
    wrong: tuple[str, ...]


def run_vector(subject: Subject, vector: Mapping[str, Any], fake_broker: Wire) -> Seen:
    """Put one vector to a product that holds nothing but its `db`, and compare all that it expects."""
    given, expected = expand(vector["given"], fake_broker=fake_broker.url), vector["expect"]
    for earlier in given.get("before", []):
        subject.post(json.dumps(earlier["body"]).encode(), earlier["headers"])
        subject.finish()
    before, asked = subject.reasons(Counter()), _asked(fake_broker)
    raw = given["raw_body"].encode() if "raw_body" in given else json.dumps(given["body"]).encode()
    status, answer = subject.post(raw, given["headers"])
    subject.finish()
    metric = (expected["metric"]["result"], expected["metric"]["reason"])
    grown = subject.reasons(before + Counter([metric])) - before
    answered = answer if isinstance(answer, dict) else {}
    seen: dict[str, Any] = {
        "http_status": status,
        "queued": answered.get("queued", 0),
        "error_code": answered.get("error", {}).get("code"),
        "broker_calls": _asked(fake_broker) - asked,
    }
    wrong: list[str] = []
    for name, value in seen.items():
        wrong += differences(expected[name], value, name) if name in expected else []
    if not grown[metric]:
        wrong.append(f"metric: {'/'.join(metric)} did not grow")
    for reason, growth in expected.get("metric_values", {}).items():
        wrong += differences(growth, sum(n for (_, name), n in grown.items() if name == reason), f"metric {reason}")
    for name, value in expected.get("persisted", {}).items():
        wrong += differences(value, persisted(subject, name), name)
    wrong += _normalized(raw, given["env"], expected)
    words = ", ".join(f"{result}/{reason}" for result, reason in sorted(grown)) or "nothing"
    queued = f"queued {seen['queued']}"
    return Seen(
        vector["name"],
        f"{expected['http_status']} queued {expected['queued']} {'/'.join(metric)}",
        f"{status} {queued} {words}",
        tuple(wrong),
    )


def persisted(subject: Subject, name: str) -> Any:
    """One key of `persisted` (spec/inbound.md section 16)."""
    kind, _, where = name.partition("@")
    if kind == "messages":
        rule = {"": "true", "INBOUND": "direction = %s", "OUTBOUND": "direction = %s"}.get(where, "t.slug = %s")
        return _value(
            subject,
            f"SELECT count(*) FROM tickets_message m JOIN accounts_tenant t ON t.id = m.tenant_id WHERE {rule}",
            *([where] if where else []),
        )
    if kind in NAMES_OF_COUNTS:
        return _value(subject, f"SELECT count(*) FROM {NAMES_OF_COUNTS[kind]}")
    if name == "instances.brokerIds":
        lines = """SELECT s.broker_instance_id FROM whatsapp_sessions s JOIN accounts_tenant t ON t.id = s.tenant_id
                   ORDER BY t.slug DESC, s.connection_id"""  # the order in which `db` names them
        return [row[0] for row in subject.rows(lines)]
    if name in COLUMNS:
        return _value(subject, COLUMNS[name].format(LAST_MESSAGE))
    shown = subject.ticket(str(_value(subject, "SELECT id FROM tickets_ticket ORDER BY created_at DESC LIMIT 1")))
    for part in name.split(".")[1:]:
        shown = shown[part]
    return shown


def provision_document(db: Mapping[str, Any]) -> dict[str, Any]:
    """The file for `manage.py provision` that makes a vector's `db`; each tenant gets an admin with an API key."""
    return {
        "tenants": [
            {
                "slug": slug, "name": slug,
                "users": [{"email": f"admin@{slug}.test", "name": "Dona", "role": "ADMIN"}],
                "queues": [{"name": row["name"]} for row in db["queues"] if row["tenantId"] == slug],
                "sessions": [
                    {"connectionId": row["id"], "brokerInstanceId": row["brokerId"], "status": "connected"}
                    for row in db["instances"]
                    if row["tenantId"] == slug
                ],
                "apiTokens": [{"name": "vectors", "user": f"admin@{slug}.test", "token": token_of(slug)}],
            }
            for slug in db["tenants"]
        ]
    }  # fmt: skip


def token_of(slug: str) -> str:
    """The key of a tenant's admin."""
    return f"token-of-the-admin-of-{slug}".ljust(40, "-")


def table(where: str, results: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines of a table: name, expected, seen, ok; below a line that is wrong, what is."""
    rows = list(results)
    widths = [max(len(str(row[column])) for row in rows) for column in ("name", "expected", "seen")]
    lines = [f"{'vector':<{widths[0]}}  {'expected':<{widths[1]}}  {where:<{widths[2]}}  ok"]
    for row in sorted(rows, key=lambda row: row["name"]):
        cells = (f"{row[column]:<{width}}" for column, width in zip(("name", "expected", "seen"), widths, strict=True))
        lines.append("  ".join([*cells, "no" if row["wrong"] else "yes"]))
        lines += [f"    {reason}" for reason in row["wrong"]]
    lines.append(f"{sum(not row['wrong'] for row in rows)} of {len(rows)} vectors are as expected")
    return lines


def tell_vectors(terminalreporter: Any) -> None:
    """Show a table for each product to which vectors were put; the tests leave them as the property `vector`."""
    results: dict[str, list[Any]] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for where, seen in (value for name, value in report.user_properties if name == "vector"):
            results.setdefault(where, []).append(seen)
    for where, seen in results.items():
        terminalreporter.section(f"inbound vectors, {where}")
        for line in table("seen", seen):
            terminalreporter.write_line(line)


def _asked(fake_broker: Wire) -> int:
    """How often the broker was told to do something; the pull of missed events goes on beside all vectors."""
    return sum(method == "POST" and "/events" not in path for method, path, *_ in fake_broker.asked)


def _value(subject: Subject, sql: str, *parameters: Any) -> Any:
    rows = subject.rows(sql, *parameters)
    return rows[0][0] if rows else None


def _normalized(raw: bytes, env: Mapping[str, str], expected: Mapping[str, Any]) -> list[str]:
    """What the pure normaliser makes of the body, as `normalize_webhook` prints it."""
    if not {"normalized", "normalized_many"} & expected.keys():
        return []
    options: dict[str, Any] = {
        "received_at": datetime.now(UTC),
        "raw_fallback": env.get("WHATSAPP_RAW_FALLBACK_ENABLED", "true") == "true",
        "default_instance_id": env.get("WHATSAPP_DEFAULT_INSTANCE_ID", ""),
    }
    items = [item for entry in split_body(json.loads(raw)) for item in normalize(entry, **options)]
    events = [item.canonical for item in items if item.canonical is not None]
    wanted = expected.get("normalized_many", [expected.get("normalized"), *events[1:]])
    return differences(wanted, events, "normalized")
