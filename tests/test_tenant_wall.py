"""The wall between tenants: every address, every table. A new url or table is covered without anyone remembering it.

Admin querysets and socket groups: see the end of this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection, models
from django.test import Client, RequestFactory
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from leadengine.accounts.models import ApiKey, Tenant, User
from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.accounts.services import write_audit
from leadengine.ids import uuid7
from leadengine.operations.admin import PlatformAdmin
from leadengine.webhooks.models import Attempt, Delivery, Endpoint, OutgoingEvent
from leads.models import Contact, ContactMerge, ContactTag, PipelineStage, Tag
from tests.api import by_cookie, by_key
from tests.conftest import World
from tests.tickets.desk import arrive, give
from tickets.models import (
    Message,
    MessageMedia,
    MessageReaction,
    MessageRevision,
    OutboundAttempt,
    Poll,
    PollVote,
    Queue,
    Ticket,
    TicketTag,
    TimelineRun,
)
from tickets.services.lifecycle import add_note, mark_read, save_draft
from whatsapp.models import (
    GapFill,
    InboundHour,
    ParkedEffect,
    PersistenceJournal,
    RecoveryRun,
    SessionEvent,
    Upload,
    WebhookEvent,
    WebhookItem,
    WhatsAppAtendimento,
    WhatsAppSession,
)
from whatsapp.services.persistence import saving

SECRET = "IPESECRET"  # stands in every text of tenant A
CALLED_SO = {"instance", "connection", "name", "rest"}  # how the surfaces call the id of a connection
SOME = 12
METHODS = ("get", "post", "put", "patch", "delete")
# What a refusal may be. A success on another tenant's id never is; 503 only where nothing is configured.
REFUSED = {302, 400, 401, 403, 404, 405, 409, 415, 422, 429, 501}
# Bodies that pass the first checks, so that the call gets as far as the object. Other routes get {}.
BODIES: dict[str, dict[str, Any]] = {
    "api-ticket": {"subject": "x"},
    "api-ticket-close": {"reasonCode": "SOLVED"},
    "api-ticket-read": {"position": 1},
    "api-ticket-notes": {"body": "x"},
    "api-ticket-draft": {"body": "x"},
    "api-ticket-messages": {"type": "text", "text": "x"},
    "api-contact": {"name": "x"},
    "contact-door": {"type": "text", "text": "x"},
    "instance-door": {"type": "text", "text": "x", "to": "+5511988887777"},
    "poll-door": {"to": "+5511988887777", "question": "x", "options": ["a", "b"]},
    "api-instance-exists": {"to": "+5511988887777"},
    "message-resend": {"confirmDuplicate": True},
    "api-webhook": {"enabled": False},
    "api-webhook-replay": {"from": "2020-01-01T00:00:00Z", "to": "2030-01-01T00:00:00Z"},
}
FORM = {
    "body": "x", "text": "x", "kind": "REPLY", "reason": "SOLVED", "reason_code": "SOLVED", "note": "x", "position": 1,
    "user_id": "", "name": "x", "confirm": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Route:
    """One pattern of the URLconf: its text with `<converter:name>` parts, and the name of its view."""

    path: str
    name: str

    @property
    def is_api(self) -> bool:
        return self.path.startswith("api/")

    def with_ids(self, ids: dict[str, str], *, every: bool) -> Iterator[str]:
        """The addresses with ids of the fitting kinds and of another one; `every`: and of some of the other kinds, for
        each route other ones, since all for all would take minutes."""
        parts = re.findall(r"<(?:\w+:)?(\w+)>", self.path)
        kind = self.path.split("/")[2] if self.path.count("/") > 1 else ""
        stem = parts[-1].removesuffix("_id").replace("object", kind)
        if stem in CALLED_SO:  # found by a word: of what kind an id is makes no difference
            stem, every = "instance", False
        fitting = [value for kind, value in ids.items() if stem and stem in kind]
        if not fitting and self.path.startswith("admin/"):  # a screen of rows that belong to no tenant
            fitting = [ids["user"]]
        others = [value for number, value in enumerate(ids.values()) if number % SOME == len(self.path) % SOME]
        if not fitting:
            others = list(ids.values())
        for value in {*fitting, ids["tenant"], *(others if every or not fitting else ())}:
            yield "/" + re.sub(r"<[^>]+>", value, self.path)


def walk(patterns: list[URLPattern | URLResolver], prefix: str = "") -> Iterator[Route]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from walk(pattern.url_patterns, path)
        else:
            path = path.replace("^", "").replace("$", "").replace("(?P<url>.*)", "<path:url>")
            yield Route(re.sub(r"\(\?P<app_label>.*?\)", "tickets", path), pattern.name or "")


ROUTES = list(walk(get_resolver().url_patterns))


def tenant_models(*more: type[models.Model]) -> list[type[models.Model]]:
    """Every model whose rows belong to a tenant, the audit log and the raw inbox too."""
    known = [model for model in apps.get_models(include_auto_created=True) if hasattr(model, "tenant_id")]
    return [*(model for model in known if model not in {User, ApiKey}), *more]


@pytest.fixture
def walled(committed_world: World) -> World:
    """Tenant A (`ipe`) with at least one row in every table, each text of it marked.

    Committed, because routes that call the broker open their own transactions.
    """
    world = committed_world
    now = timezone.now()
    ticket = give(arrive(world, f"{SECRET} um", f"{SECRET} dois", name=f"{SECRET} Maria"), world.agent)
    arrive(world, f"{SECRET} resposta", name=f"{SECRET} Maria", direction="OUTBOUND")
    with user_scope(world.agent):
        add_note(actor=world.agent, ticket_id=ticket.pk, body=f"{SECRET} nota", now=now)
        save_draft(actor=world.agent, ticket_id=ticket.pk, kind="REPLY", body=f"{SECRET} rascunho")
        mark_read(actor=world.agent, ticket_id=ticket.pk, position=1, now=now)
    mine = {"tenant": world.ipe}
    with service_scope("test"), saving():
        Tenant.objects.filter(pk=world.ipe.pk).update(name=f"{SECRET} Ipê")
        User.objects.filter(tenant=world.ipe).update(name=f"{SECRET} pessoa")
        Queue.objects.filter(tenant=world.ipe).update(name=f"{SECRET} fila")
        WhatsAppSession.objects.filter(tenant=world.ipe).update(session_name=f"{SECRET} linha")
        Ticket.objects.filter(pk=ticket.pk).update(subject=f"{SECRET} assunto")
        contact = Contact.objects.get(pk=ticket.contact_id)
        tag = Tag.objects.create(**mine, name=f"{SECRET} vip")
        ContactTag.objects.create(**mine, contact=contact, tag=tag)
        other = Contact.objects.create(**mine, name=f"{SECRET} outro", merged_into=contact)
        moved: dict[str, Any] = {"identities": [], "tags": [], "tickets": [], "ended": [], "lead": {}, "fields": {}}
        ContactMerge.objects.create(**mine, target=contact, source=other, evidence="manual", moved=moved)
        poll = Poll.objects.create(**mine, session_id=world.line.pk, external_id=SECRET, question=SECRET)
        PollVote.objects.create(**mine, poll=poll, voter=SECRET, at=now, external_id=SECRET)
        TicketTag.objects.create(**mine, ticket=ticket, tag=tag)
        TimelineRun.objects.create(**mine, trigger="manual", started_at=now, alive_at=now)
        message, answer = Message.objects.get(position=1), Message.objects.get(position=3)
        MessageMedia.objects.create(
            **mine, message=message, media_type="image", file_name=SECRET, thumbnail=b"IPESECRET"
        )
        MessageReaction.objects.create(**mine, message=message, actor=SECRET, emoji="👍", at=now)
        MessageRevision.objects.create(**mine, message=message, content=SECRET, at=now)
        OutboundAttempt.objects.create(**mine, message=answer, number=1, claim_token=uuid7(), claimed_at=now)
        Message.objects.filter(pk=answer.pk).update(status="FAILED", author=world.agent, error={"code": SECRET})
        SessionEvent.objects.create(**mine, session=world.line, new_status="connected", source="api")
        GapFill.objects.create(**mine, session=world.line)
        RecoveryRun.objects.create(**mine, trigger=SECRET, started_at=now)
        PersistenceJournal.objects.create(
            **mine, line_id=uuid7(), operation=SECRET, reason=SECRET, status="failed", recorded_at=now
        )
        InboundHour.objects.create(**mine, session=world.line, hour=now, received=1)
        Upload.objects.create(
            **mine, state="READY", media_type="image", mime_type="image/png", file_name=SECRET, size=1, sha256="0" * 64,
            storage_key=SECRET, caption=SECRET,
        )  # fmt: skip
        ParkedEffect.objects.create(
            **mine, session=world.line, external_id="X", kind="ack", data={}, expires_at=now + timedelta(days=1)
        )
        WhatsAppAtendimento.objects.create(
            **mine, owner=world.admin, connection_id=world.line.connection_id, chat_id=SECRET, ticket_id=ticket.pk
        )
        event = WebhookEvent.objects.create(
            **mine, session=world.line, instance_id="ipe-01", status="PROCESSED", error=SECRET
        )
        WebhookItem.objects.create(**mine, event=event, index=0, kind="message", fate="stored", external_id=SECRET)
        endpoint = Endpoint.objects.create(**mine, url=f"https://{SECRET}/", events=["messages.new"], secret=SECRET)
        happened = OutgoingEvent.objects.create(**mine, type="messages.new", at=now, body=f'{{"data": "{SECRET}"}}')
        delivery = Delivery.objects.create(
            **mine, endpoint=endpoint, event=happened, type="messages.new", status="DEAD", tries=1, attempts=1
        )
        Attempt.objects.create(**mine, delivery=delivery, number=1, at=now, code="OK", answer=SECRET)
        write_audit(tenant_id=world.ipe.pk, actor=world.admin, action=f"{SECRET}", target=ticket)
    by_key(world.admin)
    return world


def ids_of(tenant: Tenant, line: WhatsAppSession) -> dict[str, str]:
    """One id of each kind; fails where the wall's tenant has no row of a table."""
    ids = {"tenant": str(tenant.pk), "instance": line.connection_id, "broker_instance": str(line.broker_instance_id)}
    with service_scope("test"):
        for model in tenant_models(User, ApiKey):
            row = model._default_manager.filter(tenant=tenant).order_by("pk").first()
            assert row is not None, f"Make a row of {model._meta.label} in the fixture `walled`."
            ids[str(model._meta.model_name)] = str(row.pk)
    return ids


