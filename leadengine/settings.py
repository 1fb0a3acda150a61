"""Every setting, read from the environment here and nowhere else (docs/reference/settings.md lists them).

Order: the environment, then `.env`, then `<data-dir>/run.env` that `manage.py up` wrote. A wrong value stops the
start-up with one sentence that names the variable.
"""

from __future__ import annotations

import datetime
import os
import re
import secrets
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import environ

from leadengine.errors import ConfigurationError

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("LEADENGINE_DATA_DIR") or BASE_DIR / ".data").resolve()

_given = "DATABASE_URL" in os.environ
for _file in (BASE_DIR / ".env", DATA_DIR / "run.env"):
    if _file.is_file():
        _before = set(os.environ)
        environ.Env.read_env(str(_file), overwrite=False)
        if _given and _file.name == "run.env":
            # Somebody else's database: the embedded server's other roles have no business there.
            for _name in ("ADMIN_DATABASE_URL", "DATABASE_BACKUP_URL"):
                if _name not in _before:
                    os.environ.pop(_name, None)


# Every name that is read, with its text: what a configuration snapshot lists.
SETTINGS_READ = {"LEADENGINE_DATA_DIR": str(DATA_DIR)}


def text(name: str, default: str = "") -> str:
    SETTINGS_READ[name] = os.environ.get(name, "").strip()
    return SETTINGS_READ[name] or default


def flag(name: str, default: bool) -> bool:
    word = text(name).lower()
    if not word:
        return default
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ConfigurationError(f"{name} must be true or false, not {word!r}: correct it and start again.")


def number(name: str, default: int, *, least: int = 0) -> int:
    word = text(name)
    if not word:
        return default
    if not word.lstrip("-").isdigit() or int(word) < least:
        raise ConfigurationError(f"{name} must be a whole number of at least {least}, not {word!r}.")
    return int(word)


def clock(name: str, default: str) -> datetime.time:
    word = text(name, default)
    try:
        return datetime.time.fromisoformat(word)
    except ValueError:
        raise ConfigurationError(f"{name} must be a time of day such as 03:30, not {word!r}.") from None


def words(name: str, default: str = "") -> list[str]:
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def numbers(name: str, default: str) -> list[int]:
    found = words(name, default)
    if not all(word.isdigit() for word in found):
        raise ConfigurationError(f"{name} must be whole numbers with commas between them, such as {default}.")
    return [int(word) for word in found]


def paces(name: str) -> dict[str, int]:
    """`id:n,id2:n`: a whole number for each name."""
    pairs = [word.rpartition(":") for word in words(name)]
    if not all(key and figure.isdigit() and int(figure) for key, _, figure in pairs):
        raise ConfigurationError(f"{name} must be `id:n,id2:n` with whole numbers of at least 1: correct it.")
    return {key: int(figure) for key, _, figure in pairs}


# --- What must not be set -------------------------------------------------------------------------------------
if "WHATSAPP_MODE" in os.environ:
    raise ConfigurationError(
        "WHATSAPP_MODE is set, but the WhatsApp transport is HTTP only: remove the variable and start again."
    )
if any(name.startswith("WHATSAPP_SESSION_STORE_") for name in os.environ):
    warnings.warn("WHATSAPP_SESSION_STORE_* belongs to the removed sidecar and is not used: remove it.", stacklevel=1)

# --- Process --------------------------------------------------------------------------------------------------
# What this process is for: web, worker, sender, beat, simulator, command. Set by `up`, compose and systemd.
PROCESS = text("LEADENGINE_PROCESS", "command")
SERVING = PROCESS in {"web", "worker", "sender", "beat"}
# The environment's DEBUG means development: simulator allowed, plain-HTTP cookies, readable logs. Django's own
# DEBUG stays off: its error pages and query log would show secrets and grow without end.
DEVELOPMENT = flag("DEBUG", default=False)
DEBUG = False
LOG_LEVEL = text("LOG_LEVEL", "info").upper()
LOG_FORMAT = text("LOG_FORMAT", "console" if DEVELOPMENT else "json")

