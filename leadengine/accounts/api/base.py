"""The base of the REST API: one scope and one transaction per request, strict input, one shape of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from math import isfinite
from typing import Annotated, Any, ClassVar, TypeVar
from uuid import UUID

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db.models import QuerySet
from django.http import HttpRequest
from drf_spectacular.utils import extend_schema
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel
from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from leadengine.accounts.api.schema import RouteSchema
from leadengine.accounts.models import ApiKey, TenantQuerySet, User
from leadengine.accounts.scopes import tenant_scope, user_scope
from leadengine.errors import DomainError, NotFound
from leadengine.paging import DEFAULT_LIMIT, MOST, Page, Row, read_page
from leadengine.validation import refusal

Model = TypeVar("Model", bound=BaseModel)
BIGGEST = 2**63 - 1  # what a bigint holds


class BodyTooLarge(DomainError):
    """O corpo passa de 1 MiB."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class Body(BaseModel):
    """A JSON body: camelCase, every field named, nothing that PostgreSQL cannot store."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        if not _is_storable(value):
            raise ValueError("U+0000 e números sem fim não podem ser guardados.")
        return value


def _read_moment(value: Any) -> Any:
    """A date of ISO 8601. Numbers are none: pydantic would take them for seconds since 1970."""
    try:
        return datetime.fromisoformat(value) if value is not None else None
    except (TypeError, ValueError) as error:
        raise ValueError("Deve ser uma data ISO 8601.") from error


Moment = Annotated[AwareDatetime, BeforeValidator(_read_moment)]  # with its offset


class Query(Body):
    """The query string of a list. A field of tuple type may be repeated or hold commas."""

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MOST)
    cursor: str | None = None


class ScopedAPIView(APIView):
    """A native route: the caller is known, then the handler runs in their scope, which is one transaction.

    `permissions` names what each method asks for (spec/tickets-leads.md section 1). An error rolls everything back.
    """

    permissions: ClassVar[Mapping[str, str]] = {}
    # False: the handler opens `self.scope()` itself, around each of its steps, and may call the broker between them.
    scoped: ClassVar[bool] = True
    metadata_class = None  # OPTIONS would describe views to anyone
    schema = RouteSchema()

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Response:
        self.args, self.kwargs = args, kwargs
        self.request = request = self.initialize_request(request, *args, **kwargs)
        self.headers = self.default_response_headers
        try:
            self.initial(request, *args, **kwargs)
            method = (request.method or "").lower()
            handler = getattr(self, method, None) if method in self.http_method_names else None
            with self.scope() if self.scoped else nullcontext():
                response: Response = (handler or self.http_method_not_allowed)(request, *args, **kwargs)
        except Exception as error:  # what DRF's handler does not know, it raises again
            response = self.handle_exception(error)
        self.response = self.finalize_response(request, response, *args, **kwargs)
        return self.response

    def check_permissions(self, request: Request) -> None:
        """401 without a caller, 403 when the role or the key does not grant what the method asks for."""
        super().check_permissions(request)
        if request.user.is_authenticated and request.user.tenant and not request.user.tenant.is_active:
            raise exceptions.NotAuthenticated
        if self.only_session is not None and not self.serves_one_session():
            raise exceptions.PermissionDenied
        permission = self.permissions.get("GET" if request.method == "HEAD" else request.method or "")
        if permission and not self.may(permission):
            raise exceptions.PermissionDenied

    def scope(self) -> AbstractContextManager[None]:
        """The scope of the caller: a key acts in its own tenant only, whoever owns it."""
        key = self.api_key
        if key is not None and self.user.is_superuser:
            return tenant_scope(key.tenant_id)
        return user_scope(self.user)

    @property
    def user(self) -> User:
        """The caller."""
        user = self.request.user
        assert isinstance(user, User), "the permission classes let nobody else in"  # noqa: S101
        return user

    @property
    def api_key(self) -> ApiKey | None:
        """The key that the caller sent; None for the browser's session."""
        return self.request.auth if isinstance(self.request.auth, ApiKey) else None

    @property
    def only_session(self) -> UUID | None:
        """The one connection that the caller's key is for; None for callers who are not bound to one."""
        return self.api_key.session_id if self.api_key is not None else None

    def serves_one_session(self) -> bool:
        """Whether this call is for keys of one connection, too: where it can show and touch nothing but that one."""
        return False

    @property
    def tenant_id(self) -> UUID | None:
        """The tenant that the caller acts in; None for a superuser of the platform, who sees all."""
        key = self.api_key
        return key.tenant_id if key is not None else self.user.tenant_id

    def may(self, permission: str) -> bool:
        """Whether the caller's role, and the key's own list when it has one, grant a permission."""
        key = self.api_key
        return self.user.may(permission) and (key is None or not key.scopes or permission in key.scopes)

    def of_tenant(self, rows: TenantQuerySet) -> TenantQuerySet:
        """Rows of the caller's tenant: the first wall."""
        return rows.for_tenant(self.tenant_id) if self.tenant_id else rows

    def answer_page(
        self,
        rows: QuerySet[Row],
        query: Query,
        to_json: Callable[[Row], dict[str, Any]],
        *,
        keys: Sequence[str] = ("id",),
        descending: bool = False,
    ) -> Response:
        """A page of a list in the order of `keys` (leadengine/paging.py). Raises: InvalidCursor."""
        filters = query.model_dump(mode="json", exclude={"limit", "cursor"})
        page = Page([self.request.path, str(self.tenant_id), filters], query.limit, query.cursor)
        found, next_cursor = read_page(rows, page, keys, descending=descending)
        return answer([to_json(row) for row in found], meta={"nextCursor": next_cursor, "limit": query.limit})

    def read_body(self, model: type[Model]) -> Model:
        """The body as `model`; an empty one counts as `{}`. Raises: ValidationFailed (every bad field), 413, 415."""
        try:
            raw = self.request._request.body
        except RequestDataTooBig as error:
            raise BodyTooLarge(maxBytes=settings.DATA_UPLOAD_MAX_MEMORY_SIZE) from error
        return self.read_json(model, raw)

    def read_json(self, model: type[Model], raw: bytes) -> Model:
        """The text of a body as `model`. Raises: ValidationFailed (every bad field), 415."""
        if raw and self.request.content_type.partition(";")[0].strip().lower() != "application/json":
            raise exceptions.UnsupportedMediaType(self.request.content_type)
        try:
            return model.model_validate_json(raw or b"{}", strict=True)
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                raise exceptions.ParseError from error
            raise refusal(error) from error

    def read_query(self, model: type[Model]) -> Model:
        """The query string as `model`. Raises: ValidationFailed naming every bad or unknown parameter."""
        many = {field.alias or name for name, field in model.model_fields.items() if "tuple" in str(field.annotation)}
        values = {
            name: [word for part in self.request.query_params.getlist(name) for word in part.split(",") if word]
            if name in many
            else value
            for name, value in self.request.query_params.items()
        }
        try:
            return model.model_validate(values)
        except ValidationError as error:
            raise refusal(error) from error


@extend_schema(exclude=True)
class UnknownRouteView(ScopedAPIView):
    """Any other address under /api/: 404 in the envelope, 401 for those we do not know. Wire it last."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound


def answer(data: Any, *, meta: dict[str, Any] | None = None, code: int = status.HTTP_200_OK) -> Response:
    """The one shape of native answers: `{"data": …}`, and `meta` for lists."""
    return Response({"data": data} if meta is None else {"data": data, "meta": meta}, status=code)


def _is_storable(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, dict):
        return all(_is_storable(key) and _is_storable(inner) for key, inner in value.items())
    return all(_is_storable(inner) for inner in value) if isinstance(value, list) else True
