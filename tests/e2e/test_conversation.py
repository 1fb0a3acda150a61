"""The main job in real browsers: spec/inbox.md section 21, numbers 1, 2, 4, 5, 6."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, WebSocketRoute, expect

from tests.e2e.conftest import Browsers
from tests.e2e.desk import Customer, Desk

MINUTE = 60_000


def row_of(page: Page, customer: Customer) -> Any:
    return page.locator("[data-rows] > li").filter(has_text=customer.name)


def open_ticket(page: Page, customer: Customer) -> None:
    row_of(page, customer).locator("a").click()
    expect(page.get_by_role("heading", name=customer.name).first).to_be_visible()
    expect(page.locator("message-thread")).to_be_visible()
    page.mouse.move(page.viewport_size["width"] - 60, 400)  # type: ignore[index]  # the list does not move under the pointer


def bubbles(page: Page) -> Any:
    return page.locator("[data-items] > .message .bubble-text")


def test_a_message_appears_everywhere_and_the_answer_goes_back(browsers: Browsers, desk: Desk) -> None:
    ana, bruno = browsers.page("ana"), browsers.page("bruno")
    maria = desk.customer("Maria Souza")
    maria.writes("Oi, vocês abrem hoje?")
    for page in (ana, bruno):
        expect(row_of(page, maria)).to_contain_text("Oi, vocês abrem hoje?")
        expect(row_of(page, maria).locator(".pill")).to_contain_text("1")
    open_ticket(ana, maria)
    ana.get_by_role("button", name="Assumir").first.click()
    expect(ana.locator("#ticket-head")).to_contain_text("Com você")
    expect(ana).to_have_title(re.compile(maria.name))

    maria.writes("É que queria passar aí")
    expect(bubbles(ana).last).to_have_text("É que queria passar aí")

    box = ana.locator("message-composer textarea")
    box.fill("Abrimos sim, até as 18h!")
    box.press("Enter")
    sent = ana.locator("[data-items] > .is-out").last
    expect(sent).to_contain_text("Abrimos sim, até as 18h!")
    expect(box).to_have_value("")
    expect(sent.locator("[data-status=DELIVERED]")).to_be_visible()
    (at_broker,) = maria.got()
    desk.product.simulate(f"/_sim/{desk.line_id}/ack", {"id": at_broker["id"], "status": 4})
    expect(sent.locator(".tick.is-read[data-status=READ]")).to_be_visible()
    expect(row_of(bruno, maria)).to_contain_text("Ana: Abrimos sim, até as 18h!")

    maria.writes("Que bom, obrigada")
    expect(bubbles(ana)).to_have_text(
        ["Oi, vocês abrem hoje?", "É que queria passar aí", "Abrimos sim, até as 18h!", "Que bom, obrigada"]
    )


class Wire:
    """The page's network: the socket and HTTP can be cut and given back."""

    def __init__(self, page: Page) -> None:
        self.page, self.down = page, False
        self.sockets: list[WebSocketRoute] = []
        page.route_web_socket(re.compile("/ws/$"), self._opened)

    def _opened(self, socket: WebSocketRoute) -> None:
        if self.down:
            socket.close(code=1011)
            return
        socket.connect_to_server()
        self.sockets.append(socket)

    def cut(self) -> None:
        self.down = True
        self.page.context.set_offline(True)
        for socket in self.sockets:
            socket.close(code=1011)
        self.sockets.clear()

    def mend(self) -> None:
        self.down = False
        self.page.context.set_offline(False)