def picture(tenant: Tenant) -> dict[str, str]:
    """A digest of every row of a tenant, table by table."""
    digests = {}
    with service_scope("test"), connection.cursor() as cursor:
        for model in tenant_models(User, ApiKey):
            table = model._meta.db_table
            cursor.execute(
                f"""SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), ''))
                    FROM {table} t WHERE tenant_id = %s""",
                [tenant.pk],
            )
            digests[table] = cursor.fetchone()[0]
    return digests


def call(client: Client, method: str, url: str, route: Route) -> tuple[int, str]:
    if route.is_api:
        body = json.dumps(BODIES.get(route.name, {})) if method != "get" else ""
        response = client.generic(method.upper(), url, body, content_type="application/json")
    else:
        response = getattr(client, method)(url, FORM if method == "post" else None)
    content = b"".join(response.streaming_content) if response.streaming else response.content  # type: ignore[attr-defined]
    text = content.decode("utf-8", "replace") + json.dumps(dict(response.headers))
    return response.status_code, text


def assaults(ids: dict[str, str], *, few: bool = False) -> Iterator[tuple[Route, str, str]]:
    """(route, method, address) for every address with another tenant's ids, then for those without any.

    `few`: one address of each, for callers who are turned away before anybody looks at an id.
    """
    for route in ROUTES:
        if "<" not in route.path:
            methods = ("get",) if "logout" in route.path or "password" in route.path else ("get", "post")
            yield from ((route, method, "/" + route.path) for method in methods)
            continue
        # Pages name the kind of their ids; with every kind the walk would take minutes.
        most = 1 if few else None
        for url in islice(route.with_ids(ids, every=route.is_api), most):
            yield route, "get", url
        for url in islice(route.with_ids(ids, every=False), most):
            yield from ((route, method, url) for method in METHODS[1:] if route.is_api or method == "post")


