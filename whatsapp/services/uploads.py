"""Files that people upload: received, examined, kept, and taken by the messages that send them (outbound.md section 12).

Whoever calls `store_upload` holds no scope: examining and storing a file takes time that no transaction waits for.
"""

from __future__ import annotations

from datetime import datetime
from typing import IO
from uuid import UUID

from leadengine.accounts.models import User
from whatsapp.models import Upload


def store_upload(
    *,
    tenant_id: UUID,
    actor: User | None,
    file: IO[bytes],
    file_name: str,
    declared_type: str | None = None,
    caption: str = "",
    ticket_id: UUID | None = None,
    contact_id: UUID | None = None,
    session_id: UUID | None = None,
    now: datetime,
) -> Upload:
    """Examine a file and keep it; the row that is READY for a message. Holds no scope and opens short ones itself.

    `file` is seekable, at any place, and stays open. `declared_type` is image, video, audio, document, or None: what
    the content says. `session_id` is the line whose limits hold, too. What is refused leaves no bytes, and an entry in
    the audit log. Raises: FileEmpty (400), FileTooLarge (413), UnsupportedFile, MediaTypeMismatch (415), FileInfected
    (422), ScannerUnavailable, StorageUnavailable (503).
    """
    raise NotImplementedError