def test_a_cut_amid_two_hundred_messages_leaves_the_screen_equal_to_the_database(
    browsers: Browsers, desk: Desk
) -> None:
    browsers.allow(r"ERR_INTERNET_DISCONNECTED", r"WebSocket")
    page = browsers.page("ana")
    wire = Wire(page)
    page.reload()
    joao, other = desk.customer("João Corte"), desk.customer("Rita Corte")
    joao.writes("primeira")
    open_ticket(page, joao)
    box = page.locator("message-composer textarea")
    for text in ("resposta um", "resposta dois"):
        box.fill(text)
        box.press("Enter")
    expect(page.locator("[data-items] [data-status=DELIVERED]")).to_have_count(2)
    page.evaluate("window.alive = true")

    wire.cut()
    expect(page.locator("event-socket")).to_contain_text("Reconectando")
    box.fill("isto não pode sumir")
    for start in range(0, 200, 50):
        joao.writes(*(f"mensagem {number}" for number in range(start, start + 50)))
    other.writes("e eu também")
    for sent in joao.got():
        desk.product.simulate(f"/_sim/{desk.line_id}/ack", {"id": sent["id"], "status": 4})
    desk.product.wait_for(lambda: len(joao.messages()) == 203 and sum(s == "READ" for _, s in joao.messages()) == 2)

    wire.mend()
    expect(page.locator("event-socket")).to_be_hidden()
    expect(bubbles(page)).to_have_count(203)
    assert bubbles(page).all_inner_texts() == [text for text, _ in joao.messages()]
    expect(page.locator("[data-items] [data-status=READ]")).to_have_count(2)
    expect(row_of(page, other)).to_contain_text("e eu também")
    expect(box).to_have_value("isto não pode sumir")
    assert page.evaluate("window.alive") is True


