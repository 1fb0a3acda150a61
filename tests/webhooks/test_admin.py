"""Webhooks in the back office: shown to administrators without a secret, switched, tested, sent again."""

from __future__ import annotations

from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, user_scope
from leadengine.webhooks.models import Delivery, Endpoint
from leadengine.webhooks.services.delivering import deliver_due
from leadengine.webhooks.services.endpoints import switch_off
from leadengine.webhooks.services.replaying import send_test
from tests.admin_site.conftest import address
from tests.api import by_cookie
from tests.conftest import World
from tests.webhooks.receiver import Receiver, connect, deliveries, now_of

SENT = {"_form_submitted": "1"}


def test_an_administrator_switches_tests_and_sends_again(committed_world: World, receiver: Receiver) -> None:
    world = committed_world
    endpoint, secret = connect(world.admin, receiver.url, description="ERP")
    client = by_cookie(world.admin)
    assert client.post(address(Endpoint, endpoint, "send_test"), SENT).status_code == 302
    receiver.answer = lambda _: (500, {}, b"<b>away</b>")
    assert deliver_due() == 1
    (row,) = deliveries()
    page = client.get(address(Delivery, row)).content.decode()
    assert "&lt;b&gt;away&lt;/b&gt;" in page
    assert receiver.got[0].headers["webhook-signature"] in page
    for where in (address(Endpoint, endpoint), address(Endpoint)):
        text = client.get(where).content.decode()
        assert receiver.url in text
        assert now_of(endpoint).secret not in text
        assert secret not in text
    # What waits is on its way; what has ended can be sent again, alone or many at once.
    assert client.post(address(Delivery, row, "replay"), SENT).status_code == 403
    with service_scope("test"):
        Delivery.objects.update(status="DEAD", next_attempt_at=None)
    assert client.post(address(Delivery, row, "replay"), SENT).status_code == 302
    receiver.answer = lambda _: 200
    assert deliver_due() == 1
    chosen = {"action": "replay_selected", ACTION_CHECKBOX_NAME: [str(row.pk)]}
    assert client.post(address(Delivery), chosen).status_code == 302
    assert deliver_due() == 1
    assert receiver.ids() == [str(row.event_id)] * 3
    assert client.post(address(Endpoint, endpoint, "switch_off"), SENT).status_code == 302
    assert client.post(address(Endpoint, endpoint, "send_test"), SENT).status_code == 403
    client.post(address(Delivery), chosen)
    assert deliver_due() == 0, "nothing is replayed to one that is off"
    assert client.post(address(Endpoint, endpoint, "switch_on"), SENT).status_code == 302
    assert now_of(endpoint).enabled


def test_the_dashboard_tells_administrators_of_one_that_failed_too_often(world: World) -> None:
    endpoint, _ = connect(world.admin, "https://erp.example.test/")
    tile = f"{address(Endpoint)}?state=off"
    assert tile not in by_cookie(world.admin).get("/admin/").content.decode()
    with user_scope(world.admin):
        switch_off(endpoint_id=endpoint.pk, reason=Endpoint.Off.FAILING, now=timezone.now())
    assert tile in by_cookie(world.admin).get("/admin/").content.decode()
    for other in (world.supervisor, world.outsider):
        assert tile not in by_cookie(other).get("/admin/").content.decode()


def test_supervisors_and_others_do_not_see_them(world: World) -> None:
    endpoint, _ = connect(world.admin, "https://erp.example.test/")
    with user_scope(world.admin):
        delivery = send_test(actor=world.admin, endpoint=endpoint, now=timezone.now())
    for model, row in ((Endpoint, endpoint), (Delivery, delivery)):
        assert by_cookie(world.supervisor).get(address(model)).status_code == 403
        assert by_cookie(world.outsider).get(address(model, row)).status_code == 404
