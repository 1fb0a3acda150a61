"""Makes the demo; a second time it only looks whether all is there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password

from leadengine.accounts.models import User
from leadengine.accounts.permissions import Role
from leadengine.accounts.scopes import service_scope
from leadengine.operations.demo.past import tell_past
from leadengine.operations.provisioning import ProvisionFile, provision_tenants
from leadengine.operations.simulated import Line, Simulator, find_simulator
from tickets.models import Queue
from whatsapp.models import WebhookEvent, WhatsAppSession
from whatsapp.services.persistence import persist

CUSTOMERS, PER_MINUTE = 8, 6.0
LINES = (
    Line("ipe-recepcao", "Recepção", "+551140028901"),
    Line("ipe-vendas", "Vendas online", "+551140028902"),
)
OTHER_LINE = Line("cedro-loja", "Cedro Loja", "+551140028903")
QUEUES = (
    {"name": "Recepção", "colour": "#0B6E4F", "description": "Primeiro contato: quem chega passa por aqui."},
    {"name": "Vendas", "colour": "#175CD3", "description": "Preços, estoque e pedidos novos."},
    {"name": "Trocas e devoluções", "colour": "#B25E09", "description": "Tamanho errado, defeito, reembolso."},
)


@dataclass(frozen=True, slots=True)
class DemoPeople:
    """Who may sign in: e-mails, their password, and the two API keys."""

    admin: str
    supervisor: str
    agent: str
    agent2: str
    outsider: str
    superuser: str
    password: str
    api_token: str
    outsider_token: str


def seed_demo(*, people: DemoPeople, now: datetime) -> None:
    """Make the demo tenants and the superuser; with the simulator as broker also its lines, customers and a past.

    Raises: UnableToProvision, requests.RequestException.
    """
    simulator = find_simulator()
    slug = settings.API_KEY_TENANT or "ipe"
    provision_tenants(file=_demo_file(people, slug, connected=simulator is not None), now=now)
    _save_superuser(people)
    _give_lines_queues(slug)
    if simulator is not None:
        _bring_to_life(simulator, people, slug, now)


def _demo_file(people: DemoPeople, slug: str, *, connected: bool) -> ProvisionFile:
    def user(email: str, name: str, role: Role, *queues: str) -> dict[str, Any]:
        return {"email": email, "name": name, "role": role, "password": people.password, "queues": list(queues)}

    def session(line: Line) -> dict[str, Any]:
        body = {"connection_id": line.id, "broker_instance_id": line.id, "name": line.name}
        return body | ({"status": "connected", "phone_number": line.phone} if connected else {})

    first, sales, returns = (queue["name"] for queue in QUEUES)
    ipe = {
        "slug": slug,
        "name": "Ipê Calçados",
        "users": [
            user(people.admin, "Helena Castro", Role.ADMIN, first, sales, returns),
            user(people.supervisor, "Sofia Andrade", Role.SUPERVISOR, first, sales, returns),
            user(people.agent, "Ana Ribeiro", Role.AGENT, first, sales),
            user(people.agent2, "Bruno Tavares", Role.AGENT, first, sales, returns),
        ],
        "queues": list(QUEUES),
        "sessions": [session(line) for line in LINES],
        "api_tokens": [{"name": "demo", "user": people.admin, "token": people.api_token}],
    }
    cedro = {
        "slug": "cedro",
        "name": "Cedro Móveis",
        "users": [user(people.outsider, "Otto Schmidt", Role.ADMIN, "Atendimento")],
        "queues": [{"name": "Atendimento"}],
        "sessions": [session(OTHER_LINE)],
        "api_tokens": [{"name": "demo", "user": people.outsider, "token": people.outsider_token}],
    }
    return ProvisionFile.model_validate({"tenants": [ipe, cedro]})


def _save_superuser(people: DemoPeople) -> None:
    with service_scope("demo superuser"):
        user, _ = User.objects.get_or_create(
            email=people.superuser,
            defaults={"name": "Operação", "role": Role.ADMIN, "is_superuser": True, "password": make_password(None)},
        )
        if not check_password(people.password, user.password):
            user.set_password(people.password)
            user.save(update_fields=["password"])


def _give_lines_queues(slug: str) -> None:
    """Who writes to the sales line lands in the sales queue."""

    def write() -> None:
        sales = Queue.objects.get(tenant__slug=slug, name=QUEUES[1]["name"])
        lines = WhatsAppSession.objects.filter(connection_id=LINES[1].id, default_queue_id__isnull=True)
        lines.update(default_queue_id=sales.pk)

    persist("session.settings", write, scope=lambda: service_scope("demo lines"))


def _bring_to_life(simulator: Simulator, people: DemoPeople, slug: str, now: datetime) -> None:
    simulator.open((*LINES, OTHER_LINE))
    if simulator.customers:
        return
    customers = simulator.let_customers_write(count=CUSTOMERS, per_minute=PER_MINUTE, lines=LINES)
    with service_scope("demo past"):
        first_start = not WebhookEvent.objects.filter(tenant__slug=slug).exists()
    if first_start:
        tell_past(people=(people.agent, people.agent2), customers=customers, lines=[line.id for line in LINES], now=now)