def assault(world: World, client: Client, *, api_only: bool = False, few: bool = False) -> None:
    """Call everything with tenant A's ids: each call is refused or shows nothing of A, and nothing of A changes."""
    ids, before = ids_of(world.ipe, world.line), picture(world.ipe)
    client.raise_request_exception = False
    holes = set()
    for route, method, url in assaults(ids, few=few):
        if api_only and not route.is_api:
            continue
        status, text = call(client, method, url, route)
        if (status >= 500 and status != 501) or SECRET in text or ("<" in route.path and status not in REFUSED):
            holes.add(f"{method.upper()} {route.path} -> {status}{', shows' if SECRET in text else ''}")
    assert holes == set()
    after = picture(world.ipe)
    assert {table for table in before if before[table] != after[table]} == set()


@pytest.mark.timeout(240)  # every address
def test_administrator_of_another_tenant_by_cookie(walled: World) -> None:
    assault(walled, by_cookie(walled.outsider))


@pytest.mark.timeout(240)
def test_administrator_of_another_tenant_by_key(walled: World) -> None:
    assault(walled, by_key(walled.outsider), api_only=True)


def test_nobody(walled: World) -> None:
    assault(walled, Client(), few=True)


@pytest.mark.parametrize("by", [by_cookie, by_key])
def test_deactivated_member_of_the_tenant(walled: World, by: Any) -> None:
    client = by(walled.supervisor)
    User.objects.filter(pk=walled.supervisor.pk).update(is_active=False)
    assault(walled, client, api_only=by is by_key, few=True)


