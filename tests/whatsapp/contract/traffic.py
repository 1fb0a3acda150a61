"""An hour of a shop at the simulator: every kind of thing that customers, WhatsApp and the API do, always the same."""

from __future__ import annotations

import time
from base64 import b64encode
from typing import Any

import requests

from tests.outbound import KEY, Broker, until
from whatsapp.simulator.media import ASSETS

MARIA, JOAO, ANA = "5511988887777", "551199776666", "5511966665555"
GROUP = {"id": "120363041234567890", "subject": "Vizinhos"}
OLD_MOBILE = JOAO  # registered before the ninth digit: WhatsApp answers to the short number only


def speak(broker: Broker, line: str = "ipe-01") -> None:
    """Let it all happen, and return when every webhook of it has been delivered, given up or lost."""
    clock = iter(range(int(time.time()) - 3600, int(time.time())))

    def write(sender: str, name: str, **more: Any) -> str:
        body = {"from": sender, "pushName": name, "timestamp": next(clock), **more}
        return str(broker.control(f"{line}/inbound", body)["ids"][0])

    def send(route: str, **body: Any) -> str:
        url = f"{broker.url}/instances/{line}/{route}"
        answer = requests.post(url, json=body, headers={"x-api-key": KEY}, timeout=30)
        assert answer.ok, answer.text
        return str(answer.json()["id"])

    first = write(MARIA, "Maria", text="Bom dia")
    write(MARIA, "Maria", media=file("image", "tenis.jpg"), caption="olha isso")
    write(MARIA, "Maria", media=file("audio", "audio-pedido.ogg", ptt=True))
    write(MARIA, "Maria", media=file("document", "pedido.pdf", fileName="pedido.pdf"), caption="o pedido")
    write(MARIA, "Maria", message={"ephemeralMessage": {"message": {"extendedTextMessage": {"text": "temporária"}}}})
    write(MARIA, "Maria", text="resposta", quoted={"id": first, "text": "Bom dia", "participant": MARIA})
    button = {"selectedButtonId": "sim", "selectedDisplayText": "Sim", "type": "DISPLAY_TEXT"}
    write(MARIA, "Maria", message={"buttonsResponseMessage": button})
    row = {"title": "Tamanho 42", "singleSelectReply": {"selectedRowId": "42"}}
    write(MARIA, "Maria", message={"listResponseMessage": row})
    place = {"degreesLatitude": -23.5, "degreesLongitude": -46.6, "name": "Loja"}
    write(JOAO, "João", message={"locationMessage": place})
    card = {"displayName": "Bia", "vcard": "BEGIN:VCARD\nFN:Bia\nTEL;waid=5511955554444:+55 11 95555-4444\nEND:VCARD"}
    write(JOAO, "João", message={"contactMessage": card})
    write(ANA, "Ana", text="no grupo", group=GROUP)
    write(ANA, "Ana", text="story", group="status@broadcast")
    write(MARIA, "Loja", text="do celular", fromMe=True)
    edited, revoked = write(JOAO, "João", text="chego as 3"), write(JOAO, "João", text="segredo")
    batch = [{"from": JOAO, "pushName": "João", "text": f"lote {n}", "timestamp": next(clock)} for n in range(3)]
    broker.control(f"{line}/inbound", batch)
    settled(broker)  # what follows names messages that the broker has to know

    broker.control(f"{line}/react", {"id": first, "text": "👍"})
    broker.control(f"{line}/edit", {"id": edited, "text": "chego às 15h"})
    broker.control(f"{line}/revoke", {"id": revoked})
    answered = send("send-text", to=MARIA, message="Olá Maria")
    picture = b64encode((ASSETS / "mochila.jpg").read_bytes()).decode()
    shown = send(
        "send-media", to=JOAO, type="image", caption="veja", media={"base64": picture, "mimetype": "image/jpeg"}
    )
    poll = send("send-poll", to=MARIA, question="Qual?", options=["Sim", "Não"])
    broker.control(f"{line}/vote", {"pollId": poll, "voter": MARIA, "options": ["Sim"], "pushName": "Maria"})
    for message, status in ((answered, 2), (answered, 3), (answered, 4), (shown, 3), (poll, 2)):
        broker.control(f"{line}/ack", {"id": message, "status": status})
    settled(broker)


def settled(broker: Broker) -> None:
    """Return when no webhook is on its way, twice in a row: one may have just made room for the next."""

    def quiet() -> bool:
        return all(broker.control("state", method="GET")["webhooks"].get("pending", 0) == 0 for _ in range(2))

    until(quiet, 30)


def file(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """A file of the simulator's assets, as the inbound call wants it."""
    return {"type": kind, "base64": b64encode((ASSETS / name).read_bytes()).decode(), **more}