# --- Security -------------------------------------------------------------------------------------------------
SECRET_KEY = text("SECRET_KEY")
if not SECRET_KEY:
    if SERVING:
        raise ConfigurationError("SECRET_KEY is not set: set it to 50 or more random characters.")
    SECRET_KEY = secrets.token_urlsafe(50)
elif len(SECRET_KEY) < 32 and not DEVELOPMENT:
    raise ConfigurationError("SECRET_KEY is too short: set it to 50 or more random characters.")

PUBLIC_BASE_URL = text("PUBLIC_BASE_URL", "http://127.0.0.1:8000").rstrip("/")
_public = urlsplit(PUBLIC_BASE_URL)
_https = _public.scheme == "https"
ALLOWED_HOSTS = words("ALLOWED_HOSTS") or ["127.0.0.1", "localhost", "[::1]", _public.hostname or "localhost"]
CSRF_TRUSTED_ORIGINS = [PUBLIC_BASE_URL]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = number("SESSION_REMEMBER_DAYS", 30, least=1) * 86_400
SESSION_HOURS = number("SESSION_HOURS", 12, least=1)
SECURE_SSL_REDIRECT = flag("SECURE_SSL_REDIRECT", default=True) and _https
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if flag("TRUST_PROXY_TLS", default=False) else None
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS: list[str] = []
AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/inbox/"
LOGIN_MAX_FAILURES = number("LOGIN_MAX_FAILURES", 5, least=1)
LOGIN_LOCK_MINUTES = number("LOGIN_LOCK_MINUTES", 15, least=1)
API_TOKEN_TTL_HOURS = number("API_TOKEN_TTL_HOURS", 24, least=1)
# Argon2id with OWASP's least parameters (19 MiB, 2 passes): about 25 ms, so that provisioning many users takes seconds.
PASSWORD_HASHERS = ["leadengine.accounts.hashers.Argon2", "django.contrib.auth.hashers.PBKDF2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# --- Apps -----------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "leadengine.admin_site.BackOfficeConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "django_htmx",
    "django_prometheus",
    "leadengine.realtime",
    "leadengine.accounts",
    "leadengine.webhooks",
    "leads",
    "tickets",
    "whatsapp",
    "leadengine.operations",
    "leadengine.embedded",
]
MIDDLEWARE = [
    "leadengine.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "leadengine.middleware.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "leadengine.accounts.middleware.AccountMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "leadengine.middleware.MeasureMiddleware",  # synchronous on purpose: see its docstring
]
ROOT_URLCONF = "leadengine.urls"
ASGI_APPLICATION = "leadengine.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "leadengine" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "leadengine.accounts.context.page",
            ],
        },
    }
]

# --- Database -------------------------------------------------------------------------------------------------
DATABASE_URL = text("DATABASE_URL")  # role leadengine_app: every process
ADMIN_DATABASE_URL = text("ADMIN_DATABASE_URL")  # role leadengine_owner: migrations only
DATABASE_BACKUP_URL = text("DATABASE_BACKUP_URL")
RLS_STRICT = flag("RLS_STRICT", default=False)
if SERVING and not DATABASE_URL:
    raise ConfigurationError("DATABASE_URL is not set: set it, or start everything with `python3 manage.py up`.")


def database(url: str) -> dict[str, Any]:
    if urlsplit(url).scheme not in {"postgres", "postgresql", "psql"}:
        raise ConfigurationError("DATABASE_URL must be a postgres:// address: only PostgreSQL 15 or newer works.")
    return {
        **environ.Env.db_url_config(url),
        "CONN_HEALTH_CHECKS": True,
        "DISABLE_SERVER_SIDE_CURSORS": True,  # PgBouncer in transaction mode
        "TEST": {"MIRROR": None},
    }


