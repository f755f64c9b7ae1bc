"""The plots of the forecasts' page: what was said and what came, and where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from energy_cloud_dagster.cli.charts import Band, Line, Tick, bars, chart, number, room_for, shares
from energy_cloud_dagster.domain.forecasting.series import Floats, floats, local, value_at

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.csv_series import CsvSeries
    from energy_cloud_dagster.domain.forecasting.forecast import Forecast
    from energy_cloud_dagster.domain.forecasting.judging.backtest import Backtest, ModelResult

BASELINE: Final = "seasonal_naive"
#: Hours of the wide fan chart.
FAN_HOURS: Final = 240
#: Hours of the past in front of a forecast.
PAST_HOURS: Final = 168
#: Share of the busiest hour's mean below which an hour of the day is idle, such as a solar plant's night.
IDLE: Final = 0.02
#: Coverage of the 80 % band that passes, in percent.
GOOD_COVERAGE: Final = (77.0, 83.0)
NAMES: Final = {
    "seasonal_naive": "last week's value",
    "daily_naive": "yesterday's value",
    "similar_day": "similar days",
    "persistence": "the last known value",
    "prophet": "Prophet",
    "gradient_boosting": "gradient boosting",
    "lstm": "LSTM",
    "ensemble": "the ensemble",
}


def title_of(name: str) -> str:
    """Return how people call the model ``name``."""
    return NAMES.get(name, name)


def capital(text: str) -> str:
    """Return ``text`` with a capital first letter."""
    return text[:1].upper() + text[1:]


def placed(forecasts: Sequence[Forecast]) -> tuple[Floats, pd.DatetimeIndex]:
    """Return places on the x axis (hours, one forecast after the other) and the hours that they stand for."""
    stamps = forecasts[0].index
    for one in forecasts[1:]:
        stamps = pd.DatetimeIndex(stamps.append(one.index))
    return np.arange(len(stamps), dtype=np.float64), stamps


def _fan(
    forecasts: Sequence[Forecast],
    actual: pd.Series[float],
    zone: str,
    what: str,
    unit: str,
    size: tuple[float, float] = (960.0, 300.0),
    extent: tuple[float, float] | None = None,
) -> str:
    """Return the fan chart of ``forecasts`` side by side; one with an ``extent`` of its y axis is small and plain."""
    x, stamps = placed(forecasts)
    truth = value_at(actual, stamps)
    p10, p50, p90 = (np.concatenate([getattr(one, name) for one in forecasts]) for name in ("p10", "p50", "p90"))
    breaks = np.cumsum([one.horizon for one in forecasts])[:-1]
    clock = local(stamps, zone)
    hints = []
    for place in range(len(stamps)):
        came, middle, low, high = (number(float(each[place])) for each in (truth, p50, p10, p90))
        hints.append((float(place), f"{clock[place]:%a %d %b %H:%M}: came {came}, P50 {middle} ({low} to {high})"))
    many = len(forecasts) > 1
    ticks = [
        Tick(float(place), f"{clock[place]:%a %d %b}" if many else f"{clock[place]:%H:%M}", many)
        for place in range(len(stamps))
        if (clock[place].hour == 0 if many or len(stamps) > 48 else clock[place].hour % 6 == 0)
    ]
    lines, bands = [], []
    for start, end in zip([0, *breaks], [*breaks, len(x)], strict=True):
        part = slice(int(start), int(end))
        bands.append(Band("" if extent else "80 % band", x[part], p10[part], p90[part], "band"))
        lines.append(Line("" if extent else "P50", x[part], p50[part], "main"))
        lines.append(Line("" if extent else "what came", x[part], truth[part], "actual"))
    shown = _thinned(ticks, 10)
    return chart(what, lines, bands, ticks=shown, hints=hints, extent=extent, unit=unit, width=size[0], height=size[1])


def _common(forecasts: Sequence[Forecast], actual: pd.Series[float]) -> tuple[float, float]:
    """Return the ends of one y axis for all of ``forecasts`` and what came."""
    return room_for([each for one in forecasts for each in (one.p10, one.p90, value_at(actual, one.index))])


def _thinned(ticks: Sequence[Tick], most: int) -> list[Tick]:
    step = max(1, -(-len(ticks) // most))
    return [Tick(tick.x, tick.label if place % step == 0 else "", tick.line) for place, tick in enumerate(ticks)]


def fans(series: CsvSeries, result: Backtest, best: ModelResult) -> list[str]:
    """Return the last judged forecasts of ``best`` in a row; a good, a usual and the worst one side by side."""
    errors = _errors(result, best)
    known = [place for place in range(len(errors)) if np.isfinite(errors[place])]
    if not known:
        return ["<p>No judged hour has a value.</p>"]
    last = best.forecasts[-max(1, FAN_HOURS // result.horizon) :]
    whole = all(b.origin - a.origin < pd.Timedelta(hours=result.horizon + 2) for a, b in pairwise(last))
    side = "" if whole else " (days between them were not judged)"
    what = f"The last {len(last)} judged forecasts of {title_of(result.champion)}"
    parts = [
        f'<p class="soft">{escape(capital(what))}{side}.</p>',
        _fan(last, result.actual, result.timezone, what, series.name),
        '<div class="three">',
    ]
    order = sorted(known, key=lambda place: errors[place])
    places = (order[len(order) // 10], order[len(order) // 2], order[-1])
    extent = _common([best.forecasts[place] for place in places], result.actual)
    for label, place in zip(("A good day", "A usual day", "The worst day"), places, strict=True):
        one = best.forecasts[place]
        day = local(one.index[:1], result.timezone)[0]
        parts.append(
            f"<div><h3>{label}: {day:%a %Y-%m-%d}, MAE {number(float(errors[place]))}</h3>"
            + _fan([one], result.actual, result.timezone, label, "", size=(400.0, 230.0), extent=extent)
            + "</div>"
        )
    return [*parts, "</div>"]


def _errors(result: Backtest, model: ModelResult) -> Floats:
    """Return the mean absolute error of every judged forecast, NaN where nothing came."""
    found = np.full(len(model.forecasts), np.nan)
    for place, one in enumerate(model.forecasts):
        missed = np.abs(one.p50 - value_at(result.actual, one.index))
        if np.isfinite(missed).any():
            found[place] = float(np.nanmean(missed))
    return found


def _hourly(result: Backtest, model: ModelResult, *, covered: bool = False) -> Floats:
    """Return by local hour of the day the mean absolute error, or the percentage inside the band; NaN for none."""
    _, stamps = placed(model.forecasts)
    truth = value_at(result.actual, stamps)
    p10, p50, p90 = (np.concatenate([getattr(one, name) for one in model.forecasts]) for name in ("p10", "p50", "p90"))
    values = 100.0 * ((p10 <= truth) & (truth <= p90)) if covered else np.abs(p50 - truth)
    hours = np.asarray(local(stamps, result.timezone).hour)
    keep = np.isfinite(truth)
    found = np.full(24, np.nan)
    for hour in range(24):
        own = values[keep & (hours == hour)]
        if len(own):
            found[hour] = float(own.mean())
    return found


def _busy(result: Backtest, model: ModelResult) -> npt.NDArray[np.bool_]:
    """Return which local hours of the day have values worth a band."""
    _, stamps = placed(model.forecasts)
    truth = np.abs(value_at(result.actual, stamps))
    hours = np.asarray(local(stamps, result.timezone).hour)
    keep = np.isfinite(truth)
    means = np.array(
        [truth[keep & (hours == hour)].mean() if (keep & (hours == hour)).any() else 0 for hour in range(24)]
    )
    return np.asarray(means > IDLE * means.max(), dtype=np.bool_)


_CLOCK: Final = [Tick(float(hour), f"{hour:02}") for hour in range(24)]


def _compared(result: Backtest) -> list[tuple[ModelResult, str, str]]:
    """Return the models of the comparing plots with label and style: the others thin, then last week's, the best."""
    rest = [one for one in result.models.values() if one.forecasts and one.name not in {BASELINE, result.champion}]
    shown = [(one, "other models", "thin") for one in rest]
    if result.champion != BASELINE and result.models[BASELINE].forecasts:
        shown.append((result.models[BASELINE], title_of(BASELINE), "naive"))
    return [*shown, (result.models[result.champion], title_of(result.champion), "main")]


