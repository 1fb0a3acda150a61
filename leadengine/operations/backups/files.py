"""The files of a backup: `leadengine_<kind>_<YYYYmmdd_HHMMSS>.dump[.gpg]` (UTC), and its manifest, `.json` more."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from django.conf import settings

WHOLE = "whole"
NAME = re.compile(r"^leadengine_(daily|pre_upgrade|pre_restore|manual)_(\d{8}_\d{6})\.dump(\.gpg)?$")
_STAMP, _STAMP_LENGTH = "%Y%m%d_%H%M%S", 15
_UNFINISHED = ".leadengine-"
Manifest = dict[str, Any]


class BackupFailed(Exception):
    """A backup could not be made, verified or restored. The message is a sentence that says why."""


@dataclass(frozen=True)
class Backup:
    """A finished backup on this machine."""

    path: Path
    manifest: Manifest

    @classmethod
    def read(cls, path: Path) -> Self:
        """The backup of a file. Raises: BackupFailed."""
        try:
            manifest = json.loads(manifest_of(path).read_text(encoding="utf-8"))
            if not path.is_file():
                raise BackupFailed(f"{path} is not there.")
        except OSError as error:
            raise BackupFailed(f"{path} has no manifest that can be read: {error.strerror}.") from error
        except ValueError as error:
            raise BackupFailed(f"The manifest of {path} is damaged: it is no JSON.") from error
        if not isinstance(manifest, dict) or manifest.get("format") != 1:
            raise BackupFailed(f"The manifest of {path} is of another version of the product.")
        return cls(path, manifest)

    @property
    def created_at(self) -> datetime:
        """When its snapshot was taken."""
        return datetime.fromisoformat(self.manifest["createdAt"])

    @property
    def is_part(self) -> bool:
        """Whether it holds the rows of some tables only, of which no database can be made."""
        return bool(self.manifest["part"] != WHOLE)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is lost when the database is made of it."""
        return not self.is_part and not self.manifest["withoutMessages"]

    def check_bytes(self) -> None:
        """Compare size and checksum with the manifest. Raises: BackupFailed."""
        if self.path.stat().st_size != self.manifest["bytes"]:
            raise BackupFailed(f"{self.path.name} is damaged: its size is not that of its manifest.")
        if sha256(self.path) != self.manifest["sha256"]:
            raise BackupFailed(f"{self.path.name} is damaged: its checksum is not that of its manifest.")


def manifest_of(path: Path) -> Path:
    """Where the manifest of a backup stands."""
    return path.with_name(f"{path.name}.json")


def new_path(kind: str, now: datetime, *, encrypted: bool) -> Path:
    """A free name for a backup of this moment."""
    while True:
        name = f"leadengine_{kind}_{now.astimezone(UTC).strftime(_STAMP)}.dump"
        if not any((settings.BACKUP_DIR / f"{name}{end}").exists() for end in ("", ".gpg")):
            return Path(settings.BACKUP_DIR) / (name + (".gpg" if encrypted else ""))
        now += timedelta(seconds=1)


def all_backups() -> list[Backup]:
    """The backups in BACKUP_DIR, the newest first; what cannot be read is left out."""
    found = []
    for path in _named():
        try:
            found.append(Backup.read(path))
        except BackupFailed:
            continue
    return sorted(found, key=lambda backup: backup.created_at, reverse=True)


def latest_backup() -> Backup:
    """The newest backup of everything; what a restore put aside has to be named. Raises: BackupFailed."""
    for backup in all_backups():
        if backup.is_complete and backup.manifest["kind"] != "pre_restore":
            return backup
    raise BackupFailed(f"There is no backup of everything in {settings.BACKUP_DIR}.")


def find_backup(file: str) -> Backup:
    """A backup by its path, or by its name in BACKUP_DIR. Raises: BackupFailed."""
    path = Path(file)
    return Backup.read(path if path.exists() or path.parent != Path() else settings.BACKUP_DIR / file)


def older_than(moment: datetime) -> list[Path]:
    """The files in BACKUP_DIR that bear our names and an older time, with or without a manifest."""
    return [path for path in _named() if _time_of(path) < moment]


@contextmanager
def workshop() -> Iterator[Path]:
    """A directory beside the backups for plain copies: only we may read it, and it is gone afterwards."""
    settings.BACKUP_DIR.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=settings.BACKUP_DIR) as name:
        yield Path(name)


def abandoned(moment: datetime) -> list[Path]:
    """Workshops of processes that were killed before `moment`: they hold plain copies."""
    return [
        path
        for path in _entries()
        if path.name.startswith(_UNFINISHED) and path.is_dir() and path.stat().st_mtime < moment.timestamp()
    ]


def publish(unfinished: Path, path: Path, manifest: Manifest) -> Backup:
    """Give a dump its name, with its manifest, on disk for good. The manifest comes last: it says that all is there."""
    note = unfinished.with_name("manifest")
    note.write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")
    for source, target in ((unfinished, path), (note, manifest_of(path))):
        source.chmod(0o600)
        with source.open("rb") as file:
            os.fsync(file.fileno())
        source.replace(target)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return Backup(path, manifest)


def sha256(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named() -> list[Path]:
    return [path for path in _entries() if NAME.match(path.name) and path.is_file()]


def _entries() -> list[Path]:
    return list(settings.BACKUP_DIR.iterdir()) if settings.BACKUP_DIR.is_dir() else []


def _time_of(path: Path) -> datetime:
    """What `new_path` wrote."""
    return datetime.strptime(path.name.partition(".")[0][-_STAMP_LENGTH:], _STAMP).replace(tzinfo=UTC)
