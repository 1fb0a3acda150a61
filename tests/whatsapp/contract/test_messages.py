"""The rows of messages and numbers: spec/broker.md section 2, one test each."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

import pytest
import requests

from tests.outbound import until
from tests.whatsapp.contract.conftest import MARIA, Contract

TEXT_SENT = {"id": str, "messageId": str, "status": int}
FILE_SENT = {
    "id": str,
    "status": int,
    "type": str,
    "mimetype": str,
    "fileName": (str, None),
    "source": str,
    "size": int,
}
POLL_SENT = {"id": str, "status": int}
PDF = b64encode(b"%PDF-1.4 contract").decode()


def test_broker_01_get_status_is_that_of_a_message(broker: Contract, opened: str) -> None:
    path = f"/instances/{opened}/status"
    unknown = broker.expect(broker.call("GET", path, params={"id": "nothing"}), 200, {"id": str, "status": (int, None)})
    assert unknown == {"id": "nothing", "status": None}
    broker.refused(broker.call("GET", path), 400, "id obrigatório")


def test_broker_01_get_status_forgets_what_is_final(simulator: Contract, sender: str) -> None:
    sent = post(simulator, sender, "send-text", to=MARIA, message="oi").json()["id"]
    for status, shown in ((None, 1), (2, 2), (3, None), (0, None)):
        if status is not None:
            simulator.control(f"{sender}/ack", {"id": sent, "status": status})
        answer = simulator.call("GET", f"/instances/{sender}/status", params={"id": sent})
        assert answer.json() == {"id": sent, "status": shown}


def test_broker_01_post_send_text(broker: Contract, sender: str) -> None:
    extra = {"externalId": "e", "metadata": {"a": 1}, "quoted": "x", "type": "image", "sessionId": "s"}
    answer = post(broker, sender, "send-text", to=broker.to, message="Teste de contrato", **extra)
    sent = broker.expect(answer, 200, TEXT_SENT)
    assert (sent["id"], sent["status"]) == (sent["messageId"], 1)
    if broker.simulated:
        last = broker.control(f"{sender}/sent", method="GET")[-1]
        assert (last["type"], last["text"]) == ("text", "Teste de contrato")


def test_broker_01_post_send_media(broker: Contract, sender: str) -> None:
    media = {"base64": PDF, "mimetype": "application/pdf", "fileName": "contrato.pdf"}
    answer = post(broker, sender, "send-media", to=broker.to, type="document", caption="Contrato", media=media)
    sent = broker.expect(answer, 201, FILE_SENT)
    assert (sent["type"], sent["mimetype"], sent["fileName"], sent["source"], sent["size"]) == (
        "document", "application/pdf", "contrato.pdf", "base64", 17,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["image", "video", "audio", "document"])
def test_broker_01_post_send_media_takes_four_types(simulator: Contract, sender: str, kind: str) -> None:
    sent = post(simulator, sender, "send-media", to=MARIA, type=kind, media={"base64": PDF, "ptt": True})
    assert simulator.expect(sent, 201, FILE_SENT)["type"] == kind


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"to": ""}, "to_required"),
        ({"type": "location"}, "type_invalid"),
        ({"media": "x"}, "media_invalid"),
        ({"media": {}}, "media_source_missing"),
        ({"media": {"url": "not an address"}}, "media_url_invalid"),
        ({"media": {"base64": "%%%"}}, "media_base64_invalid"),
    ],
)
def test_broker_01_post_send_media_refuses(broker: Contract, sender: str, body: dict[str, Any], error: str) -> None:
    whole = {"to": broker.to, "type": "image", "media": {"base64": PDF}, **body}
    broker.refused(post(broker, sender, "send-media", **whole), 400, error)


def test_broker_01_post_send_media_over_16_mib_is_refused(
    simulator: Contract, sender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A body holds at most 1 MB, so only a file behind a link can be that large; the limit is moved, not the file.
    monkeypatch.setattr("whatsapp.simulator.sending.MAX_BYTES", 3)
    answer = post(simulator, sender, "send-media", to=MARIA, type="image", media={"base64": PDF})
    simulator.refused(answer, 400, "media_too_large")


def test_broker_01_post_send_poll(broker: Contract, sender: str) -> None:
    answer = post(broker, sender, "send-poll", to=broker.to, question="Qual?", options=["Sim", "Não"])
    assert broker.expect(answer, 201, POLL_SENT)["status"] == 1
    for wrong in ({"options": ["Sim"]}, {"question": ""}, {"to": ""}):
        body = {"to": broker.to, "question": "Qual?", "options": ["Sim", "Não"], **wrong}
        broker.refused(post(broker, sender, "send-poll", **body), 400, re.compile("."))


@pytest.mark.parametrize(
    ("route", "more"),
    [
        ("send-buttons", {"options": [{"id": "1", "title": "Sim"}]}),
        ("send-list", {"buttonText": "Abrir", "sections": [{"title": "S", "rows": [{"id": "1", "title": "Um"}]}]}),
    ],
)
def test_broker_01_post_send_buttons_and_list_send_the_text_alone(
    broker: Contract, sender: str, route: str, more: dict[str, Any]
) -> None:
    answer = post(broker, sender, route, to=broker.to, text="Escolha", **more)
    broker.expect(answer, 200, TEXT_SENT)
    if broker.simulated:
        assert "Sim" not in str(broker.control(f"{sender}/sent", method="GET")[-1])


def test_broker_01_post_exists(broker: Contract, sender: str) -> None:
    found = broker.expect(
        post(broker, sender, "exists", to=broker.to), 200, {"results": [{"jid": str, "exists": bool}]}
    )
    assert found["results"][0]["jid"].endswith("@s.whatsapp.net")
    broker.refused(post(broker, sender, "exists"), 400, re.compile("."))


def test_broker_01_post_exists_of_a_number_that_is_not_on_whatsapp_is_an_empty_list(
    simulator: Contract, opened: str
) -> None:
    simulator.control(f"{opened}/behaviour", {"exists": False})
    assert post(simulator, opened, "exists", to=MARIA).json() == {"results": []}


def test_broker_01_get_check_number(broker: Contract, sender: str) -> None:
    path = f"/instances/{sender}/check-number"
    answer = broker.call("GET", path, params={"number": broker.to})
    assert broker.expect(answer, 200, {"exists": bool, "jid": (str, None)})["exists"] is True
    broker.refused(broker.call("GET", path), 400, re.compile("."))


def test_broker_01_get_profile_pic(broker: Contract, sender: str) -> None:
    answer = broker.call("GET", f"/instances/{sender}/profile-pic", params={"number": broker.to})
    broker.expect(answer, 200, {"profilePicUrl": (str, None)})


def test_broker_01_get_groups(broker: Contract, opened: str) -> None:
    if broker.simulated:
        group = {"id": "120363041234567890", "subject": "Vizinhos"}
        broker.control(f"{opened}/inbound", {"from": MARIA, "text": "oi", "group": group})
    groups = broker.expect(broker.call("GET", f"/instances/{opened}/groups"), 200, [{"id": str, "subject": str}])
    assert all(one["id"].endswith("@g.us") for one in groups)
    assert groups or not broker.simulated


def test_broker_01_whatever_needs_the_link_is_503_without_it(broker: Contract, made: str) -> None:
    for route in ("send-text", "send-media", "send-poll", "send-buttons", "send-list", "exists"):
        broker.refused(post(broker, made, route, to=MARIA), 503, re.compile("instance_offline|poll_service"))
    for route in ("check-number?number=5511988887777", "profile-pic?number=5511988887777", "groups"):
        broker.refused(broker.call("GET", f"/instances/{made}/{route}"), 503, "instance_offline")


def test_broker_01_a_send_is_followed_by_acks(simulator: Contract, sender: str) -> None:
    simulator.control(f"{sender}/behaviour", {"autoAck": [2, 3], "ackDelayMs": 5})
    sent = post(simulator, sender, "send-text", to=MARIA, message="oi").json()["id"]

    def acked() -> list[int]:
        events = simulator.call("GET", f"/instances/{sender}/events", params={"type": "MESSAGE_STATUS"}).json()
        return [one["payload"]["status"] for one in events["events"] if one["payload"]["messageId"] == sent]

    until(lambda: acked() == [2, 3])


def post(broker: Contract, name: str, route: str, **body: Any) -> requests.Response:
    """One POST to a route of an instance."""
    return broker.call("POST", f"/instances/{name}/{route}", body)
