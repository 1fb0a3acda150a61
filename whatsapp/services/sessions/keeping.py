"""What is done once a day: sessions without traffic are flagged, deleted ones lose their personal fields."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F
from django.db.models.functions import Coalesce, Greatest

from leadengine.accounts.scopes import service_scope
from whatsapp.models import WhatsAppSession
from whatsapp.services.lines import announce_sessions
from whatsapp.services.persistence import persist

IDLE = "idle_14d"


def flag_idle_sessions(*, now: datetime) -> int:
    """Flag connected sessions without inbound, outbound or ack for WHATSAPP_IDLE_REAUTH_DAYS; returns how many are new.

    They stay connected; the flag goes with the next traffic's day.
    """
    since = now - timedelta(days=settings.WHATSAPP_IDLE_REAUTH_DAYS)

    def write() -> int:
        active = Greatest(
            Coalesce("last_activity_at", "connected_at", "created_at"), Coalesce("connected_at", "created_at")
        )
        connected = WhatsAppSession.objects.filter(status=WhatsAppSession.Status.CONNECTED, deleted_at=None)
        rows = connected.annotate(active_at=active)
        idle = list(rows.filter(active_at__lt=since, reauth_reason=None))
        over = list(rows.filter(active_at__gte=since, reauth_reason=IDLE))
        for sessions, reason in ((idle, IDLE), (over, None)):
            ids = [session.pk for session in sessions]
            WhatsAppSession.objects.filter(pk__in=ids).update(reauth_reason=reason, version=F("version") + 1)
            for session in sessions:
                announce_sessions(tenant_id=session.tenant_id, ids=[session.pk], change="status", now=now)
        return len(idle)

    return persist("session.settings", write, scope=lambda: service_scope("sessions without traffic"))


def scrub_deleted_sessions(*, now: datetime) -> int:
    """Clear what is personal of sessions deleted SESSION_DELETE_GRACE_DAYS ago; the rows stay as tombstones."""
    since = now - timedelta(days=settings.SESSION_DELETE_GRACE_DAYS)

    def write() -> int:
        old = WhatsAppSession.objects.filter(deleted_at__lt=since).exclude(phone_number=None, whatsapp_id=None)
        count: int = old.update(
            phone_number=None, whatsapp_id=None, whatsapp_info=None, profile_name=None, profile_pic=None, qr_code=None,
            qr_raw=None, version=F("version") + 1,
        )  # fmt: skip
        return count

    return persist("session.scrub", write, scope=lambda: service_scope("sessions deleted long ago"))
