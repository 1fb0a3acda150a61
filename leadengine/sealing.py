"""Secrets at rest: encrypted and authenticated with a key made from SECRET_KEY, so that a dump alone opens none."""

from __future__ import annotations

import base64
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


def seal(text: str) -> str:
    """Encrypt a text for storing."""
    return _box(settings.SECRET_KEY).encrypt(text.encode()).decode()


def unseal(sealed: str) -> str | None:
    """The text again; None when it was sealed with another SECRET_KEY, or altered."""
    try:
        return _box(settings.SECRET_KEY).decrypt(sealed.encode()).decode()
    except InvalidToken:
        return None


@lru_cache(maxsize=2)
def _box(secret_key: str) -> Fernet:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"leadengine sealing").derive(secret_key.encode())
    return Fernet(base64.urlsafe_b64encode(key))
