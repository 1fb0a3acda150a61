"""Files in the thread: they come in place, play, open large, fail with a way back; and how that looks."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Browsers
from tests.e2e.desk import Customer, Desk, media, shots_folder
from tests.e2e.test_conversation import open_ticket


@pytest.fixture(scope="module")
def desk(product: Any) -> Desk:
    return Desk(product, "fotos", "Casa das Fotos")


def state_of(desk: Desk, external_id: str) -> str:
    sql = "SELECT f.state FROM tickets_messagemedia f JOIN tickets_message m ON m.id = f.message_id"
    rows = desk.rows(f"{sql} WHERE m.external_id = %s", external_id)
    return str(rows[0][0]) if rows else ""


def arrived(desk: Desk, external_id: str, state: str = "ready") -> None:
    desk.product.wait_for(lambda: state_of(desk, external_id) == state)


def send(customer: Customer, kind: str, name: str, **more: Any) -> str:
    text = {"caption": more.pop("caption")} if "caption" in more else {}
    return customer.sends({"media": media(kind, name, **more), **text})[0]


def image(page: Page, number: int = 0) -> Any:
    return page.locator("a[data-picture] .picture-file").nth(number)


def test_a_picture_comes_in_place_and_opens_large(browsers: Browsers, desk: Desk) -> None:
    maria = desk.customer("Maria")
    desk.behave(cdn={"failSeconds": 60})
    first = send(maria, "image", "tenis.jpg", mimetype="image/jpeg", caption="olha o tênis")
    arrived(desk, first, "pending")
    page = browsers.page("ana")
    open_ticket(page, maria)
    bubble = page.locator(".item.message").first
    expect(bubble.locator(".bubble-text")).to_have_text("olha o tênis")  # the text did not wait
    expect(bubble.locator(".picture-label")).to_be_visible()
    expect(bubble.locator("[data-picture]")).to_have_count(0)
    box = bubble.locator(".picture").bounding_box()

    desk.behave()
    page.evaluate("window.alive = true")
    expect(image(page)).to_have_js_property("naturalWidth", 640, timeout=30_000)
    assert page.evaluate("window.alive") is True, "the same page"
    assert bubble.locator(".picture").bounding_box() == box, "no layout jump"

    second = send(maria, "image", "caixa.jpg", mimetype="image/jpeg")
    arrived(desk, second)
    expect(image(page, 1)).to_have_js_property("complete", True)
    image(page).click()
    large = page.locator("media-view dialog > img")
    expect(large).to_have_js_property("naturalWidth", 640)
    before = large.get_attribute("src")
    page.keyboard.press("ArrowRight")
    expect(large).not_to_have_attribute("src", before or "")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(large).to_have_attribute("src", before or "")
    page.keyboard.press("Escape")
    expect(page.locator("media-view dialog")).to_be_hidden()


def test_sound_plays_one_at_a_time_at_the_chosen_speed(browsers: Browsers, desk: Desk) -> None:
    caio = desk.customer("Caio")
    for name in ("audio-pedido.ogg", "audio-produto.ogg"):
        arrived(desk, send(caio, "audio", name, ptt=True))
    page = browsers.page("ana")
    open_ticket(page, caio)
    players = page.locator("audio")
    expect(players).to_have_count(2)
    players.first.evaluate("(one) => { one.muted = true; return one.play(); }")
    players.last.evaluate("(one) => { one.muted = true; return one.play(); }")
    expect(players.first).to_have_js_property("paused", True)
    page.locator("[data-rate]").first.click()
    expect(players.last).to_have_js_property("playbackRate", 1.5)
    expect(page.locator("[data-rate] [data-text]").last).to_have_text("1,5×")


def test_a_document_is_a_card_that_leads_to_the_file(browsers: Browsers, desk: Desk) -> None:
    rita = desk.customer("Rita")
    arrived(desk, send(rita, "document", "pedido.pdf", mimetype="application/pdf", fileName="pedido-48213.pdf"))
    page = browsers.page("ana")
    open_ticket(page, rita)
    card = page.locator("a.file-card")
    expect(card).to_contain_text("pedido-48213.pdf")
    answer = page.request.get(card.get_attribute("href") or "")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/pdf")
    assert answer.body().startswith(b"%PDF")
    ranged = page.request.get(card.get_attribute("href") or "", headers={"Range": "bytes=0-3"})
    assert (ranged.status, ranged.body()) == (206, b"%PDF")


def test_what_failed_says_why_and_is_tried_again(browsers: Browsers, desk: Desk) -> None:
    nina = desk.customer("Nina")
    desk.behave(cdn={"corrupt": True})
    arrived(desk, send(nina, "image", "mochila.jpg", mimetype="image/jpeg"), "failed")
    desk.behave(cdn={"gone": True})
    arrived(desk, send(nina, "document", "pedido.pdf", fileName="nota.pdf"), "expired")
    desk.behave()
    page = browsers.page("ana")
    open_ticket(page, nina)
    expect(page.locator(".picture.is-failed")).to_be_visible()
    expect(page.locator(".file-card.is-expired")).to_be_visible()
    expect(page.locator(".media-retry")).to_have_count(1)
    page.locator(".media-retry").click()
    expect(image(page)).to_have_js_property("complete", True)
    expect(page.locator(".media-retry")).to_have_count(0)


@pytest.fixture(scope="module")
def album(desk: Desk) -> Customer:
    """One of each, in every state."""
    livia = Customer(desk, "Lívia Moraes", "5511977776666")
    arrived(desk, send(livia, "image", "tenis.jpg", mimetype="image/jpeg", caption="Esse aqui, no 38"))
    arrived(desk, send(livia, "audio", "audio-pedido.ogg", ptt=True))
    arrived(desk, send(livia, "document", "pedido.pdf", mimetype="application/pdf", fileName="pedido-48213.pdf"))
    desk.behave(cdn={"corrupt": True})
    arrived(desk, send(livia, "image", "mochila.jpg", mimetype="image/jpeg"), "failed")
    arrived(desk, send(livia, "audio", "audio-produto.ogg", ptt=True), "failed")
    desk.behave(cdn={"gone": True})
    arrived(desk, send(livia, "document", "pedido.pdf", fileName="comprovante-pix.pdf"), "expired")
    desk.behave(cdn={"failSeconds": 600})
    arrived(desk, send(livia, "image", "caixa.jpg", mimetype="image/jpeg", caption="e a caixa"), "pending")
    desk.behave()
    desk.change(
        """UPDATE tickets_messagemedia SET state = 'downloading', next_attempt_at = now() + interval '1 hour',
               lease_until = now() + interval '1 hour', reason = '' WHERE state = 'pending'"""
    )
    return livia


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_how_files_look(browsers: Browsers, album: Customer, theme: str, width: int) -> None:
    page = browsers.page("ana", theme=theme, width=width, height=1500 if width > 400 else 1700)
    open_ticket(page, album)
    expect(image(page)).to_have_js_property("complete", True)
    expect(page.locator(".picture.is-downloading")).to_be_visible()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=shots_folder() / f"media-{theme}-{width}.png", animations="disabled")
    broad = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not broad, "nothing stands out of the page"
