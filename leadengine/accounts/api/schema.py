"""The OpenAPI description of a native route, from the pydantic models that its handler uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel, ConfigDict, create_model
from pydantic.alias_generators import to_camel

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Shape(BaseModel):
    """A part of an answer; the contract tests hold real answers against it."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, serialize_by_alias=True, populate_by_name=True)


class ListMeta(Shape):
    next_cursor: str | None
    limit: int


class Problem(Shape):
    code: str
    message: str
    details: dict[str, Any]


class Refused(Shape):
    """The one error envelope."""

    success: bool
    error: Problem
    request_id: str


class RouteSchema(AutoSchema):
    """Names the operation of a list `…_list`, which the generator only knows of generic views."""

    def get_operation_id(self) -> str:
        name: str = super().get_operation_id()
        answers = self.get_response_serializers()
        many = isinstance(answers, dict) and getattr(answers.get(200), "__name__", "").endswith("List")
        return f"{name.removesuffix('_retrieve')}_list" if many else name


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """`Authorization: Bearer` or `X-API-Key` with the same key."""

    target_class = "leadengine.accounts.authentication.TokenAuthentication"
    name = ["bearer", "apiKey"]

    def get_security_definition(self, auto_schema: AutoSchema) -> list[dict[str, Any]]:
        return [{"type": "http", "scheme": "bearer"}, {"type": "apiKey", "in": "header", "name": "X-API-Key"}]

    def get_security_requirement(self, auto_schema: AutoSchema) -> list[dict[str, list[Any]]]:
        return [{name: []} for name in self.name]  # one of them, not both


class CookieScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The browser's session; writes need the CSRF token too."""

    target_class = "leadengine.accounts.authentication.CookieAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


def describe(
    shape: type[BaseModel] | None = None,
    *,
    many: bool = False,
    nullable: bool = False,
    meta: type[BaseModel] | None = None,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    code: int = 200,
) -> Callable[[Handler], Handler]:
    """Describe a handler that answers `{"data": shape, "meta"?}`, with `many` a list of them; no shape: no content."""
    parameters = _parameters(query) if query else []
    answers: dict[Any, Any] = {"default": Refused, code: _enveloped(shape, many, nullable, meta) if shape else None}
    return extend_schema(parameters=parameters, request=body, responses=answers)


def _enveloped(shape: type[BaseModel], many: bool, nullable: bool, meta: type[BaseModel] | None) -> type[BaseModel]:
    data: Any = list[shape] if many else shape | None if nullable else shape  # type: ignore[valid-type]
    fields: dict[str, Any] = {"data": (data, ...)}
    if many or meta:
        fields["meta"] = (meta or ListMeta, ...)
    return create_model(shape.__name__.removesuffix("Shape") + ("List" if many else "Answer"), __base__=Shape, **fields)


def _parameters(query: type[BaseModel]) -> list[OpenApiParameter]:
    schema = query.model_json_schema()
    return [
        OpenApiParameter(name, _inlined(part, schema.get("$defs", {})), required=name in schema.get("required", []))
        for name, part in schema["properties"].items()
    ]


def _inlined(part: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without references and without the null that its default stands for."""
    kinds: list[dict[str, Any]] = [kind for kind in part.get("anyOf", [part]) if kind.get("type") != "null"]
    kind = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return definitions[str(kind["$ref"]).rsplit("/", 1)[-1]] if "$ref" in kind else kind
