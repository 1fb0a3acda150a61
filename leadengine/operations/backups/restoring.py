"""Bringing a backup back: the four steps of seed 002 (restore, verify, restart services, validate).

The database is replaced in one transaction, as the owner: what is there is dropped, the dump is loaded, its rows are
counted, and the product is marked closed. Whatever fails before the commit leaves the database as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import StringIO
from typing import Any

import psycopg
import structlog
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.utils import timezone
from psycopg import sql

from leadengine import health
from leadengine.accounts.scopes import SERVICE_ROLE, service_scope
from leadengine.accounts.services import write_audit
from leadengine.operations.backups import catalogue
from leadengine.operations.backups.creating import create_backup, record
from leadengine.operations.backups.files import Backup, BackupFailed, all_backups
from leadengine.operations.backups.verifying import restore_script, unpacked
from leadengine.operations.models import BackupRecord
from leadengine.operations.snapshots import take_snapshot
from whatsapp.models import Maintenance
from whatsapp.services.sessions.recovery import recover_sessions
from whatsapp.services.smoke import try_message

log = structlog.get_logger(__name__)
Say = Callable[[str], None]

STEPS = ("restore", "verify integrity", "restart services", "validate")
_REASON = "backup_restore"
_TRIES = 3  # workers go on until their tables are gone: a deadlock with one is not the end
_LOCKS = ("deadlock detected", "lock timeout")
_VITAL = ("database", "rls", "migrations")
# Dropping leaves the extensions, which are not the owner's. Default rights are taken away until the dump gives them
# back: tables made meanwhile would get them on top of what the dump says.
_CLEARING = """
SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA public REVOKE ALL ON %s FROM %I;',
              pg_get_userbyid(d.defaclrole), CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' ELSE 'SEQUENCES' END,
              pg_get_userbyid(a.grantee))
FROM pg_default_acl d, aclexplode(d.defaclacl) a
WHERE d.defaclnamespace = 'public'::regnamespace AND d.defaclobjtype IN ('r', 'S') AND a.grantee <> 0
  AND a.grantee <> d.defaclrole GROUP BY 1
UNION ALL
SELECT format('DROP %s IF EXISTS public.%I CASCADE;',
              CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                             ELSE 'TABLE' END, c.relname)
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.deptype IN ('e', 'i', 'a'))
UNION ALL
SELECT format('DROP ROUTINE IF EXISTS %s CASCADE;', p.oid::regprocedure)
FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                  AND d.deptype = 'e')
"""


# In the same transaction, for senders do not wait: what was still to leave then may have reached its customer since.
_HOLDING = """
UPDATE public.tickets_message SET status = 'FAILED', failed_at = pg_catalog.now(), wait_reason = NULL,
    not_before = NULL, error = '{"code": "RESTORED", "retryable": true,
              "message": "Esperava na fila quando o backup foi feito; pode já ter saído. Confira antes de reenviar."}'
