"""Making a backup: one exported snapshot for the dump and for the counts in its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psycopg
import structlog
from django.conf import settings
from django.utils import timezone

from leadengine.health import VERSION
from leadengine.operations.backups import catalogue, tools
from leadengine.operations.backups.catalogue import Cursor
from leadengine.operations.backups.files import WHOLE, Backup, BackupFailed, new_path, publish, sha256, workshop
from leadengine.operations.models import BackupRecord
from leadengine.operations.snapshots import take_snapshot

log = structlog.get_logger(__name__)

_LOCK = 0xBAC0  # one dump at a time
_PATIENCE = "60s"  # for the table locks of the dump: whoever changes a table goes first
# What each partial backup holds the rows of; of all other tables there is the shape only.
PARTS = {
    "protected": (
        "whatsapp_sessions", "whatsapp_atendimentos", "whatsapp_sessionevent", "whatsapp_persistencejournal",
        "whatsapp_recoveryrun", "whatsapp_maintenance", "operations_protectedchange",
    ),
    "settings": (
        "accounts_tenant", "accounts_user", "accounts_apikey", "whatsapp_sessions", "whatsapp_maintenance",
        "tickets_queue", "tickets_queuemembership", "tickets_closereason", "leads_pipelinestage", "webhooks_endpoint",
        "operations_configsnapshot", "operations_protectedchange", "operations_emergencycontact",
    ),
}  # fmt: skip
_ALWAYS = ("django_migrations",)
# What customers wrote: the messages, the webhooks that brought them, and those that told of them.
_MESSAGES = ("tickets_message", "whatsapp_webhookevent", "webhooks_outgoingevent")


def create_backup(*, kind: str, part: str = WHOLE, without_messages: bool = False) -> Backup:
    """Dump the database into BACKUP_DIR, with a manifest, and record it; returns the backup.

    The dump is read again before it gets its name: each table must hold as many rows as the snapshot did.
    Raises: BackupFailed; then there is no file and no record.
    """
    encrypted = _require_key()
    now = timezone.now()
    with _reading() as cursor, workshop() as bench:
        if catalogue.exists(cursor, "operations_configsnapshot"):
            take_snapshot(reason=f"backup {kind}")
            cursor.connection.rollback()  # so that the dump's snapshot holds it
        exported = _export(cursor)
        versions = tools.require_client(cursor.connection.info.server_version // 10_000)
        counts = catalogue.count(cursor, catalogue.tables(cursor))
        left_out = _left_out(cursor, counts, part, without_messages)
        plain = bench / "plain.dump"
        _dump(plain, exported, left_out)
        _compare(counts, tools.count_rows(plain), left_out)
        path = new_path(kind, now, encrypted=encrypted)
        finished = _seal(plain) if encrypted else plain
        manifest = {
            "format": 1, "kind": kind, "part": part, "withoutMessages": without_messages,
            "createdAt": now.isoformat(), "file": path.name, "sha256": sha256(finished),
            "bytes": finished.stat().st_size, "encrypted": encrypted, "product": VERSION,
            "server": cursor.connection.info.server_version // 10_000, "tools": versions,
            "tables": {name: 0 if name in left_out else rows for name, rows in counts.items()},
            "leftOut": sorted(left_out), "extensions": catalogue.extensions(cursor),
            "sessions": [] if "whatsapp_sessions" in left_out else catalogue.sessions(cursor),
            "canary": None if "operations_configsnapshot" in left_out else catalogue.canary(cursor),
            **catalogue.describe(cursor),
        }  # fmt: skip
        recordable = catalogue.exists(cursor, "operations_backuprecord")
        backup = publish(finished, path, manifest)
    if recordable:
        record(backup)
    log.info("backup_created", kind=kind, part=part, bytes=manifest["bytes"], seconds=_since(now))
    return backup


def record(backup: Backup) -> BackupRecord:
    """The row of a backup, made when there is none: a restored database knows nothing of later files."""
    manifest = backup.manifest
    found, _made = BackupRecord.objects.get_or_create(
        path=str(backup.path),
        defaults={
            "kind": manifest["kind"], "part": manifest["part"], "without_messages": manifest["withoutMessages"],
            "sha256": manifest["sha256"], "bytes": manifest["bytes"], "manifest": manifest,
            "encrypted": manifest["encrypted"], "created_at": backup.created_at,
        },
    )  # fmt: skip
    return found


@contextmanager
def _reading() -> Iterator[Cursor]:
    """A cursor of the backup role in one unchanging, read-only transaction; only one process has it at a time."""
    if not settings.DATABASE_BACKUP_URL:
        raise BackupFailed("DATABASE_BACKUP_URL is not set: backups read as the role leadengine_backup.")
    try:
        with psycopg.connect(settings.DATABASE_BACKUP_URL, connect_timeout=10) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            with connection.cursor() as cursor:
                row = cursor.execute(
                    "SELECT pg_try_advisory_lock(%s), rolbypassrls OR rolsuper FROM pg_roles "
                    "WHERE rolname = current_user",
                    [_LOCK],
                ).fetchone()
                free, sees_all = row or (False, False)
                if not sees_all:
                    raise BackupFailed(
                        "The role of DATABASE_BACKUP_URL is bound by row level security: it sees no row."
                    )
                if not free:
                    raise BackupFailed("Another backup of this database is being made.")
                yield cursor
    except psycopg.Error as error:
        raise BackupFailed(f"The database cannot be read: {type(error).__name__}.") from error


def _export(cursor: Cursor) -> str:
    cursor.execute("SELECT set_config('idle_in_transaction_session_timeout', '0', true)")
    return str(cursor.execute("SELECT pg_export_snapshot()").fetchall()[0][0])


def _left_out(cursor: Cursor, counts: dict[str, int], part: str, without_messages: bool) -> set[str]:
    """The tables whose rows stay out, so that what refers to them stays out too."""
    names = set() if part == WHOLE else set(counts) - {*PARTS[part], *_ALWAYS}
    return names | (catalogue.dependents(cursor, _MESSAGES) if without_messages else set())


def _dump(path: Path, snapshot: str, left_out: set[str]) -> None:
    empty = [f"--exclude-table-data=public.{name}" for name in sorted(left_out)]
    tools.run(
        "pg_dump", "--format=custom", "--no-password", f"--snapshot={snapshot}", f"--lock-wait-timeout={_PATIENCE}",
        f"--file={path}", *empty, url=settings.DATABASE_BACKUP_URL,
    )  # fmt: skip


def _compare(counts: dict[str, int], dumped: dict[str, int], left_out: set[str]) -> None:
    for name, rows in counts.items():
        if name not in left_out and dumped.get(name, 0) != rows:
            raise BackupFailed(f"The dump holds {dumped.get(name, 0)} rows of {name}, the database {rows}.")


def _require_key() -> bool:
    """Whether backups are encrypted. Raises: BackupFailed when they must be and cannot."""
    if not settings.BACKUP_PASSPHRASE_FILE and not settings.DEVELOPMENT:
        raise BackupFailed("A backup holds every message: set BACKUP_PASSPHRASE_FILE, so that it is encrypted.")
    return bool(settings.BACKUP_PASSPHRASE_FILE)


def _seal(plain: Path) -> Path:
    sealed = plain.with_suffix(".gpg")
    tools.encrypt(plain, sealed)
    return sealed


def _since(began: datetime) -> float:
    return round((timezone.now() - began).total_seconds(), 1)
