"""Charts as plain SVG: no script, no inline style. Colours are classes of admin.css, or attributes for a row's own.

Across, a chart is drawn in percent, so it fills its card while its texts keep their size; every value has a <title>
that shows on hover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

_TOP, _FOOT, _PITCH = 24, 26, 40  # pixels: above the highest tick, below the ground line, from row to row
_ROW = (
    '<text class="le-name" x="0" y="{0}">{1}</text><text class="le-total" x="100%" y="{0}" text-anchor="end">{2}</text>'
    '<rect class="le-track" x="0" y="{3}" width="100%" height="8" rx="4"/>'
)
_BAR = '<rect class="le-bar {}"{} x="{}%" y="{}" width="{}%" height="8" rx="{}"><title>{}</title></rect>'
_COLUMN = '<rect class="{}" x="{}%" y="{}" width="{}%" height="{}" rx="2"/>'
_RANGE = (
    '<line class="le-band" x1="{0}%" x2="{0}%" y1="{1}" y2="{2}"/>'
    '<circle class="{3}" cx="{0}%" cy="{1}" r="5"/><circle class="{4}" cx="{0}%" cy="{2}" r="5"/>'
)
_PLACE = (
    '<g class="le-place"><title>{}</title><rect class="le-hit" x="{}%" y="0" width="{}%" height="{}"/>{}'
    '<text class="le-tick" x="{}%" y="{}" text-anchor="middle">{}</text></g>'
)
_TICK = (
    '<line class="le-grid" x1="{0}%" x2="100%" y1="{1}" y2="{1}"/>'
    '<text class="le-tick" x="{2}%" y="{3}" text-anchor="end">{4}</text>'
)


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
    """A place on the time axis: its label (may be blank), its values in the order of the fills, its hover text."""

    label: str
    values: Sequence[float | None]
    title: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The room of a chart with axes: height in pixels, the share of the width that the ticks take, in percent."""

    height: int
    margin: float
    ticks: Mapping[float, str]
    unit: str

    @property
    def ground(self) -> int:
        return self.height - _FOOT

    def y(self, value: float) -> float:
        """How far down a value lies."""
        return self.ground - value / max(self.ticks) * (self.ground - _TOP)


def draw_columns(columns: Sequence[Column], fills: Sequence[str], frame: Frame) -> SafeString:
    """Bars side by side over a time axis."""
    step = (100 - frame.margin) / max(1, len(columns))
    wide = step * 0.72 / len(fills)
    marks = []
    for place, column in enumerate(columns):
        left = frame.margin + place * step
        bars = [
            format_html(
                _COLUMN, fill, _n(left + step * 0.14 + wide * n), _n(frame.y(value)), _n(wide * 0.9),
                _n(frame.ground - frame.y(value)),
            )
            for n, (fill, value) in enumerate(zip(fills, column.values, strict=True))
            if value
        ]  # fmt: skip
        marks.append(_place(left, step, frame, column, _joined(bars)))
    return _figure(frame.height, _grid(frame), _joined(marks))


def draw_ranges(columns: Sequence[Column], fills: tuple[str, str], frame: Frame) -> SafeString:
    """For each place a lower and an upper point, joined by a band."""
    step = (100 - frame.margin) / max(1, len(columns))
    marks = []
    for place, column in enumerate(columns):
        left, (low, high) = frame.margin + place * step, column.values
        drawn = SafeString("")
        if low is not None and high is not None:
            drawn = format_html(_RANGE, _n(left + step / 2), _n(frame.y(low)), _n(frame.y(high)), *fills)
        marks.append(_place(left, step, frame, column, drawn))
    return _figure(frame.height, _grid(frame), _joined(marks))


def draw_rows(rows: Sequence[Row]) -> SafeString:
    """Horizontal bars under their names."""
    most = max([sum(part.value for part in row.parts) for row in rows] or [1]) or 1
    drawn = []
    for place, row in enumerate(rows):
        y, x = place * _PITCH, 0.0
        drawn.append(format_html(_ROW, y + 14, row.name, row.total, y + 21))
        for part in row.parts:
            if not part.value:
                continue
            long, radius = part.value / most * 100, 4 if len(row.parts) == 1 else 1
            fill, colour = ("", part.fill) if part.fill.startswith("#") else (part.fill, "")
            own = format_html(' fill="{}"', colour) if colour else ""
            drawn.append(format_html(_BAR, fill, own, _n(x), y + 21, _n(max(1, long)), radius, part.title))
            x += long
    return _figure(max(1, len(rows)) * _PITCH - 8, _joined(drawn))


def scale_time(most_seconds: float) -> list[float]:
    """Even steps of a duration that people read easily, from 0 to just over the highest value."""
    steps = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800]
    return _steps(most_seconds, [*steps, 86_400 * (int(most_seconds) // 345_600 + 1)])


def scale_count(most: float) -> list[float]:
    """Even steps of a count, from 0 to just over the highest value."""
    return _steps(max(most, 4), [digit * 10**power for power in range(9) for digit in (1, 2, 5)])


def _steps(most: float, steps: Sequence[int]) -> list[float]:
    """From 0 to the first multiple at or over `most`, in the smallest step that needs no more than five."""
    step = next((step for step in steps if step * 5 >= most), steps[-1])
    return [float(step * n) for n in range(max(1, ceil(most / step)) + 1)]


def _place(left: float, step: float, frame: Frame, column: Column, drawn: SafeString) -> SafeString:
    words = (_n(left + step / 2), frame.height - 8, column.label)
    return format_html(_PLACE, column.title, _n(left), _n(step), frame.ground, drawn, *words)


def _grid(frame: Frame) -> SafeString:
    rows = [
        (frame.margin, _n(frame.y(value)), frame.margin - 1, _n(frame.y(value) + 4), word)
        for value, word in frame.ticks.items()
    ]
    return format_html('{}<text class="le-unit" x="0" y="9">{}</text>', format_html_join("", _TICK, rows), frame.unit)


def _figure(height: int, *layers: SafeString) -> SafeString:
    return format_html(
        '<svg class="le-chart" width="100%" height="{}" role="img" focusable="false">{}</svg>', height, _joined(layers)
    )


def _joined(parts: Sequence[SafeString]) -> SafeString:
    return format_html_join("", "{}", [(part,) for part in parts])


def _n(value: float) -> str:
    """A coordinate with a point, whatever the language of the page."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