def test_wall_would_notice(walled: World) -> None:
    """The same walk as a supervisor of tenant A shows what it must not show to others."""
    client, shown = by_cookie(walled.supervisor), set()
    for route, method, url in assaults(ids_of(walled.ipe, walled.line)):
        if method == "get" and route.is_api:
            status, text = call(client, method, url, route)
            if status == 200 and SECRET in text:
                shown.add(route.name)
    expected = {
        route.name for route in ROUTES if re.search(r"api/(tickets|contacts|leads|users|queues|messages)", route.path)
    }
    assert {"api-tickets", "api-ticket", "api-ticket-messages", "api-contact", "api-users", "api-instance"} <= shown
    assert len(shown & expected) >= 10


# --- Tables ------------------------------------------------------------------------------------------------------

# Read before a scope exists, or shared by all tenants (spec/sessions.md section 5). Nothing else may lack a policy.
WITHOUT_POLICY = {
    "accounts_tenant", "accounts_user", "accounts_apikey", "accounts_loginfailure", "django_session",
    "django_migrations", "django_content_type", "auth_group", "auth_permission", "auth_group_permissions",
    "django_admin_log", "operations_heartbeat", "operations_lease",
    "operations_backuprecord", "operations_configsnapshot", "operations_emergencycontact",
    "operations_protectedchange", "whatsapp_duty", "whatsapp_maintenance",
}  # fmt: skip


