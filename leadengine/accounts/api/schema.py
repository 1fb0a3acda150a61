"""The OpenAPI description of a native route, from the pydantic models that its handler uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel, ConfigDict, create_model
from pydantic.alias_generators import to_camel

from leadengine.accounts.api.base import Query

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


def describe(
    shape: type[BaseModel] | None = None,
    *,
    many: bool = False,
    meta: type[BaseModel] = ListMeta,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    code: int = 200,
) -> Callable[[Handler], Handler]:
    """Describe a handler: `{"data": shape}`, or with `many` `{"data": [shape], "meta"}`; None: no content."""
    parameters = _parameters(query) if query else []
    answers: dict[Any, Any] = {"default": Refused, code: _enveloped(shape, many, meta) if shape else None}
    return extend_schema(parameters=parameters, request=body, responses=answers)


def _enveloped(shape: type[BaseModel], many: bool, meta: type[BaseModel]) -> type[BaseModel]:
    if many:
        return create_model(f"{shape.__name__}List", __base__=Shape, data=(list[shape], ...), meta=(meta, ...))  # type: ignore[valid-type]
    return create_model(f"{shape.__name__}Answer", __base__=Shape, data=(shape, ...))


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


__all__ = ["ListMeta", "Query", "Refused", "Shape", "describe"]
