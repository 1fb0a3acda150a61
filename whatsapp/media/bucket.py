"""The storage of buckets: django-storages, with one client for all threads."""

from __future__ import annotations

import threading
from typing import Any

from storages.backends.s3 import S3Storage


class BucketStorage(S3Storage):
    """django-storages makes a client for each thread (13 MB, a tenth of a second), and ASGI a thread for each request.

    Clients of boto3 may be shared by threads; only making them may not.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._making = threading.Lock()
        self._shared: Any = None

    @property
    def connection(self) -> Any:
        """The one connection."""
        with self._making:
            if self._shared is None:
                self._shared = super().connection
        return self._shared
