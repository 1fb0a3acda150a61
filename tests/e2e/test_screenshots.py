"""The pictures of README and docs, from the running product: `python3 manage.py test tests/e2e/test_screenshots.py`.

They are written to .data-test/screenshots; SCREENSHOTS_TO_DOCS=1 copies the chosen set to docs/images.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Browsers
from tests.e2e.desk import Customer, Desk, media, shots_folder
from tests.e2e.test_conversation import open_ticket, row_of
from tests.product import ROOT, Product

MINUTE, HOUR, DAY = 60, 3600, 86_400
CHOSEN = ("inbox-light", "inbox-dark", "phone-list", "phone-thread", "login", "states", "admin")
MOST_BYTES = 250_000
SQUARE = {"degreesLatitude": -27.5954, "degreesLongitude": -48.548, "name": "Praça XV de Novembro"}


class Person(Customer):
    """A customer with a name as people have them, without the mark that tells test customers apart."""

    def ago(self, seconds: float, *bodies: dict[str, Any] | str) -> list[str]:
        """Say something some time ago, one after the other."""
        first = time.time() - seconds
        calls = [{"text": body} if isinstance(body, str) else body for body in bodies]
        return self.sends(*({**call, "timestamp": first + 4 * place} for place, call in enumerate(calls)))


def picture(name: str, caption: str = "") -> dict[str, Any]:
    """A photo, which is fetched from the simulator's media server."""
    photo = {"media": media("image", name, mimetype="image/jpeg")}
    return {**photo, "caption": caption} if caption else photo


def save(page: Page, name: str) -> None:
    page.evaluate("document.activeElement?.blur()")
    page.evaluate("document.fonts.ready")
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("complete", True)
    if page.locator("thread-scroll").count():
        page.evaluate("document.querySelector('thread-scroll').toEnd()")
    page.wait_for_load_state("networkidle")
    path = shots_folder() / f"{name}.png"
    page.screenshot(path=path, animations="disabled")
    if os.environ.get("SCREENSHOTS_TO_DOCS") == "1" and name in CHOSEN:
        assert path.stat().st_size < MOST_BYTES, f"{name} weighs {path.stat().st_size} bytes"
        shutil.copy(path, ROOT / "docs" / "images" / path.name)


@pytest.fixture(scope="module")
def desk(product: Product) -> Desk:
    """A tenant of its own, so that no other test stands in the picture."""
    return Desk(product, "ipe", "Ipê Calçados")


@pytest.fixture(scope="module")
def people(desk: Desk) -> dict[str, Person]:
    """A morning at the shop."""

    def person(name: str, phone: str) -> Person:
        return Person(desk, name, phone)

    known = {
        "marina": person("Marina Duarte", "5511987654321"),
        "joao": person("João Pedro Albuquerque de Vasconcelos", "5521998877665"),
        "cida": person("Dona Cida", "5531991234567"),
        "rafael": person("Rafael Nunes", "5548996541237"),
        "taina": person("Tainá", "5571987001122"),
        "eventos": person("Supimpa Eventos e Confraternizações LTDA", "5585981112233"),
        "lucas": person("Lucas Prado", "5541999998888"),
        "bia": person("👑 Bia 👑", "5562984443322"),
    }
    desk.behave(autoAck=[2, 3, 4], ackDelayMs=150)
    desk.change(
        """UPDATE tickets_queue SET colour = CASE name WHEN 'Vendas' THEN '#175CD3' ELSE '#0B6E4F' END
           WHERE tenant_id = (SELECT id FROM accounts_tenant WHERE slug = 'ipe')"""
    )
    known["marina"].ago(
        26 * HOUR, "Oi, tudo bem? 😊", "Comprei um tênis com vocês e queria saber se ainda dá pra trocar o tamanho"
    )
    known["cida"].ago(
        21 * MINUTE, "minha filha, o sapato chegou com a caixa toda amassada 😢", picture("caixa.jpg", "olha só")
    )
    known["rafael"].ago(
        12 * MINUTE, "Qual o prazo de entrega pra Floripa?",
        {"media": media("document", "pedido.pdf", fileName="pedido-48213.pdf")},
        {"message": {"locationMessage": SQUARE}},
    )  # fmt: skip
    known["taina"].ago(9 * MINUTE, "oi", "vcs abrem no feriado?")
    known["eventos"].ago(6 * MINUTE, "Bom dia! Gostaríamos de uma proposta para 200 pares de uniforme.")
    known["joao"].ago(5 * MINUTE, "Boa tarde, vocês entregam em Niterói?")
    known["lucas"].ago(4 * MINUTE, "Vocês têm esse na cor preta?", picture("mochila.jpg"))
    known["bia"].ago(2 * MINUTE, "kkkkk adorei o atendimento")
    desk.product.wait_for(lambda: len(known["bia"].messages()) == 1 and len(known["lucas"].messages()) == 2)
    desk.change(
        """UPDATE tickets_ticket t SET queue_id = q.id FROM tickets_queue q
           WHERE q.tenant_id = t.tenant_id AND q.name = 'Vendas' AND t.id = ANY(%s::uuid[])""",
        [known[name].ticket_id for name in ("eventos", "lucas", "joao")],
    )
    return known


def pause(page: Page) -> None:
    """WhatsApp's times are whole seconds: what answers comes in a later one."""
    page.wait_for_timeout(1100)


def reply(page: Page, text: str) -> None:
    before = page.locator("[data-items] > .is-out").count()
    page.locator("message-composer textarea").fill(text)
    page.locator("[data-send]").click()
    expect(page.locator("[data-items] > .is-out:not([data-pending])")).to_have_count(before + 1)