def rows(sql: str, *parameters: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


@pytest.mark.django_db
def test_every_table_of_a_tenant_has_forced_security_and_one_real_policy() -> None:
    tables = rows(
        """SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity, array_agg(pg_get_expr(p.polqual, c.oid)),
               array_agg(pg_get_expr(p.polwithcheck, c.oid)), count(p.oid), bool_and(p.polcmd = '*' AND p.polpermissive)
           FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
           WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') GROUP BY c.oid"""
    )
    open_tables = {table for table, forced, *_ in tables if not forced}
    assert open_tables <= WITHOUT_POLICY, open_tables - WITHOUT_POLICY
    assert not {model._meta.db_table for model in tenant_models()} & open_tables
    for table, forced, using, check, policies, whole in tables:
        if forced:
            assert policies == 1, table
            assert whole, table
            assert using == check, table
            assert "tenant_id = ( SELECT" in using[0], table
            assert "app.tenant_id" in using[0], table
            assert not re.search(r"\btrue\b(?!\))", re.sub(r"current_setting\([^)]*\)", "", using[0])), using[0]


@pytest.mark.django_db
def test_every_reference_between_tables_of_tenants_carries_the_tenant() -> None:
    found = rows(
        """SELECT c.conrelid::regclass::text, c.confrelid::regclass::text, (
               SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY AS k (num, n)
               JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num)
           FROM pg_constraint c WHERE c.contype = 'f'"""
    )
    with_tenant = {
        (table, columns[1]) for table, _, columns in found if len(columns) == 2 and columns[0] == "tenant_id"
    }
    missing = set()
    for model in tenant_models():
        for field in model._meta.get_fields():
            target = getattr(field, "related_model", None)
            if not isinstance(field, models.ForeignKey) or not isinstance(target, type) or target is Tenant:
                continue
            if hasattr(target, "tenant_id") and (model._meta.db_table, field.column) not in with_tenant:
                missing.add(f"{model._meta.db_table}.{field.column}")
    assert missing == MAY_NAME_A_SUPERUSER


# A superuser of the platform belongs to no tenant and may close, note or be audited in any: no pair (tenant, user)
# exists for them. The owner of a connection is checked where it is set.
MAY_NAME_A_SUPERUSER = {
    "accounts_auditlog.actor_id", "leads_contactmerge.actor_id", "leads_contactmerge.undone_by_id",
    "leads_leadactivity.actor_id", "tickets_message.author_id", "tickets_note.author_id",
    "tickets_ticket.closed_by_id", "tickets_ticketevent.actor_id", "whatsapp_atendimentos.owner_id",
    "whatsapp_sessions.owner_id",
}  # fmt: skip


def test_database_refuses_a_row_that_points_into_another_tenant(world: World) -> None:
    ours, theirs = give(arrive(world), world.agent), arrive(world, tenant=world.cedro)
    with tenant_scope(world.cedro.pk):
        stage = PipelineStage.objects.get(status="NEW")
    for table, column, value in (
        ("tickets_ticket", "contact_id", theirs.contact_id), ("tickets_ticket", "queue_id", world.foreign_queue.pk),
        ("tickets_ticket", "assignee_id", world.outsider.pk), ("tickets_ticket", "session_id", world.foreign_line.pk),
        ("tickets_message", "contact_id", theirs.contact_id), ("leads_lead", "stage_id", stage.pk),
        ("leads_contactidentity", "contact_id", theirs.contact_id),
    ):  # fmt: skip
        with service_scope("test"), pytest.raises(Exception, match="same_tenant"), service_scope("inner"):
            rows(f"UPDATE {table} SET {column} = %s WHERE tenant_id = %s RETURNING 1", value, ours.tenant_id)
    with tenant_scope(world.ipe.pk):
        assert Ticket.objects.get() == ours


# --- Admin querysets; the sockets' wall is tests/realtime/test_socket.py, with real sockets of both tenants ---------


def test_admin_querysets_of_another_tenant_hold_nothing_of_ours(world: World, rf: RequestFactory) -> None:
    give(arrive(world), world.agent)
    request = rf.get("/admin/")
    request.user = world.outsider
    screens = 0
    for model, screen in admin.site._registry.items():
        if not screen.has_view_permission(request):
            assert model is Tenant or isinstance(screen, PlatformAdmin), "only rows without a tenant are for superusers"
            continue
        with tenant_scope(world.cedro.pk):
            rows_seen = list(screen.get_queryset(request))
        screens += 1
        for row in rows_seen:
            owner = getattr(row, "tenant_id", None) or getattr(getattr(row, "event", None), "tenant_id", None)
            assert owner == world.cedro.pk or row == world.cedro, (model, row)
    assert screens >= 10
