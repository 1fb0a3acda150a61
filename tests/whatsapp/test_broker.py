"""The HTTP client to the broker: what each answer and each failure means (spec/broker.md section 7)."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.db import transaction

from leadengine.errors import NotConfigured
from leadengine.redis import client
from tests.outbound import broker_running
from tests.samples import sample
from tests.whatsapp.wire import Wire, closed_port
from whatsapp import broker
from whatsapp.broker_health import read_broker_health

HTML = "<!doctype html><html></html>"
SEND = "/instances/{id}/send-text"


@pytest.fixture(autouse=True)
def _fresh(django_db_setup: Any) -> None:
    client().flushdb()


def call(url: str, settings: Any, method: str = "POST", **more: Any) -> broker.Answer:
    settings.WHATSAPP_BROKER_URL = url
    return broker.call(method, SEND, parts={"id": "loja 1/x"}, body={"to": "5511988887777"}, **more)


@pytest.mark.parametrize(
    ("status", "body", "expected", "unknown"),
    [
        (503, {"error": "instance_offline", "state": "close"}, "INSTANCE_DISCONNECTED", False),
        (503, {"error": "message_service_unavailable"}, "INSTANCE_DISCONNECTED", False),
        (503, {"error": "poll_service_unavailable"}, "INSTANCE_DISCONNECTED", False),
        (503, {"error": "socket_unavailable"}, "BROKER_ERROR", True),
        (503, {"error": "maintenance"}, "BROKER_ERROR", True),
        (404, {"error": "instance_not_found"}, "INSTANCE_NOT_FOUND", False),
        (404, {"error": "whatsapp_not_found"}, "INVALID_TO", False),
        (404, {"error": "something_else"}, "MESSAGE_REJECTED", False),
        (404, HTML, "UNSUPPORTED_OPERATION", False),
        (405, HTML, "UNSUPPORTED_OPERATION", False),
        (501, {"error": "not here"}, "UNSUPPORTED_OPERATION", False),
        (409, {"error": "send_queue_disabled"}, "UNSUPPORTED_OPERATION", False),
        (409, {"error": "instance_exists"}, "INSTANCE_EXISTS", False),
        (400, {"error": "to inválido. Use E.164: 55DDDNUMERO"}, "INVALID_TO", False),
        (400, {"error": "to_required"}, "INVALID_TO", False),
        (400, {"error": "media_url_invalid"}, "INVALID_MEDIA", False),
        (400, {"error": "type_invalid"}, "INVALID_MEDIA", False),
        (413, "", "INVALID_MEDIA", False),
        (500, {"error": "internal_server_error", "message": "request entity too large"}, "INVALID_MEDIA", False),
        (400, {"error": "Campos obrigatórios: to, message"}, "MESSAGE_REJECTED", False),
        (400, HTML, "MESSAGE_REJECTED", False),
        (429, {"error": "risk_paused"}, "RISK_PAUSED", False),
        (429, {"error": "rate limit exceeded"}, "RATE_LIMITED", False),
        (429, HTML, "RATE_LIMITED", False),
        (401, {"error": "unauthorized"}, "BROKER_AUTH", False),
        (403, HTML, "BROKER_AUTH", False),
        (500, {"error": "send timeout"}, "BROKER_TIMEOUT", True),
        (500, {"error": "send_failed"}, "BROKER_ERROR", True),
        (500, {"error": {"code": "x"}}, "BROKER_ERROR", True),
        (502, "Bad Gateway", "BROKER_ERROR", True),
        (504, HTML, "BROKER_ERROR", True),
        (200, HTML, "BROKER_ERROR", True),
        (200, "", "BROKER_ERROR", True),
        (200, "true", "BROKER_ERROR", True),
        (200, {"id": "X", "error": "instance_offline"}, "BROKER_ERROR", True),
        (302, "", "BROKER_ERROR", True),
    ],
)  # fmt: skip
def test_each_answer_has_its_code(settings: Any, status: int, body: Any, expected: str, unknown: bool) -> None:
    with Wire(status, body) as wire, pytest.raises(broker.BrokerError) as failed:
        call(wire.url, settings)
    assert (failed.value.code, failed.value.unknown, failed.value.http_status) == (expected, unknown, status)
    assert failed.value.message


def test_text_of_the_broker_is_kept_where_nothing_better_is_known(settings: Any) -> None:
    with Wire(400, {"error": "mensagem vazia"}) as wire, pytest.raises(broker.MessageRejected) as failed:
        call(wire.url, settings)
    assert failed.value.message == "mensagem vazia"


def test_pause_is_the_brokers_word_else_ours(settings: Any) -> None:
    with Wire(429, {"error": "rate limit exceeded"}) as wire:
        with pytest.raises(broker.RateLimited) as failed:
            call(wire.url, settings)
        assert failed.value.retry_after == 15
        wire.headers = {"Retry-After": "7"}
        with pytest.raises(broker.RateLimited) as failed:
            call(wire.url, settings)
        assert failed.value.retry_after == 7


def test_what_is_sent(settings: Any) -> None:
    settings.WHATSAPP_BROKER_API_KEY = ["first-key", "second-key"]
    with Wire(201, {"id": "X1"}) as wire:
        answer = call(wire.url, settings, headers={"Idempotency-Key": "k"}, params={"a": 1})
    method, path, headers, body = wire.asked[0]
    assert (method, path, body) == ("POST", "/instances/loja%201%2Fx/send-text?a=1", {"to": "5511988887777"})
    assert (headers["x-api-key"], headers["Idempotency-Key"], headers["Connection"]) == ("first-key", "k", "close")
    assert (answer.status, answer.data) == (201, {"id": "X1"})


def test_keys_never_stay_in_an_answer(settings: Any) -> None:
    settings.WHATSAPP_BROKER_API_KEY = ["first-key", "second-key"]
    body = {"error": "first-key and second-key", "more": "x" * 5000}
    with Wire(500, body) as wire, pytest.raises(broker.BrokerFailed) as failed:
        call(wire.url, settings)
    assert "-key" not in failed.value.answer
    assert len(failed.value.answer) == broker.KEPT


def test_refused_connection_and_unknown_name_left_nothing(settings: Any) -> None:
    for url in (f"http://127.0.0.1:{closed_port()}", "http://nowhere.invalid"):
        with pytest.raises(broker.BrokerUnreachable):
            call(url, settings)


def test_connect_timeout_left_nothing(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "CONNECT_SECONDS", 0.3)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = []
        for _ in range(3):  # fill the backlog: the next connection is not taken
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            waiting.append(one)
        with pytest.raises(broker.BrokerUnreachable):
            call(f"http://127.0.0.1:{port}", settings)
        for one in waiting:
            one.close()


@pytest.mark.parametrize("kind", ["untrusted certificate", "no TLS at all", "hangs up in the handshake"])
def test_failed_handshake_left_nothing(settings: Any, tmp_path: Path, kind: str) -> None:
    server, thread = _tls_server(tmp_path, kind)
    with pytest.raises(broker.BrokerUnreachable):
        call(f"https://127.0.0.1:{server.getsockname()[1]}", settings)
    thread.join(5)
    server.close()


def test_connection_broken_after_the_request_is_unknown(settings: Any) -> None:
    with Wire() as wire:
        wire.cut = True
        with pytest.raises(broker.BrokerFailed):
            call(wire.url, settings)
        assert len(wire.asked) == 1  # and it is not asked twice


def test_read_timeout_is_unknown(settings: Any) -> None:
    with Wire() as wire:
        wire.hold = lambda: time.sleep(0.5)
        with pytest.raises(broker.BrokerTimeout):
            call(wire.url, settings, timeout_ms=100)
        assert len(wire.asked) == 1


def test_redirect_is_not_followed_and_no_proxy_is_used(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Wire() as wire, Wire() as elsewhere:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere.url)
        monkeypatch.setenv("NO_PROXY", "")
        assert call(wire.url, settings).data == {"id": "X1"}
        wire.status, wire.headers = 307, {"Location": elsewhere.url}
        with pytest.raises(broker.BrokerFailed):
            call(wire.url, settings)
        assert elsewhere.asked == []


def test_a_get_is_tried_three_times_a_send_once(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "REPEATS", (0.01, 0.02))
    url = f"http://127.0.0.1:{closed_port()}"
    for method, tries in (("GET", 3), ("POST", 1)):
        labels = {"route": SEND, "method": method, "status": "none", "result": "broker_unreachable"}
        before = sample("whatsapp_http_requests_total", **labels)
        with pytest.raises(broker.BrokerUnreachable):
            call(url, settings, method)
        assert sample("whatsapp_http_requests_total", **labels) == before + tries
    with Wire(503, {"error": "x"}) as wire:  # an answer is an answer: a GET is not repeated for it
        with pytest.raises(broker.BrokerFailed):
            call(wire.url, settings, "GET")
        assert len(wire.asked) == 1


def test_calls_are_measured_and_move_the_health_record(settings: Any) -> None:
    labels = {"route": SEND, "method": "POST", "status": "200", "result": "ok"}
    before = sample("whatsapp_http_requests_total", **labels)
    with Wire() as wire:
        call(wire.url, settings)
        assert sample("whatsapp_http_requests_total", **labels) == before + 1
        assert read_broker_health().last_success_at is not None
        wire.status, wire.body = 401, "{}"
        with pytest.raises(broker.BrokerAuth):
            call(wire.url, settings)
        health = read_broker_health()
        assert (health.consecutive_failures, health.last_error_code) == (1, "BROKER_AUTH")
        wire.status, wire.body = 503, '{"error": "instance_offline"}'  # one line is offline; the broker is well
        with pytest.raises(broker.InstanceDisconnected):
            call(wire.url, settings)
        assert read_broker_health().consecutive_failures == 0


@pytest.mark.django_db(transaction=True)
def test_no_call_inside_a_transaction(settings: Any) -> None:
    with Wire() as wire:
        with transaction.atomic(), pytest.raises(RuntimeError):
            call(wire.url, settings)
        assert wire.asked == []


def test_missing_configuration_is_named(settings: Any) -> None:
    settings.WHATSAPP_BROKER_API_KEY = []
    settings.WHATSAPP_WEBHOOK_HMAC_SECRET = []
    with pytest.raises(NotConfigured) as refused:
        call("", settings)
    assert refused.value.details["missing"] == [
        "WHATSAPP_BROKER_URL", "WHATSAPP_BROKER_API_KEY", "WHATSAPP_WEBHOOK_HMAC_SECRET",
    ]  # fmt: skip


def test_against_the_simulator(settings: Any) -> None:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        snapshot = broker.call("GET", "/instances/{id}", parts={"id": "ipe-01"}).data
        assert snapshot["connectionState"] == "open"
        with pytest.raises(broker.InstanceNotFound):
            broker.call("GET", "/instances/{id}", parts={"id": "nada"})
        with pytest.raises(broker.InvalidTo):
            broker.call("POST", SEND, parts={"id": "ipe-01"}, body={"to": "12", "message": "x"})
        with pytest.raises(broker.UnsupportedOperation):
            broker.call("POST", "/instances/{id}/send-location", parts={"id": "ipe-01"}, body={})
        with pytest.raises(broker.BrokerFailed):
            broker.call("GET", "/no-such-page")  # the dashboard, 200 and HTML


def _tls_server(tmp_path: Path, kind: str) -> tuple[socket.socket, threading.Thread]:
    """A server whose TLS handshake fails in one of three ways."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(5)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if kind == "untrusted certificate":
        certificate = tmp_path / "own.pem"
        certificate.write_bytes(_self_signed())
        context.load_cert_chain(certificate)

    def serve() -> None:
        taken, _ = server.accept()
        with taken:
            if kind == "untrusted certificate":
                try:
                    context.wrap_socket(taken, server_side=True).close()
                except (ssl.SSLError, OSError):
                    return
            elif kind == "no TLS at all":
                taken.recv(100)
                taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    return server, thread


def _self_signed() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    own = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, *own) + builder.sign(key, hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )
