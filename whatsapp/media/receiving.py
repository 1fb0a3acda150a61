"""How the one file of a multipart form is received: into a nameless temporary file, and never more than the limit."""

from __future__ import annotations

import tempfile
from io import BytesIO
from typing import IO, Any

from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http.multipartparser import MultiPartParserError

FIELD = "file"
IN_MEMORY = 1_048_576  # a larger file waits on disk


class OneFile(FileUploadHandler):
    """Keeps the first file of the field `file`; others are read and dropped.

    What passes `most` bytes is counted to its end and not kept: `UploadedFile.size` says how much came.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._kept: IO[bytes] | None = None
        self._seen = 0
        self._skipping = False

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        # Not by SkipFile: Django takes what it skips for cut off, and with it the file that was kept.
        self._skipping = self.field_name != FIELD or self._kept is not None
        if not self._skipping:
            self._kept = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed with the request

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        if self._skipping:
            return
        self._seen += len(raw_data)
        if self._seen <= self.most:
            self._file.write(raw_data)
        elif not self._file.closed:
            self._file.close()

    def file_complete(self, file_size: int) -> UploadedFile[bytes] | None:
        if self._skipping:
            return None
        kept = BytesIO() if self._file.closed else self._file
        return UploadedFile(kept, self.file_name, self.content_type, self._seen, self.charset)

    def upload_interrupted(self) -> None:
        """The form has no end. Raises: MultiPartParserError."""
        if self._kept is not None:
            self._kept.close()
        raise MultiPartParserError("The form ends within a file.")

    @property
    def _file(self) -> IO[bytes]:
        assert self._kept is not None  # noqa: S101 - new_file comes first
        return self._kept
