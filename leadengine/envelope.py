"""The one error envelope, and the DRF handler that writes it (architecture.md section 7)."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

from leadengine.errors import DomainError, summary
from leadengine.wording import worded

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    406: "NOT_ACCEPTABLE",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "RATE_LIMITED",
}


def error_body(code: str, message: str, details: dict[str, Any] | None, request_id: str) -> dict[str, Any]:
    """`{"success": false, "error": {"code", "message", "details"}, "requestId"}`, in the language of the request."""
    details = details or {}
    errors = details.get("errors")
    if isinstance(errors, list):
        told = [{**one, "message": worded(one["message"])} for one in errors]
        details = {**details, "errors": told}
        message = summary(told) if message == summary(errors) else message
    return {
        "success": False,
        "error": {"code": code, "message": worded(message), "details": details},
        "requestId": request_id,
    }


def sentence_of(error: DomainError) -> str:
    """What a refusal says to people, in the language of the request."""
    message: str = error_body(error.code, error.message, error.details, "")["error"]["message"]
    return message


def handle_exception(error: Exception, context: dict[str, Any]) -> Response | None:
    """Anticipated errors become the envelope; None lets anything else bubble to 500 and the log."""
    request_id = getattr(context["request"], "request_id", "")
    if isinstance(error, DomainError):
        body = error_body(error.code, error.message, error.details, request_id)
        response = Response(body, status=error.status, headers=dict(error.headers))
        if "retryAfter" in error.details:
            response["Retry-After"] = str(error.details["retryAfter"])
        return response
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if not isinstance(error, exceptions.APIException):
        return None
    headers = {}
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait) + 1)
    if auth_header := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = auth_header
    code, details = _CODES.get(error.status_code, "BAD_REQUEST"), {}
    message = str(getattr(error, "detail", error))
    if isinstance(error, exceptions.ValidationError):
        code, errors = "VALIDATION_ERROR", list(_flat(error.detail))
        details, message = {"errors": errors}, summary(errors)
    elif isinstance(error, exceptions.ParseError):
        code = "INVALID_JSON"
    return Response(error_body(code, message, details, request_id), status=error.status_code, headers=headers)


def _flat(detail: Any, path: str = "") -> Any:
    if isinstance(detail, dict):
        for key, value in detail.items():
            name = "" if key == "non_field_errors" else str(key)
            yield from _flat(value, f"{path}.{name}".strip("."))
    elif isinstance(detail, list):
        for value in detail:
            yield from _flat(value, path)
    else:
        yield {"field": path, "message": str(detail)}