DATABASES: dict[str, dict[str, Any]] = {}
if DATABASE_URL:
    DATABASES["default"] = database(DATABASE_URL)
    if PROCESS in {"web", "sender"}:
        # ASGI runs each request in a thread of its own: persistent connections would leak one per thread.
        DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 2, "max_size": 24, "timeout": 10}}
    else:
        DATABASES["default"]["CONN_MAX_AGE"] = None
if ADMIN_DATABASE_URL:
    DATABASES["owner"] = database(ADMIN_DATABASE_URL)

# --- Backups ----------------------------------------------------------------------------------------------------
BACKUP_DIR = Path(text("BACKUP_DIR") or DATA_DIR / "backups")
BACKUP_KEEP_DAYS = number("BACKUP_KEEP_DAYS", 7, least=1)
BACKUP_PASSPHRASE_FILE = text("BACKUP_PASSPHRASE_FILE")
PG_BIN_DIR = text("PG_BIN_DIR")

# --- Redis, channel layer, Celery -----------------------------------------------------------------------------
REDIS_URL = text("REDIS_URL")
if SERVING and not REDIS_URL:
    raise ConfigurationError("REDIS_URL is not set: set it, or start everything with `python3 manage.py up`.")
CHANNEL_REDIS_URLS = words("CHANNEL_REDIS_URLS") or ([REDIS_URL] if REDIS_URL else [])
CHANNEL_LAYERS = {
    "default": {"BACKEND": "leadengine.realtime.layer.PublishingLayer", "CONFIG": {"urls": CHANNEL_REDIS_URLS}}
}
RABBITMQ_URL = text("RABBITMQ_URL")
CELERY_BROKER_URL = text("CELERY_BROKER_URL") or RABBITMQ_URL or REDIS_URL or "memory://"
WORKER_COUNT = number("RABBITMQ_WORKER_COUNT", 2, least=1)

# --- WhatsApp: the broker -------------------------------------------------------------------------------------
WHATSAPP_BROKER_URL = text("WHATSAPP_BROKER_URL").rstrip("/")
WHATSAPP_BROKER_API_KEY = words("WHATSAPP_BROKER_API_KEY")
WHATSAPP_BROKER_ADAPTER = text("WHATSAPP_BROKER_ADAPTER", "baileys_http")
if WHATSAPP_BROKER_ADAPTER != "baileys_http" and "." not in WHATSAPP_BROKER_ADAPTER:
    raise ConfigurationError(
        f"WHATSAPP_BROKER_ADAPTER names no adapter: {WHATSAPP_BROKER_ADAPTER!r}; use baileys_http, or a dotted path."
    )
WHATSAPP_BROKER_TIMEOUT_MS = number("WHATSAPP_BROKER_TIMEOUT_MS", 15_000, least=1000)
WHATSAPP_BROKER_SEND_TIMEOUT_MS = number("WHATSAPP_BROKER_SEND_TIMEOUT_MS", 60_000)
if WHATSAPP_BROKER_SEND_TIMEOUT_MS < 60_000:
    raise ConfigurationError(
        "WHATSAPP_BROKER_SEND_TIMEOUT_MS must be at least 60000: a broker may type for 28 seconds before it answers."
    )
WHATSAPP_BROKER_SEND_ROUTE = text("WHATSAPP_BROKER_SEND_ROUTE", "auto")
if WHATSAPP_BROKER_SEND_ROUTE not in {"auto", "send-text"}:
    raise ConfigurationError("WHATSAPP_BROKER_SEND_ROUTE must be auto or send-text.")

