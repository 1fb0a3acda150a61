"""The data directory, what is kept in it over restarts, and run.env (spec/run.md section 2).

A value that stands in the environment or in `.env` wins. All others are made up at the first start and kept in
`<data-dir>/state.json`; run.env is written anew from both at each start.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

RUN_ENV_KEYS = (
    *("BASE_URL", "PUBLIC_BASE_URL", "PORT", "COMPAT_PORTS", "LEADENGINE_DATA_DIR", "DEBUG", "SECRET_KEY"),
    *("DATABASE_URL", "ADMIN_DATABASE_URL", "DATABASE_BACKUP_URL", "REDIS_URL"),
    *("WHATSAPP_BROKER_URL", "WHATSAPP_BROKER_API_KEY", "WHATSAPP_WEBHOOK_API_KEY", "WHATSAPP_WEBHOOK_HMAC_SECRET"),
    *("WHATSAPP_MEDIA_ALLOWED_HOSTS",),
    *("METRICS_TOKEN", "API_KEY", "API_KEY_TENANT", "BAILEYS_SIMPLE_DEV_OWNER"),
    *("DEMO_ADMIN_EMAIL", "DEMO_SUPERVISOR_EMAIL", "DEMO_AGENT_EMAIL", "DEMO_AGENT2_EMAIL", "DEMO_OUTSIDER_EMAIL"),
    *("DEMO_PASSWORD", "DEMO_API_TOKEN", "OUTSIDER_API_TOKEN", "SUPERUSER_EMAIL"),
)
DATABASE_KEYS = ("DATABASE_URL", "ADMIN_DATABASE_URL", "DATABASE_BACKUP_URL")
BROKER_KEYS = ("WHATSAPP_BROKER_API_KEY", "WHATSAPP_WEBHOOK_API_KEY", "WHATSAPP_WEBHOOK_HMAC_SECRET")
# What this start listens on and works in: never taken from an earlier run.env that was read into the shell.
THIS_START = ("BASE_URL", "PORT", "COMPAT_PORTS", "LEADENGINE_DATA_DIR")
DEMO = {
    "DEMO_ADMIN_EMAIL": "admin@demo.test",
    "DEMO_SUPERVISOR_EMAIL": "supervisor@demo.test",
    "DEMO_AGENT_EMAIL": "agente@demo.test",
    "DEMO_AGENT2_EMAIL": "agente2@demo.test",
    "DEMO_OUTSIDER_EMAIL": "agente@outra.test",
    "SUPERUSER_EMAIL": "root@leadengine.test",
    "API_KEY_TENANT": "demo",
}
READABLE = "bcdfghjkmnpqrstvwxz23456789"  # no letter that is mistaken for another: people type this password


class State:
    """`<data-dir>/state.json`, mode 0600: what `up` made up once. Only the holder of the directory's lock writes it."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "state.json"
        self.data: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.values: dict[str, str] = self.section("values")

    def section(self, name: str) -> dict[str, Any]:
        """Return a part of the state; changes to it are kept by save()."""
        section: dict[str, Any] = self.data.setdefault(name, {})
        return section

    def save(self) -> None:
        """Write the state."""
        write_private(self.path, json.dumps(self.data, indent=1))

    def given(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return what the caller chose: the environment over `.env`, without what an earlier `up` had made up.

        Whoever reads run.env into a shell and starts `up` there does not mean our own server to be a foreign one.
        """
        chosen = {**read_env(ROOT / ".env"), **environ}
        return {key: value for key, value in chosen.items() if value and self.values.get(key) != value}


def open_data_dir(path: Path) -> Path:
    """Make the data directory. Root's may be passed through, not listed: PostgreSQL runs as another user below it."""
    path = path.absolute()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.geteuid() == 0:
        path.chmod(path.stat().st_mode | 0o011)
    (path / "log").mkdir(exist_ok=True, mode=0o700)
    return path


def build(
    given: Mapping[str, str], state: State, computed: Mapping[str, str], *, demo: bool, simulator: bool
) -> dict[str, str]:
    """Return the lines of run.env and remember what was made up for them.

    `computed` holds the addresses of this start: what `up` listens on and the servers it runs itself.
    """
    made = {"DEBUG": "true", **computed}
    for key in ("METRICS_TOKEN", "API_KEY", *BROKER_KEYS):
        made[key] = state.values.get(key) or secrets.token_hex(32)
    made["SECRET_KEY"] = state.values.get("SECRET_KEY") or secrets.token_urlsafe(50)
    if demo:
        made |= DEMO
        made["BAILEYS_SIMPLE_DEV_OWNER"] = given.get("DEMO_ADMIN_EMAIL", DEMO["DEMO_ADMIN_EMAIL"])
        made["DEMO_PASSWORD"] = state.values.get("DEMO_PASSWORD") or readable_password()
        for key in ("DEMO_API_TOKEN", "OUTSIDER_API_TOKEN"):
            made[key] = state.values.get(key) or secrets.token_hex(32)
    state.values |= {key: value for key, value in made.items() if key not in THIS_START}
    state.save()
    if not truth(given.get("DEBUG", "true")):  # the keyless developer's access is refused in production
        made.pop("BAILEYS_SIMPLE_DEV_OWNER", None)
    if "WHATSAPP_BROKER_API_KEY" in given and not simulator:  # a real broker signs with its own key: none is made up
        made = {key: value for key, value in made.items() if key not in BROKER_KEYS}
    if "DATABASE_URL" in given:  # all roles of one server, never of two
        made = {key: value for key, value in made.items() if key not in DATABASE_KEYS}
        made["ADMIN_DATABASE_URL"] = given["DATABASE_URL"]
    chosen = {key: value for key, value in given.items() if key not in THIS_START}
    return {key: (made | chosen)[key] for key in RUN_ENV_KEYS if key in made | chosen}


def apps() -> list[Path]:
    """Return the folders of our own packages."""
    return [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]


def truth(word: str) -> bool:
    """Read a switch as settings.py does; a wrong word is refused there."""
    return word.strip().lower() in {"1", "true", "yes", "on"}


def readable_password() -> str:
    """Return a password of 12 random characters (57 bits) in three groups."""
    return "-".join("".join(secrets.choice(READABLE) for _ in range(4)) for _ in range(3))


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Write KEY=value lines that a shell can read."""
    write_private(path, "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items()))


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def read_env(path: Path) -> dict[str, str]:
    """Read KEY=value lines as a shell would: quotes, `export` and comments are understood."""
    if not path.is_file():
        return {}
    values: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, separator, value = line.strip().removeprefix("export ").partition("=")
        if not separator or key.startswith("#"):
            continue
        try:
            values[key.strip()] = " ".join(shlex.split(value, comments=True))
        except ValueError:  # a lone quotation mark
            values[key.strip()] = value.strip()
    return values
