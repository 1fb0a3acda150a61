"""Proving that a backup can be restored: it is, into a scratch database beside the product's, which is then dropped.

The owner role makes the scratch database (deploy/postgres/roles.sql gives it CREATEDB); the backup role, which no
policy binds, reads it. Nobody else may connect to it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import structlog
from django.conf import settings
from django.utils import timezone
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from leadengine.operations.backups import catalogue, tools
from leadengine.operations.backups.creating import record
from leadengine.operations.backups.files import Backup, BackupFailed, workshop

log = structlog.get_logger(__name__)

_LOCK = 0xBAC1  # one scratch database at a time
# Present in the database that is restored into, and not the owner's to change.
PRESENT = ("EXTENSION", "COMMENT - EXTENSION", "SCHEMA", "ACL - SCHEMA", "COMMENT - SCHEMA")
_REFERENCES = "FK CONSTRAINT"  # of a part: the rows that they point to are left out


def verify_backup(backup: Backup) -> dict[str, Any]:
    """Restore a backup into a scratch database, compare it with its manifest, and note the result in its record.

    Returns `file`, `tables`, `rows` and `seconds`. Raises: BackupFailed with what differs.
    """
    began = time.monotonic()
    row = record(backup)
    try:
        backup.check_bytes()
        with unpacked(backup, leave_out=(_REFERENCES,) if backup.is_part else ()) as script, scratch(backup) as url:
            restore_script(script, url)
            compare(backup, url)
    except BackupFailed as error:
        row.verified_at, row.verify_error = None, str(error)[:500]
        row.save(update_fields=["verified_at", "verify_error"])
        log.warning("backup_not_good", file=backup.path.name, reason=str(error))
        raise
    seconds = round(time.monotonic() - began, 2)
    row.verified_at, row.verify_seconds, row.verify_error = timezone.now(), seconds, ""
    row.save(update_fields=["verified_at", "verify_seconds", "verify_error"])
    counts = backup.manifest["tables"]
    log.info("backup_verified", file=backup.path.name, seconds=seconds)
    return {"file": str(backup.path), "tables": len(counts), "rows": sum(counts.values()), "seconds": seconds}


@contextmanager
def unpacked(backup: Backup, *, leave_out: tuple[str, ...] = ()) -> Iterator[Path]:
    """The backup as a file of SQL in a directory that only we may read. Raises: BackupFailed."""
    with workshop() as bench:
        plain = backup.path
        if backup.manifest["encrypted"]:
            plain = bench / "plain.dump"
            tools.decrypt(backup.path, plain)
        script = bench / "restore.sql"
        tools.write_script(plain, script, leave_out=(*PRESENT, *leave_out))
        yield script


@contextmanager
def scratch(backup: Backup) -> Iterator[str]:
    """The address (of the owner) of an empty database that is gone afterwards. Raises: BackupFailed."""
    if not settings.ADMIN_DATABASE_URL:
        raise BackupFailed("ADMIN_DATABASE_URL is not set: a backup is restored as the role leadengine_owner.")
    major = backup.manifest["server"]
    try:
        with psycopg.connect(settings.ADMIN_DATABASE_URL, autocommit=True, connect_timeout=10) as owner:
            if owner.info.server_version // 10_000 < major:
                raise BackupFailed(f"The backup is of PostgreSQL {major}, newer than this server.")
            tools.require_client(owner.info.server_version // 10_000)
            if owner.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
                raise BackupFailed("Another backup of this database is being verified.")
            name = f"{owner.info.dbname}_verify"
            drop = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
            owner.execute(drop)  # of a process that was killed; it waits 5 s for connections that are on their way out
            owner.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
            try:
                _close_to_others(owner, name)
                url = at(settings.ADMIN_DATABASE_URL, name)
                with psycopg.connect(url, autocommit=True) as inside:
                    for extension in backup.manifest["extensions"]:
                        inside.execute(
                            sql.SQL("CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA public").format(
                                sql.Identifier(extension)
                            )
                        )
                yield url
            finally:
                owner.execute(drop)
    except psycopg.Error as error:
        raise BackupFailed(f"The scratch database failed: {str(error).strip().splitlines()[0]}") from error


def restore_script(script: Path, url: str, *, before: Path | None = None, after: Path | None = None) -> None:
    """Run SQL in one transaction: all of it or nothing. Raises: BackupFailed."""
    files = [f"--file={path}" for path in (before, script, after) if path]
    tools.run("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", *files, url=url)


def compare(backup: Backup, url: str) -> None:
    """Compare a restored database with the manifest: rows, walls, rights, a row. Raises: BackupFailed."""
    manifest = backup.manifest
    with psycopg.connect(at(settings.DATABASE_BACKUP_URL, conninfo_to_dict(url)["dbname"])) as reader:
        cursor = reader.cursor()
        found = {
            "tables": catalogue.count(cursor, catalogue.tables(cursor)),
            "canary": catalogue.canary(cursor),
            **catalogue.describe(cursor),
        }
    told = catalogue.differences({name: manifest[name] for name in found}, found, leave_out=_not_compared(backup))
    if told:
        raise BackupFailed(f"{backup.path.name} does not give what its manifest says: {'; '.join(told[:10])}.")


def at(url: str, database: Any) -> str:
    """The same address, another database."""
    return make_conninfo(url, dbname=database)


def _not_compared(backup: Backup) -> tuple[str, ...]:
    """Of a part, the references were left out."""
    return ("parts",) if backup.is_part else ()


def _close_to_others(owner: psycopg.Connection[Any], name: str) -> None:
    """The scratch database holds everything: nobody connects but those who are named."""
    reader = conninfo_to_dict(settings.DATABASE_BACKUP_URL).get("user", "")
    owner.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    owner.execute(
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(name), sql.Identifier(str(reader)))
    )