# --- WhatsApp: the webhook ------------------------------------------------------------------------------------
WHATSAPP_WEBHOOK_API_KEY = words("WHATSAPP_WEBHOOK_API_KEY") or WHATSAPP_BROKER_API_KEY
WHATSAPP_WEBHOOK_HMAC_SECRET = words("WHATSAPP_WEBHOOK_HMAC_SECRET") or (
    WHATSAPP_BROKER_API_KEY + words("WHATSAPP_WEBHOOK_API_KEY")
)
WHATSAPP_WEBHOOK_SECRET_SHARED = not words("WHATSAPP_WEBHOOK_HMAC_SECRET")
WHATSAPP_WEBHOOK_VERIFY_TOKEN = text("WHATSAPP_WEBHOOK_VERIFY_TOKEN")
WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE = flag("WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE", default=False)
WHATSAPP_WEBHOOK_MAX_BODY_BYTES = number("WHATSAPP_WEBHOOK_MAX_BODY_BYTES", 20_971_520, least=1024)
WHATSAPP_WEBHOOK_UNAUTH_PER_MINUTE = number("WHATSAPP_WEBHOOK_UNAUTH_PER_MINUTE", 60, least=1)
WHATSAPP_RAW_FALLBACK_ENABLED = flag("WHATSAPP_RAW_FALLBACK_ENABLED", default=True)
WHATSAPP_DEFAULT_INSTANCE_ID = text("WHATSAPP_DEFAULT_INSTANCE_ID")
WHATSAPP_TWIN_GRACE_SECONDS = number("WHATSAPP_TWIN_GRACE_SECONDS", 300)
WHATSAPP_GAP_FILL_SECONDS = number("WHATSAPP_GAP_FILL_SECONDS", 60, least=1)
WHATSAPP_WEBHOOK_RAW_RETENTION_DAYS = number("WHATSAPP_WEBHOOK_RAW_RETENTION_DAYS", 30, least=1)
_KNOWN_DEFAULTS = {"change-me", "changeme", "your-api-key", "secret", "default", "test", "baileys", "minha-chave"}
for _name in ("WHATSAPP_WEBHOOK_API_KEY", "WHATSAPP_BROKER_API_KEY", "WHATSAPP_WEBHOOK_HMAC_SECRET", "API_KEY"):
    if _KNOWN_DEFAULTS.intersection(word.lower() for word in words(_name)):
        raise ConfigurationError(f"{_name} holds a well-known default value: set a random one.")

# --- WhatsApp: connections --------------------------------------------------------------------------------------
WHATSAPP_AUTO_RECONNECT = flag("WHATSAPP_AUTO_RECONNECT", default=True)
WHATSAPP_RECONNECT_INTERVAL = number("WHATSAPP_RECONNECT_INTERVAL", 5, least=1)
WHATSAPP_RECONNECT_MAX_SECONDS = number("WHATSAPP_RECONNECT_MAX_SECONDS", 300, least=5)
WHATSAPP_RECOVERY_DEADLINE_SECONDS = number("WHATSAPP_RECOVERY_DEADLINE_SECONDS", 30, least=1)
WHATSAPP_RECOVERY_PARALLEL = number("WHATSAPP_RECOVERY_PARALLEL", 8, least=1)
WHATSAPP_MAX_CONNECTIONS_PER_OWNER = number("WHATSAPP_MAX_CONNECTIONS_PER_OWNER", 5)
WHATSAPP_QR_VIEW_SECONDS = number("WHATSAPP_QR_VIEW_SECONDS", 90, least=1)
WHATSAPP_IDLE_REAUTH_DAYS = number("WHATSAPP_IDLE_REAUTH_DAYS", 14, least=1)
SESSION_ACTION_TIMEOUT_MS = number("SESSION_ACTION_TIMEOUT_MS", 5000, least=100)
SESSION_DELETE_GRACE_DAYS = number("SESSION_DELETE_GRACE_DAYS", 30)
PERSISTENCE_RETRY_DELAYS_MS = numbers("PERSISTENCE_RETRY_DELAYS_MS", "200,1000,5000")
PERSISTENCE_JOURNAL_DIR = Path(text("PERSISTENCE_JOURNAL_DIR") or DATA_DIR / "journal")
PERSISTENCE_LOG_FILE = text("PERSISTENCE_LOG_FILE")
if PERSISTENCE_LOG_FILE and not os.access(Path(PERSISTENCE_LOG_FILE).parent, os.W_OK):
    raise ConfigurationError("PERSISTENCE_LOG_FILE is in a directory that we may not write to: correct it.")
