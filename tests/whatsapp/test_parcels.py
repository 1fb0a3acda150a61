"""A JSON body with a file in it: the file goes to disk piece by piece, the rest stays as it was."""

from __future__ import annotations

import base64
import json
import os
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from tempfile import TemporaryFile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leadengine.accounts.api.base import BodyTooLarge
from leadengine.errors import ValidationFailed
from whatsapp.api.parcels import Parcel, read_parcel
from whatsapp.services.uploads import FileTooLarge

FILE = os.urandom(10_001)
TEXT = base64.b64encode(FILE).decode()
WORDS = st.sampled_from(["base64", "{", '"', "\\", '\\"', ":", ",", "]", "é😀", ""])


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def read(body: str | bytes, size: int = 4096, most: int = 10**9) -> tuple[Parcel, bytes]:
    into = BytesIO()
    raw = body if isinstance(body, bytes) else body.encode()
    return read_parcel(pieces(raw, size), into, name="base64", most=most), into.getvalue()


@pytest.mark.parametrize("size", [1, 3, 7, 4096])
@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"to": "1", "base64": TEXT, "caption": 'a "base64": "x", {[}\\'}),
        json.dumps({"base64": TEXT}).replace("/", "\\/"),
        json.dumps({"deeper": {"base64": "zz"}, "base64": f"data:image/png;base64,{TEXT}", "list": ["base64", ":"]}),
        json.dumps({"base64": TEXT.replace("+", "-").replace("/", "_").rstrip("=")}, indent=2),
        json.dumps({"base64": "\n".join(TEXT[at : at + 76] for at in range(0, len(TEXT), 76))}),
    ],
)
def test_the_file_leaves_the_body_whatever_stands_around_it(body: str, size: int) -> None:
    parcel, found = read(body, size)
    assert (found, parcel.size, parcel.sha256) == (FILE, len(FILE), sha256(FILE).hexdigest())
    assert json.loads(parcel.rest) == {**json.loads(body), "base64": ""}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(WORDS | st.text(max_size=9), WORDS | st.lists(WORDS | st.dictionaries(WORDS, WORDS), max_size=3)),
    st.binary(max_size=100), st.integers(1, 40),
)  # fmt: skip
def test_any_body_comes_back_without_its_file(fields: dict[str, Any], file: bytes, size: int) -> None:
    body = {**fields, "base64": base64.b64encode(file).decode()}
    parcel, found = read(json.dumps(body), size)
    assert (json.loads(parcel.rest), found) == ({**body, "base64": ""}, file)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.integers(1, 40))
def test_what_is_no_json_is_left_to_its_parser(body: bytes, size: int) -> None:
    if b'"base64"' not in body:
        parcel, found = read(body, size)
        assert (parcel.rest, parcel.size, found) == (body, None, b"")


@pytest.mark.parametrize("text", ["aGk=aGk=", "a*b=", "a", "data:text/plain,abc", "aGk\\u003d", "😀"])
def test_what_is_no_base64_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        read(f'{{"base64": "{text}"}}')
    assert refused.value.details["errors"] == [{"field": "base64", "message": "Não é base64."}]


def test_limits_hold_while_it_is_read() -> None:
    assert read(json.dumps({"base64": TEXT}), most=len(FILE))[0].size == len(FILE)
    with pytest.raises(FileTooLarge):
        read(json.dumps({"base64": TEXT}), most=len(FILE) - 1)
    with pytest.raises(BodyTooLarge):
        read(json.dumps({"caption": "x" * 1_048_576}))


def test_a_file_is_never_whole_in_memory() -> None:
    def body() -> Iterator[bytes]:
        yield b'{"base64": "'
        for _ in range(256):
            yield b"QUJD" * 16_384
        yield b'"}'

    with TemporaryFile() as into:
        tracemalloc.start()
        parcel = read_parcel(body(), into, name="base64", most=16 * 2**20)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert parcel.size == 12 * 2**20
    assert peak < 2**20
