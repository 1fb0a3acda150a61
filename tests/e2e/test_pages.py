"""Pages as people with different needs meet them: spec/inbox.md section 21, numbers 7, 10, 14 to 20."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Browsers
from tests.e2e.desk import PASSWORD, Desk, media
from tests.e2e.test_conversation import bubbles, open_ticket, row_of
from tests.product import ROOT

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
SIZES = [(1440, 900), (1024, 768), (390, 844)]
STATIC = ROOT / "leadengine" / "static" / "leadengine"


def violations(page: Page) -> list[str]:
    """What axe-core finds on the page as it stands."""
    # Run by the browser's own debugger, since the page's policy forbids scripts that it did not name.
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]


def at_each_size(page: Page) -> Iterator[int]:
    """Make the window as wide as it may be; the width."""
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        yield width


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browsers: Browsers, desk: Desk, theme: str) -> None:
    browsers.allow(r"status of 404")
    clara = desk.customer("Clara Acessível")
    clara.sends(
        {"text": "Oi! *tudo bem?* https://exemplo.test/a"},
        {"media": media("image", "tenis.jpg"), "caption": "este aqui"},
        {"media": media("audio", "audio-pedido.ogg", ptt=True)},
        {"media": media("document", "pedido.pdf", fileName="pedido.pdf")},
    )
    page = browsers.page(None, theme=theme)
    page.goto("/login/")
    for _ in at_each_size(page):
        assert violations(page) == []
    page = browsers.page("sofia", theme=theme)
    expect(row_of(page, clara)).to_be_visible()
    for _ in at_each_size(page):
        assert violations(page) == []
    open_ticket(page, clara)
    page.locator("message-composer textarea").fill("uma nota")
    page.locator("message-composer").get_by_text("Nota", exact=True).click()
    page.get_by_role("button", name="Salvar nota").click()
    expect(page.locator(".note-bubble").last).to_contain_text("uma nota")
    page.keyboard.press("Escape")
    for width in at_each_size(page):
        if width < 1440:
            page.keyboard.press("i")
        assert violations(page) == []
        if width < 1440:
            page.keyboard.press("i")
        for key, dialog in (("e", "#close-dialog"), ("?", "#keys")):
            page.keyboard.press(key)
            expect(page.locator(dialog)).to_be_visible()
            assert violations(page) == []
            page.keyboard.press("Escape")
    for address in ("/account/", "/nothing-here/"):
        page.goto(address)
        for _ in at_each_size(page):
            assert violations(page) == []


def test_a_phone_shows_one_pane_at_a_time(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("ana", width=390, height=844, has_touch=True, is_mobile=True)
    tiago = desk.customer("Tiago Celular")
    tiago.writes("Oi pelo celular")
    row_of(page, tiago).tap()
    expect(page.locator(".list-pane")).to_be_hidden()
    page.locator("message-composer textarea").fill("Oi, Tiago")
    page.locator("[data-send]").tap()
    expect(page.locator("[data-items] [data-status=DELIVERED]")).to_be_visible()
    page.get_by_role("link", name="Voltar à lista").tap()
    expect(page.locator(".list-pane")).to_be_visible()
    expect(row_of(page, tiago)).to_contain_text("Você: Oi, Tiago")
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_keys_work_and_letters_in_fields_do_not(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("ana")
    first, second = desk.customer("Tecla Um"), desk.customer("Tecla Dois")
    first.writes("um")
    expect(row_of(page, first)).to_be_visible()
    second.writes("dois")
    expect(page.locator("[data-rows] > li").first).to_contain_text(second.name)
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(row_of(page, first).locator("a")).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=second.name).first).to_be_visible()
    page.keyboard.press("a")
    expect(page.locator("#ticket-head")).to_contain_text("Com você")
    page.keyboard.press("r")
    box = page.locator("message-composer textarea")
    expect(box).to_be_focused()
    page.keyboard.type("jkaeu?")
    expect(box).to_have_value("jkaeu?")
    expect(page.locator("dialog[open]")).to_have_count(0)
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    expect(page.locator("form.composer")).to_have_attribute("data-kind", "NOTE")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    page.locator("#close-dialog").get_by_role("button", name="Encerrar").click()
    expect(page.locator("#composer-notices")).to_contain_text("Encerrado")
    page.locator("#composer-notices").get_by_role("button", name="Reabrir").click()
    expect(page.locator("#ticket-head")).to_contain_text("Com você")


def test_a_draft_survives_and_is_there_in_another_browser(browsers: Browsers, desk: Desk) -> None:
    vera = desk.customer("Vera Rascunho")
    vera.writes("Oi")
    page = browsers.page("ana")
    open_ticket(page, vera)
    with page.expect_response(re.compile("/draft/")):
        page.locator("message-composer textarea").fill("metade de uma fra")
    other = browsers.page("ana")
    expect(row_of(other, vera)).to_contain_text("Rascunho: metade de uma fra")
    open_ticket(other, vera)
    expect(other.locator("message-composer textarea")).to_have_value("metade de uma fra")


def test_hostile_content_stays_text(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("ana")
    eve = desk.customer("<script>window.hit=1</script><b>Eva</b>")
    attacks = [
        '<img src=x onerror="window.hit=1">', "<script>window.hit=1</script>", "javascript:window.hit=1",
        "*<u>bold</u>* https://evil.test/\"onmouseover=\"window.hit=1", "```<svg/onload=window.hit=1>```",
        "{{ user.password }} {% load %}", "\u202e<b>olá</b>",
    ]  # fmt: skip
    eve.writes(*attacks)
    eve.sends(
        {
            "media": media("document", "pedido.pdf", fileName='"><img src=x onerror=window.hit=1>.pdf'),
            "caption": "<i>x</i>",
        }
    )
    open_ticket(page, eve)
    expect(page.locator("[data-items] > .message")).to_have_count(len(attacks) + 1)
    shown = bubbles(page).all_inner_texts()
    assert {attacks[0], attacks[1], attacks[2], "<i>x</i>"} <= set(shown)
    assert page.locator("[data-items] img, [data-items] script, [data-items] u, [data-items] i").count() == 0
    assert page.locator("[data-items] a[href^='javascript:']").count() == 0
    (link,) = page.locator("[data-items] .bubble-text a").all()
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert link.get_attribute("href") == "https://evil.test/"
    assert page.evaluate("window.hit") is None


def test_a_wrong_pair_is_refused_in_one_sentence_and_then_locked(browsers: Browsers, desk: Desk) -> None:
    browsers.allow(r"status of (401|429)")
    page = browsers.page(None)
    page.goto("/inbox/?tab=queue")
    expect(page).to_have_url(re.compile(r"/login/\?next=/inbox/%3Ftab%3Dqueue"))
    texts = set()
    for email in (desk.people["caio"], "ninguem@casa.test"):
        page.get_by_label("E-mail").fill(email)
        page.get_by_label("Senha", exact=True).fill("errada-mesmo")
        page.get_by_role("button", name="Entrar").click()
        texts.add(page.get_by_role("alert").inner_text())
    assert texts == {"E-mail ou senha incorretos."}
    for _ in range(4):
        page.get_by_label("E-mail").fill(desk.people["caio"])
        page.get_by_label("Senha", exact=True).fill("errada-mesmo")
        page.get_by_role("button", name="Entrar").click()
        expect(page.get_by_role("alert")).to_contain_text(re.compile("incorretos|Muitas tentativas"))
    page.get_by_label("E-mail").fill(desk.people["caio"])
    page.get_by_label("Senha", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Entrar").click()
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"Tente de novo em \d+ minutos"))
    desk.change("DELETE FROM accounts_loginfailure")
    page.get_by_label("Senha", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Entrar").click()
    expect(page).to_have_url(re.compile(r"/inbox/\?tab=queue"))
    expect(page.locator("[data-foot]")).to_contain_text("Você ainda não está em uma fila")


def test_next_leads_to_this_host_only(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page(None)
    page.goto("/login/?next=https://evil.test/")
    page.get_by_label("E-mail").fill(desk.people["bruno"])
    page.get_by_label("Senha", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Entrar").click()
    expect(page).to_have_url(re.compile(r"127\.0\.0\.1:\d+/inbox/"))


def test_a_session_that_ends_asks_over_the_page_and_goes_on(browsers: Browsers, desk: Desk) -> None:
    browsers.allow(r"status of 401", r"WebSocket")
    page = browsers.page(None)
    page.goto("/login/")
    page.get_by_label("E-mail").fill(desk.people["bruno"])
    page.get_by_label("Senha", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Entrar").click()
    page.goto("/inbox/?tab=all&sort=newest")
    page.mouse.move(1300, 400)
    olga = desk.customer("Olga Sessão")
    olga.writes("Oi")
    open_ticket(page, olga)
    page.locator("message-composer textarea").fill("ainda estou aqui")
    page.context.clear_cookies(name="sessionid")
    page.locator("message-composer textarea").press("Enter")
    dialog = page.get_by_role("dialog", name="Sua sessão terminou")
    expect(dialog).to_be_visible()
    dialog.get_by_label("E-mail").fill(desk.people["bruno"])
    dialog.get_by_label("Senha", exact=True).fill(PASSWORD)
    dialog.get_by_role("button", name="Entrar").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("[data-items] > .is-out")).to_contain_text("ainda estou aqui")
    expect(page.locator("[data-items] [data-status=DELIVERED]")).to_be_visible()


def test_without_scripts_one_can_read_reply_take_and_close(browsers: Browsers, desk: Desk) -> None:
    otto = desk.customer("Otto Semscript")
    otto.writes("Dá pra responder assim?")
    desk.product.wait_for(lambda: len(otto.messages()) == 1)
    page = browsers.page("ana", java_script_enabled=False)
    row_of(page, otto).locator("a").click()
    expect(bubbles(page)).to_have_text(["Dá pra responder assim?"])
    page.get_by_role("button", name="Assumir").first.click()
    expect(page.locator("#ticket-head")).to_contain_text("Com você")
    page.locator("textarea[name=text]").fill("Dá sim")
    page.get_by_role("button", name="Enviar").click()
    expect(bubbles(page)).to_have_text(["Dá pra responder assim?", "Dá sim"])
    page.locator("noscript select").select_option("SOLVED")
    page.locator("noscript button").click()
    expect(page.locator("#composer-notices")).to_contain_text("Encerrado")


def test_a_long_history_keeps_the_anchor_and_a_small_dom(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("ana")
    zeca = desk.customer("Zeca Histórico")
    began = int(time.time()) - 1000
    for start in range(0, 500, 100):
        zeca.sends(*({"text": f"linha {number}", "timestamp": began + number} for number in range(start, start + 100)))
    desk.product.wait_for(lambda: len(zeca.messages()) == 500)
    open_ticket(page, zeca)
    scroll = page.locator("thread-scroll")
    page.keyboard.press("Escape")
    for first in (400, 350, 300, 250, 200, 150, 100, 50, 0):
        scroll.evaluate("(one) => (one.scrollTop = 0)")
        expect(page.locator("[data-items]")).to_contain_text(re.compile(rf"linha {first}(?!\d)"))
    expect(bubbles(page).first).to_have_text("linha 0")
    assert page.locator("[data-items] > .message").count() <= 300
    page.locator("[data-to-end]").click()
    expect(bubbles(page).last).to_have_text("linha 499")
    assert page.locator("[data-items] > .message").count() <= 300


def test_both_languages_leave_nothing_untranslated(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("sofia")
    portuguese = page.locator("body").inner_text()
    page.goto("/account/")
    page.get_by_label("Idioma").select_option("en")
    page.locator("form").filter(has_text="Nome").get_by_role("button", name="Salvar").click()
    expect(page.get_by_role("heading", name="Account")).to_be_visible()
    page.goto("/inbox/?tab=all")
    expect(page.get_by_role("heading", name="Conversations").first).to_be_visible()
    for word in ("Conversas", "Minhas", "Encerradas", "Fila"):
        assert word in portuguese
        assert word not in page.locator("nav.tabs, .list-head").all_inner_texts()
    desk.change("UPDATE accounts_user SET locale = 'pt-br' WHERE email = %s", desk.people["sofia"])


def test_weights(browsers: Browsers, desk: Desk) -> None:
    own = b"".join(path.read_bytes() for path in sorted((STATIC / "js").glob("*.js")))
    assert len(gzip.compress(own, 9)) <= 20_000
    for path in (STATIC / "js").glob("*.js"):
        assert len(path.read_text().splitlines()) <= 150, path.name
        assert "import " not in path.read_text(), path.name
    page = browsers.page("ana")
    addresses: set[str] = set()
    page.on("request", lambda request: addresses.add(request.url))
    page.reload()
    expect(page.locator("event-socket")).to_be_hidden()
    page.wait_for_load_state("networkidle")
    cookies = {one["name"]: one["value"] for one in page.context.cookies()}
    html = requests.get(page.url, cookies=cookies, timeout=10)
    assert len(html.content) <= 60_000
    files = [requests.get(address, timeout=10) for address in addresses if "/static/" in address]
    assert len(files) >= 20
    assert sum(len(gzip.compress(answer.content, 9)) for answer in [html, *files]) <= 200_000
    assert all("immutable" in answer.headers["cache-control"] for answer in files)
    assert {urlsplit(address).netloc for address in addresses} == {urlsplit(desk.product.url).netloc}
    policy = html.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy
