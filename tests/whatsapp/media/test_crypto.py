"""Decryption: the known answers of the spec, and every way a file can be damaged."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsapp.media.crypto import Damaged, Decryptor, Kind, derive
from whatsapp.media.source import plan_of
from whatsapp.simulator.media import encrypt

KEY = bytes(range(32))
HOST = "https://mmg.whatsapp.net"
KIND_OF: dict[str, Kind] = {"image": "Image", "video": "Video", "audio": "Audio", "document": "Document"}


def decrypt(stored: bytes, kind: Kind = "Image", sums: dict[str, bytes] | None = None, chunk: int = 7) -> bytes:
    reader = Decryptor(media_key=KEY, kind=kind, **(sums or {}))
    plain = b"".join(reader.update(stored[start : start + chunk]) for start in range(0, len(stored), chunk))
    plain += reader.finish()
    assert reader.sha256 == sha256(plain).hexdigest()
    return plain


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        ("Image", "09ae0f60fbc3dc32246358f2fae71339de565348b61e581ac193"),
        ("Audio", "6a5db5eebc683b9c05daca1b1c6dab64437222d0ceddc8400a5a"),
    ],
)
def test_inbound_14_the_known_answers_decrypt(kind: Kind, stored: str) -> None:
    assert decrypt(bytes.fromhex(stored), kind) == "olá".encode()


def test_a_key_expands_to_iv_cipher_key_and_mac_key() -> None:
    keys = derive(KEY, "Video")
    assert [len(part) for part in (keys.iv, keys.cipher, keys.mac)] == [16, 32, 32]
    assert len({derive(KEY, kind).iv for kind in KIND_OF.values()}) == 4


@given(data=st.binary(max_size=200), chunk=st.integers(1, 64), kind=st.sampled_from([*KIND_OF]))
def test_whatever_was_encrypted_decrypts_in_any_pieces(data: bytes, chunk: int, kind: str) -> None:
    stored = encrypt(KEY, kind, data)
    sums = {"enc_sha256": sha256(stored).digest(), "file_sha256": sha256(data).digest()}
    assert decrypt(stored, KIND_OF[kind], sums, chunk) == data


@given(place=st.integers(0, 57), bit=st.integers(0, 7))
def test_an_altered_bit_anywhere_is_noticed(place: int, bit: int) -> None:
    stored = bytearray(encrypt(KEY, "image", b"x" * 40))
    stored[place] ^= 1 << bit
    with pytest.raises(Damaged, match="mac"):
        decrypt(bytes(stored))


def test_each_sum_is_checked_by_itself() -> None:
    stored = encrypt(KEY, "image", b"x" * 40)
    for name, word in (("enc_sha256", "fileEncSha256"), ("file_sha256", "fileSha256")):
        with pytest.raises(Damaged, match=word):
            decrypt(stored, sums={name: bytes(32)})
    for short in (b"", b"123", stored[:-1], stored[:30]):
        with pytest.raises(Damaged):
            decrypt(short)


def test_a_right_mac_over_what_is_no_whole_block_is_damage_too() -> None:
    keys = derive(KEY, "Image")
    with pytest.raises(Damaged, match="padding"):
        decrypt(b"x" * 15 + hmac.digest(keys.mac, keys.iv + b"x" * 15, "sha256")[:10])


# --- Where a file is fetched --------------------------------------------------------------------------------------

B64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PATH = "/v/t62.7118-24/1.enc?ccb=1"


@pytest.mark.parametrize(
    ("source", "urls"),
    [
        ({}, None),
        ({"url": "https://mmg.whatsapp.net/1.enc"}, None),
        ({"url": "https://mmg.whatsapp.net/plain"}, None),
        ({"url": "https://cdn.example.test/x.ENC"}, None),
        ({"directPath": PATH}, None),
        ({"mediaKey": B64}, None),
        ({"mediaKey": "short", "url": "https://mmg.whatsapp.net/1.enc"}, None),
        ({"mediaKey": B64, "directPath": PATH}, (HOST + PATH,)),
        ({"mediaKey": B64, "directPath": "//evil.test/x"}, None),
        ({"mediaKey": B64, "url": HOST + PATH, "directPath": PATH}, (HOST + PATH,)),
        ({"mediaKey": B64, "url": "https://a.test/1", "directPath": PATH}, ("https://a.test/1", HOST + PATH)),
        ({"url": "https://cdn.example.test/x.jpg", "directPath": PATH}, ("https://cdn.example.test/x.jpg",)),
    ],
)
def test_where_a_file_may_be_fetched(source: dict[str, str], urls: tuple[str, ...] | None) -> None:
    plan = plan_of({**source, "mediaKind": "Image"}, host=HOST)
    assert (plan.urls if plan else None) == urls
    if plan:
        assert (plan.media_key == KEY) == ("mediaKey" in source)
