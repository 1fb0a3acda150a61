"""Idempotency: which key a caller gave, and the message that it was used for (spec/outbound.md section 5)."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from uuid import UUID

from leadengine import metrics
from leadengine.errors import ValidationFailed
from tickets.models import Message
from tickets.payloads import Payload
from tickets.services.outbox.checking import Wish
from tickets.services.outbox.refusals import IdempotencyKeyMismatch, IdempotencyKeyReused

_KEY = re.compile(r"[\x20-\x7e]{1,128}")


def keys_of(wish: Wish, content: Payload) -> set[str]:
    """The keys that a caller gave, in the header, the body and the metadata. Raises: ValidationFailed."""
    inner = content.metadata.get("idempotencyKey")
    if inner is not None and not isinstance(inner, str):
        raise ValidationFailed([{"field": "metadata.idempotencyKey", "message": "Deve ser um texto."}])
    keys = {key for key in (wish.header_key, wish.idempotency_key, inner) if key is not None}
    for key in keys:
        check_key(key)
    return keys


def check_key(key: str | None) -> str | None:
    """The key as it is. Raises: ValidationFailed."""
    if key is not None and not _KEY.fullmatch(key):
        raise ValidationFailed([{"field": "idempotencyKey", "message": "De 1 a 128 caracteres ASCII imprimíveis."}])
    return key


def one_of(keys: set[str]) -> str | None:
    """The one key among those given. Raises: IdempotencyKeyMismatch."""
    if len(keys) > 1:
        raise IdempotencyKeyMismatch
    return next(iter(keys), None)


def digest_of(target: str, wish: Wish) -> str:
    """What a key stands for: whom, through which line where one was named, and the payload."""
    parts = [target, str(wish.session.id) if wish.session else None, wish.payload]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return sha256(text.encode()).hexdigest()


def find_replay(*, tenant_id: UUID, key: str | None, digest: str) -> Message | None:
    """The message that a key was used for. Raises: IdempotencyKeyReused when that was another one."""
    if key is None:
        return None
    row: Message | None = (
        Message.objects.for_tenant(tenant_id).select_related("author").filter(idempotency_key=key).first()
    )
    if row is None:
        return None
    if row.request_hash != digest:
        raise IdempotencyKeyReused
    metrics.count(metrics.outbound_replays)
    return row