def test_a_change_that_overtakes_its_message_is_shown(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("ana")
    lia = desk.customer("Lia Veloz")
    lia.writes("primeira")
    open_ticket(page, lia)
    page.evaluate(
        "document.addEventListener('live:message.updated', () => (window.changes = (window.changes ?? 0) + 1))"
    )
    held: list[str] = []

    def hold(route: Route) -> None:
        """The first answer that brings the second message is kept until a change of it was told."""
        answer = route.fetch()
        if not held and "segunda" in answer.text():
            desk.product.simulate(f"/_sim/{desk.line_id}/react", {"id": second, "text": "👍"})
            desk.product.wait_for(lambda: bool(page.evaluate("window.changes")))
            held.append(answer.url)
        route.fulfill(response=answer)

    page.route("**/thread/?after=*", hold)
    [second] = lia.writes("segunda")
    expect(page.locator(".reaction")).to_have_text("👍")
    assert held


def test_a_restart_of_the_web_process_leaves_what_was_typed(browsers: Browsers, desk: Desk) -> None:
    if not hasattr(desk.product, "data_dir"):
        pytest.skip("the product was started by someone else")
    browsers.allow(r"ERR_", r"WebSocket", r"status of 50")
    page = browsers.page("ana")
    dora = desk.customer("Dora Reinício")
    dora.writes("Oi!")
    open_ticket(page, dora)
    box = page.locator("message-composer textarea")
    box.fill("metade da frase")
    box.evaluate("(one) => one.setSelectionRange(2, 7)")
    page.evaluate("window.alive = true")
    processes = json.loads((desk.product.data_dir / "processes.json").read_text())
    desk.product.kill(next(name for name in processes if name.startswith("web")))
    dora.writes("Ainda aí?")
    expect(bubbles(page).last).to_have_text("Ainda aí?", timeout=60_000)
    expect(page.locator("event-socket")).to_be_hidden()
    expect(box).to_have_value("metade da frase")
    assert box.evaluate("(one) => [one.selectionStart, one.selectionEnd]") == [2, 7]
    assert page.evaluate("window.alive") is True


def test_of_two_agents_who_take_one_ticket_the_second_learns_who_was_faster(browsers: Browsers, desk: Desk) -> None:
    browsers.allow(r"status of 409")
    ana, bruno = browsers.page("ana"), browsers.page("bruno")
    rosa = desk.customer("Rosa Disputada")
    rosa.writes("Alguém pode me ajudar?")
    for page in (ana, bruno):
        open_ticket(page, rosa)
    # Bruno's browser is not told: he clicks on what he sees.
    bruno.evaluate("document.querySelector('event-socket').take = () => {}")
    ana.locator("[data-key=take]").click()
    expect(ana.locator("#ticket-head")).to_contain_text("Com você")
    bruno.locator("[data-key=take]").click()
    expect(bruno.locator("#composer-notices")).to_contain_text("Ana Ribeiro já assumiu este atendimento.")
    expect(bruno.locator("#ticket-head")).to_contain_text("Com Ana")


def test_of_two_answers_at_once_the_second_is_asked(browsers: Browsers, desk: Desk) -> None:
    browsers.allow(r"status of 409")
    ana, bruno = browsers.page("ana"), browsers.page("bruno")
    igor = desk.customer("Igor Apressado")
    igor.writes("Qual o valor?")
    for page in (ana, bruno):
        open_ticket(page, igor)
    bruno.evaluate("document.querySelector('event-socket').take = () => {}")
    ana.locator("message-composer textarea").fill("Custa R$ 199.")
    ana.locator("message-composer textarea").press("Enter")
    expect(ana.locator("[data-status=DELIVERED]")).to_be_visible()
    bruno.locator("message-composer textarea").fill("Sai por R$ 199!")
    bruno.locator("message-composer textarea").press("Enter")
    newer = bruno.locator("[data-collision]")
    expect(newer).to_contain_text("Custa R$ 199.")
    expect(bruno.locator("message-composer textarea")).to_have_value("Sai por R$ 199!")
    newer.get_by_role("button", name="Enviar mesmo assim").click()
    desk.product.wait_for(lambda: len(igor.got()) == 2)
    expect(newer).to_be_hidden()


def test_what_stands_last_and_is_old_hides_no_answer_that_was_seen(browsers: Browsers, desk: Desk) -> None:
    """As a scheduled message that has left does, or one sent again: its place in the thread is not its position."""
    ana, bruno = browsers.page("ana"), browsers.page("bruno")
    lia = desk.customer("Lia Agendada")
    lia.writes("Qual o prazo?")
    open_ticket(ana, lia)
    ana.locator("message-composer textarea").fill("Três dias.")
    ana.locator("message-composer textarea").press("Enter")
    expect(ana.locator("[data-status=DELIVERED]")).to_be_visible()
    open_ticket(bruno, lia)
    bruno.evaluate("document.querySelector('[data-items]').append(document.querySelector('.message:not(.is-out)'))")
    bruno.locator("message-composer textarea").fill("Úteis, aliás.")
    bruno.locator("message-composer textarea").press("Enter")
    desk.product.wait_for(lambda: len(lia.got()) == 2)


def test_eyes_and_typing_of_a_colleague_appear_and_lapse(browsers: Browsers, desk: Desk) -> None:
    ana, bruno = browsers.page("ana"), browsers.page("bruno")
    gil = desk.customer("Gil Vigiado")
    gil.writes("Oi")
    open_ticket(ana, gil)
    expect(ana.locator(".present")).to_have_count(0)
    open_ticket(bruno, gil)
    expect(ana.get_by_role("img", name="Bruno Carvalho está vendo")).to_be_visible()
    expect(bruno.get_by_role("img", name="Ana Ribeiro está vendo")).to_be_visible()
    bruno.wait_for_timeout(2100)  # presence is heard at most every two seconds
    bruno.locator("message-composer textarea").press_sequentially("já vou", delay=20)
    expect(ana.locator("[data-typing-line]")).to_have_text("Bruno digitando…")
    expect(ana.locator("[data-typing-line]")).to_be_hidden(timeout=15_000)
    bruno.goto("/account/")
    expect(ana.locator(".present")).to_have_count(0, timeout=25_000)


def test_an_offline_send_waits_and_leaves_once(browsers: Browsers, desk: Desk) -> None:
    browsers.allow(r"ERR_INTERNET_DISCONNECTED", r"WebSocket")
    page = browsers.page("ana")
    wire = Wire(page)
    page.reload()
    lia = desk.customer("Lia Túnel")
    lia.writes("Oi!")
    open_ticket(page, lia)
    box = page.locator("message-composer textarea")
    wire.cut()
    box.fill("Estou no túnel")
    box.press("Enter")
    waiting = page.locator("[data-items] > [data-pending]")
    expect(waiting).to_contain_text("sem conexão, vai ao voltar")
    wire.mend()
    expect(page.locator("[data-items] [data-status=DELIVERED]")).to_be_visible()
    expect(waiting).to_have_count(0)
    assert len(lia.got()) == 1


def test_double_enter_and_double_click_send_once(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("ana")
    leo = desk.customer("Leo Duplo")
    leo.writes("Oi!")
    open_ticket(page, leo)
    box = page.locator("message-composer textarea")
    box.fill("uma vez só")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    box.fill("e outra")
    page.locator("[data-send]").dblclick()
    expect(page.locator("[data-items] [data-status=DELIVERED]")).to_have_count(2)
    assert [text for text, status in leo.messages() if status != "RECEIVED"] == ["uma vez só", "e outra"]
    assert len(leo.got()) == 2


@pytest.fixture
def line_again(desk: Desk) -> Any:
    yield
    desk.behave()
    desk.line("connected")


def test_a_line_that_is_offline_says_so_and_takes_the_message_for_later(
    browsers: Browsers, desk: Desk, line_again: None
) -> None:
    nina = desk.customer("Nina Espera")
    nina.writes("Oi!")
    page = browsers.page("ana")
    desk.line("disconnected")
    desk.behave(offline=True)
    open_ticket(page, nina)
    expect(page.locator("#composer-notices")).to_contain_text("O WhatsApp está desconectado")
    expect(page.locator("[data-send]")).to_contain_text("Enviar quando reconectar")
    page.locator("message-composer textarea").fill("Já te respondo")
    page.locator("message-composer textarea").press("Enter")
    expect(page.locator("[data-items] > .is-out")).to_contain_text("aguardando reconexão")
    assert nina.got() == []
    desk.behave()
    desk.line("connected")
    expect(page.locator("[data-items] [data-status=DELIVERED]")).to_be_visible(timeout=30_000)
    assert len(nina.got()) == 1


def test_an_unknown_outcome_is_said_and_settled_by_the_echo(browsers: Browsers, desk: Desk, line_again: None) -> None:
    page = browsers.page("ana")
    hugo = desk.customer("Hugo Dúvida")
    hugo.writes("Chegou?")
    open_ticket(page, hugo)
    desk.behave(sendError="INTERNAL_ERROR", autoAck=[])
    page.locator("message-composer textarea").fill("Chegou sim")
    page.locator("message-composer textarea").press("Enter")
    mine = page.locator("[data-items] > .is-out")
    expect(mine).to_contain_text("não confirmada: pode ter chegado")
    expect(mine.get_by_role("button", name="Reenviar")).to_be_visible()
    hugo.sends({"text": "Chegou sim", "fromMe": True})
    expect(mine.locator("[data-status=SENT]")).to_be_visible()
    expect(page.locator("[data-items] > .is-out")).to_have_count(1)


def test_a_row_that_became_one_with_another_leaves_the_screen(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("ana")
    tais = desk.customer("Taís Eco")
    _, absorbed = tais.sends({"text": "fica"}, {"text": "some", "fromMe": True})
    open_ticket(page, tais)
    expect(bubbles(page)).to_have_text(["fica", "some"])
    desk.change(
        """UPDATE tickets_message SET status = 'CANCELED', version = version + 1, metadata = '{"mergedInto": "it"}'
           WHERE external_id = %s""",
        absorbed,
    )
    page.evaluate("document.dispatchEvent(new CustomEvent('live:resync', { detail: {} }))")
    expect(bubbles(page)).to_have_text(["fica"])
    # Its ticket never heard of it: put it back, since others count what is here.
    desk.change("UPDATE tickets_message SET status = 'SENT', metadata = '{}' WHERE external_id = %s", absorbed)


def test_a_refused_number_fails_in_words_with_a_way_out(browsers: Browsers, desk: Desk, line_again: None) -> None:
    page = browsers.page("ana")
    ivo = desk.customer("Ivo Recusa")
    ivo.writes("Oi")
    open_ticket(page, ivo)
    desk.behave(exists=False)
    page.locator("message-composer textarea").fill("Olá, Ivo")
    page.locator("message-composer textarea").press("Enter")
    mine = page.locator("[data-items] > .is-out").first
    expect(mine).to_have_class(re.compile("is-failed"))
    expect(row_of(page, ivo).locator(".row-mark")).to_be_visible()
    desk.behave()
    mine.get_by_role("button", name="Reenviar").click()
    expect(page.locator("[data-items] [data-status=DELIVERED]")).to_be_visible()
