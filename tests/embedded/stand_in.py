"""A small product in a directory of its own: our manage.py and leadengine/embedded, and stand-ins for all they start.

The stand-ins write what they find in their environment into `<data-dir>/seen-<process>.json`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from textwrap import dedent

from leadengine.embedded.environment import RUN_ENV_KEYS

ROOT = Path(__file__).resolve().parents[2]

SETTINGS = """
    import os
    from pathlib import Path
    from leadengine.errors import ConfigurationError

    if "WHATSAPP_MODE" in os.environ:
        raise ConfigurationError("WHATSAPP_MODE is set: remove it.")
    SECRET_KEY = os.environ.get("SECRET_KEY", "none")
    INSTALLED_APPS = ["leadengine.stand_in", "leadengine.embedded"]
    DATABASES = {}
    STATIC_ROOT = Path(os.environ.get("LEADENGINE_DATA_DIR", ".data")) / "static"
    USE_TZ = True
"""
ASGI = """
    import json, os
    from pathlib import Path

    async def application(scope, receive, send):
        if scope["type"] != "http":
            return
        body = str(os.getpid()).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    Path(os.environ["LEADENGINE_DATA_DIR"], "seen-web.json").write_text(json.dumps(dict(os.environ)))
"""
COMMAND = """
    import json, os, signal, sys, time
    from pathlib import Path
    from django.core.management.base import BaseCommand

    class Command(BaseCommand):
        requires_system_checks = []

        def add_arguments(self, parser):
            for name in ("--name", "--queues", "--port", "--webhook-url", "--profile", "--state-file"):
                parser.add_argument(name)
            parser.add_argument("--noinput", action="store_true")

        def handle(self, **options):
            data_dir = Path(os.environ["LEADENGINE_DATA_DIR"])
            seen = {**os.environ, "ARGV": " ".join(sys.argv[1:])}
            name = options["name"] or "NAME"
            (data_dir / f"seen-{name}.json").write_text(json.dumps(seen))
            if (data_dir / "break-NAME").exists():
                sys.exit("NAME is broken")
            print("NAME ready")
            if "NAME" == "collectstatic":
                (data_dir / "static").mkdir(exist_ok=True)
                (data_dir / "static" / "staticfiles.json").touch()
            if not STAYS:
                note(data_dir, f"{name} done")
                return

            def end(*_):
                note(data_dir, f"{name} ended")
                sys.exit(0)

            signal.signal(signal.SIGTERM, end)
            if options["state_file"]:
                Path(options["state_file"]).write_text("{}")
            while True:
                time.sleep(60)

    def note(data_dir, text):
        with (data_dir / "order").open("a") as file:
            file.write(text + os.linesep)
"""


def build(root: Path) -> Path:
    """Make the tree; return its root."""
    package = root / "leadengine"
    package.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "leadengine" / "embedded", package / "embedded", ignore=ignore)
    shutil.copytree(ROOT / "deploy" / "postgres", root / "deploy" / "postgres")
    shutil.copy(ROOT / "leadengine" / "errors.py", package)
    shutil.copy(ROOT / "manage.py", root)
    (root / "requirements").mkdir()
    (root / "requirements" / "base.txt").write_text("")
    commands = package / "stand_in" / "management" / "commands"
    commands.mkdir(parents=True)
    for folder in (package, package / "stand_in", commands.parent, commands):
        (folder / "__init__.py").touch()
    write(package / "settings.py", SETTINGS)
    write(package / "asgi.py", ASGI)
    for name in ("migrate", "collectstatic", "seed_demo"):
        write(commands / f"{name}.py", command(name, stays=False))
    for name, process in (("worker", "worker"), ("beat", "beat"), ("simulate_broker", "simulator")):
        write(commands / f"{name}.py", command(process, stays=True))
    return root


def clean_environment() -> dict[str, str]:
    """Our environment without what the suite and its settings put there."""
    ours = {*RUN_ENV_KEYS, "TEST_ADMIN_DATABASE_URL", "DJANGO_SETTINGS_MODULE", "LOG_LEVEL", "ALLOWED_HOSTS"}
    return {key: value for key, value in os.environ.items() if key not in ours}


def command(name: str, *, stays: bool) -> str:
    """The text of a stand-in command that ends at once, or stays until SIGTERM."""
    return dedent(COMMAND).replace("STAYS", str(stays)).replace("NAME", name)


def write(path: Path, text: str) -> None:
    """Write a source file that is indented in this one."""
    path.write_text(dedent(text))
