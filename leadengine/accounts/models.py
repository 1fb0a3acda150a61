"""Tenants, people, keys and the audit log, and the base of every tenant-owned row."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import Any, ClassVar, Self
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Lower, Now
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.permissions import PERMISSIONS, Role
from leadengine.ids import uuid7


class Tenant(models.Model):
    """A company that uses the desk. Everything else belongs to exactly one."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(max_length=60)
    name = models.CharField(max_length=120)
    is_active = models.BooleanField(default=True)
    timezone = models.CharField(max_length=64, default="America/Sao_Paulo")
    locale = models.CharField(max_length=10, default="pt-br")
    settings = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("tenant")
        verbose_name_plural = _("tenants")
        constraints: ClassVar = [models.UniqueConstraint(fields=["slug"], name="tenant_slug_unique")]

    def __str__(self) -> str:
        return self.name


class TenantQuerySet(models.QuerySet[Any]):
    """Every read of tenant-owned rows starts here: the first wall; row level security is the second."""

    def for_tenant(self, tenant_id: UUID | str) -> Self:
        """Rows of one tenant."""
        return self.filter(tenant_id=tenant_id)


class TenantOwned(models.Model):
    """A row that belongs to one tenant. Its table is protected by `rls.protect` in its migration."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, editable=False, db_index=False, related_name="+")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    objects: ClassVar[Any] = TenantQuerySet.as_manager()

    class Meta:
        abstract = True


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email=(username or "").strip().lower())


class User(AbstractBaseUser):
    """A person who signs in. `tenant` is null only for the platform's superuser."""

    class Availability(models.TextChoices):
        ONLINE = "ONLINE", _("online")
        AWAY = "AWAY", _("away")
        OFFLINE = "OFFLINE", _("offline")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.PROTECT, related_name="users")
    email = models.EmailField(unique=True)  # lower case, by constraint
    name = models.CharField(max_length=120)
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.AGENT)
    is_active = models.BooleanField(default=True)
    is_superuser = models.BooleanField(default=False)
    availability = models.CharField(max_length=8, choices=Availability, default=Availability.OFFLINE)
    capacity = models.PositiveSmallIntegerField(default=20)
    locale = models.CharField(max_length=10, blank=True, default="")
    preferences = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = ["name"]
    objects: ClassVar[UserManager] = UserManager()

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(email=Lower("email")), name="user_email_lower_case"),
            models.CheckConstraint(
                condition=models.Q(tenant__isnull=False) | models.Q(is_superuser=True), name="user_has_a_tenant"
            ),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="user_role_known"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_full_name(self) -> str:
        """The name, as the back office asks for it."""
        return self.name

    def get_short_name(self) -> str:
        """The first name, for rows and bubbles."""
        return self.name.split(" ")[0]

    @property
    def initials(self) -> str:
        """One or two letters for an avatar."""
        parts = self.name.split()
        return (parts[0][:1] + (parts[-1][:1] if len(parts) > 1 else "")).upper()

    @property
    def is_supervisor(self) -> bool:
        """Sees the whole tenant: supervisors and admins."""
        return self.role in {Role.SUPERVISOR, Role.ADMIN}

    @property
    def is_staff(self) -> bool:
        """May enter the back office."""
        return self.is_superuser or self.is_supervisor

    def may(self, permission: str) -> bool:
        """Whether the role grants a permission of spec/tickets-leads.md section 1, such as `messages:send`."""
        return self.is_active and (self.is_superuser or permission in PERMISSIONS[Role(self.role)])

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        """Django's own question, asked by the admin: its screens decide by role themselves."""
        return self.is_active and self.is_staff

    def has_perms(self, perm_list: Iterable[str], obj: Any = None) -> bool:
        return self.is_active and self.is_staff

    def has_module_perms(self, app_label: str) -> bool:
        return self.is_active and self.is_staff


class ApiKey(models.Model):
    """A key that acts for one user in one tenant, never for more than that user may do today.

    Only the SHA-256 is kept. LOGIN keys are what POST /api/auth/login hands out. An INSTANCE key is for one
    connection, `session_id`, and sees and does nothing else.
    """

    class Kind(models.TextChoices):
        TENANT = "TENANT"
        USER = "USER"
        LOGIN = "LOGIN"
        INSTANCE = "INSTANCE"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.USER)
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=8)
    sha256 = models.CharField(max_length=64)
    scopes = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    session_id = models.UUIDField(null=True, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["sha256"], name="api_key_hash_unique"),
            models.CheckConstraint(
                condition=models.Q(kind="INSTANCE", session_id__isnull=False)
                | (~models.Q(kind="INSTANCE") & models.Q(session_id__isnull=True)),
                name="api_key_instance_has_a_session",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @staticmethod
    def generate() -> tuple[str, str, str]:
        """A new key: (the key itself, its prefix, its SHA-256)."""
        key = secrets.token_hex(32)
        return key, key[:8], ApiKey.digest(key)

    @staticmethod
    def digest(key: str) -> str:
        """SHA-256 of a key, as stored. The keys are random, so no salt is needed."""
        return hashlib.sha256(key.encode()).hexdigest()


class LoginFailure(models.Model):
    """A wrong pair at the login, for the lock-out. Holds no address in clear: both columns are hashes."""

    id = models.BigAutoField(primary_key=True)
    account = models.CharField(max_length=64)
    address = models.CharField(max_length=64)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["account", "at"], name="login_failure_account"),
            models.Index(fields=["address", "at"], name="login_failure_address"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%F %T}"


class AuditLog(models.Model):
    """Who did what to which object. Append-only: the runtime roles may neither change nor remove a line."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.PROTECT, db_index=False, related_name="+")
    at = models.DateTimeField(db_default=Now())
    actor = models.ForeignKey(User, null=True, on_delete=models.PROTECT, db_index=False, related_name="+")
    action = models.CharField(max_length=60)
    object_type = models.CharField(max_length=40, blank=True, default="")
    object_id = models.CharField(max_length=40, blank=True, default="")
    changes = models.JSONField(default=dict)
    ip = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=128, blank=True, default="")

    class Meta:
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit log")
        indexes: ClassVar = [models.Index(fields=["tenant", "-at"], name="audit_by_tenant")]

    def __str__(self) -> str:
        return f"{self.at:%F %T} {self.action}"
