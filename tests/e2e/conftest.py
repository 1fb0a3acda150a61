"""The whole product, a tenant of its own in it, and a real headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from leadengine.operations.chaos.send import SETTINGS
from tests.e2e.desk import PASSWORD, Desk
from tests.product import Product

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
# Whom the operator's key and keyless calls act for, as in the demo; tests/e2e/test_seeds.py makes them.
SEED_TENANT, SEED_OWNER = "sementes", "eva@sementes.test"
expect.set_options(timeout=15_000)  # as long as any action: the machine is shared with other tests


class Running(Product):
    """A product that runs already: LEADENGINE_E2E_RUN_ENV names its run.env. For work on the tests themselves."""

    def __init__(self, run_env: Path) -> None:
        pairs = (line.partition("=") for line in run_env.read_text().splitlines() if "=" in line)
        self.env = {key: value.strip("'\"") for key, _, value in pairs}

    def wait_for(self, condition: Any, seconds: float = 30) -> None:
        self.process = type("Alive", (), {"poll": staticmethod(lambda: None)})()
        self.log = []
        super().wait_for(condition, seconds)


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    run_env = os.environ.get("LEADENGINE_E2E_RUN_ENV")
    if run_env:
        yield Running(Path(run_env))
        return
    # What the broker could not deliver is read every minute otherwise: too long to wait for in tests. And the work of
    # a night, which would repair what tests damage, is six hours away.
    night = datetime.now(ZoneInfo("America/Sao_Paulo")) + timedelta(hours=6)
    given = {
        "WHATSAPP_GAP_FILL_SECONDS": "10", "TIMELINE_RECONCILE_AT": f"{night:%H:%M}",
        "API_KEY_TENANT": SEED_TENANT, "BAILEYS_SIMPLE_DEV_OWNER": SEED_OWNER, **SETTINGS,
    }  # fmt: skip
    running = Product(tmp_path_factory.mktemp("e2e"), "--no-demo", given=given)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def desk(product: Product) -> Desk:
    return Desk(product)


@pytest.fixture(scope="module")  # not longer: Playwright keeps an event loop running, and other tests start their own
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sentence = "No browser: install chromium, or name one with CHROMIUM."
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield launched
        launched.close()


class Browsers:
    """Pages of people, each in a browser of its own; whatever goes wrong in one of them fails the test at its end."""

    def __init__(self, browser: Browser, desk: Desk) -> None:
        self._browser, self._desk = browser, desk
        self._cookies: dict[str, Any] = {}
        self.troubles: list[str] = []
        self._allowed: list[str] = []
        self._contexts: list[Any] = []

    def allow(self, *patterns: str) -> None:
        """Expect troubles of this test: a refusal that it provokes is an error to the browser's console."""
        self._allowed += patterns

    def page(
        self, person: str | None = "ana", *, width: int = 1440, height: int = 900, theme: str = "light", **more: Any
    ) -> Page:
        """A page of a signed-in person (None: of nobody), at the list of all tickets."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, locale="pt-BR", timezone_id="America/Sao_Paulo",
            base_url=self._desk.product.url, color_scheme=theme, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        context.set_default_timeout(15_000)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.troubles.append(f"page error: {error}"))
        page.on("requestfailed", self._failed)
        if person is not None:
            self._sign_in(page, person)
            page.goto("/inbox/?tab=all&sort=newest")
            page.mouse.move(width - 60, 400)  # the list keeps its order while the pointer is over it
        return page

    def _sign_in(self, page: Page, person: str) -> None:
        if person not in self._cookies:
            page.goto("/login/")
            page.get_by_label("E-mail").fill(self._desk.people[person])
            page.get_by_label("Senha", exact=True).fill(PASSWORD)
            page.get_by_role("button", name="Entrar").click()
            page.wait_for_url("**/inbox/**")
            self._cookies[person] = page.context.cookies()
        page.context.add_cookies(self._cookies[person])

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.troubles.append(f"console {message.type}: {message.text} {message.location.get('url', '')}")

    def _failed(self, request: Request) -> None:
        # A page that is left takes its requests with it.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.troubles.append(f"failed: {request.url} {request.failure}")

    def finish(self) -> list[str]:
        for context in self._contexts:
            context.close()
        return [one for one in self.troubles if not any(re.search(pattern, one) for pattern in self._allowed)]


@pytest.fixture
def browsers(browser: Browser, desk: Desk) -> Iterator[Browsers]:
    opened = Browsers(browser, desk)
    yield opened
    assert opened.finish() == []
