"""Login, the caller's own account, and the members of a tenant (spec/tickets-leads.md section 1)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Literal

from django.conf import settings
from django.contrib.auth import logout, update_session_auth_hash
from django.utils import timezone
from pydantic import Field, JsonValue
from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api.base import Body, Query, ScopedAPIView, answer
from leadengine.accounts.api.schema import describe
from leadengine.accounts.models import ApiKey, User
from leadengine.accounts.scopes import user_scope
from leadengine.accounts.serializers import LoginShape, MeShape, UserShape, me_json, user_json
from leadengine.accounts.services import (
    UnableToLogIn,
    authenticate_login,
    change_password,
    create_api_key,
    save_profile,
    write_audit,
)
from leadengine.errors import ValidationFailed


class LoginBody(Body):
    email: str = Field(max_length=254)
    password: str = Field(max_length=1000)


class ProfileBody(Body):
    """`preferences` is changed by key; null removes one."""

    name: str | None = Field(None, min_length=1, max_length=120)
    locale: Literal["", "pt-br", "en"] | None = None
    preferences: dict[str, JsonValue] | None = None


class PasswordBody(Body):
    current_password: str = Field(max_length=1000)
    new_password: str = Field(max_length=1000)


class UserQuery(Query):
    active: bool = True


class LoginView(ScopedAPIView):
    authentication_classes = ()
    permission_classes = ()

    def scope(self) -> AbstractContextManager[None]:
        """None yet; and a counted failure must outlive the refusal."""
        return nullcontext()

    @describe(LoginShape, body=LoginBody)
    def post(self, request: Request) -> Response:
        """Exchange an e-mail and a password for an opaque token of 24 hours."""
        body = self.read_body(LoginBody)
        now, address = timezone.now(), str(request.META.get("REMOTE_ADDR") or "")
        user = authenticate_login(email=body.email, password=body.password, address=address, now=now)
        if user.tenant_id is None:  # a token acts for one tenant, and the platform's superuser has none
            raise UnableToLogIn
        lifetime = timedelta(hours=settings.API_TOKEN_TTL_HOURS)
        with user_scope(user):
            token, _ = create_api_key(
                owner=user, tenant_id=user.tenant_id, name="login", kind=ApiKey.Kind.LOGIN, expires_at=now + lifetime
            )
            write_audit(
                tenant_id=user.tenant_id, actor=user, action="login", target=user, ip=address or None,
                request_id=getattr(request, "request_id", ""),
            )  # fmt: skip
        return answer(
            {"token": {"accessToken": token, "expiresIn": int(lifetime.total_seconds())}, "user": me_json(user)}
        )


class LogoutView(ScopedAPIView):
    @describe(code=204)
    def post(self, request: Request) -> Response:
        """End the browser's session, or revoke the token that the login gave."""
        key = self.api_key
        if key is None:
            logout(request._request)
        elif key.kind == ApiKey.Kind.LOGIN:
            ApiKey.objects.filter(pk=key.pk).update(revoked_at=timezone.now())
        else:
            raise exceptions.PermissionDenied("Uma chave permanente é revogada na administração.")
        return Response(status=status.HTTP_204_NO_CONTENT)


class MeView(ScopedAPIView):
    @describe(MeShape)
    def get(self, request: Request) -> Response:
        """The caller and what they may do."""
        return answer(me_json(self.user))

    @describe(MeShape, body=ProfileBody)
    def patch(self, request: Request) -> Response:
        """Change one's own name, language or preferences."""
        body = self.read_body(ProfileBody)
        user = save_profile(user=self.user, name=body.name, locale=body.locale, preferences=body.preferences)
        return answer(me_json(user))


class PasswordView(ScopedAPIView):
    def scope(self) -> AbstractContextManager[None]:
        """Wrong guesses are counted as failed logins, and the count must outlive the refusal."""
        return nullcontext()

    @describe(code=204, body=PasswordBody)
    def post(self, request: Request) -> Response:
        """Change one's own password; every other session and token ends."""
        body = self.read_body(PasswordBody)
        address = str(request.META.get("REMOTE_ADDR") or "")
        try:
            authenticate_login(
                email=self.user.email, password=body.current_password, address=address, now=timezone.now()
            )
        except UnableToLogIn as error:
            raise ValidationFailed([{"field": "currentPassword", "message": "A senha atual não confere."}]) from error
        with user_scope(self.user):
            change_password(user=self.user, password=body.new_password, keep=self.api_key)
        if self.api_key is None:
            update_session_auth_hash(request._request, self.user)
        return Response(status=status.HTTP_204_NO_CONTENT)


class UserListView(ScopedAPIView):
    @describe(UserShape, many=True, query=UserQuery)
    def get(self, request: Request) -> Response:
        """The members of the tenant by name; agents see names and availability of the active ones only."""
        query = self.read_query(UserQuery)
        full = self.may("users:read")
        users = User.objects.filter(is_active=query.active or not full)
        if self.tenant_id:
            users = users.filter(tenant_id=self.tenant_id)
        return self.answer_page(users, query, lambda user: user_json(user, full=full), keys=("name", "id"))
