"""Protected files and their approved changes (docs/protected.toml): which may not change in silence (seed 002).

Each file is listed with its sha256 and the reason why it is protected; each change names the hashes that it approved.
The newest change that names a file must have approved the file as it is. A folder protects the files that come into it.
Nothing here asks a database: CI runs it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from leadengine.errors import DomainError

LIST = Path("docs/protected.toml")
PAGE = Path("docs/CHANGES-PROTECTED.md")
ACTIVE = "Ativo"
GONE = "removed"
_HEAD = """\
# Written by `manage.py protected_check --update --release V --change TEXT`; by hand only paths and reasons.
# A file that is not as its newest change approved it fails `manage.py protected_check`, and so CI.
"""
_PAGE_HEAD = """\
# Alterações nos arquivos protegidos

Versão {version} · {date}

Gerada de `docs/protected.toml` por `manage.py protected_check --write`. As regras estão em
[Persistência](explanation/persistence.md).

| Data | Versão | Alteração | Aprovado por | Status |
|---|---|---|---|---|
"""


class VersionTaken(DomainError):
    """Esta versão já está no registro de alterações."""

    code = "VERSION_TAKEN"
    status = 409


@dataclass(frozen=True, slots=True)
class ProtectedFile:
    """A file that may not change without an entry. An empty hash: listed by hand, approved by no change yet."""

    path: str
    reason: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, order=True)
class ProtectedFolder:
    """A pattern of paths; every file that matches is protected."""

    pattern: str
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the change log; `files` are the paths and hashes that it approved, GONE for a file it removed."""

    date: date
    version: str
    change: str
    approved_by: tuple[str, ...] = ()
    status: str = ACTIVE
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Protection:
    """docs/protected.toml: the folders, the files, and the changes, oldest first."""

    folders: tuple[ProtectedFolder, ...]
    files: tuple[ProtectedFile, ...]
    changes: tuple[Change, ...]


def read_protection(root: Path) -> Protection:
    """The list of a checkout. Raises: OSError, tomllib.TOMLDecodeError, TypeError when it is not as we write it."""
    content = tomllib.loads((root / LIST).read_text(encoding="utf-8"))
    changes = (Change(**{**one, "approved_by": tuple(one["approved_by"])}) for one in content["change"])
    folders = (ProtectedFolder(**one) for one in content["folder"])
    return Protection(tuple(folders), tuple(ProtectedFile(**one) for one in content["file"]), tuple(changes))


def find_breaches(root: Path) -> list[str]:
    """What is not as it was approved, a sentence each; empty when all is well."""
    protection = read_protection(root)
    files = [*protection.files, *_unlisted(root, protection)]
    breaches = [said for one in files if (said := _breach(root, one, protection.changes))]
    left = _approved_paths(protection.changes) - {one.path for one in files}
    breaches += [f"{path} is protected and is no longer listed in {LIST}." for path in sorted(left)]
    page = root / PAGE
    if not page.exists() or page.read_text(encoding="utf-8") != render_page(protection.changes):
        breaches.append(f"{PAGE} does not equal the change log: run `manage.py protected_check --write`.")
    return breaches


def approve_changes(*, root: Path, change: Change) -> None:
    """Add a change that approves every file as it is now, and write the list and the page.

    The newest change may be made anew on its own day: until it is merged it is still being written.
    Raises: VersionTaken.
    """
    protection = read_protection(root)
    earlier = protection.changes
    if earlier and (earlier[-1].version, earlier[-1].date) == (change.version, change.date):
        earlier = earlier[:-1]
    if any(one.version == change.version for one in earlier):
        raise VersionTaken
    listed = [*protection.files, *_unlisted(root, protection)]
    files = tuple(replace(one, sha256=_hash(root / one.path)) for one in listed if (root / one.path).exists())
    dropped = sorted(_approved_paths(earlier) - {one.path for one in listed})
    now = dict.fromkeys([*(one.path for one in listed), *dropped], GONE) | {one.path: one.sha256 for one in files}
    approved = {path: sha256 for path, sha256 in now.items() if _approved(path, earlier) != sha256}
    made = Protection(protection.folders, files, (*earlier, replace(change, files=approved)))
    (root / LIST).write_text(_render_list(made), encoding="utf-8")
    write_page(root)


def write_page(root: Path) -> None:
    """Write docs/CHANGES-PROTECTED.md from the list."""
    (root / PAGE).write_text(render_page(read_protection(root).changes), encoding="utf-8")


def render_page(changes: Iterable[Change]) -> str:
    """The change log as a page, in the columns of seed 002, oldest first."""
    rows = list(changes)
    lines = (
        f"| {one.date} | {one.version} | {one.change.replace('|', '/')} | {', '.join(one.approved_by) or '-'} "
        f"| {one.status} |\n"
        for one in rows
    )
    return _PAGE_HEAD.format(version=rows[-1].version, date=rows[-1].date) + "".join(lines)


def _unlisted(root: Path, protection: Protection) -> list[ProtectedFile]:
    """Files in protected folders that have come since."""
    listed = {one.path for one in protection.files}
    found = ((str(path.relative_to(root)), one) for one in protection.folders for path in root.glob(one.pattern))
    return [ProtectedFile(path, folder.reason) for path, folder in sorted(found) if path not in listed]


def _breach(root: Path, file: ProtectedFile, changes: Sequence[Change]) -> str:
    path = root / file.path
    if not path.exists():
        return f"{file.path} is protected and is missing."
    if not _approved(file.path, changes) == file.sha256 == _hash(path):
        return f"{file.path} is not as an entry of {LIST} approved it. It is protected: {file.reason}"
    return ""


def _approved(path: str, changes: Sequence[Change]) -> str:
    """The hash that the newest change which names the file approved; empty when none does."""
    return next((one.files[path] for one in reversed(changes) if path in one.files), "")


def _approved_paths(changes: Sequence[Change]) -> set[str]:
    """The files that some change approved and none has removed since."""
    named = {path for one in changes for path in one.files}
    return {path for path in named if _approved(path, changes) != GONE}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _render_list(protection: Protection) -> str:
    parts = [_HEAD]
    parts += [
        f"\n[[folder]]\npattern = {_text(one.pattern)}\nreason = {_text(one.reason)}\n" for one in protection.folders
    ]
    parts += [
        f"\n[[file]]\npath = {_text(file.path)}\nreason = {_text(file.reason)}\nsha256 = {_text(file.sha256)}\n"
        for file in protection.files
    ]
    for change in protection.changes:
        people = ", ".join(_text(name) for name in change.approved_by)
        parts.append(
            f"\n[[change]]\ndate = {change.date}\nversion = {_text(change.version)}\nchange = {_text(change.change)}\n"
            f"approved_by = [{people}]\nstatus = {_text(change.status)}\n"
        )
        if change.files:
            parts.append("[change.files]\n" + "".join(f"{_text(k)} = {_text(v)}\n" for k, v in change.files.items()))
    return "".join(parts)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a basic string of TOML
