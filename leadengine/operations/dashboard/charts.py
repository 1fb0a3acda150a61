"""Charts as plain SVG: no script, no inline style. Colours are classes of admin.css, or attributes for a row's own.

A figure is drawn in its own units and scaled by the page; every value has a <title> that shows on hover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

_TOP, _FOOT, _LEFT = 24, 26, 44
_ROW = (
    '<text class="le-name" x="0" y="{0}">{1}</text><text class="le-total" x="{2}" y="{0}" text-anchor="end">{3}</text>'
    '<rect class="le-track" x="0" y="{4}" width="{2}" height="8" rx="4"/>'
)
_BAR = '<rect class="le-bar {}"{} x="{}" y="{}" width="{}" height="8" rx="{}"><title>{}</title></rect>'


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar: its value, how it is filled (a class, or a colour with #) and what hovering says."""

    value: float
    fill: str
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """A horizontal bar with its name and the number at its end."""

    name: str
    parts: Sequence[Part]
    total: str


@dataclass(frozen=True, slots=True)
class Column:
    """A place on the horizontal axis: its label (may be blank), its bars or its two points, and its hover text."""

    label: str
    values: Sequence[float | None]
    title: str


def draw_columns(columns: Sequence[Column], fills: Sequence[str], *, width: int, height: int, unit: str) -> SafeString:
    """Bars side by side over a time axis; `unit` names the vertical axis."""
    most, ticks = _scale([value or 0 for column in columns for value in column.values])
    step = (width - _LEFT - 8) / max(1, len(columns))
    bar = max(3.0, min(14.0, step * 0.72 / len(fills)))
    ground, reach = height - _FOOT, height - _FOOT - _TOP
    marks = []
    for place, column in enumerate(columns):
        left = _LEFT + place * step
        start = left + (step - bar * len(fills)) / 2
        bars = [
            format_html(
                '<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="2"/>',
                fill, _n(start + bar * n + 0.5), _n(ground - tall), _n(bar - 1), _n(tall),
            )
            for n, (fill, value) in enumerate(zip(fills, column.values, strict=True))
            if (tall := (value or 0) / most * reach) > 0
        ]  # fmt: skip
        marks.append(_mark(left, step, height, column, _joined(bars)))
    return _figure(width, height, _grid(ticks, most, width, height, unit), _joined(marks))


def draw_ranges(
    columns: Sequence[Column], fills: tuple[str, str], *, width: int, height: int, unit: str, label: dict[float, str]
) -> SafeString:
    """For each place a lower and an upper point joined by a band. `label` words the ticks of `scale_time`."""
    most, ground, reach = max(label), height - _FOOT, height - _FOOT - _TOP
    step = (width - _LEFT - 8) / max(1, len(columns))
    marks = []
    for place, column in enumerate(columns):
        left = _LEFT + place * step
        low, high = column.values
        drawn = SafeString("")
        if low is not None and high is not None:
            x, bottom, top = _n(left + step / 2), _n(ground - low / most * reach), _n(ground - high / most * reach)
            drawn = format_html(
                '<line class="le-band" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
                '<circle class="{3}" cx="{0}" cy="{1}" r="5"/><circle class="{4}" cx="{0}" cy="{2}" r="5"/>',
                x, bottom, top, *fills,
            )  # fmt: skip
        marks.append(_mark(left, step, height, column, drawn))
    return _figure(width, height, _grid(label, most, width, height, unit), _joined(marks))


def draw_rows(rows: Sequence[Row], *, width: int) -> SafeString:
    """Horizontal bars under their names."""
    most = max([sum(part.value for part in row.parts) for row in rows] or [1]) or 1
    pitch, drawn = 40, []
    for place, row in enumerate(rows):
        y, x = place * pitch, 0.0
        words = (y + 14, row.name, width, row.total, y + 21)
        drawn.append(format_html(_ROW, *words))
        for part in row.parts:
            if not part.value:
                continue
            long, radius = part.value / most * width, 4 if len(row.parts) == 1 else 1
            fill, colour = ("", part.fill) if part.fill.startswith("#") else (part.fill, "")
            own = format_html(' fill="{}"', colour) if colour else ""
            drawn.append(format_html(_BAR, fill, own, _n(x), y + 21, _n(max(3, long)), radius, part.title))
            x += long
    return _figure(width, max(1, len(rows)) * pitch - 4, SafeString(""), _joined(drawn))


def scale_time(most_seconds: float) -> list[float]:
    """Even steps of a duration that people read easily, from 0 to just over the highest value."""
    steps = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800]
    return _steps(most_seconds, [*steps, 86_400 * (int(most_seconds) // 345_600 + 1)])


def _scale(values: Sequence[float]) -> tuple[float, dict[float, str]]:
    """The top of an axis of counts and its ticks."""
    ticks = _steps(max([*values, 4]), [digit * 10**power for power in range(9) for digit in (1, 2, 5)])
    return ticks[-1], {tick: f"{tick:.0f}" for tick in ticks}


def _steps(most: float, steps: Sequence[int]) -> list[float]:
    """From 0 to the first multiple at or over `most`, in the smallest step that needs no more than five."""
    step = next((step for step in steps if step * 5 >= most), steps[-1])
    return [float(step * n) for n in range(max(1, ceil(most / step)) + 1)]


def _mark(left: float, step: float, height: int, column: Column, drawn: SafeString) -> SafeString:
    return format_html(
        '<g class="le-place"><title>{}</title><rect class="le-hit" x="{}" y="0" width="{}" height="{}"/>{}'
        '<text class="le-tick" x="{}" y="{}" text-anchor="middle">{}</text></g>',
        column.title, _n(left), _n(step), height - _FOOT, drawn, _n(left + step / 2), height - 8, column.label,
    )  # fmt: skip


def _grid(ticks: dict[float, str], most: float, width: int, height: int, unit: str) -> SafeString:
    ground, reach = height - _FOOT, height - _FOOT - _TOP
    lines = [
        (_n(ground - value / most * reach), _n(ground - value / most * reach + 4), word)
        for value, word in ticks.items()
    ]
    drawn = format_html_join(
        "",
        '<line class="le-grid" x1="{3}" x2="{4}" y1="{0}" y2="{0}"/>'
        '<text class="le-tick" x="{5}" y="{1}" text-anchor="end">{2}</text>',
        [(*line, _LEFT, width - 8, _LEFT - 8) for line in lines],
    )
    return format_html('{}<text class="le-unit" x="0" y="8">{}</text>', drawn, unit)


def _figure(width: int, height: int, *layers: SafeString) -> SafeString:
    return format_html(
        '<svg class="le-chart" viewBox="0 0 {} {}" role="img" focusable="false">{}</svg>',
        width, height, _joined(layers),
    )  # fmt: skip


def _joined(parts: Sequence[SafeString]) -> SafeString:
    return format_html_join("", "{}", [(part,) for part in parts])


def _n(value: float) -> str:
    """A coordinate with one decimal and a point, whatever the language of the page."""
    return f"{value:.1f}".removesuffix(".0")
