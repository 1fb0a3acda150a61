"""The dead-letter desk in a browser: an administrator corrects a poison event, and it becomes a message."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest
import requests
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Browsers
from tests.e2e.desk import Desk
from tests.e2e.test_screenshots import save
from tests.product import Product
from tests.whatsapp.inbound import text_event

POISON = "boleto vencido"
PEOPLE = (("Marina Duarte", "+5511987650001"), ("João Pedro", "+5521987650002"), ("Dona Cida", "+5531987650003"))


@pytest.fixture(scope="module")
def desk(product: Product) -> Desk:
    """A tenant of its own, whose supervisor is its administrator here."""
    made = Desk(product, "mesa", "Mesa Posta")
    made.change("UPDATE accounts_user SET role = 'ADMIN' WHERE email = %s", made.people["sofia"])
    return made


@pytest.fixture(scope="module")
def letters(desk: Desk) -> Iterator[None]:
    """Three poison events that ended at the desk, a forgotten one, and one that breaks the contract."""
    with psycopg.connect(desk.product.env["ADMIN_DATABASE_URL"], autocommit=True) as owner:
        owner.execute(f"ALTER TABLE tickets_message ADD CONSTRAINT poison CHECK (content NOT LIKE '%{POISON}%')")
        try:
            for name, phone in PEOPLE:
                _post(desk, text_event(f"{POISON} de {name}", name=name, phone=phone, instance=desk.line_id))
            for attempts in range(1, 6):
                desk.product.wait_for(lambda n=attempts: _failing(desk, n) == len(PEOPLE))  # type: ignore[misc]
                desk.change("UPDATE whatsapp_webhookitem SET due_at = now() WHERE fate = 'pending'")
            desk.product.wait_for(lambda: _failing(desk, 6) == len(PEOPLE))
            yield
        finally:
            owner.execute("ALTER TABLE tickets_message DROP CONSTRAINT poison")
            # What is overdue on purpose must not stand in other tests' proofs.
            desk.change(
                "UPDATE whatsapp_webhookitem SET fate = 'discarded' WHERE expires_at < now() AND fate = 'parked'"
            )


def _post(desk: Desk, event: dict[str, object]) -> None:
    env = desk.product.env
    answer = requests.post(
        f"{env['BASE_URL']}/api/integrations/whatsapp/webhook", data=json.dumps(event).encode(),
        headers={"x-api-key": env["WHATSAPP_WEBHOOK_API_KEY"]}, timeout=10,
    )  # fmt: skip
    assert answer.status_code == 202, answer.text


def _failing(desk: Desk, attempts: int) -> int:
    return int(
        desk.value(
            """SELECT count(*) FROM whatsapp_webhookitem i JOIN accounts_tenant t ON t.id = i.tenant_id
               WHERE t.slug = 'mesa' AND i.attempts >= %s""",
            attempts,
        )
    )


def _overdue(desk: Desk) -> None:
    hollow = text_event("x", name="Rafael Nunes", phone="+5548987650004", instance=desk.line_id)
    hollow["payload"]["message"].update(text=None, type=None)
    _post(desk, hollow)
    parked = "SELECT count(*) FROM whatsapp_webhookitem WHERE fate = 'parked' AND reason = 'awaiting_twin'"
    desk.product.wait_for(lambda: desk.value(parked) == 1)
    desk.change(
        """UPDATE whatsapp_webhookitem SET due_at = NULL, expires_at = now() - interval '20 minutes'
           WHERE fate = 'parked' AND reason = 'awaiting_twin'"""
    )


def _open(browsers: Browsers, theme: str = "light") -> Page:
    browsers.allow(r".*")  # the back office has its own tests of the console
    page = browsers.page("sofia", theme=theme)
    page.goto("/admin/whatsapp/deadletter/")
    return page


def test_a_poison_event_is_corrected_in_the_browser(browsers: Browsers, desk: Desk, letters: None) -> None:
    _overdue(desk)
    page = _open(browsers)
    expect(page.locator(".le-cause")).to_have_count(2)
    expect(page.locator("#result_list tbody tr")).to_have_count(4)
    save(page, "dead-letters")
    page.get_by_role("row").filter(has_text="CheckViolation").or_(
        page.get_by_role("row").filter(has_text="IntegrityError")
    ).first.get_by_role("link").first.click()
    expect(page.locator(".le-code").first).to_be_visible()
    save(page, "dead-letter")
    page.locator("[href$='/correct/'], [hx-get$='/correct/']").first.click()
    box = page.locator("#dialog textarea[name=text]")
    expect(box).to_be_visible()
    save(page, "dead-letter-correct")
    box.fill(box.input_value().replace(POISON, "boleto pago"))
    page.locator("#dialog form button[type=submit]").click()
    stored = "SELECT count(*) FROM tickets_message WHERE content LIKE 'boleto pago%%'"
    desk.product.wait_for(lambda: desk.value(stored) == 1)


def test_the_desk_in_the_dark(browsers: Browsers, desk: Desk, letters: None) -> None:
    save(_open(browsers, "dark"), "dead-letters-dark")
