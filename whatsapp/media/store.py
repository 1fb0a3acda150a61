"""Where files lie: the storage `media` of the settings, a directory or an S3-compatible bucket."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any
from uuid import UUID

from botocore.exceptions import BotoCoreError, ClientError
from django.core.files import File
from django.core.files.storage import Storage, storages
from django.utils.http import content_disposition_header

from leadengine.errors import NotFound
from whatsapp.media.sniffing import ending

CHUNK = 65_536
# What a storage that is full, away or misconfigured raises.
FAILURES = (OSError, BotoCoreError, ClientError)


def key_of(
    *, tenant_id: UUID, session_id: UUID | None, message_id: UUID, at: datetime, sha256: str, mime_type: str
) -> str:
    """`whatsapp/<tenant>/<session>/<yyyy>/<mm>/<message>/<sha256><ext>`: a file of a message has one place."""
    return f"whatsapp/{tenant_id}/{session_id}/{at:%Y}/{at:%m}/{message_id}/{sha256}{ending(mime_type)}"


def upload_key(*, tenant_id: UUID, upload_id: UUID, at: datetime, ending: str) -> str:
    """`whatsapp/<tenant>/<yyyy>/<mm>/<upload><ext>`: nothing that a caller typed is in it."""
    return f"whatsapp/{tenant_id}/{at:%Y}/{at:%m}/{upload_id}{ending}"


def save(key: str, file: IO[bytes], size: int) -> None:
    """Store a file under its key; one that lies there whole already is left alone. Raises: FAILURES."""
    if not _lies_there(key, size):
        put(key, file)


def put(key: str, file: IO[bytes]) -> None:
    """Store a file under a key that nothing has had before. Raises: FAILURES."""
    _storage().save(key, File(file, name=key))  # without a name it counts as closed and is read into memory


def remove(key: str) -> None:
    """Delete a file; one that is not there is no error. Raises: FAILURES."""
    _storage().delete(key)


def presigned(key: str, *, seconds: int, name: str, mime_type: str) -> str | None:
    """An address at the store itself that opens a file for so long; None where the store is a directory."""
    storage: Any = _storage()
    if not hasattr(storage, "bucket"):
        return None
    asked = {
        "ResponseContentDisposition": content_disposition_header(as_attachment=True, filename=name),
        "ResponseContentType": mime_type,
    }
    return str(storage.url(key, parameters=asked, expire=seconds))


def read(key: str, *, start: int, length: int) -> Iterator[bytes]:
    """The bytes of a part of a file. What is missing is told now, not at the first byte. Raises: NotFound, FAILURES."""
    storage: Any = _storage()
    if hasattr(storage, "bucket"):
        return _from_bucket(storage, key, start, length)
    try:
        file = storage.open(key, "rb")
    except FileNotFoundError as error:
        raise NotFound("O arquivo não está mais guardado.") from error
    return _from_file(file, start, length)


def _lies_there(key: str, size: int) -> bool:
    storage = _storage()
    try:
        return bool(storage.exists(key) and storage.size(key) == size)
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 403:
            raise
        return False  # what a bucket says of a file that is not there to those who may not list it


def _storage() -> Storage:
    return storages["media"]


def _from_file(file: IO[bytes], start: int, length: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while length > 0 and (chunk := file.read(min(CHUNK, length))):
            length -= len(chunk)
            yield chunk


def _from_bucket(storage: Any, key: str, start: int, length: int) -> Iterator[bytes]:
    # django-storages would fetch the whole object for any part of it.
    if not length:
        return iter(())
    client = storage.connection.meta.client
    try:
        answer = client.get_object(Bucket=storage.bucket_name, Key=key, Range=f"bytes={start}-{start + length - 1}")
    except client.exceptions.NoSuchKey as error:
        raise NotFound("O arquivo não está mais guardado.") from error
    chunks: Iterator[bytes] = answer["Body"].iter_chunks(CHUNK)
    return chunks
