"""Loaded before Django (`-p tests.environment`): points the settings at the servers that `manage.py test` started."""

from __future__ import annotations

import os
import re
import sys
from urllib.parse import urlsplit

if "TEST_ADMIN_DATABASE_URL" not in os.environ:
    sys.exit("The tests need their own servers: run them with `python3 manage.py test [pytest arguments]`.")

SERVER = urlsplit(os.environ["TEST_ADMIN_DATABASE_URL"])
# Each of several pytest processes (xdist) has a database of its own in both servers.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
NAME = "_".join(filter(None, (os.environ.get("LEADENGINE_TEST_DB", "leadengine_test"), WORKER)))
PASSWORD = "only-for-tests"


def url(role: str, password: str = PASSWORD, name: str = NAME) -> str:
    """The address of a database on the test server."""
    return f"postgres://{role}:{password}@{SERVER.hostname}:{SERVER.port}/{name}"


os.environ.update(
    DJANGO_SETTINGS_MODULE="leadengine.settings",
    DATABASE_URL=url("leadengine_app"),
    ADMIN_DATABASE_URL=url("leadengine_owner"),
    REDIS_URL=re.sub(r"/\d+$", f"/{WORKER.removeprefix('gw') or 0}", os.environ["REDIS_URL"]),
    SECRET_KEY="tests-" + "x" * 50,
    DEBUG="true",
    LOG_LEVEL="warning",
    WHATSAPP_BROKER_URL="http://127.0.0.1:9",
    WHATSAPP_BROKER_API_KEY="broker-key-1",
    WHATSAPP_WEBHOOK_API_KEY="hook-key",
    WHATSAPP_WEBHOOK_HMAC_SECRET="broker-key-1",
    RLS_STRICT="true",
    # Pace and breaker have tests of their own; all others send as fast as they can.
    OUTBOUND_TPS_DEFAULT="10000",
    REDIS_RATE_LIMIT_RPM="0",
    WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES="10000",
    PUBLIC_BASE_URL="http://testserver",
    ALLOWED_HOSTS="testserver,127.0.0.1,localhost",
)
for unset in ("WHATSAPP_MODE", "API_KEY", "DATABASE_BACKUP_URL", "LEADENGINE_PROCESS"):
    os.environ.pop(unset, None)
