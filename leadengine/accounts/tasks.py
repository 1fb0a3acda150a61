"""The base of every Celery task: it runs in the scope of whoever asked for it, or says why it may see all tenants."""

from __future__ import annotations

from typing import Any

from celery import Task

from leadengine.accounts.scopes import NOBODY, ScopeMissing, current_scope, scope_again

_HEADERS = ("scope_kind", "scope_tenant", "scope_user")


class ScopedTask(Task):  # type: ignore[type-arg]
    """A task of one tenant runs in one transaction, in the scope that it was asked for in.

    A task for all tenants declares `service="why"`: no transaction is opened around it, so it may call the broker, and
    opens short scopes of its own.
    """

    service = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. Raises: ScopeMissing."""
        if self.service:
            return self.run(*args, **kwargs)
        kind, tenant, user = (self.request.get(name) for name in _HEADERS)
        if kind is None:
            if current_scope() is NOBODY:
                raise ScopeMissing(f"{self.name} was asked for outside every scope, and declares no service reason.")
            return self.run(*args, **kwargs)  # called like a function
        with scope_again(kind, tenant_id=tenant, user_id=user):
            return self.run(*args, **kwargs)

    def apply_async(self, *args: Any, headers: dict[str, Any] | None = None, **options: Any) -> Any:
        """Put the task in its queue, and the running scope in its headers unless they hold one."""
        return super().apply_async(*args, headers={**self.scope_headers(), **(headers or {})}, **options)

    @classmethod
    def scope_headers(cls) -> dict[str, str]:
        """The running scope for a message. None of the service: whoever may see everything must say why."""
        scope = current_scope()
        if cls.service or not scope.tenant_id:
            return {}
        return dict(zip(_HEADERS, (scope.session_scope, scope.tenant_id, scope.owner_id), strict=True))
