"""A stored webhook body for people: decompressed, without keys, and for supervisors without phones and texts."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

from leadengine.admin_site.display import mask_numbers, sees_phones

_HIDDEN = "•••"
_LONGEST = 100_000
# Whoever holds these can fetch and open the customer's file, or speak for the broker.
_SECRETS = re.compile(
    r"(media_?key|direct_?path|^url$|media_?url|thumbnail|sha256|api_?key|token|secret|authorization|password|qr|"
    r"pairing|base64|message_?secret|device_?list_?metadata|cipher|signature)",
    re.IGNORECASE,
)
_TEXTS = {
    "text", "conversation", "caption", "body", "content", "description", "title", "contentText", "selectedDisplayText",
    "vcard", "address", "comment", "matchedText", "footerText", "hydratedContentText",
}  # fmt: skip


def read_payload(body: Any) -> str:
    """The body as indented JSON; as text where it is none."""
    if body is None:
        return ""
    raw = zlib.decompress(bytes(body)).decode("utf-8", errors="replace").lstrip("\ufeff")
    try:
        parsed = json.loads(raw)
    except ValueError:  # a rejected body need not be JSON: its keys cannot be told from its texts
        return raw[:_LONGEST] if sees_phones() else _HIDDEN
    return json.dumps(_covered(parsed, whole=sees_phones()), ensure_ascii=False, indent=2)[:_LONGEST]


def _covered(value: Any, *, whole: bool, name: str = "") -> Any:
    if isinstance(value, dict):
        return {
            (key if whole else mask_numbers(key)): _HIDDEN
            if _SECRETS.search(key) and part
            else _covered(part, whole=whole, name=key)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_covered(part, whole=whole, name=name) for part in value]
    if whole or value is None or isinstance(value, bool) or "timestamp" in name.lower():
        return value
    if name in _TEXTS and isinstance(value, str) and value:
        return _HIDDEN
    if isinstance(value, int) and len(str(abs(value))) > 11:  # a phone as a number; a Unix time has 10 digits
        return mask_numbers(str(value))
    return mask_numbers(value) if isinstance(value, str) else value
