"""The tenant of the browser tests: its people, its line, its customers, and what the database says of them."""

from __future__ import annotations

import base64
import itertools
import time
from pathlib import Path
from typing import Any

from tests.product import ROOT, Product

PASSWORD = "abacaxi-maduro-7"
ASSETS = ROOT / "whatsapp" / "simulator" / "assets"
NAMES = {"ana": "Ana Ribeiro", "bruno": "Bruno Carvalho", "sofia": "Sofia Martins", "caio": "Caio Novato"}
_phones = itertools.count(int(time.time()) % 1_000_000)


class Customer:
    """A person who writes to the tenant's line."""

    def __init__(self, desk: Desk, name: str, phone: str) -> None:
        self.desk, self.name, self.phone = desk, name, phone

    def writes(self, *texts: str, **more: Any) -> list[str]:
        """Send texts, as one batch; returns the provider ids."""
        return self.sends(*({"text": text, **more} for text in texts))

    def sends(self, *bodies: dict[str, Any]) -> list[str]:
        """Send messages of any kind, as one batch; returns the provider ids."""
        calls = [{"from": self.phone, "pushName": self.name, **body} for body in bodies]
        ids: list[str] = self.desk.product.simulate(f"/_sim/{self.desk.line_id}/inbound", calls)["ids"]
        return ids

    def got(self) -> list[dict[str, Any]]:
        """What was sent to them, as the broker keeps it."""
        sent = self.desk.product.simulate(f"/_sim/{self.desk.line_id}/sent")
        return [one for one in sent if self.phone in str(one)]

    @property
    def ticket_id(self) -> str:
        """Their newest ticket."""
        return str(
            self.desk.value(
                """SELECT t.id FROM tickets_ticket t JOIN leads_contactidentity i ON i.contact_id = t.contact_id
                   WHERE i.value = %s ORDER BY t.number DESC LIMIT 1""",
                f"+{self.phone}",
            )
        )

    def messages(self) -> list[tuple[Any, ...]]:
        """(text, status) of their messages, as people see them."""
        return self.desk.rows(
            """SELECT m.content || m.caption, m.status FROM tickets_message m
               JOIN leads_contactidentity i ON i.contact_id = m.contact_id AND i.value = %s
               ORDER BY m.sent_at, m.position""",
            f"+{self.phone}",
        )


class Desk:
    """A provisioned tenant: two agents, a supervisor, an agent without a queue, and a line."""

    def __init__(self, product: Product, slug: str = "casa", name: str = "Casa Verde") -> None:
        self.product, self.slug, self.line_id = product, slug, f"{slug}-01"
        self.people = {person: f"{person}@{slug}.test" for person in NAMES}
        roles = {"sofia": "SUPERVISOR"}
        product.provision(
            {
                "tenants": [
                    {
                        "slug": slug, "name": name, "timezone": "America/Sao_Paulo",
                        "queues": [{"name": "Recepção"}, {"name": "Vendas"}],
                        "users": [
                            {
                                "email": email, "name": NAMES[person], "password": PASSWORD,
                                "role": roles.get(person, "AGENT"),
                                "queues": [] if person == "caio" else ["Recepção", "Vendas"],
                            }
                            for person, email in self.people.items()
                        ],
                        "sessions": [
                            {
                                "connectionId": self.line_id, "brokerInstanceId": self.line_id, "name": "Loja",
                                "status": "connected", "owner": self.people["sofia"],
                            }
                        ],
                    }
                ]
            }
        )  # fmt: skip
        # Colleagues see each other's tickets in their queues: what the tests of two people need.
        self.change(
            """UPDATE tickets_queuemembership SET visibility = 'QUEUE'
               WHERE tenant_id = (SELECT id FROM accounts_tenant WHERE slug = %s)""",
            slug,
        )
        # Until the line is looked at, it would keep to what its broker allows at least.
        self.change(
            "UPDATE whatsapp_sessions SET capabilities = '{\"rate\": null}' WHERE connection_id = %s", self.line_id
        )
        self.behave()

    def behave(self, **keys: Any) -> None:
        """How the line behaves at the simulator from now on; nothing: as it should."""
        for body in ({}, {"autoAck": [2, 3], **keys}):
            self.product.simulate(f"/_sim/{self.line_id}/behaviour", body)

    def customer(self, name: str) -> Customer:
        """A new customer with a phone of their own, whose end is part of the name: a product may outlive a run."""
        phone = f"55119{next(_phones) % 10_000_000 + 80_000_000}"
        return Customer(self, f"{name} {phone[-6:]}", phone)

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.product.database() as connection:
            return connection.execute(sql, parameters).fetchall()

    def value(self, sql: str, *parameters: Any) -> Any:
        rows = self.rows(sql, *parameters)
        assert rows, sql
        return rows[0][0]

    def change(self, sql: str, *parameters: Any) -> None:
        with self.product.database() as connection:
            connection.execute(sql, parameters)
            connection.commit()

    def line(self, status: str) -> None:
        """What the product believes of the line's state; what waited for a connection is due when there is one."""
        self.change("UPDATE whatsapp_sessions SET status = %s WHERE connection_id = %s", status, self.line_id)
        if status == "connected":
            self.change("UPDATE tickets_message SET not_before = now() WHERE wait_reason = 'SESSION_OFFLINE'")


def media(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """A file of the simulator's assets, as the inbound call wants it."""
    return {"type": kind, "base64": base64.b64encode((ASSETS / name).read_bytes()).decode(), **more}


def shots_folder() -> Path:
    """Where screenshots go; ignored by git."""
    folder = ROOT / ".data-test" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