BAILEYS_SIMPLE_DEV_OWNER = text("BAILEYS_SIMPLE_DEV_OWNER")
if BAILEYS_SIMPLE_DEV_OWNER and not DEVELOPMENT:
    raise ConfigurationError("BAILEYS_SIMPLE_DEV_OWNER lets callers in without a key: remove it, or set DEBUG=true.")

# --- WhatsApp: files of messages --------------------------------------------------------------------------------
WHATSAPP_MEDIA_HOST = text("WHATSAPP_MEDIA_HOST", "https://mmg.whatsapp.net").rstrip("/")
WHATSAPP_MEDIA_ALLOWED_HOSTS = [word.lower() for word in words("WHATSAPP_MEDIA_ALLOWED_HOSTS")]
WHATSAPP_MEDIA_MAX_BYTES = number("WHATSAPP_MEDIA_MAX_BYTES", 104_857_600, least=1024)
WHATSAPP_MEDIA_SIGNED_URL_TTL_SECONDS = number("WHATSAPP_MEDIA_SIGNED_URL_TTL_SECONDS", 900, least=1)

# --- Sending --------------------------------------------------------------------------------------------------
OUTBOUND_TPS_DEFAULT = number("OUTBOUND_TPS_DEFAULT", 5, least=1)
OUTBOUND_TPS_BY_INSTANCE = paces("OUTBOUND_TPS_BY_INSTANCE")
OUTBOUND_CONCURRENCY_PER_SESSION = number("OUTBOUND_CONCURRENCY_PER_SESSION", 4, least=1)
OUTBOUND_MAX_ATTEMPTS = number("OUTBOUND_MAX_ATTEMPTS", 12, least=1)
OUTBOUND_MAX_AGE_SECONDS = number("OUTBOUND_MAX_AGE_SECONDS", 21_600, least=60)
OUTBOUND_SCHEDULE_MAX_LATE_SECONDS = number("OUTBOUND_SCHEDULE_MAX_LATE_SECONDS", 3600, least=60)
OUTBOUND_REQUIRE_IDEMPOTENCY_KEY = flag("OUTBOUND_REQUIRE_IDEMPOTENCY_KEY", default=False)
OUTBOUND_MEDIA_ALLOW_PRIVATE = flag("OUTBOUND_MEDIA_ALLOW_PRIVATE", default=False)
REDIS_RATE_LIMIT_RPM = number("REDIS_RATE_LIMIT_RPM", 60)
WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES = number("WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES", 5, least=1)
WHATSAPP_OUTBOUND_CIRCUIT_WINDOW_MS = number("WHATSAPP_OUTBOUND_CIRCUIT_WINDOW_MS", 60_000, least=1000)
WHATSAPP_OUTBOUND_CIRCUIT_COOLDOWN_MS = number("WHATSAPP_OUTBOUND_CIRCUIT_COOLDOWN_MS", 120_000, least=100)
TICKETS_TRANSPORTS = {"WHATSAPP": "whatsapp.transport.BrokerTransport"}