def by_hour(series: CsvSeries, result: Backtest) -> str:
    """Return the mean absolute error by local hour of the day, of the champion, last week's value and the others."""
    hours = np.arange(24, dtype=np.float64)
    found = [(one, label, style, _hourly(result, one)) for one, label, style in _compared(result)]
    hints = [
        (
            float(hour),
            f"{hour:02}:00: "
            + ", ".join(f"{one.name} {number(float(values[hour]))}" for one, _, _, values in reversed(found)),
        )
        for hour in range(24)
    ]
    lines = [Line(label, hours, values, style) for _, label, style, values in found]
    unit = f"MAE of {series.name} by local hour"
    return chart("Mean absolute error by hour of the day", lines, ticks=_CLOCK, hints=hints, zero=True, unit=unit)


def by_day(series: CsvSeries, result: Backtest) -> str:
    """Return the mean absolute error by judged day, of the champion and last week's value."""
    shown = [each for each in _compared(result) if each[2] != "thin"]
    clock = local(pd.DatetimeIndex(list(result.origins)), result.timezone)
    x = np.asarray((clock - clock[0]) / pd.Timedelta(days=1), dtype=np.float64)
    found = [(one, label, style, _errors(result, one)) for one, label, style in shown]
    hints = [
        (
            float(x[day]),
            f"{clock[day]:%a %Y-%m-%d}: "
            + ", ".join(f"{one.name} {number(float(values[day]))}" for one, _, _, values in reversed(found)),
        )
        for day in range(len(x))
    ]
    ticks = _thinned([Tick(float(x[day]), f"{clock[day]:%d %b %y}") for day in range(len(x))], 9)
    lines = [Line(label, x, values, style) for _, label, style, values in found]
    unit = f"MAE of {series.name} by judged day"
    return chart("Mean absolute error by day", lines, ticks=ticks, hints=hints, zero=True, unit=unit, height=240.0)