WHERE status = 'QUEUED' OR (status = 'SCHEDULED' AND scheduled_at <= pg_catalog.now());
"""


class RestoredButClosed(BackupFailed):
    """The database is the restored one, but what came after failed: the product stays closed."""


def restore_backup(backup: Backup, *, say: Say) -> dict[str, Any]:
    """Replace the database by a backup and bring the services back; `say` gets a line for each step with its time.

    Returns the steps with their seconds, and what each found. A dump of the present state is made first.
    Raises: BackupFailed, then nothing has changed; RestoredButClosed, then the product is closed to everybody.
    """
    if backup.is_part:
        raise BackupFailed(f"{backup.path.name} holds a part of the database only: restore a backup of everything.")
    if not settings.ADMIN_DATABASE_URL:
        raise BackupFailed("ADMIN_DATABASE_URL is not set: a backup is restored as the role leadengine_owner.")
    report: dict[str, Any] = {"file": str(backup.path), "steps": []}
    before = Maintenance.objects.filter(pk=1).first() or Maintenance()
    with _step(STEPS[0], report, say):
        backup.check_bytes()
        report["preRestore"] = str(create_backup(kind="pre_restore").path)
        records: list[dict[str, Any]] = [dict(row) for row in BackupRecord.objects.values()]
        _close(before, now=timezone.now())
        try:
            _replace(backup, before)
        except BaseException:
            _open(before, now=timezone.now())
            raise
        connections["default"].close()
    try:
        _bring_up(backup, report, records, say)
    except Exception as error:
        log.exception("restore_unfinished")
        raise RestoredButClosed(
            f"{backup.path.name} is restored, but the product stays closed: {error} "
            f"Repair it and run `manage.py maintenance off`, or restore {report['preRestore']}."
        ) from error
    _open(before, now=timezone.now())
    return report


def _bring_up(backup: Backup, report: dict[str, Any], records: list[dict[str, Any]], say: Say) -> None:
    """Steps two to four: the shape is right, the services are back, and they work."""
    with _step(STEPS[1], report, say):
        _compare_shape(backup)
        report["tables"] = len(backup.manifest["tables"])
        report["rows"] = sum(backup.manifest["tables"].values())
    with _step(STEPS[2], report, say):
        call_command("migrate", verbosity=0, unguarded=True, stdout=StringIO())
        _restore_records(records)
        recovered = recover_sessions(trigger="command", force=True)
        report["sessions"] = {
            "expected": recovered.expected if recovered else 0, "lost": recovered.lost if recovered else 0
        }  # fmt: skip
    with _step(STEPS[3], report, say):
        _compare_sessions(backup)
        checks = health.examine().checks
        if bad := [name for name in _VITAL if not checks.get(name, {"ok": False})["ok"]]:
            raise BackupFailed(f"/healthz says that these are not well: {', '.join(bad)}.")
        report["smoke"] = try_message(now=timezone.now()) or "no session"
        if report["smoke"] not in {"stored", "queue_missing", "no session"}:
            raise BackupFailed(f"A message was not taken: {report['smoke']}.")
        with service_scope("audit of a restore"):
            changes = {"file": [None, backup.path.name]}
            write_audit(tenant_id=None, actor=None, action="backup.restored", changes=changes)
        take_snapshot(reason="restore of a backup")


def _replace(backup: Backup, before: Maintenance) -> None:
    """The one transaction. Raises: BackupFailed, then it was rolled back."""
    with unpacked(backup) as script:
        clearing, checking = script.with_name("before.sql"), script.with_name("after.sql")
        checking.write_text(_counting(backup) + _closing(backup, before), encoding="utf-8")
        for attempt in range(1, _TRIES + 1):
            clearing.write_text(_clearing(), encoding="utf-8")
            try:
                restore_script(script, settings.ADMIN_DATABASE_URL, before=clearing, after=checking)
                return
            except BackupFailed as error:
                if attempt == _TRIES or not any(words in str(error) for words in _LOCKS):
                    raise
                log.warning("restore_tried_again", attempt=attempt)


def _clearing() -> str:
    with psycopg.connect(settings.ADMIN_DATABASE_URL) as owner:
        statements = [row[0] for row in owner.execute(_CLEARING).fetchall()]
    return "\n".join(["SET LOCAL lock_timeout = '30s'; SET LOCAL client_min_messages = warning;", *statements, ""])


def _counting(backup: Backup) -> str:
    """Statements that fail, before the commit, when a table has not as many rows as the manifest says, and then hold
    back what waits to be sent."""
    checks = [
        sql.SQL("IF (SELECT count(*) FROM public.{}) <> {} THEN RAISE EXCEPTION 'error: wrong count of %', {}; END IF;")
        .format(sql.Identifier(name), sql.Literal(rows), sql.Literal(name)).as_string(None)
        for name, rows in backup.manifest["tables"].items()
    ]  # fmt: skip
    holding = _HOLDING if "tickets_message" in backup.manifest["tables"] else ""
    become, again = (
        f"DO $$ BEGIN PERFORM pg_catalog.set_config('role', '{name}', true); END $$;" for name in (SERVICE_ROLE, "none")
    )  # the owner is bound by row level security, and the policies are in force by now
    return "\n".join([become, "DO $check$ BEGIN", *checks, "END $check$;", holding, again, ""])


def _closing(backup: Backup, before: Maintenance) -> str:
    """Nobody may write into a restored database before it has been looked at."""
    if "whatsapp_maintenance" not in backup.manifest["tables"]:
        return ""
    return (
        sql.SQL(
            "DELETE FROM public.whatsapp_maintenance; INSERT INTO public.whatsapp_maintenance "
            "(id, is_on, closed, reason) VALUES (1, {}, true, {});\n"
        )
        .format(sql.Literal(before.is_on), sql.Literal(_REASON))
        .as_string(None)
    )


def _compare_shape(backup: Backup) -> None:
    """Walls, rights and parts after the commit; the rows were counted before it, and change from now on."""
    with psycopg.connect(settings.DATABASE_BACKUP_URL) as reader:
        found = catalogue.describe(reader.cursor())
    if told := catalogue.differences({name: backup.manifest[name] for name in found}, found):
        raise BackupFailed(f"The database is not what the manifest says: {'; '.join(told[:10])}.")


def _compare_sessions(backup: Backup) -> None:
    with psycopg.connect(settings.DATABASE_BACKUP_URL) as reader:
        found = catalogue.sessions(reader.cursor())
    if found != backup.manifest["sessions"]:
        raise BackupFailed("The list of sessions is not that of the manifest.")


def _restore_records(records: list[dict[str, Any]]) -> None:
    """The restored table knows nothing of what was backed up and verified since."""
    for values in records:
        BackupRecord.objects.filter(path=values["path"]).exclude(pk=values["id"]).delete()
        BackupRecord.objects.update_or_create(pk=values.pop("id"), defaults=values)
    for backup in all_backups():
        record(backup)


def _close(before: Maintenance, *, now: datetime) -> None:
    _set(is_on=before.is_on, closed=True, reason=_REASON, now=now)


def _open(before: Maintenance, *, now: datetime) -> None:
    """As it was before; what an earlier restore closed and did not open is opened."""
    ours = before.reason == _REASON
    _set(is_on=before.is_on, closed=before.closed and not ours, reason="" if ours else before.reason, now=now)


def _set(*, is_on: bool, closed: bool, reason: str, now: datetime) -> None:
    values = {"is_on": is_on, "closed": closed, "reason": reason, "changed_at": now}
    Maintenance.objects.update_or_create(pk=1, defaults=values)


@contextmanager
def _step(name: str, report: dict[str, Any], say: Say) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds = round(time.monotonic() - began, 2)
    report["steps"].append({"name": name, "seconds": seconds})
    say(f"{len(report['steps'])}. {name:<18} {seconds:.2f} s")
