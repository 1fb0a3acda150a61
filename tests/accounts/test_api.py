"""The base of the REST API, login, and the caller's own account."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import pytest
from django.test import Client
from django.utils import timezone
from pydantic import TypeAdapter

from leadengine.accounts.models import ApiKey, AuditLog, LoginFailure, Tenant, User
from leadengine.accounts.scopes import service_scope
from leadengine.accounts.serializers import LoginShape, MeShape, UserShape
from leadengine.accounts.services import create_api_key
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World

PASSWORD = "correct horse battery"


@pytest.fixture
def agent(world: World) -> User:
    world.agent.set_password(PASSWORD)
    world.agent.save()
    return world.agent


def log_in(email: str = "ana@example.test", password: str = PASSWORD, **more: Any) -> tuple[int, Any]:
    return send(Client(), "post", "/api/auth/login", {"email": email, "password": password, **more})


def fields_of(answer: tuple[int, Any]) -> list[str]:
    assert refused(answer) == (400, "VALIDATION_ERROR")
    return [error["field"] for error in answer[1]["error"]["details"]["errors"]]


# --- Login and account -------------------------------------------------------------------------------------------


def test_login_gives_a_token_that_works_until_it_is_logged_out(agent: User) -> None:
    status, body = log_in(" ANA@example.test")
    assert status == 200
    LoginShape.model_validate_json(json.dumps(body["data"]))
    token = body["data"]["token"]["accessToken"]
    assert body["data"]["token"]["expiresIn"] == 86_400
    key = ApiKey.objects.get(kind="LOGIN")
    assert key.sha256 == ApiKey.digest(token)
    assert token not in repr(ApiKey.objects.values())
    bearer = Client(headers={"Authorization": f"Bearer {token}"})
    assert send(bearer, "get", "/api/auth/me")[1]["data"]["email"] == "ana@example.test"
    assert send(bearer, "post", "/api/auth/logout") == (204, None)
    assert refused(send(bearer, "get", "/api/auth/me")) == (401, "UNAUTHORIZED")
    with service_scope("test"):
        assert AuditLog.objects.get(action="login").ip == "127.0.0.1"


def test_every_failed_login_is_the_same_and_five_lock_the_account(agent: User, world: World) -> None:
    Tenant.objects.filter(pk=world.cedro.pk).update(is_active=False)
    world.outsider.set_password(PASSWORD)
    world.outsider.save()
    answers = [
        log_in(password="wrong"), log_in("nobody@example.test"), log_in(world.outsider.email),
        log_in("bruno@example.test", "!"),
    ]  # fmt: skip
    assert {refused(answer) for answer in answers} == {(401, "INVALID_CREDENTIALS")}
    assert len({answer[1]["error"]["message"] for answer in answers}) == 1
    for _ in range(4):
        log_in(password="wrong")
    status, body = log_in()
    assert (status, body["error"]["code"]) == (429, "RATE_LIMITED")
    assert LoginFailure.objects.count() == 8
    LoginFailure.objects.update(at=timezone.now() - timedelta(minutes=16))
    assert log_in()[0] == 200


def test_superuser_of_the_platform_gets_no_token(world: World) -> None:
    world.superuser.set_password(PASSWORD)
    world.superuser.save()
    assert refused(log_in(world.superuser.email)) == (401, "INVALID_CREDENTIALS")


def test_expired_revoked_and_ownerless_keys_are_refused(world: World) -> None:
    client = by_key(world.agent)
    for change in ({"expires_at": timezone.now()}, {"revoked_at": timezone.now()}):
        ApiKey.objects.update(expires_at=None, revoked_at=None)
        assert client.get("/api/auth/me").status_code == 200
        ApiKey.objects.update(**change)
        assert refused(send(client, "get", "/api/auth/me")) == (401, "UNAUTHORIZED")
    ApiKey.objects.update(expires_at=None, revoked_at=None)
    User.objects.filter(pk=world.agent.pk).update(is_active=False)
    assert refused(send(client, "get", "/api/auth/me")) == (401, "UNAUTHORIZED")


def test_key_with_a_list_of_rights_has_no_other(world: World) -> None:
    client = by_key(world.admin)
    ApiKey.objects.update(scopes=["contacts:read"])
    assert client.get("/api/contacts").status_code == 200
    assert refused(send(client, "get", "/api/leads")) == (403, "FORBIDDEN")


def test_key_of_a_superuser_acts_in_its_own_tenant_only(world: World) -> None:
    with service_scope("test"):
        key, _ = create_api_key(owner=world.superuser, tenant_id=world.ipe.pk, name="test")
    client = Client(headers={"X-API-Key": key})
    assert [queue["name"] for queue in send(client, "get", "/api/queues")[1]["data"]] == ["Recepcao"]
    assert len(send(by_cookie(world.superuser), "get", "/api/queues")[1]["data"]) == 2


def test_cookie_of_a_tenant_that_was_switched_off_is_refused(world: World) -> None:
    client = by_cookie(world.agent)
    Tenant.objects.filter(pk=world.ipe.pk).update(is_active=False)
    assert refused(send(client, "get", "/api/auth/me")) == (401, "UNAUTHORIZED")


def test_cookie_needs_the_csrf_token_and_a_key_does_not(world: World) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(world.agent)
    assert refused(send(browser, "patch", "/api/auth/me", {"name": "Ana Paula"})) == (403, "FORBIDDEN")
    assert send(by_key(world.agent), "patch", "/api/auth/me", {"name": "Ana Paula"})[0] == 200


def test_logout_ends_the_session_and_keeps_a_permanent_key(world: World) -> None:
    browser = by_cookie(world.agent)
    assert send(browser, "post", "/api/auth/logout") == (204, None)
    assert refused(send(browser, "get", "/api/auth/me")) == (401, "UNAUTHORIZED")
    assert refused(send(by_key(world.agent), "post", "/api/auth/logout")) == (403, "FORBIDDEN")


def test_profile_changes_what_is_named_and_preferences_by_key(world: World) -> None:
    client = by_cookie(world.agent)
    body = {"locale": "en", "preferences": {"theme": "dark", "density": "compact"}}
    status, answer = send(client, "patch", "/api/auth/me", body)
    assert (status, answer["data"]["name"], answer["data"]["locale"]) == (200, "Ana", "en")
    send(client, "patch", "/api/auth/me", {"preferences": {"density": None}})
    data = send(client, "get", "/api/auth/me")[1]["data"]
    MeShape.model_validate_json(json.dumps(data))
    assert data["preferences"] == {"theme": "dark"}
    assert "messages:send" in data["permissions"]
    assert fields_of(send(client, "patch", "/api/auth/me", {"role": "ADMIN"})) == ["role"]
    assert fields_of(send(client, "patch", "/api/auth/me", {"preferences": {"x": "y" * 20_000}})) == ["preferences"]


def test_password_changes_with_the_old_one_and_ends_other_tokens(agent: User) -> None:
    mine, other = (
        Client(headers={"Authorization": f"Bearer {log_in()[1]['data']['token']['accessToken']}"}) for _ in "12"
    )
    url, new = "/api/auth/password", "another long passphrase"
    assert fields_of(send(mine, "post", url, {"currentPassword": "no", "newPassword": new})) == ["currentPassword"]
    assert LoginFailure.objects.count() == 1
    assert fields_of(send(mine, "post", url, {"currentPassword": PASSWORD, "newPassword": "short"})) == ["newPassword"]
    assert send(mine, "post", url, {"currentPassword": PASSWORD, "newPassword": new}) == (204, None)
    assert mine.get("/api/auth/me").status_code == 200
    assert other.get("/api/auth/me").status_code == 401
    assert log_in()[0] == 401
    assert log_in(password=new)[0] == 200


def test_password_change_keeps_this_browser_and_ends_the_other(agent: User) -> None:
    here, there = by_cookie(agent), by_cookie(agent)
    body = {"currentPassword": PASSWORD, "newPassword": "another long passphrase"}
    assert send(here, "post", "/api/auth/password", body) == (204, None)
    assert here.get("/api/auth/me").status_code == 200
    assert there.get("/api/auth/me").status_code == 401


def test_agents_see_names_and_availability_of_colleagues_only(world: World) -> None:
    User.objects.filter(pk=world.agent2.pk).update(is_active=False)
    for client, names, keys in (
        (by_cookie(world.agent), ["Alice", "Ana", "Sofia"], {"id", "name", "availability"}),
        (by_cookie(world.supervisor), ["Alice", "Ana", "Sofia"], set(UserShape.model_json_schema()["properties"])),
    ):
        data = send(client, "get", "/api/users")[1]["data"]
        assert [user["name"] for user in data] == names
        assert {key for user in data for key in user} == keys
    assert [
        user["name"] for user in send(by_cookie(world.supervisor), "get", "/api/users?active=false")[1]["data"]
    ] == ["Bruno"]
    assert len(send(by_cookie(world.agent), "get", "/api/users?active=false")[1]["data"]) == 3


# --- Bodies, queries, pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", "INVALID_JSON"), ("[]", "VALIDATION_ERROR"), ('{"email": 1, "password": "x"}', "VALIDATION_ERROR"),
        ("[" * 100_000, "INVALID_JSON"), ('{"email": "\\ud800", "password": "x"}', "INVALID_JSON"),
        ('{"email": "a\\u0000", "password": "x"}', "VALIDATION_ERROR"), ('{"password": "x"}', "VALIDATION_ERROR"),
        (b"\xff", "INVALID_JSON"), ("NaN", "VALIDATION_ERROR"), ("", "VALIDATION_ERROR"),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be_read_are_400(world: World, body: Any, code: str) -> None:
    response = Client().post("/api/auth/login", body, content_type="application/json")
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


def test_all_bad_fields_are_named_at_once(world: World) -> None:
    answer = send(Client(), "post", "/api/auth/login", {"email": 1, "pass": "x", "passwort": "y"})
    assert sorted(fields_of(answer)) == ["email", "pass", "password", "passwort"]


@pytest.mark.parametrize("value", ['"a\\u0000b"', '{"deep": ["\\u0000"]}', "1e999", '{"\\u0000": 1}'])
def test_what_the_database_cannot_store_is_refused_at_any_depth(world: World, value: str) -> None:
    body = '{"preferences": {"key": ' + value + "}}"
    response = by_cookie(world.agent).patch("/api/auth/me", body, content_type="application/json")
    assert response.status_code == 400, response.content


def test_too_large_and_wrongly_typed_bodies(world: World) -> None:
    client = by_cookie(world.agent)
    response = client.patch("/api/auth/me", " " * 1_048_577, content_type="application/json")
    assert (response.status_code, response.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    response = client.patch("/api/auth/me", "name=x", content_type="application/x-www-form-urlencoded")
    assert (response.status_code, response.json()["error"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_unknown_routes_methods_and_ids_answer_in_the_envelope(world: World) -> None:
    client = by_cookie(world.agent)
    assert refused(send(client, "get", "/api/nothing/here")) == (404, "NOT_FOUND")
    assert refused(send(client, "get", "/api/tickets/not-a-uuid")) == (404, "NOT_FOUND")
    assert refused(send(Client(), "get", "/api/nothing")) == (401, "UNAUTHORIZED")
    assert refused(send(client, "delete", "/api/contacts")) == (405, "METHOD_NOT_ALLOWED")
    assert refused(send(client, "options", "/api/contacts")) == (405, "METHOD_NOT_ALLOWED")
    assert client.head("/api/contacts").status_code == 200
    answer = send(client, "get", "/api/nothing")
    assert answer[1] == {
        "success": False, "error": {"code": "NOT_FOUND", "message": ANY, "details": {}}, "requestId": ANY
    }  # fmt: skip


def test_unknown_query_words_and_bad_limits_are_named(world: World) -> None:
    client = by_cookie(world.agent)
    assert fields_of(send(client, "get", "/api/users?limit=0&activ=1")) == ["limit", "activ"]
    assert fields_of(send(client, "get", "/api/users?limit=101")) == ["limit"]


def test_cursor_walks_all_rows_once_and_belongs_to_its_list(world: World) -> None:
    client = by_cookie(world.supervisor)
    names, cursor = [], ""
    while cursor is not None:
        body = send(client, "get", f"/api/users?limit=1&cursor={cursor}")[1]
        names += [user["name"] for user in body["data"]]
        assert body["meta"]["limit"] == 1
        cursor = body["meta"]["nextCursor"]
    assert names == ["Alice", "Ana", "Bruno", "Sofia"]
    cursor = send(client, "get", "/api/users?limit=1")[1]["meta"]["nextCursor"]
    for url in (
        f"/api/users?active=false&cursor={cursor}", f"/api/queues?cursor={cursor}", f"/api/users?cursor={cursor}x",
        "/api/users?cursor=nonsense",
    ):  # fmt: skip
        assert refused(send(client, "get", url)) == (400, "INVALID_CURSOR")
    assert refused(send(by_cookie(world.outsider), "get", f"/api/users?cursor={cursor}")) == (400, "INVALID_CURSOR")


def test_answers_of_lists_fit_their_description(world: World) -> None:
    data = send(by_cookie(world.supervisor), "get", "/api/users")[1]["data"]
    TypeAdapter(list[UserShape]).validate_json(json.dumps(data))
