"""GET /metrics: what all processes counted, gauges read from the database at the scrape, and this process itself.

django-prometheus' own view is not used: with several processes it drops gauges of our own and those of the process
(spec/operations.md section 2).
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, ProcessCollector, exposition

from leadengine import metrics as declared
from leadengine.accounts.authentication import token_of
from leadengine.operations.collectors import DatabaseCollector

FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via")
_gauges = DatabaseCollector()


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """The page in Prometheus' text format; 403 for whoever is neither near nor has the token.

    `?name[]=…`, any number of times, gives these samples only, as clients of Prometheus do elsewhere.
    """
    if not _may_read(request):
        return HttpResponse("Forbidden: use METRICS_TOKEN or METRICS_ALLOWED_CIDRS.\n", status=403)
    names = request.GET.getlist("name[]")
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(declared.everything(names))
    if declared.shared_directory():  # the process itself is in no file that processes share
        ProcessCollector(registry=registry)
    registry.register(_gauges)
    shown = registry.restricted_registry(names) if names else registry
    return HttpResponse(exposition.generate_latest(shown), content_type=exposition.CONTENT_TYPE_PLAIN_0_0_4)


def _may_read(request: HttpRequest) -> bool:
    sent = token_of(None, request.headers.get("Authorization"))
    if sent is not None and settings.METRICS_TOKEN:
        return hmac.compare_digest(sent.encode(), settings.METRICS_TOKEN.encode())
    # Behind a proxy every caller has the proxy's address: then only the token tells who may read.
    if any(name in request.headers for name in FORWARDING):
        return False
    peer = str(request.META.get("REMOTE_ADDR") or "")
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    return any(address in ip_network(each, strict=False) for each in settings.METRICS_ALLOWED_CIDRS)
