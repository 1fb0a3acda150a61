"""The page of connections in a browser: a number is connected by its QR code, lost at the phone, and shown again."""

from __future__ import annotations

import itertools
import re
import time
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import Browsers
from tests.e2e.desk import Desk
from tests.e2e.test_pages import SIZES, violations

PICTURE = "#session-qr img"
_MARKS = itertools.count(int(time.time()) % 100_000)  # a product may outlive a run


def make(page: Page, name: str) -> str:
    """Make a connection as a person does; ends on its page and returns its whole name."""
    name = f"{name} {next(_MARKS)}"
    page.goto("/sessions/")
    page.locator("[data-dialog='#new-session']").click()
    page.locator("#session-name").fill(name)
    page.locator("#new-session .button-primary").click()
    expect(page).to_have_url(re.compile(r"/sessions/[0-9a-f-]{36}/"))
    return name


def at_the_phone(desk: Desk, line: str, what: str, **body: Any) -> None:
    """Something happens on the phone of a connection."""
    instance = desk.value("SELECT broker_instance_id FROM whatsapp_sessions WHERE session_name = %s", line)
    desk.product.simulate(f"/_sim/{instance}/{what}", body)


def hasten(page: Page, **seconds: int) -> None:
    """Let the page wait for less."""
    names = {"view": "viewSeconds", "renew": "renewSeconds"}
    values = {names[name]: value for name, value in seconds.items()}
    page.locator("session-view").evaluate("(one, to) => (Object.assign(one.dataset, to), one.begin())", values)


def chip(page: Page) -> Locator:
    return page.locator("#session-live [data-chip]")


def test_session_p46_the_code_is_there_within_five_seconds_renewed_and_stopped(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("ana")
    name = make(page, "Balcão")
    picture = page.locator(PICTURE)
    expect(picture).to_be_visible(timeout=5_000)
    assert picture.bounding_box()["width"] >= 240  # type: ignore[index]
    first = picture.get_attribute("src")
    hasten(page, renew=2)
    expect(picture).not_to_have_attribute("src", first or "")
    hasten(page, view=3, renew=25)
    again = page.locator("#act-session-new-qr")
    expect(again).to_be_visible()
    expect(picture).to_be_hidden()
    viewed = desk.value("SELECT qr_viewed_at FROM whatsapp_sessions WHERE session_name = %s", name)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(3_000)  # nothing is to happen, which only time can show
    assert [one for one in requests if "/qr/" in one or "/renew/" in one] == []
    assert desk.value("SELECT qr_viewed_at FROM whatsapp_sessions WHERE session_name = %s", name) == viewed
    page.locator("session-view").evaluate("(one) => (one.dataset.viewSeconds = 90)")
    again.click()
    expect(picture).to_be_visible()
    expect(again).to_be_hidden()


def test_session_p47_scanned_it_is_connected_and_logged_out_it_shows_its_code_again(
    browsers: Browsers, desk: Desk
) -> None:
    page, other = browsers.page("ana"), browsers.page("sofia")
    name = make(page, "Vendas")
    expect(page.locator(PICTURE)).to_be_visible()
    other.goto("/sessions/")
    card = other.locator("article", has_text=name)
    expect(card.locator("[data-chip=qrcode]")).to_be_visible()
    for one in (page, other):
        one.evaluate("window.stayed = true")
    at_the_phone(desk, name, "open", phone="5511933332222", name="Loja do Centro")
    expect(chip(page)).to_have_attribute("data-chip", "connected")
    expect(page.locator("#session-live")).to_contain_text("Loja do Centro")
    expect(card.locator("[data-chip=connected]")).to_be_visible()
    expect(card).to_contain_text("+55 •••• 2222")
    at_the_phone(desk, name, "close", statusCode=401)
    expect(page.locator(PICTURE)).to_be_visible()
    expect(page.locator("#session-live")).to_contain_text("A sessão foi encerrada no aparelho.")
    expect(card.locator("[data-chip=qrcode]")).to_be_visible()
    assert page.evaluate("window.stayed") and other.evaluate("window.stayed")


def test_a_number_is_paired_by_a_code_renamed_and_deleted_by_keyboard(browsers: Browsers, desk: Desk) -> None:
    browsers.allow(
        r"404 \(Not Found\) .*/sessions/[0-9a-f-]{36}/", r"Status Error Code 404"
    )  # of a look at what just went
    page = browsers.page("bruno")
    name = f"{make(page, 'Caixa')} B"
    expect(page.locator(PICTURE)).to_be_visible()
    page.locator("#pair summary").focus()
    page.keyboard.press("Enter")
    page.locator("#pair-phone").fill("11 98765-4321")
    page.keyboard.press("Enter")
    expect(page.locator("#pair-code")).to_have_text(re.compile(r"[0-9A-Z]{4} [0-9A-Z]{4}"))
    page.locator("#rename").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#session-live h1")).to_have_text(name)
    expect(page.locator("#rename")).to_be_focused()
    page.locator(".switch input").focus()
    page.keyboard.press("Space")
    desk.product.wait_for(
        lambda: desk.value("SELECT auto_reconnect FROM whatsapp_sessions WHERE session_name = %s", name) is False
    )
    page.locator(".fold summary").last.click()
    page.locator("#act-session-delete").click()
    expect(page).to_have_url(re.compile("/sessions/$"))  # two ways lead there, and either may cut the other off
    expect(page.locator("#sessions")).not_to_contain_text(name)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_the_pages_of_connections(browsers: Browsers, desk: Desk, theme: str) -> None:
    page = browsers.page("sofia", theme=theme)
    make(page, f"Acessível {theme}")
    expect(page.locator(PICTURE)).to_be_visible()
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        assert violations(page) == []
        board = page.locator(".board").bounding_box()
        assert board is not None and board["width"] >= width - 56  # it takes the place beside the rail
    page.goto("/sessions/")
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        assert violations(page) == []
    page.locator("[data-dialog='#new-session']").click()
    assert violations(page) == []


def test_without_scripts_a_number_can_be_connected(browsers: Browsers, desk: Desk) -> None:
    page = browsers.page("ana", java_script_enabled=False)
    page.goto("/sessions/new/")
    name = f"Sem script {next(_MARKS)}"
    page.locator("#session-name-plain").fill(name)
    page.locator("main .new-form .button-primary").click()
    expect(page).to_have_url(re.compile(r"/sessions/[0-9a-f-]{36}/"))
    desk.product.wait_for(
        lambda: bool(desk.value("SELECT qr_code FROM whatsapp_sessions WHERE session_name = %s", name))
    )
    page.reload()
    expect(page.locator(PICTURE)).to_be_visible()
