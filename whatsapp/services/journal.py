"""Facts that are already true outside and could not be saved: kept in a file until PostgreSQL takes them.

One process has one file in PERSISTENCE_JOURNAL_DIR, one JSON line per fact, on the disk before the call returns. One
process at a time replays a directory; each line becomes one PersistenceJournal row (spec/sessions.md section 4).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError

from leadengine.accounts.scopes import service_scope, tenant_scope
from whatsapp.models import PersistenceJournal
from whatsapp.services.persistence import PersistenceUnavailable

Applier = Callable[..., Literal["applied", "superseded"]]
Status = PersistenceJournal.Status
log = structlog.get_logger("whatsapp.persistence")
_FORBIDDEN = re.compile(r"qr|key|token|secret|password|authorization|cookie", re.I)
_AWAY = (OperationalError, InterfaceError, PersistenceUnavailable)
_LONGEST_REASON = 200  # characters of the column


@dataclass(slots=True)
class Replayed:
    """What became of the lines: `known` had their row already, `torn` were cut off by a kill, `left` wait."""

    applied: int = 0
    superseded: int = 0
    failed: int = 0
    known: int = 0
    torn: int = 0
    left: int = 0

    def as_json(self) -> dict[str, int]:
        """For the command."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Line:
    id: UUID
    operation: str
    tenant_id: UUID
    session_id: UUID | None
    fact: dict[str, Any]
    at: datetime


def record_fact(
    *, operation: str, tenant_id: UUID, session_id: UUID | None, fact: Mapping[str, Any], at: datetime
) -> None:
    """Append a fact to the journal of this process; it is on the disk when this returns. Values under names of QR codes
    and keys are left out. Raises: OSError."""
    line = {
        "id": uuid4(), "operation": operation, "tenantId": tenant_id, "sessionId": session_id, "fact": _clean(fact),
        "at": at.isoformat(),
    }  # fmt: skip
    text = json.dumps(line, default=str, ensure_ascii=False) + "\n"
    path = _folder() / f"{os.getpid()}.jsonl"
    with _open_for_append(path) as file:
        # A kill may have cut the last line off: ours must not be glued to it.
        torn = file.tell() and not _ends_whole(path)
        file.write((b"\n" if torn else b"") + text.encode())
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)
    log.warning("persistence_journaled", operation=operation)


def replay_journal(*, appliers: Mapping[str, Applier], now: datetime) -> Replayed:
    """Bring every line of the directory into the database. Only one process does; for the others `left` is all.

    An applier is called outside any transaction. Without the database the lines stay. A file goes when each of its
    lines has its row.
    """
    done = Replayed()
    with _sole_replayer() as sole:
        if not sole:
            done.left = pending_lines()
            return done
        for path in _files():
            _replay_file(path, appliers, now, done)
    return done


def pending_lines() -> int:
    """How many facts wait in the directory."""
    return sum(len(_read(path).splitlines()) for path in _files())


def _replay_file(path: Path, appliers: Mapping[str, Applier], now: datetime, done: Replayed) -> None:
    content = _read(path)
    lines, torn = [], 0
    for raw in content.splitlines():
        line = _parse(raw)
        if line is None:
            torn += 1
        else:
            lines.append(line)
    left = len(lines)
    try:
        known = _known({line.id for line in lines})
        for line in lines:
            if line.id in known:
                done.known += 1
                left -= 1
            elif _replay(line, appliers, now, done):
                left -= 1
    except _AWAY as error:
        log.warning("persistence_replay_stopped", error=type(error).__name__, left=left)
    done.left += left
    if not left and _remove(path, size=len(content)):
        done.torn += torn
        if torn:
            log.warning("persistence_journal_torn", lines=torn)


def _replay(line: _Line, appliers: Mapping[str, Applier], now: datetime, done: Replayed) -> bool:
    """Apply one line and store its row; False when it has to stay. Raises: one of _AWAY."""
    status, reason = _apply(line, appliers)
    try:
        with tenant_scope(line.tenant_id):
            PersistenceJournal.objects.create(
                tenant_id=line.tenant_id, line_id=line.id, session_id=line.session_id, operation=line.operation,
                entry=line.fact, status=status, reason=reason, recorded_at=line.at, replayed_at=now,
            )  # fmt: skip
    except OperationalError:
        raise
    except DatabaseError as error:  # a tenant that is gone
        log.exception("persistence_line_refused", operation=line.operation, error=type(error).__name__)
        return False
    setattr(done, status, getattr(done, status) + 1)
    log.info("persistence_replayed", operation=line.operation, result=str(status))
    return True


def _apply(line: _Line, appliers: Mapping[str, Applier]) -> tuple[Status, str]:
    apply = appliers.get(line.operation)
    if apply is None:
        return Status.FAILED, "no applier"
    try:
        result = apply(tenant_id=line.tenant_id, session_id=line.session_id, fact=line.fact, at=line.at)
    except _AWAY:
        raise
    except Exception as error:  # whatever it is, it would be the same the next time
        log.exception("persistence_line_failed", operation=line.operation)
        return Status.FAILED, f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
    return Status(result), ""


def _known(ids: set[UUID]) -> set[UUID]:
    if not ids:
        return set()
    with service_scope("replay of the journal"):
        return set(PersistenceJournal.objects.filter(line_id__in=ids).values_list("line_id", flat=True))


def _parse(raw: bytes) -> _Line | None:
    try:
        line = json.loads(raw)
        session_id = line["sessionId"]
        return _Line(
            UUID(line["id"]), line["operation"], UUID(line["tenantId"]), UUID(session_id) if session_id else None,
            dict(line["fact"]), datetime.fromisoformat(line["at"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return None


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _clean(each) for name, each in value.items() if not _FORBIDDEN.search(name)}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    return value


# --- Files -------------------------------------------------------------------------------------------------------


def _folder() -> Path:
    folder: Path = settings.PERSISTENCE_JOURNAL_DIR
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _files() -> list[Path]:
    return sorted(settings.PERSISTENCE_JOURNAL_DIR.glob("*.jsonl"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # replayed just now
        return b""


@contextmanager
def _open_for_append(path: Path) -> Iterator[IO[bytes]]:
    """The locked file; a new one when a replayer has just removed it."""
    while True:
        with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                yield file
                return


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _remove(path: Path, *, size: int) -> bool:
    """Remove a file unless somebody has added to it since; whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_size != size:
                return False
            path.unlink()
    except FileNotFoundError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """A new file's name has to be on the disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _sole_replayer() -> Iterator[bool]:
    with open(_folder() / ".lock", "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