# --- Uploads ------------------------------------------------------------------------------------------------------
UPLOAD_MAX_BYTES = {
    "image": number("UPLOAD_MAX_BYTES_IMAGE", 5_242_880, least=1024),
    "audio": number("UPLOAD_MAX_BYTES_AUDIO", 16_777_216, least=1024),
    "video": number("UPLOAD_MAX_BYTES_VIDEO", 16_777_216, least=1024),
    "document": number("UPLOAD_MAX_BYTES_DOCUMENT", 16_777_216, least=1024),
}
UPLOAD_UNUSED_TTL_HOURS = number("UPLOAD_UNUSED_TTL_HOURS", 24, least=1)
CLAMAV_URL = text("CLAMAV_URL")
if CLAMAV_URL and not re.fullmatch(r"tcp://[^/:@\s]+:\d{1,5}", CLAMAV_URL):
    raise ConfigurationError("CLAMAV_URL must be tcp://host:port of a clamd: correct it, or remove it.")

# --- Outgoing webhooks --------------------------------------------------------------------------------------------
WEBHOOK_ALLOW_PRIVATE = flag("WEBHOOK_ALLOW_PRIVATE", default=False)
EVENT_OUTLETS = ["leadengine.webhooks.outlet.WebhookOutlet"]

# --- Contacts -------------------------------------------------------------------------------------------------
CONTACT_MERGE_UNDO_DAYS = number("CONTACT_MERGE_UNDO_DAYS", 30)
CONTACT_FOLLOWERS = ["tickets.services.following.TicketFollower"]

# --- Tickets --------------------------------------------------------------------------------------------------
TIMELINE_RECONCILE_AT = clock("TIMELINE_RECONCILE_AT", "03:30")
TIMELINE_RECONCILE_SINCE_HOURS = number("TIMELINE_RECONCILE_SINCE_HOURS", 48, least=1)

# --- Realtime -------------------------------------------------------------------------------------------------
REALTIME_ALLOWED_ORIGINS = words("REALTIME_ALLOWED_ORIGINS") or [PUBLIC_BASE_URL]
REALTIME_GATE = "tickets.gate.SocketGate"
REALTIME_HEARTBEAT_SECONDS = number("REALTIME_HEARTBEAT_SECONDS", 25, least=1)
REALTIME_MAX_SOCKETS_PER_USER = number("REALTIME_MAX_SOCKETS_PER_USER", 10, least=1)
REALTIME_MAX_FRAMES_PER_10S = number("REALTIME_MAX_FRAMES_PER_10S", 40, least=1)

# --- API ------------------------------------------------------------------------------------------------------
API_KEY = words("API_KEY")
if not DEVELOPMENT and any(len(_key) < 32 for _key in API_KEY):
    raise ConfigurationError("API_KEY is short: set 32 random characters or more, as `openssl rand -hex 32` makes.")
