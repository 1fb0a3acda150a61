"""Callers of the REST API for tests: Django's client with a session cookie or a key, through the whole stack."""

from __future__ import annotations

import json
from typing import Any

from django.test import Client

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope
from leadengine.accounts.services import create_api_key


def by_cookie(user: User) -> Client:
    """A browser that is signed in."""
    client = Client()
    client.force_login(user)
    return client


def by_key(user: User) -> Client:
    """An integration with a key of this person."""
    with service_scope("test"):
        key, _ = create_api_key(owner=user, tenant_id=user.tenant_id, name="test")  # type: ignore[arg-type]
    return Client(headers={"X-API-Key": key})


def send(client: Client, method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """Call with a JSON body; (status, the JSON of the answer or None)."""
    text = "" if body is None else json.dumps(body)
    response = client.generic(method.upper(), url, text, content_type="application/json")
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    return response.status_code, response.json() if is_json and response.content else None


def refused(answer: tuple[int, Any]) -> tuple[int, str]:
    """(status, code) of a refusal."""
    status, body = answer
    assert body["success"] is False
    assert set(body) == {"success", "error", "requestId"}
    return status, body["error"]["code"]
