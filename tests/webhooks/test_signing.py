"""Signatures: the vector of the standard, and the documents' own example and vector, as they are printed."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leadengine.webhooks import signing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "webhooks.md"
Verify = Callable[..., bool]


def documented() -> Verify:
    """The example of the page, run as it stands there."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102 - our own page
    verify: Verify = names["verify"]
    return verify


def documented_vector() -> dict[str, str]:
    """The vector of the page by the names in its first column."""
    found = re.search(r"```\n(secret .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return {
        name: value
        for name, _, value in (re.sub(r" +", " ", line, count=1).partition(" ") for line in found[1].splitlines())
    }


def test_the_vector_of_the_standard() -> None:
    signature = signing.sign(
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330, body=b'{"test": 2432232314}',
    )  # fmt: skip
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_outbound_27_the_documented_vector_is_ours_and_verifies() -> None:
    vector = documented_vector()
    body = vector["body"].encode()
    made = signing.headers(
        keys=[vector["secret"]], webhook_id=vector["webhook-id"], timestamp=int(vector["webhook-timestamp"]), body=body
    )
    assert made == {name: value for name, value in vector.items() if name.startswith("webhook-")}
    verify = documented()
    assert verify(vector["secret"], made, body, tolerance=10**10)
    assert not verify(vector["secret"], made, body), "its time is over"
    assert not verify(vector["secret"], made, body + b" ", tolerance=10**10)
    assert not verify(vector["secret"], made | {"webhook-id": "other"}, body, tolerance=10**10)
    assert not verify(signing.make_secret(), made, body, tolerance=10**10)


@pytest.mark.parametrize("which", [0, 1])
def test_either_of_two_secrets_verifies(which: int) -> None:
    keys = [signing.make_secret(), signing.make_secret()]
    made = signing.headers(keys=keys, webhook_id="x", timestamp=5, body=b"{}")
    assert len(made["webhook-signature"].split(" ")) == 2
    assert documented()(keys[which], made, b"{}", tolerance=10**10)


def test_a_secret_is_32_random_bytes() -> None:
    secret = signing.make_secret()
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert secret != signing.make_secret()