API_KEY_TENANT = text("API_KEY_TENANT")
REST_FRAMEWORK = {
    "EXCEPTION_HANDLER": "leadengine.envelope.handle_exception",
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "leadengine.accounts.authentication.TokenAuthentication",
        "leadengine.accounts.authentication.CookieAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "LeadEngine",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",  # pydantic writes JSON Schema, which 3.0 is not
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576

# --- Metrics --------------------------------------------------------------------------------------------------
METRICS_TOKEN = text("METRICS_TOKEN")
METRICS_ALLOWED_CIDRS = words("METRICS_ALLOWED_CIDRS", "127.0.0.0/8,::1/128")
METRICS_MAX_INSTANCES = number("METRICS_MAX_INSTANCES", 500, least=1)

# --- Language, time, files ------------------------------------------------------------------------------------
LANGUAGE_CODE = "pt-br"
LANGUAGES = [("pt-br", "Português"), ("en", "English")]
LOCALE_PATHS = [BASE_DIR / "leadengine" / "locale"]
TIME_ZONE = "America/Sao_Paulo"
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = Path(text("STATIC_ROOT") or DATA_DIR / "static")
STATICFILES_DIRS = [BASE_DIR / "leadengine" / "static"]
MEDIA_STORAGE_URL = text("MEDIA_STORAGE_URL") or f"file://{DATA_DIR}/media"


def media_storage(url: str) -> dict[str, Any]:
    """`file:///directory`, or `s3://key:secret@endpoint/bucket?region=&tls=false`."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.strip("/"):
        options = {"location": parts.path, "allow_overwrite": True, "file_permissions_mode": 0o640}
        return {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": options}
    bucket, query = parts.path.strip("/"), dict(parse_qsl(parts.query))
    if parts.scheme != "s3" or not (parts.hostname and bucket and parts.username and parts.password):
        raise ConfigurationError(
            "MEDIA_STORAGE_URL must be file:///directory or s3://key:secret@endpoint/bucket?region=name."
        )
    from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]  # only where there is a bucket
    from botocore.config import Config

    scheme = "http" if query.get("tls") == "false" else "https"
    options = {
        "access_key": unquote(parts.username),
        "secret_key": unquote(parts.password),
        "endpoint_url": f"{scheme}://{parts.netloc.rpartition('@')[2]}",
        "bucket_name": bucket,
        "region_name": query.get("region") or "us-east-1",
        "default_acl": None,
        # In parts, a file would stand in memory, several parts of it at once.
        "transfer_config": TransferConfig(multipart_threshold=1_073_741_824, use_threads=False),
        "client_config": Config(
            s3={"addressing_style": "path"},
            signature_version="s3v4",
            connect_timeout=5,
            read_timeout=30,
            # Stores that only resemble Amazon's know no trailing checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    }
    return {"BACKEND": "whatsapp.media.bucket.BucketStorage", "OPTIONS": options}


STORAGES = {
    "media": media_storage(MEDIA_STORAGE_URL),
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if (STATIC_ROOT / "staticfiles.json").is_file() or "collectstatic" in sys.argv
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}

# --- Logging --------------------------------------------------------------------------------------------------
LOGGING_CONFIG = "leadengine.logging.configure"
LOGGING = {
    "level": LOG_LEVEL,
    "form": LOG_FORMAT,
    "stream": "stdout" if SERVING else "stderr",  # what a command prints, programs read
    "persistence_file": PERSISTENCE_LOG_FILE,
}

# --- Back office ----------------------------------------------------------------------------------------------
_NAVIGATION = "leadengine.admin_site.navigation"
UNFOLD = {
    "SITE_TITLE": "LeadEngine",
    "SITE_HEADER": "LeadEngine",
    "SITE_SUBHEADER": f"{_NAVIGATION}.subheader",
    "SITE_DROPDOWN": f"{_NAVIGATION}.tenant_choices",
    "SITE_ICON": f"{_NAVIGATION}.icon",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": f"{_NAVIGATION}.icon"}],
    "SITE_URL": None,
    "THEME": f"{_NAVIGATION}.theme",
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_HISTORY": False,
    "DASHBOARD_CALLBACK": "leadengine.operations.dashboard.show",
    "STYLES": [f"{_NAVIGATION}.stylesheet"],
    "ACCOUNT": {"navigation": f"{_NAVIGATION}.account_links"},
    "SIDEBAR": {"navigation": f"{_NAVIGATION}.sidebar"},
    "TABS": f"{_NAVIGATION}.tabs",
    "BORDER_RADIUS": "8px",
    # The tokens of spec/inbox.md section 3: base is panel to surface, primary the brand in both themes.
    "COLORS": {
        "base": {
            "50": "#F6F8FA", "100": "#EDF1F5", "200": "#E3E8EE", "300": "#CAD3DC", "400": "#93A1B0", "500": "#5B6875",
            "600": "#45515D", "700": "#334150", "800": "#253240", "900": "#0F1720", "950": "#0A1118",
        },
        "primary": {
            "50": "#EDF8F3", "100": "#D9F0E5", "200": "#B4E2CD", "300": "#7FCFAE", "400": "#34C48D", "500": "#34C48D",
            "600": "#0B6E4F", "700": "#095C42", "800": "#084B37", "900": "#073B2B", "950": "#04231A",
        },
    },
}  # fmt: skip
