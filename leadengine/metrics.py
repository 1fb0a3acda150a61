"""Every Prometheus metric, declared once. No label holds a tenant, user, ticket, session or phone.

Label combinations known beforehand are created at start (`prepare`), so that a counter's first increment is seen.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any, cast

from django.db import transaction
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    multiprocess,
)
from prometheus_client.registry import Collector

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
RECONNECT = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0)
HTTP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0)

# --- HTTP of our own (spec/operations.md section 3) -------------------------------------------------------------
http_requests = Counter("turbozap_http_requests_total", "Our HTTP requests", ["method", "view", "status"])
http_seconds = Histogram(
    "turbozap_http_requests_duration_seconds", "Our HTTP requests", ["method", "view", "status"], buckets=HTTP
)

# --- Webhook and pipeline (spec/inbound.md section 14) ----------------------------------------------------------
webhook_events = Counter(
    "whatsapp_webhook_events_total", "Fates of what the broker delivered", ["result", "reason", "payload_type"]
)
raw_ignored = Counter("whatsapp_raw_ignored_total", "Raw entries that are no inbound message", ["cause"])
message_effects = Counter("whatsapp_message_effects_total", "Effects on messages that exist", ["effect"])
webhook_ack_seconds = Histogram("whatsapp_webhook_ack_seconds", "Webhook request to its answer", buckets=FAST)
inbound_latency_seconds = Histogram("whatsapp_inbound_latency_seconds", "Webhook received to committed", buckets=LONG)
broker_lag_seconds = Histogram("whatsapp_inbound_broker_lag_seconds", "Message sent to webhook received", buckets=LONG)
dedupe = Counter("whatsapp_dedupe_total", "Messages seen, by whether they were known", ["outcome"])
drain_batches = Counter("whatsapp_drain_batches_total", "Batches of the inbound drain", ["result"])
media = Counter("whatsapp_media_total", "What became of tries to fetch a file", ["outcome"])
media_seconds = Histogram("whatsapp_media_seconds", "Message stored to its file stored", buckets=LONG)
gap_fill_events = Counter("whatsapp_gap_fill_events_total", "Events of a broker's list", ["outcome"])
wakeups_missed = Counter("leadengine_wakeups_missed_total", "Wake-ups the queue engine did not take", ["task"])

# --- Calls to the broker and sends (spec/broker.md section 7, spec/outbound.md section 15) ----------------------
broker_requests = Counter(
    "whatsapp_http_requests_total", "Calls to the broker", ["route", "method", "status", "result"]
)
broker_request_seconds = Histogram("whatsapp_http_request_seconds", "Calls to the broker", ["route"], buckets=LONG)
outbound = Counter("whatsapp_outbound_total", "Outbound messages by state reached", ["origin", "type", "status"])
outbound_latency_seconds = Histogram("whatsapp_outbound_latency_seconds", "Accepted to sent", ["type"], buckets=LONG)
outbound_attempts = Counter("whatsapp_outbound_attempts_total", "Tries to send, by their outcome", ["code"])
outbound_settled = Counter("whatsapp_outbound_settled_total", "What settled an unknown outcome", ["by"])
outbound_replays = Counter("whatsapp_outbound_idempotent_replays_total", "Doors answered from an earlier row")
outbound_collisions = Counter("whatsapp_outbound_collisions_total", "Sends refused because of a newer answer")
outbound_rate_limited = Counter(
    "whatsapp_outbound_rate_limited_total", "Sends that had to wait or were refused", ["where"]
)
circuit_transitions = Counter("whatsapp_circuit_transitions_total", "Changes of sessions' circuits", ["to"])
uploads = Counter("whatsapp_uploads_total", "Uploads by type and what became of them", ["media_type", "result"])
upload_bytes = Counter("whatsapp_upload_bytes_total", "Bytes of accepted uploads")
uploads_expired = Counter("whatsapp_uploads_expired_total", "Uploads whose file was removed unused")
webhook_deliveries = Counter("webhook_out_deliveries_total", "Deliveries to integrators", ["event", "result"])
messages_sent = Counter("turbozap_messages_sent_total", "Messages the broker accepted", ["instance_name", "type"])
messages_received = Counter("turbozap_messages_received_total", "Inbound messages stored", ["instance_name", "type"])
messages_failed = Counter(
    "turbozap_messages_failed_total", "Messages that ended FAILED", ["instance_name", "type", "reason"]
)

# --- Connections (spec/operations.md section 3) -------------------------------------------------------------------
persistence_operations = Counter(
    "whatsapp_persistence_operations_total", "Saves of the protected tables", ["operation", "result"]
)
persistence_errors = Counter("whatsapp_persistence_errors_total", "Tries to save that failed", ["operation", "reason"])
reconnect_seconds = Histogram(
    "whatsapp_reconnect_duration_seconds", "Drop or start until connected", ["trigger"], buckets=RECONNECT
)
qr_codes = Counter("whatsapp_qr_codes_generated_total", "QR codes read from the broker, or not", ["result"])
session_transitions = Counter(
    "whatsapp_session_transitions_total",
    "Changes of a connection's state, and those that the table refuses",
    ["result"],
)

# --- Tickets (spec/tickets-leads.md section 14) -----------------------------------------------------------------
tickets_opened = Counter("tickets_opened_total", "Tickets opened", ["cause"])
tickets_closed = Counter("tickets_closed_total", "Tickets ended", ["outcome"])
tickets_reopened = Counter("tickets_reopened_total", "Tickets reopened")
contact_merges = Counter("whatsapp_contact_merges_total", "Contacts joined or parted", ["evidence", "action"])
timelines_reconciled = Counter("timeline_reconciled_total", "Runs over a tenant's timelines, by outcome", ["result"])
assign_conflicts = Counter("ticket_assign_conflicts_total", "Takes that lost a race")
first_response_seconds = Histogram("ticket_first_response_seconds", "First inbound to first answer", buckets=LONG)
logins = Counter("logins_total", "Logins", ["result"])

# --- Realtime (spec/inbox.md section 20) ------------------------------------------------------------------------
ws_connections = Gauge("ws_connections", "Open sockets", multiprocess_mode="livesum")
ws_events = Counter("ws_events_total", "Events broadcast", ["event"])
ws_delivery_seconds = Histogram("ws_delivery_seconds", "Event published to frame written", buckets=FAST)
ws_closed = Counter("ws_closed_total", "Sockets closed by us", ["code"])
ws_dropped = Counter("ws_dropped_total", "Frames a slow socket lost; the ping cursor repairs it")
realtime_divergence = Counter("realtime_divergence_total", "Times a client or hub was found behind")
broadcasts_missed = Counter("ws_broadcasts_missed_total", "Broadcasts Redis did not take")

OPERATIONS = (
    "session.create", "session.wish", "session.observe", "session.sync", "session.settings", "session.evidence",
    "session.scrub", "atendimento.follow", "atendimento.close", "provision",
)  # fmt: skip
MESSAGE_TYPES = (
    "text", "image", "video", "audio", "document", "buttons_response", "list_response", "poll", "poll_choice",
    "location", "contact", "unknown",
)  # fmt: skip
_MESSAGE_REASONS = {
    "accepted": ("ok", "raw_inbound_normalized", "message_enriched", "outbound_echo"),
    "ignored": ("message_duplicate",),
}
REASONS = {
    "accepted": (
        "ok", "raw_inbound_normalized", "message_enriched", "outbound_echo", "reaction", "poll_choice", "ack_applied",
        "empty",
    ),
    "ignored": (
        "raw_inbound_ignored", "raw_fallback_disabled", "message_duplicate", "unsupported_event", "invalid_contract",
        "missing_instance", "unknown_instance", "no_sender", "status_broadcast", "newsletter", "ack_noop",
        "ack_regression", "ack_message_not_found", "ack_not_outgoing", "ack_unknown_status", "poll_choice_invalid",
        "poll_choice_duplicate",
    ),
    "rejected": (
        "missing_authorization", "invalid_api_key", "no_key_configured", "invalid_signature", "invalid_json",
        "body_too_large", "rate_limited",
    ),
    "failed": ("processing_error", "storage_unavailable"),
}  # fmt: skip
RAW_CAUSES = (
    "invalid_entry", "status_broadcast", "newsletter", "from_me", "message_stub", "empty_message",
    "protocol_message", "history_sync", "sender_key_only",
)  # fmt: skip
EFFECTS = (
    "echo_settled", "echo_stored", "edit", "revoke", "reaction_set", "reaction_removed", "parked_ack_applied",
)  # fmt: skip
UPLOAD_TYPES = ("image", "audio", "video", "document", "unknown")
MEDIA_OUTCOMES = (
    "ready", "retried", "expired", "integrity", "blocked_address", "too_large", "media_keys_missing", "rejected",
    "gave_up",
)  # fmt: skip


def prepare() -> None:
    """Create every label combination known beforehand, with 0. Called once, at the start of a process."""
    # They double the page, and the shared files of several processes have none.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    _forget_the_dead()
    for result, reasons in REASONS.items():
        for reason in reasons:
            webhook_events.labels(result=result, reason=reason, payload_type="none")
    for result, reasons in _MESSAGE_REASONS.items():
        for reason, payload_type in product(reasons, MESSAGE_TYPES):
            webhook_events.labels(result=result, reason=reason, payload_type=payload_type)
    for cause in RAW_CAUSES:
        raw_ignored.labels(cause=cause)
    for effect in EFFECTS:
        message_effects.labels(effect=effect)
    for evidence, action in product(("lid_pair", "phone_variant", "manual"), ("merge", "undo")):
        contact_merges.labels(evidence=evidence, action=action)
    for result in ("clean", "repaired", "failed"):
        timelines_reconciled.labels(result=result)
    for outcome in ("new", "known", "failed"):
        gap_fill_events.labels(outcome=outcome)
    for outcome in ("hit", "miss"):
        dedupe.labels(outcome=outcome)
    for outcome in MEDIA_OUTCOMES:
        media.labels(outcome=outcome)
    for by in ("answer", "echo", "ack", "resend"):
        outbound_settled.labels(by=by)
    for media_type, result in product(UPLOAD_TYPES, ("accepted", "rejected", "infected", "failed")):
        uploads.labels(media_type=media_type, result=result)
    for where in ("session", "ticket", "door", "pace", "broker", "local"):
        outbound_rate_limited.labels(where=where)
    for to in ("open", "half_open", "closed"):
        circuit_transitions.labels(to=to)
    for result in ("ok", "bisected", "failed"):
        drain_batches.labels(result=result)
    for operation, result in product(OPERATIONS, ("success", "error", "retry")):
        persistence_operations.labels(operation=operation, result=result)
    for trigger in ("restart", "drop", "manual"):
        reconnect_seconds.labels(trigger=trigger)
    for result in ("success", "error"):
        qr_codes.labels(result=result)
    for result in ("made", "refused"):
        session_transitions.labels(result=result)
    for result in ("success", "failure", "locked"):
        logins.labels(result=result)


def count(child: Any, amount: float = 1) -> None:
    """Count once the running transaction has committed: what was rolled back did not happen."""
    transaction.on_commit(lambda: child.inc(amount))


def observe(child: Any, seconds: float) -> None:
    """Observe once the running transaction has committed."""
    transaction.on_commit(lambda: child.observe(seconds))


def everything(names: Collection[str] = ()) -> Collector:
    """What was counted: by all processes that share PROMETHEUS_MULTIPROC_DIR, or by this one when that is not set.

    `names` of samples may spare the reading of others.
    """
    if not shared_directory():
        return cast(Collector, REGISTRY.restricted_registry(names)) if names else REGISTRY
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def totals(labels: Mapping[str, str]) -> dict[str, collections.Counter[str]]:
    """The sums of counters, `labels` naming the label to sum each by; `.total()` of one is the sum of all.

    All are read in one pass and nothing else is: a page of all metrics takes too long for a health check.
    """
    sums: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in labels}
    for family in everything(list(labels)).collect():
        for sample in family.samples:
            if sample.name in sums:
                sums[sample.name][sample.labels.get(labels[sample.name], "")] += sample.value  # type: ignore[assignment]
    return sums


def shared_directory() -> str:
    """The directory that the processes share; prometheus_client itself reads this variable, and only this way."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")


def _forget_the_dead() -> None:
    """Remove the gauges of processes that were killed: their open sockets would count for ever."""
    for path in Path(shared_directory()).glob("gauge_live*_*.db") if shared_directory() else ():
        pid = path.stem.rpartition("_")[2]
        if not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            multiprocess.mark_process_dead(int(pid))  # type: ignore[no-untyped-call]
