"""REST of connections: the list, making one, reading, renaming and deleting it (spec/sessions.md section 6)."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator
from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Query, ScopedAPIView, answer, describe
from leadengine.accounts.models import User
from leadengine.accounts.scopes import tenant_scope
from leadengine.envelope import sentence_of
from leadengine.errors import ValidationFailed
from tickets.services.outbox.circuit import read_circuits
from whatsapp.adapters import get_adapter
from whatsapp.api.base import SessionAPIView
from whatsapp.models import WhatsAppSession
from whatsapp.serializers import (
    DeletedShape,
    InstanceListMeta,
    InstanceShape,
    LineShape,
    ListedInstanceShape,
    instance_json,
    line_json,
    statuses_of,
    unclaimed_json,
)
from whatsapp.services.sessions.acting import find_unclaimed
from whatsapp.services.sessions.refreshing import Warned, count_refresh, refresh_sessions
from whatsapp.services.sessions.removing import remove_session
from whatsapp.services.sessions.wishes import NAME_MAX, RESERVED, NewSession, create_session, edit_session

Status = Literal[
    "disconnected", "connecting", "qrcode", "connected", "error", "duplicate", "logged_out",
    "qr_required", "pending", "reconnecting", "failed",
]  # fmt: skip
REFRESHED_AT_ONCE = 200
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


def _not_reserved(value: str) -> str:
    if value in RESERVED:
        raise ValueError("Este identificador é reservado.")
    return value


def _switch(value: Any) -> Any:
    """`?refresh` alone switches on, as `?refresh=1` does."""
    return True if value == "" else value


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_MAX)]
Flag = Annotated[bool, BeforeValidator(_switch)]


class InstanceQuery(Query):
    """`q` finds a part of the name, `status` a word of an instance or of the database. `refresh` asks the broker first;
    `unclaimed` lists what we do not know there."""

    status: tuple[Status, ...] = ()
    owner_id: UUID | None = None
    q: str | None = Field(None, max_length=80)
    fields: Literal["basic", "full"] = "full"
    refresh: Flag = False
    unclaimed: Flag = False


class NewInstanceBody(Body):
    """`id` becomes the instanceId; `ownerId` is for admins, who may create for others."""

    name: Name
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$"), AfterValidator(_not_reserved)] | None = None
    owner_id: Annotated[UUID, Field(strict=False)] | None = None
    auto_connect: bool = True

    @model_validator(mode="before")
    @classmethod
    def _drop_owner(cls, data: Any) -> Any:
        """The column's own name means nothing here: the owner comes from the server (spec/sessions.md section 5)."""
        return {name: value for name, value in data.items() if name != "owner_id"} if isinstance(data, dict) else data


class EditInstanceBody(Body):
    """`version` refuses when the connection changed since it was read."""

    name: Name | None = None
    auto_reconnect: bool | None = None
    version: int | None = None


class WipeBody(Body):
    wipe: bool = False


class InstanceListView(SessionAPIView):
    @describe(ListedInstanceShape, many=True, query=InstanceQuery, meta=InstanceListMeta)
    def get(self, request: Request) -> Response:
        """The caller's own connections; supervisors see all of the tenant. From the database, which `refresh=1` brings
        in line with the broker before."""
        query = self.read_query(InstanceQuery)
        if query.unclaimed:
            return self._answer_unclaimed(query)
        warned = self._refresh(query) if query.refresh else []
        now, full = timezone.now(), query.fields == "full"
        shown = partial(instance_json, full=full, now=now, circuits=read_circuits(now=now) if full else {})
        with self.scope():
            rows = _filtered(self.visible(), query, by_status=True)
            response = self.answer_page(rows, query, shown, keys=("session_name", "id"))
        response.data["meta"] |= _told(warned, refreshed=query.refresh)
        return response

    @describe(InstanceShape, body=NewInstanceBody, code=status.HTTP_201_CREATED)
    def post(self, request: Request) -> Response:
        """Make a connection. With the same `Idempotency-Key` and body it is made once; `pending` while the broker is
        away."""
        body = self.read_body(NewInstanceBody)
        owner = self._owner_of(body)
        assert owner.tenant_id is not None  # noqa: S101 - narrows the type: whoever owns belongs to a tenant
        wish = NewSession(
            tenant_id=owner.tenant_id, owner=owner, name=body.name, connection_id=body.id,
            auto_connect=body.auto_connect, idempotency_key=self._key(), exempt=self.user.is_superuser,
        )  # fmt: skip
        created = create_session(wish=wish, asker=self.asker, now=timezone.now())
        session, pending = created.session, created.session.pending_wish is not None
        if pending and not created.replayed:
            outcome = self.carry_out(session)
            session, pending = outcome.session, outcome.pending
        data = instance_json(session, full=True, now=timezone.now()) | {"pending": pending}
        response = answer(data, code=status.HTTP_201_CREATED)
        if created.replayed:
            response["Idempotent-Replayed"] = "true"
        return response

    def _refresh(self, query: InstanceQuery) -> list[Warned]:
        count_refresh(tenant_id=self.tenant_id)
        with self.scope():
            sessions = list(_filtered(self.visible(), query)[:REFRESHED_AT_ONCE])
        return refresh_sessions(sessions=sessions, origin=self.asker.origin)

    def _answer_unclaimed(self, query: InstanceQuery) -> Response:
        if not self.user.is_superuser or self.tenant_id is not None:
            raise exceptions.PermissionDenied
        found = [unclaimed_json(state) for state in find_unclaimed()]
        return answer(found, meta={"nextCursor": None, "limit": query.limit} | _told([], refreshed=True))

    def _owner_of(self, body: NewInstanceBody) -> User:
        """Who will own it: the caller, or whom an admin names. Raises: PermissionDenied, ValidationFailed."""
        if body.owner_id in {None, self.user.pk} and self.user.tenant_id is not None:
            return self.user
        if not self.is_admin:
            raise exceptions.PermissionDenied
        members = User.objects.filter(is_active=True, tenant__is_active=True)
        members = members.filter(tenant_id=self.tenant_id) if self.tenant_id else members
        owner = members.filter(pk=body.owner_id).first() if body.owner_id else None
        if owner is None:
            raise ValidationFailed([{"field": "ownerId", "message": "Não é um membro ativo desta empresa."}])
        return owner

    def _key(self) -> str | None:
        key = self.request.headers.get("Idempotency-Key")
        if key is not None and not _KEY.fullmatch(key):
            raise ValidationFailed(
                [{"field": "Idempotency-Key", "message": "De 1 a 128 caracteres ASCII imprimíveis."}]
            )  # fmt: skip
        return key


class InstanceView(SessionAPIView):
    @describe(InstanceShape)
    def get(self, request: Request, instance_id: str) -> Response:
        """One connection, by our id, its connection_id or the broker's id."""
        session = self.find(instance_id)
        self.read_query(Body)
        return answer(instance_json(session, full=True, now=timezone.now()))

    @describe(InstanceShape, body=EditInstanceBody)
    def patch(self, request: Request, instance_id: str) -> Response:
        """Rename it, or let it be reconnected or not."""
        session = self.find(instance_id)
        body = self.read_body(EditInstanceBody)
        changed = edit_session(
            session=session, asker=self.asker, now=timezone.now(), name=body.name, auto_reconnect=body.auto_reconnect,
            version=body.version,
        )  # fmt: skip
        return answer(instance_json(changed, full=True, now=timezone.now()))

    @describe(DeletedShape, body=WipeBody)
    def delete(self, request: Request, instance_id: str) -> Response:
        """Take it out of use: its instance at the broker goes, and its keys with it. For its owner and admins."""
        session = self.find(instance_id)
        self.read_body(WipeBody)
        self.require_own(session)
        deleted, at_broker = remove_session(session=session, asker=self.asker, now=timezone.now())
        assert deleted.deleted_at is not None  # noqa: S101 - narrows the type
        return answer(
            {"id": str(deleted.pk), "deletedAt": deleted.deleted_at.isoformat(), "brokerStatus": at_broker}
        )  # fmt: skip


class LineListView(ScopedAPIView):
    @describe(LineShape, many=True, query=Query)
    def get(self, request: Request) -> Response:
        """The lines of the tenant, whoever owns them, as far as an agent must know them."""
        get_adapter().require_configured()
        query = self.read_query(Query)
        sessions = self.of_tenant(WhatsAppSession.objects.filter(deleted_at__isnull=True))
        shown = partial(line_json, circuits=read_circuits(now=timezone.now()))
        if self.tenant_id is None:
            return self.answer_page(sessions, query, shown, keys=("session_name", "id"))
        with tenant_scope(self.tenant_id):
            return self.answer_page(sessions, query, shown, keys=("session_name", "id"))


def _filtered(
    sessions: QuerySet[WhatsAppSession], query: InstanceQuery, *, by_status: bool = False
) -> QuerySet[WhatsAppSession]:
    given: dict[str, Any] = {"owner_id": query.owner_id, "session_name__icontains": query.q}
    if by_status:
        given["status__in"] = statuses_of(query.status)
    return sessions.filter(**{name: value for name, value in given.items() if value})


def _told(warned: list[Warned], *, refreshed: bool) -> dict[str, Any]:
    """What the list's meta says of a refresh."""
    warnings = [
        {
            "code": one.error.code,
            "message": sentence_of(one.error),
            "instanceId": one.session.connection_id if one.session else None,
        }
        for one in warned
    ]
    return {"synced": refreshed and not warned, "refreshFailed": bool(warned), "warnings": warnings}
