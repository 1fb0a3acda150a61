"""What becomes of messages while something is down: the whole product, its workers and the simulator."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import requests
from playwright.sync_api import expect

from tests.e2e.conftest import Browsers
from tests.e2e.desk import PASSWORD, Customer, Desk, media, shots_folder
from tests.product import Product


def listed(desk: Desk) -> list[dict[str, Any]]:
    """What the broker still lists."""
    url = f"{desk.product.env['WHATSAPP_BROKER_URL']}/instances/{desk.line_id}/events?limit=200"
    answer = requests.get(url, headers={"x-api-key": desk.product.env["WHATSAPP_BROKER_API_KEY"]}, timeout=10)
    events: list[dict[str, Any]] = answer.json()["events"]
    return events


def given_up(desk: Desk) -> int:
    """How many webhooks the broker has tried six times in vain."""
    return int(desk.product.simulate("/_sim/state")["webhooks"].get("givenUp", 0))


def texts(customer: Customer) -> list[str]:
    return [text for text, _ in customer.messages()]


def told(product: Product, event: str) -> float:
    """How often an event was broadcast, by /metrics."""
    page = requests.get(
        f"{product.url}/metrics", headers={"Authorization": f"Bearer {product.env['METRICS_TOKEN']}"}, timeout=10
    ).text
    start = f'ws_events_total{{event="{event}"}} '
    return sum(float(line.removeprefix(start)) for line in page.splitlines() if line.startswith(start))


def test_inbound_13_a_queue_that_is_made_later_delivers_all_in_order(product: Product) -> None:
    line = {"connectionId": "semfila-01", "brokerInstanceId": "semfila-01", "name": "Loja", "status": "connected"}
    tenant: dict[str, Any] = {"slug": "semfila", "name": "Sem Fila", "sessions": [line]}
    product.provision({"tenants": [tenant]})
    before = told(product, "whatsapp.queue.missing")
    phones = ["5511970000001", "5511970000002"]
    for number in range(6):
        body = {"from": phones[number % 2], "pushName": "Maria", "text": f"mensagem {number}"}
        product.simulate("/_sim/semfila-01/inbound", body)

    def rows(sql: str) -> list[Any]:
        with product.database() as connection:
            return connection.execute(sql).fetchall()

    mine = "tenant_id = (SELECT id FROM accounts_tenant WHERE slug = 'semfila')"
    waiting = f"SELECT external_id FROM whatsapp_webhookitem WHERE {mine} AND reason = 'queue_missing'"
    product.wait_for(lambda: len({row[0] for row in rows(waiting)}) == 6)
    assert rows(f"SELECT 1 FROM tickets_message WHERE {mine}") == []
    product.wait_for(lambda: told(product, "whatsapp.queue.missing") > before)
    product.provision({"tenants": [{**tenant, "queues": [{"name": "Recepção"}]}]})
    stored = f"SELECT content FROM tickets_message WHERE {mine} ORDER BY ticket_id, position"
    product.wait_for(lambda: len(rows(stored)) == 6, 60)
    assert sorted(row[0] for row in rows(stored)) == [f"mensagem {number}" for number in range(6)]
    by_ticket = rows(
        f"SELECT array_agg(content ORDER BY position) FROM tickets_message WHERE {mine} GROUP BY ticket_id"
    )
    assert sorted(one[0] for one in by_ticket) == [[f"mensagem {n}" for n in range(k, 6, 2)] for k in (0, 1)]
    assert rows(waiting) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_inbound_19_after_the_webhook_was_down_all_messages_are_there_and_the_list_is_empty(product: Product) -> None:
    if not hasattr(product, "data_dir"):
        pytest.skip("the product was started by someone else")
    desk = Desk(product, "apagao", "Apagão")
    desk.behave(webhook={"retryScale": 0.01}, autoAck=[])
    customers = [desk.customer(f"Cliente {number}") for number in range(3)]
    customers[0].writes("antes")
    product.wait_for(lambda: texts(customers[0]) == ["antes"])
    web, before = product.pid_of("web"), given_up(desk)
    os.kill(web, signal.SIGSTOP)
    try:
        for number, customer in enumerate(customers):
            customer.writes(f"um {number}")
            customer.writes(f"dois {number}")
        customers[1].sends({"media": media("image", "tenis.jpg"), "caption": "foto"})
        customers[2].sends({"text": "do celular", "fromMe": True})
        # Five seconds for each attempt: nobody answers. Raw twins are sent after that, and meet an open door.
        product.wait_for(lambda: given_up(desk) >= before + 8, 90)
    finally:
        os.kill(web, signal.SIGCONT)
    back = time.monotonic()
    expected = [["antes", "um 0", "dois 0"], ["um 1", "dois 1", "foto"], ["um 2", "dois 2", "do celular"]]
    product.wait_for(lambda: [sorted(texts(one)) for one in customers] == [sorted(one) for one in expected], 60)
    product.wait_for(lambda: listed(desk) == [], 60 - (time.monotonic() - back) + 10)
    assert [sorted(texts(one)) for one in customers] == [sorted(one) for one in expected]  # what came late was known
    assert desk.value(
        "SELECT count(*) FROM whatsapp_webhookevent e JOIN whatsapp_sessions s ON s.id = e.session_id "
        "WHERE s.connection_id = %s AND e.source = 'pull'",
        desk.line_id,
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_broker_06_and_17_what_only_the_list_has_arrives_within_a_minute(product: Product) -> None:
    desk = Desk(product, "lista", "Lista")
    desk.behave(autoAck=[])
    maria = desk.customer("Maria")
    maria.sends({"text": "aviso ao grupo", "fromMe": True, "group": "12036399", "id": f"G-{maria.phone}"})
    status = "SELECT status FROM tickets_message WHERE external_id = %s"
    product.wait_for(lambda: bool(desk.rows(status, f"G-{maria.phone}")))
    product.simulate(f"/_sim/{desk.line_id}/receipt", {"id": f"G-{maria.phone}", "status": 4})
    before = given_up(desk)
    desk.behave(autoAck=[], webhook={"apiKey": "wrong", "retryScale": 0.01})
    maria.writes("recusada")
    product.wait_for(lambda: given_up(desk) >= before + 2)
    desk.behave(autoAck=[])
    product.wait_for(lambda: texts(maria) == ["recusada"], 70)
    product.wait_for(lambda: desk.value(status, f"G-{maria.phone}") == "READ", 70)
    product.wait_for(lambda: listed(desk) == [], 70)


def test_broker_08_a_webhook_that_is_slow_or_refuses_during_a_send_holds_up_nobody_else(product: Product) -> None:
    slow, quick = Desk(product, "lenta", "Lenta"), Desk(product, "rapida", "Rápida")
    for webhook in ({"delayMs": 3000}, {"apiKey": "wrong", "retryScale": 0.02}):
        one, other = slow.customer("Lia"), quick.customer("Rui")
        one.writes("oi")
        other.writes("oi")
        product.wait_for(lambda one=one, other=other: bool(texts(one) and texts(other)))  # type: ignore[misc]
        slow.behave(webhook=webhook)
        began = time.monotonic()
        _answer(slow, one, "demora")
        for number in range(5):
            _answer(quick, other, f"já {number}")
        product.wait_for(lambda other=other: len(other.got()) == 5, 3)  # type: ignore[misc]
        assert time.monotonic() - began < 3
        product.wait_for(lambda one=one: ("demora", "SENDING") not in one.messages() and len(one.got()) == 1, 20)  # type: ignore[misc]
        slow.behave()
        product.wait_for(lambda one=one: dict(one.messages()).get("demora") in {"SENT", "DELIVERED"}, 20)  # type: ignore[misc]
        assert [text for text, _ in one.messages()].count("demora") == 1
        assert len(one.got()) == 1


@pytest.fixture
def desk(product: Product) -> Desk:
    """A line of its own: the history of this one is made up."""
    return Desk(product, "calada", "Calada")


@pytest.mark.slow
def test_inbound_22_a_silent_line_shows_a_banner_to_the_supervisor_until_the_next_message(
    browsers: Browsers, desk: Desk
) -> None:
    maria = desk.customer("Maria")
    desk.change(
        """INSERT INTO whatsapp_inboundhour (id, tenant_id, session_id, hour, received)
           SELECT gen_random_uuid(), tenant_id, id, date_trunc('hour', now()) - n * interval '1 hour', 5
           FROM whatsapp_sessions, generate_series(1, 400) n WHERE connection_id = %s""",
        desk.line_id,
    )
    page, colleague = browsers.page("sofia"), browsers.page("ana")
    expect(page.locator("#silent-lines")).to_be_attached()
    expect(page.locator("#silent-lines .line-bar")).to_have_count(0)
    desk.change(
        """UPDATE whatsapp_sessions SET last_inbound_at = now() - interval '2 hours', connected_at = NULL
           WHERE connection_id = %s""",
        desk.line_id,
    )
    bar = page.locator("#silent-lines .line-bar")
    desk.product.ask("whatsapp.watch_silence", "whatsapp.maintenance")  # beat does it once a minute
    expect(bar).to_have_count(1, timeout=75_000)
    expect(bar).to_contain_text("Loja")
    expect(colleague.locator("#silent-lines")).to_have_count(0)
    page.screenshot(path=shots_folder() / "silent-line.png")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=shots_folder() / "silent-line-phone-dark.png")
    maria.writes("voltei")
    expect(bar).to_have_count(0)


def _answer(desk: Desk, customer: Customer, text: str) -> None:
    """What an integration does with its token."""
    url, person = desk.product.url, desk.people["sofia"]
    token = _tokens.get(person)
    if token is None:
        answer = requests.post(f"{url}/api/auth/login", json={"email": person, "password": PASSWORD}, timeout=10)
        token = _tokens[person] = answer.json()["data"]["token"]["accessToken"]
    done = requests.post(
        f"{url}/api/tickets/{customer.ticket_id}/messages", json={"type": "text", "text": text},
        headers={"Authorization": f"Bearer {token}"}, timeout=10,
    )  # fmt: skip
    assert done.status_code == 202, done.text


_tokens: dict[str, str] = {}
