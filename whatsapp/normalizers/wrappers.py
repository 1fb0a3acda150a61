"""Raw messages out of their wrappers (spec/inbound.md section 5)."""

from __future__ import annotations

from typing import Any, NamedTuple

from whatsapp.normalizers.values import as_base64, as_dict

_MAX_WRAPPERS = 8
# Wrapper, and what it tells about the content.
_WRAPPERS = {
    "ephemeralMessage": "ephemeral",
    "viewOnceMessage": "viewOnce",
    "viewOnceMessageV2": "viewOnce",
    "viewOnceMessageV2Extension": "viewOnce",
    "documentWithCaptionMessage": None,
    "editedMessage": None,
    "deviceSentMessage": None,
    "groupMentionedMessage": None,
}
_SENDER_KEY = "senderKeyDistributionMessage"
_CONTEXT = "messageContextInfo"


class Unwrapped(NamedTuple):
    """A raw message out of its wrappers.

    keys: the content keys, without nulls and without what only comes beside a content. flags: of viewOnce,
    ephemeral, skd those that are true. secret: base64 secret of a poll. void: the cause when keys is empty.
    """

    keys: dict[str, Any]
    flags: dict[str, bool]
    secret: str | None
    void: str | None


def unwrap(message: Any) -> Unwrapped:
    """Take a raw message out of up to 8 wrappers, in any nesting, and note what they tell."""
    flags: dict[str, bool] = {}
    secret = None
    level = as_dict(message)
    for depth in range(_MAX_WRAPPERS + 1):
        keys: dict[str, Any] = {}
        inner = None
        void = "empty_message"
        for key, value in level.items():
            if value is None:
                continue
            if key == _SENDER_KEY:
                flags["skd"] = True
                void = "sender_key_only"
            elif key == _CONTEXT:
                secret = secret or as_base64(as_dict(value).get("messageSecret"))
                void = "sender_key_only"
            elif key in _WRAPPERS and depth < _MAX_WRAPPERS and _is_wrapper(value):
                inner = value["message"]
                if flag := _WRAPPERS[key]:
                    flags[flag] = True
            else:
                keys[key] = value
        if inner is None:
            break
        level = inner
    return Unwrapped(keys, flags, secret, None if keys else void)


def _is_wrapper(value: Any) -> bool:
    return type(value) is dict and type(value.get("message")) is dict