def coverage(result: Backtest, best: ModelResult) -> str:
    """Return how often the band of ``best`` held, in words and by local hour of the day."""
    values = _hourly(result, best, covered=True)
    score = best.accuracy.coverage
    if score is None:
        return "<p>No judged hour has a value.</p>"
    percent = 100 * score
    low, high = GOOD_COVERAGE
    said = "as it should be" if low <= percent <= high else "too narrow" if percent < low else "wider than needed"
    busy = _busy(result, best)
    if not busy.all() and busy.any():
        said += f" (idle hours hold easily; in the {int(busy.sum())} others it is {float(values[busy].mean()):.0f} %)"
    room = 128 * (0.8 * 0.2 / max(len(best.forecasts) * best.forecasts[0].horizon / 24, 1)) ** 0.5
    hints = [f"{hour:02}:00: {number(float(values[hour]))} % inside" for hour in range(24)]
    return (
        f"<p>{percent:.0f} % of the hours lay between P10 and P90: {said}. Shaded: {low:.0f} to {high:.0f} %. One hour "
        f"of the day alone strays by {room:.0f} points or so by chance: it has only as many days as were judged.</p>"
        + bars(
            "Share of hours inside the band by hour of the day",
            [f"{hour:02}" for hour in range(24)],
            values,
            guides=[80.0],
            stripe=GOOD_COVERAGE,
            unit="% inside the band by local hour",
            top=100.0,
            hints=hints,
        )
    )


def mixture(weights: dict[str, float], title: str) -> list[str]:
    """Return the ensemble's weights under ``title``; nothing where it has one member."""
    parts = sorted(((title_of(name), share) for name, share in weights.items() if share > 0), key=lambda each: -each[1])
    return [f"<h2>{title}</h2>", shares("Weights of the ensemble", parts)] if len(parts) > 1 else []


def ahead(series: CsvSeries, answer: Forecast, zone: str) -> str:
    """Return the forecast behind the last week of ``series``, and what came since where the file knows it."""
    begin = answer.index[0] - pd.Timedelta(hours=PAST_HOURS)
    stamps = pd.date_range(begin, answer.index[-1], freq="h")
    x = np.arange(len(stamps), dtype=np.float64)
    ahead = x[PAST_HOURS:]
    truth = value_at(series.values, stamps)
    clock = local(stamps, zone)
    hints = []
    for place in range(len(stamps)):
        said = f"{clock[place]:%a %d %b %H:%M}: "
        if place >= PAST_HOURS:
            step = place - PAST_HOURS
            band = f"({number(float(answer.p10[step]))} to {number(float(answer.p90[step]))})"
            said += f"P50 {number(float(answer.p50[step]))} {band}"
        if np.isfinite(truth[place]):
            said += f"{', ' if place >= PAST_HOURS else ''}came {number(float(truth[place]))}"
        hints.append((float(place), said))
    ticks = [Tick(float(place), f"{clock[place]:%a %d %b}", True) for place in range(len(x)) if clock[place].hour == 0]
    return chart(
        "Forecast behind the last week",
        [Line("what came", x, truth, "actual"), Line("P50", ahead, floats(answer.p50), "main")],
        [Band("80 % band", ahead, answer.p10, answer.p90, "band")],
        ticks=_thinned(ticks, 11),
        hints=hints,
        unit=series.name,
        height=340.0,
    )
