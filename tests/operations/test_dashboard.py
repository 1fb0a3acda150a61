"""The dashboard: its numbers are those of the lists they open, it asks little, and it is only SVG and words."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.operations.dashboard.charts import (
    Column,
    Frame,
    Part,
    Row,
    draw_columns,
    draw_rows,
    scale_count,
    scale_time,
)
from leadengine.operations.dashboard.figures import Figures, read_figures
from tests.admin_site.conftest import furnish
from tests.api import by_cookie
from tests.conftest import World
from tests.tickets.desk import arrive, give, phone
from tests.tickets.test_plans import filled, plans, scanned
from tickets.models import Message, Queue, Ticket
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving

__all__ = ["filled"]
QUERIES = 16  # nine statements of figures, two of dead letters and sessions, the rest finds the person and the scope


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def figures_of(world: World) -> Figures:
    with tenant_scope(world.ipe.pk), timezone.override("America/Sao_Paulo"):
        return read_figures(tenants=[world.ipe.pk], now=timezone.localtime())


@pytest.fixture
def busy(world: World) -> World:
    """A tenant with something behind every tile, and another tenant with as much that must not count."""
    now = timezone.now()
    for tenant in (world.ipe, world.cedro):
        furnish(world, tenant)
        for number in range(2, 8):
            arrive(world, "um", "dois", phone=phone(number), tenant=tenant, at=now - timedelta(seconds=number))
            arrive(world, "resposta", phone=phone(number), tenant=tenant, direction="OUTBOUND", at=now)
    with service_scope("test"), saving():
        User.objects.filter(pk__in=[world.agent.pk, world.outsider.pk]).update(availability="ONLINE")
        WhatsAppSession.objects.filter(pk=world.line.pk).update(desired_state="connected", status="error")
        doubtful = Message.objects.filter(tenant=world.ipe, direction="OUTBOUND").exclude(status="FAILED")[:2]
        Message.objects.filter(pk__in=[message.pk for message in doubtful]).update(status="UNCONFIRMED")
        Ticket.objects.filter(tenant=world.ipe, number=2).update(waiting_since=now - timedelta(minutes=40))
        Ticket.objects.filter(tenant=world.ipe, number=3).update(waiting_since=now - timedelta(minutes=1))
    return world


@pytest.mark.django_db
def test_each_tile_counts_what_its_list_shows(busy: World) -> None:
    client = by_cookie(busy.supervisor)
    page = client.get("/admin/").content.decode()
    tiles = re.findall(r'class="le-tile[^"]*" href="([^"]+)".*?le-tile-value">([^<]*)<', page, re.S)
    numbers = {where.replace("&amp;", "&"): int(value) for where, value in tiles if value.isdigit()}
    assert len(numbers) == 9
    for where, number in numbers.items():
        listed = client.get(where).context["cl"].result_list
        assert len(listed) == number, where
    assert sorted(numbers.values())[0] >= 1


@pytest.mark.django_db
def test_figures_of_a_tenant(busy: World) -> None:
    found = figures_of(busy)
    [queue] = found.queues
    assert (queue.live, queue.waiting, queue.late) == (7, 2, 1)
    assert (found.online, found.people, found.down, found.lines) == (1, 4, 1, 1)
    assert (found.today.received, found.today.sent, found.today.failed) == (13, 4, 1)
    assert sum(hour.received for hour in found.hours) == 13
    assert (found.causes, found.unconfirmed, found.dead) == ({"BROKER_ERROR": 1}, 2, 1)
    assert [stage for stage in found.stages if stage[2]] == [("Novo", "#175CD3", 7)]


@pytest.mark.django_db
def test_a_day_begins_in_the_zone_of_the_tenant(world: World) -> None:
    """23:30 in São Paulo is the next day in UTC: the message belongs to the local day."""
    arrive(world, "tarde", at=datetime(2026, 3, 11, 2, 30, tzinfo=UTC))
    with tenant_scope(world.ipe.pk), timezone.override("America/Sao_Paulo"):
        Ticket.objects.update(updated_at=timezone.now())
        Message.objects.update(sent_at=datetime(2026, 3, 11, 2, 30, tzinfo=UTC))
        that_night = timezone.localtime(datetime(2026, 3, 11, 2, 45, tzinfo=UTC))
        found = read_figures(tenants=[world.ipe.pk], now=that_night)
        assert (found.today.received, found.hours[-1].received, found.hours[-1].at.hour) == (1, 1, 23)
        morning = read_figures(tenants=[world.ipe.pk], now=that_night + timedelta(hours=8))
        assert (morning.today.received, sum(hour.received for hour in morning.hours)) == (0, 1)


@pytest.mark.django_db
def test_first_responses_by_day(world: World) -> None:
    now = timezone.now()
    for number, seconds in enumerate((60, 120, 600), 1):
        ticket = give(arrive(world, phone=phone(number)), world.agent)
        with tenant_scope(world.ipe.pk):
            Ticket.objects.filter(pk=ticket.pk).update(first_outbound_at=now, first_response_seconds=seconds)
    today = figures_of(world).answers[-1]
    assert (today.half, today.most, today.count) == (120, 504, 3)
    assert [day.count for day in figures_of(world).answers[:-1]] == [0] * 6


@pytest.mark.django_db
def test_dashboard_keeps_its_number_of_queries(busy: World) -> None:
    client = by_cookie(busy.supervisor)
    with CaptureQueriesContext(connection) as seen:
        assert client.get("/admin/").status_code == 200
    assert len(seen) == QUERIES


def test_dashboard_scans_no_table(filled: World) -> None:
    client = by_cookie(filled.supervisor)
    with plans() as found:
        assert client.get("/admin/").status_code == 200
    assert len(found) >= 3
    assert not scanned(found)


@pytest.mark.django_db
def test_dashboard_of_an_empty_tenant_is_calm(world: World) -> None:
    with service_scope("test"):
        Queue.objects.filter(tenant=world.cedro).delete()
    page = by_cookie(world.outsider).get("/admin/").content.decode()
    assert page.count("le-calm-state") == 5
    assert "le-tile-bad" not in page
    assert '<svg class="le-chart"' not in page


@pytest.mark.django_db
def test_superuser_sees_the_sum_or_one_tenant(busy: World) -> None:
    client = by_cookie(busy.superuser)
    live = re.compile(r'state=live">.*?le-tile-value">(\d+)<', re.S)
    assert live.findall(client.get("/admin/").content.decode()) == ["14"]
    client.get(f"/admin/tenant/?to={busy.ipe.pk}")
    assert live.findall(client.get("/admin/").content.decode()) == ["7"]


@pytest.mark.django_db
def test_our_part_of_the_page_has_no_script_and_no_inline_style(busy: World) -> None:
    text = by_cookie(busy.supervisor).get("/admin/").content.decode()
    ours = Page(text[text.index('<div class="le-board">') : text.index('id="modal-overlay"')]).tags
    assert [tag for tag, _ in ours].count("svg") == 5
    assert not [tag for tag, attributes in ours if tag in {"script", "style"} or "style" in attributes]
    assert not [name for _, attributes in ours for name in attributes if name.startswith("on")]
    assert text.count("<figure") == text.count("<figcaption") == 5
    assert text.count('<svg class="le-chart"') == text.count('<details class="le-data">')


# --- Charts ------------------------------------------------------------------------------------------------------


def test_every_column_and_bar_says_its_value() -> None:
    columns = [Column("08h", (3, 0), "08h: 3 recebidas, 0 enviadas"), Column("", (None, None), "nada")]
    drawn = draw_columns(columns, ("le-in", "le-out"), Frame(232, 5, {0: "0", 4: "4"}, "mensagens"))
    assert drawn.count("<title>") == 2
    assert drawn.count('class="le-in"') == 1
    assert 'class="le-out"' not in drawn
    assert "mensagens" in drawn
    rows = draw_rows([Row("Fila", (Part(2, "le-late", "Fila: 2"), Part(0, "le-soon", "Fila: 0")), "2")])
    assert rows.count("<title>") == 1
    assert 'width="100%" height="8"' in rows


def test_names_in_charts_are_text() -> None:
    drawn = draw_rows([Row("<b>&", (Part(1, '#fff"><script>', "<i>"),), "1")])
    assert "<b>" not in drawn
    assert "<script>" not in drawn
    assert "&lt;b&gt;&amp;" in drawn


@pytest.mark.parametrize(("most", "top"), [(0, 4), (4, 4), (21, 25), (99, 100), (101, 150), (3333, 4000)])
def test_scale_of_counts(most: float, top: float) -> None:
    ticks = scale_count(most)
    assert (ticks[0], ticks[-1]) == (0, top)
    assert 2 <= len(ticks) <= 6


@pytest.mark.parametrize("most", [0, 1, 59, 61, 3599, 7201, 86_401, 10_000_000])
def test_scale_of_durations(most: float) -> None:
    ticks = scale_time(most)
    assert ticks[-1] >= most
    assert 2 <= len(ticks) <= 6