@pytest.fixture(scope="module")
def talk(people: dict[str, Person], desk: Desk, browser: Any) -> None:
    """Ana's conversation with Marina, and what Bruno took."""
    opened = Browsers(browser, desk)
    ana, bruno = opened.page("ana"), opened.page("bruno")
    marina = people["marina"]
    open_ticket(bruno, people["joao"])
    bruno.locator("[data-key=take]").click()
    reply(bruno, "Boa tarde, João! Entregamos sim, chega em 3 dias úteis.")
    for one in ("cida", "marina"):
        open_ticket(ana, people[one])
        ana.locator("[data-key=take]").click()
        expect(ana.locator("#ticket-head")).to_contain_text("Com você")
    reply(ana, "Oi, Marina! Dá sim, a troca é grátis em até *30 dias*. Qual é o número do pedido?")
    pause(ana)
    marina.sends({"text": "é o 48213"}, picture("tenis.jpg", "o tênis é esse"))
    expect(ana.locator(".picture")).to_be_visible()
    pause(ana)
    reply(
        ana,
        "Achei aqui! O azul no 37, certo? Para qual tamanho quer trocar?\n\nTemos:\n• 38: 4 unidades\n• 39: 1 unidade",
    )
    ana.locator("message-composer").get_by_text("Nota", exact=True).click()
    ana.locator("message-composer textarea").fill("Cliente antiga, 6 compras este ano. Pode liberar o frete da troca.")
    ana.get_by_role("button", name="Salvar nota").click()
    expect(ana.locator(".note-bubble")).to_be_visible()
    pause(ana)
    marina.sends({"text": "38, por favor!"}, {"media": media("audio", "audio-pedido.ogg", ptt=True)})
    expect(ana.locator(".sound-card")).to_be_visible()
    pause(ana)
    ana.locator("message-composer").get_by_text("Responder", exact=True).click()
    reply(
        ana,
        "Perfeito! A etiqueta de devolução segue por aqui: https://ipe.example/trocas/48213 _é só imprimir e colar_.",
    )
    pause(ana)
    sent = marina.got()[-1]["id"]
    marina.sends({"text": "Maravilha, muito obrigada!! ❤️", "quoted": sent})
    desk.product.simulate(f"/_sim/{desk.line_id}/react", {"id": sent, "text": "🙏"})
    expect(ana.locator(".reaction")).to_be_visible()
    expect(ana.locator(".quote")).to_be_visible()
    desk.change(
        """UPDATE leads_lead SET value = 389.90, stage_id = s.id, status = s.status FROM leads_pipelinestage s
           WHERE s.tenant_id = leads_lead.tenant_id AND s.status = 'NEGOTIATION' AND leads_lead.contact_id =
               (SELECT contact_id FROM tickets_ticket WHERE id = %s)""",
        marina.ticket_id,
    )
    opened.finish()
    desk.behave()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_inbox(browsers: Browsers, people: dict[str, Person], talk: None, theme: str) -> None:
    page = browsers.page("ana", theme=theme)
    page.goto("/inbox/?tab=all")
    open_ticket(page, people["marina"])
    page.evaluate("document.querySelector('thread-scroll').toEnd()")
    expect(row_of(page, people["marina"]).locator(".pill")).to_have_count(0)  # read, a second later
    save(page, f"inbox-{theme}")
    open_ticket(page, people["rafael"])
    save(page, f"kinds-{theme}")
    page.set_viewport_size({"width": 1024, "height": 768})
    page.keyboard.press("i")
    save(page, f"tablet-{theme}")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_phone(browsers: Browsers, people: dict[str, Person], talk: None, theme: str) -> None:
    page = browsers.page(
        "ana", width=390, height=844, theme=theme, device_scale_factor=2, has_touch=True, is_mobile=True
    )
    page.goto("/inbox/?tab=all")
    suffix = "" if theme == "light" else "-dark"
    save(page, f"phone-list{suffix}")
    open_ticket(page, people["marina"])
    save(page, f"phone-thread{suffix}")


def test_states(browsers: Browsers, people: dict[str, Person], talk: None, desk: Desk) -> None:
    """One message of each kind that needs attention, and a line that is down."""
    page = browsers.page("ana")
    page.goto("/inbox/?tab=all")
    open_ticket(page, people["cida"])
    reply(page, "Oi, Dona Cida! Que pena, vamos resolver já.")
    expect(page.locator("[data-items] [data-status=DELIVERED]")).to_be_visible()
    desk.behave(exists=False)
    reply(page, "Pode me mandar o número do pedido?")
    expect(page.locator(".is-failed")).to_be_visible()
    desk.behave(sendError="INTERNAL_ERROR")
    reply(page, "Já separei um par novo para a senhora.")
    expect(page.locator(".is-doubt")).to_be_visible()
    desk.behave(offline=True)
    reply(page, "Sai hoje à tarde 🙂")
    expect(page.locator(".state-waiting")).to_be_visible()
    desk.line("disconnected")
    page.reload()
    save(page, "states")
    desk.behave()
    desk.line("connected")


def test_pages(browsers: Browsers, people: dict[str, Person]) -> None:
    browsers.allow(r"status of 404")
    for theme in ("light", "dark"):
        suffix = "" if theme == "light" else "-dark"
        page = browsers.page(None, theme=theme)
        page.goto("/login/")
        save(page, f"login{suffix}")
        page.goto("/inbox/tickets/00000000-0000-0000-0000-000000000000x/")
        save(page, f"404{suffix}")
    page = browsers.page("caio")
    page.goto("/inbox/")
    save(page, "empty")
    page.goto("/account/")
    save(page, "account")


def test_admin(browsers: Browsers, people: dict[str, Person], talk: None) -> None:
    browsers.allow(r".*")  # the back office has its own tests
    page = browsers.page("sofia")
    page.goto("/admin/")
    save(page, "admin")
