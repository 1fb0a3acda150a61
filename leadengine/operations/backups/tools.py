"""PostgreSQL's client programs and gpg: found, asked for their version, run without a shell."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from django.conf import settings
from psycopg.pq import Conninfo

from leadengine.embedded.postgres import find_binaries
from leadengine.embedded.processes import UnableToStart
from leadengine.operations.backups.files import BackupFailed

_COPY = re.compile(rb'^COPY public\."?(\w+)"? \(')
_TOLD = re.compile(r"\b(error|fatal):", re.I)
# Psql of an older server does not know it, and we need no limit on our transaction.
_NEWER = b"SET transaction_timeout = 0;\n"


def program(name: str) -> Path:
    """A client program: of PG_BIN_DIR, of the embedded server's folder, else of PATH. Raises: BackupFailed."""
    folders = [Path(settings.PG_BIN_DIR)] if settings.PG_BIN_DIR else []
    with contextlib.suppress(UnableToStart):
        folders.append(find_binaries())
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    found = shutil.which(name)
    if found is None:
        raise BackupFailed(f"{name} is not on this machine: set PG_BIN_DIR to the folder of PostgreSQL's programs.")
    return Path(found)


@cache
def version(path: Path) -> str:
    """What a program calls its version, such as 18.1."""
    said = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=True).stdout
    return str(re.findall(r"\d+(?:\.\d+)*", said)[0])


def require_client(server: int) -> dict[str, str]:
    """The versions of the programs, none of them older than the server (its major number). Raises: BackupFailed."""
    versions = {name: version(program(name)) for name in ("pg_dump", "pg_restore", "psql")}
    for name, its in versions.items():
        if int(its.split(".")[0]) < server:
            raise BackupFailed(
                f"{name} is of version {its}, older than the server ({server}): set PG_BIN_DIR to newer programs."
            )
    return versions


def run(name: str, *words: str, url: str = "", stdout: Path | None = None) -> None:
    """Run a client program on the database of `url`. Raises: BackupFailed with its error, without any row's values."""
    with open(stdout, "wb") if stdout else contextlib.nullcontext(subprocess.DEVNULL) as out:  # noqa: PTH123
        done = subprocess.run(
            [str(program(name)), *words], env=_environment(url), stdout=out, stderr=subprocess.PIPE, check=False
        )
    if done.returncode:
        raise BackupFailed(f"{name} failed: {_first_error(done.stderr)}")


def write_script(dump: Path, script: Path, *, leave_out: Sequence[str]) -> None:
    """Write a dump as SQL, without the entries of its list that hold one of these words. Raises: BackupFailed."""
    listing = script.with_suffix(".list")
    run("pg_restore", "--list", str(dump), stdout=listing)
    lines = listing.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not any(f" {words} " in f"{line} " for words in leave_out)]
    listing.write_text("\n".join(kept) + "\n", encoding="utf-8")
    in_head = True
    with script.open("wb") as file:
        for line in _restored(dump, f"--use-list={listing}"):
            in_head = in_head and not line.startswith(b"CREATE ")
            if not (in_head and line == _NEWER):
                file.write(line)


def count_rows(dump: Path) -> dict[str, int]:
    """How many rows of each table stand in a dump; a table without data is missing. Raises: BackupFailed."""
    counts: dict[str, int] = {}
    table = ""
    for line in _restored(dump, "--data-only"):
        if table:
            if line == b"\\.\n":
                table = ""
            else:
                counts[table] += 1
        elif match := _COPY.match(line):
            table = match[1].decode()
            counts[table] = 0
    return counts


def encrypt(plain: Path, sealed: Path) -> None:
    """Encrypt a file with the passphrase. Raises: BackupFailed."""
    _gpg(plain, sealed, "--symmetric", "--cipher-algo", "AES256")


def decrypt(sealed: Path, plain: Path) -> None:
    """Decrypt a file with the passphrase. Raises: BackupFailed, also when a byte of it is wrong."""
    _gpg(sealed, plain, "--decrypt")


def _restored(dump: Path, *words: str) -> Iterator[bytes]:
    """The lines of SQL that pg_restore makes of a dump; its end is checked."""
    command = [str(program("pg_restore")), *words, "--file=-", str(dump)]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, env=_environment(""), stdout=subprocess.PIPE, stderr=errors) as process:
            yield from process.stdout or ()
        code = process.returncode
        errors.seek(0)
        if code:
            raise BackupFailed(f"pg_restore failed: {_first_error(errors.read())}")


def _gpg(source: Path, target: Path, *words: str) -> None:
    if not settings.BACKUP_PASSPHRASE_FILE:
        raise BackupFailed("BACKUP_PASSPHRASE_FILE is not set: backups are encrypted with the passphrase in that file.")
    gpg = shutil.which("gpg")
    if gpg is None:
        raise BackupFailed("gpg is not on this machine: install GnuPG, which encrypts the backups.")
    # A home of its own, with a short path: gpg starts an agent there, whose socket has such a path.
    with tempfile.TemporaryDirectory(prefix="le-gpg-") as home:
        env = {"PATH": os.defpath, "LC_ALL": "C", "GNUPGHOME": home}
        done = subprocess.run(
            [gpg, "--batch", "--yes", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase-file",
             settings.BACKUP_PASSPHRASE_FILE, "--output", str(target), *words, str(source)],
            env=env, capture_output=True, check=False,
        )  # fmt: skip
        subprocess.run(["gpgconf", "--kill", "all"], env=env, capture_output=True, check=False)
    if done.returncode:
        raise BackupFailed(f"gpg failed: {done.stderr.decode(errors='replace').strip().splitlines()[-1:]}")


def _environment(url: str) -> dict[str, str]:
    """Nothing of the caller's; the address in variables, for a command line can be read by every user."""
    options = Conninfo.parse(url.replace("psql://", "postgresql://", 1).encode()) if url else []
    given = {each.envvar.decode(): each.val.decode() for each in options if each.envvar and each.val}
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **given}


def _first_error(said: bytes) -> str:
    """The first line that tells of an error: the lines after it may hold what stands in a row."""
    lines = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if _TOLD.search(line)), lines[0])[:400]
