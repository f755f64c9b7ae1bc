"""Plots as inline SVG: lines, bands and bars that need no script, no font and no second file.

Colours and widths are CSS classes of the page; a native tooltip says the numbers behind every place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

import numpy as np

from energy_cloud_dagster.domain.forecasting.series import Floats

LEFT: Final = 62.0
RIGHT: Final = 14.0
TOP: Final = 22.0
BOTTOM: Final = 24.0


@dataclass(frozen=True, eq=False)
class Line:
    """Points ``x, y`` of one length joined by a line, broken where ``y`` is NaN; ``style`` is a CSS class."""

    label: str
    x: Floats
    y: Floats
    style: str


@dataclass(frozen=True, eq=False)
class Band:
    """The area between ``low`` and ``high`` over ``x``, broken where either is NaN; ``style`` is a CSS class."""

    label: str
    x: Floats
    low: Floats
    high: Floats
    style: str


@dataclass(frozen=True)
class Tick:
    """A place on the x axis with its label; ``line`` draws a hair line up the plot."""

    x: float
    label: str
    line: bool = False


def number(value: float | None) -> str:
    """Return a figure for people: three or four digits that count, thousands apart, - for none."""
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    decimals = 1 if size >= 100 else 2 if size >= 1 else 3
    if 0 < size < 0.1:
        return f"{value:.2g}"
    return f"{value:.{decimals}f}"


def column(values: Sequence[float | None]) -> list[str]:
    """Return figures that stand below each other: all with the decimals that the middle one needs, - for none."""
    sizes = sorted(abs(value) for value in values if value is not None and math.isfinite(value))
    middle = sizes[(len(sizes) - 1) // 2] if sizes else 1.0
    decimals = min(max(2 - math.floor(math.log10(middle)), 0), 6) if middle > 0 else 2
    shown = ["-" if value is None or not math.isfinite(value) else f"{value:,.{decimals}f}" for value in values]
    zero = f"{0:.{decimals}f}"
    return [zero if each == f"-{zero}" else each for each in shown]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers that lie in ``[low, high]``."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else [0.0]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(place * step) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick_text(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else value
    decimals = next((count for count in range(7) if math.isclose(round(step, count), step, rel_tol=1e-6)), 7)
    return f"{value:,.{decimals}f}"


def _runs(known: Sequence[bool]) -> list[slice]:
    """Return the stretches of entries that are known."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.asarray(known, dtype=bool), [False]]).astype(np.int8)))
    return [slice(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


@dataclass(frozen=True, eq=False)
class _Scale:
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width: float
    height: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.y_high - value) / (self.y_high - self.y_low) * (self.height - TOP - BOTTOM)

    def points(self, xs: Floats, ys: Floats) -> str:
        return " ".join(f"{self.x(float(x)):.1f},{self.y(float(y)):.1f}" for x, y in zip(xs, ys, strict=True))


def room_for(values: Sequence[Floats], *, zero: bool = False, top: float | None = None) -> tuple[float, float]:
    """Return the ends of a y axis on which all ``values`` have room; ``zero`` is on it, ``top`` its least end."""
    everything = np.concatenate([np.empty(0), *values])
    everything = everything[np.isfinite(everything)]
    if not len(everything):
        return 0.0, 1.0
    low, high = float(everything.min()), float(everything.max())
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low = low if zero and low == 0 else low - room
    return low, (high + room if top is None else max(top, high))


def chart(
    what: str,
    lines: Sequence[Line],
    bands: Sequence[Band] = (),
    *,
    ticks: Sequence[Tick] = (),
    hints: Sequence[tuple[float, str]] = (),
    zero: bool = False,
    extent: tuple[float, float] | None = None,
    unit: str = "",
    width: float = 960.0,
    height: float = 300.0,
) -> str:
    """Return an SVG of ``bands`` under ``lines`` on shared axes; ``what`` describes it to who cannot see it.

    ``hints`` are tooltips at an x; the y axis spans ``extent`` where given, else what there is, from 0 on with
    ``zero``. Lines without a label are not in the legend.
    """
    x_low, x_high = _span([line.x for line in lines] + [band.x for band in bands])
    ys = [*(line.y for line in lines), *(each for band in bands for each in (band.low, band.high))]
    y_low, y_high = extent or room_for(ys, zero=zero)
    scale = _Scale(x_low, x_high, y_low, y_high, width, height)
    parts = [_frame(scale, unit, ticks)]
    for band in bands:
        for run in _runs(list(np.isfinite(band.low) & np.isfinite(band.high))):
            upper = scale.points(band.x[run], band.high[run])
            lower = scale.points(band.x[run][::-1], band.low[run][::-1])
            parts.append(f'<polygon class="{band.style}" points="{upper} {lower}"/>')
    for line in lines:
        for run in _runs(list(np.isfinite(line.y))):
            if run.stop - run.start == 1:
                place = float(line.x[run][0]), float(line.y[run][0])
                parts.append(
                    f'<circle class="{line.style}" r="1.5" cx="{scale.x(place[0]):.1f}" cy="{scale.y(place[1]):.1f}"/>'
                )
            else:
                parts.append(f'<polyline class="{line.style}" points="{scale.points(line.x[run], line.y[run])}"/>')
    parts.extend(_hints(scale, hints))
    key = _legend([(line.label, line.style) for line in lines] + [(band.label, band.style) for band in bands])
    return f"<figure>{key}{_svg(what, width, height, parts)}</figure>"


def _span(xs: Sequence[Floats]) -> tuple[float, float]:
    every = np.concatenate([np.empty(0), *xs])
    if not len(every):
        return 0.0, 1.0
    low, high = float(every.min()), float(every.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def bars(
    what: str,
    labels: Sequence[str],
    values: Floats,
    *,
    guides: Sequence[float] = (),
    stripe: tuple[float, float] | None = None,
    unit: str = "",
    top: float | None = None,
    hints: Sequence[str] = (),
    width: float = 960.0,
    height: float = 220.0,
) -> str:
    """Return an SVG of upright bars from 0, one for each of ``labels``; ``stripe`` shades where they should end."""
    y_low, y_high = room_for([values, np.array(guides)], zero=True, top=top)
    scale = _Scale(-0.5, len(values) - 0.5, y_low, y_high, width, height)
    parts = [_frame(scale, unit, [Tick(float(place), label) for place, label in enumerate(labels)])]
    if stripe:
        low, high = scale.y(stripe[0]), scale.y(stripe[1])
        parts.append(
            f'<rect class="stripe" x="{LEFT:.1f}" y="{high:.1f}" width="{width - LEFT - RIGHT:.1f}" '
            f'height="{low - high:.1f}"/>'
        )
    half = (scale.x(1.0) - scale.x(0.0)) * 0.36
    for place, value in enumerate(values):
        if math.isfinite(float(value)):
            end, base = scale.y(float(value)), scale.y(0.0)
            hint = f"<title>{escape(hints[place])}</title>" if hints else ""
            parts.append(
                f'<rect class="bar" x="{scale.x(place) - half:.1f}" y="{min(end, base):.1f}" width="{2 * half:.1f}" '
                f'height="{abs(base - end):.1f}">{hint}</rect>'
            )
    parts.extend(_level(scale, one, "guide") for one in guides)
    return f"<figure>{_svg(what, width, height, parts)}</figure>"


def shares(what: str, parts: Sequence[tuple[str, float]], width: float = 960.0) -> str:
    """Return an SVG of lying bars, one row for each name with its share (0 to 1)."""
    row = 26.0
    drawn = []
    for place, (name, share) in enumerate(parts):
        y = place * row
        drawn.append(
            f'<text class="name" x="160" y="{y + 17:.0f}">{escape(name)}</text>'
            f'<rect class="bar" x="172" y="{y + 5:.0f}" width="{max(share, 0.002) * (width - 260):.1f}" height="16"/>'
            f'<text x="{180 + max(share, 0.002) * (width - 260):.1f}" y="{y + 17:.0f}">{share:.0%}</text>'
        )
    return f"<figure>{_svg(what, width, row * len(parts), drawn)}</figure>"


def _frame(scale: _Scale, unit: str, ticks: Sequence[Tick]) -> str:
    parts = []
    levels = nice_ticks(scale.y_low, scale.y_high)
    for level in levels:
        y = scale.y(level)
        parts.append(
            _level(scale, level, "grid")
            + f'<text class="y" x="{LEFT - 7:.1f}" y="{y + 4:.1f}">{_tick_text(level, levels)}</text>'
        )
    floor = scale.height - BOTTOM
    for tick in ticks:
        if scale.x_low <= tick.x <= scale.x_high:
            x = scale.x(tick.x)
            if tick.line:
                parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP:.1f}" y2="{floor:.1f}"/>')
            edge = ' style="text-anchor:end"' if x > scale.width - RIGHT - 3.5 * len(tick.label) else ""
            parts.append(f'<text class="x" x="{x:.1f}" y="{floor + 17:.1f}"{edge}>{escape(tick.label)}</text>')
    if unit:
        parts.append(f'<text class="unit" x="{LEFT:.1f}" y="{TOP - 8:.1f}">{escape(unit)}</text>')
    return "".join(parts)


def _level(scale: _Scale, value: float, style: str) -> str:
    y = scale.y(value)
    return f'<line class="{style}" x1="{LEFT:.1f}" x2="{scale.width - RIGHT:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _hints(scale: _Scale, hints: Sequence[tuple[float, str]]) -> list[str]:
    if not hints:
        return []
    places = [x for x, _ in hints]
    near = min((b - a for a, b in pairwise(places) if b > a), default=1.0)
    half = (scale.x(scale.x_low + near) - scale.x(scale.x_low)) / 2
    tall = scale.height - TOP - BOTTOM
    return [
        f'<rect class="hint" x="{scale.x(x) - half:.1f}" y="{TOP:.1f}" width="{2 * half:.1f}" height="{tall:.1f}">'
        f"<title>{escape(text)}</title></rect>"
        for x, text in hints
    ]


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    shown = [
        '<span><svg width="26" height="12" aria-hidden="true">'
        + (
            f'<rect class="{style}" x="1" y="1" width="24" height="10"/>'
            if "band" in style
            else f'<line class="{style}" x1="1" x2="25" y1="6" y2="6"/>'
        )
        + f"</svg>{escape(label)}</span>"
        for label, style in dict(entries).items()
        if label
    ]
    return f"<figcaption>{''.join(shown)}</figcaption>" if shown else ""


def _svg(what: str, width: float, height: float, parts: Sequence[str]) -> str:
    size = "plot long" if width > 500 else "plot"
    return (
        f'<svg class="{size}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(what)}">'
        f"{''.join(parts)}</svg>"
    )
