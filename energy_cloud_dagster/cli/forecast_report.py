"""The forecasts' HTML page: one file that explains itself, with the doubts as visible as the figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.cli.charts import Band, Line, Tick, bars, chart, column, number, room_for, shares
from energy_cloud_dagster.domain.forecasting.champion import MARGIN
from energy_cloud_dagster.domain.forecasting.series import Floats, floats, local, value_at

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.csv_series import CsvSeries
    from energy_cloud_dagster.domain.forecasting.accuracy import Accuracy
    from energy_cloud_dagster.domain.forecasting.backtest import Backtest, ModelResult
    from energy_cloud_dagster.domain.forecasting.forecast import Forecast
    from energy_cloud_dagster.domain.forecasting.selection import Selection

BASELINE: Final = "seasonal_naive"
#: Hours of the wide fan chart.
FAN_HOURS: Final = 240
#: Hours of the past in front of a forecast.
PAST_HOURS: Final = 168
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
#: Column, how it reads, which value is best (-1: the least, 0: nearest to the target, None: none).
FIGURES: Final = (
    ("mape", "MAPE %", "mean absolute error in percent of the value, over hours that are not negligible", 0.0),
    ("mae", "MAE", "mean absolute error of P50, in the unit of the series", 0.0),
    ("rmse", "RMSE", "root of the mean squared error: large misses weigh more", 0.0),
    ("mase", "MASE", "MAE divided by the mean change from one week to the next before the judged days", 0.0),
    ("bias", "bias", "mean of forecast minus actual: positive says too much", 0.0),
    ("pinball", "pinball", "loss of P10, P50 and P90 together: smaller is sharper and truer", 0.0),
    ("coverage", "in band %", "share of hours between P10 and P90: 80 is right", 80.0),
)

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2733;--soft:#5c6b7a;--page:#fff;--card:#f5f7f9;--rule:#dfe5ea;--main:#0b6bcb;
--band:#0b6bcb2e;--other:#e07b00;--thin:#9aa8b5;--good:#1a7f4b;--stripe:#1a7f4b22}
@media(prefers-color-scheme:dark){:root{--ink:#e3e9ef;--soft:#9badbd;--page:#12181f;--card:#1a232c;--rule:#2c3945;
--main:#58a9ff;--band:#58a9ff38;--other:#ffb454;--thin:#5f7182;--good:#5fd39a;--stripe:#5fd39a26}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1020px;margin:0 auto;padding:28px 20px 60px}h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px}
h2{font-size:1.15rem;margin:38px 0 4px}p{margin:6px 0;max-width:78ch}.soft{color:var(--soft)}
.lead{font-size:1.1rem;margin-top:14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:18px 0}
.tiles div{background:var(--card);border-radius:8px;padding:10px 14px}.tiles b{display:block;font-size:1.5rem;
line-height:1.25;font-variant-numeric:tabular-nums}.tiles span{color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.93rem}
code{color:var(--soft);font-size:.8rem;margin-left:4px;font-weight:400}
th,td{padding:6px 7px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
tr.champion td{background:var(--card);font-weight:600}td.best{color:var(--good)}
figure{margin:10px 0 0}figcaption{font-size:.85rem;color:var(--soft);display:flex;gap:18px;flex-wrap:wrap}
figcaption svg{margin-right:6px;vertical-align:middle}
svg.plot{width:100%;height:auto;display:block}svg text{font-size:12px;fill:var(--soft)}
text.x{text-anchor:middle}text.y,text.name{text-anchor:end}polyline,line{fill:none;vector-effect:non-scaling-stroke}
.grid{stroke:var(--rule);stroke-width:1}.guide{stroke:var(--good);stroke-width:1.5;stroke-dasharray:5 4}
.actual{stroke:var(--ink);stroke-width:1.6}circle.actual{fill:var(--ink)}.main{stroke:var(--main);stroke-width:2}
circle.main{fill:var(--main)}.naive{stroke:var(--other);stroke-width:1.6;stroke-dasharray:6 4}
.thin{stroke:var(--thin);stroke-width:1}.band{fill:var(--band);stroke:none}.bar{fill:var(--main)}
.stripe{fill:var(--stripe)}.hint{fill:transparent}.hint:hover{fill:var(--band)}
.three{display:grid;grid-template-columns:repeat(auto-fit,minmax(290px,1fr));gap:16px}
.three h3{font-size:.95rem;margin:10px 0 0;font-weight:600}
ul{padding-left:20px;margin:6px 0;max-width:90ch}li{margin:3px 0}details{margin-top:12px}summary{cursor:pointer}
footer{margin-top:44px;color:var(--soft);font-size:.85rem;border-top:1px solid var(--rule);padding-top:10px}
@media print{main{max-width:none}}
"""


def title_of(name: str) -> str:
    """Return how people call the model ``name``."""
    return NAMES.get(name, name)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.{1 if value >= 10 else 2}f} %"


def ranked(result: Backtest) -> list[ModelResult]:
    """Return the models from the least error to the largest; those that never answered come last."""
    return sorted(result.models.values(), key=lambda one: (one.accuracy.mae is None, one.accuracy.mae or 0.0, one.name))


def verdict(result: Backtest) -> str:
    """Say in one or two sentences which model was best, how good it was, and whether that beats last week's value."""
    best, naive = result.models[result.champion].accuracy, result.models[BASELINE].accuracy
    said = f"The model to use here is {title_of(result.champion)}"
    if best.mape is not None:
        said += f": {_percent(best.mape)} off on average"
    if best.coverage is not None:
        said += f"; its 80 % band held {100 * best.coverage:.0f} % of the hours"
    said += "."
    if result.champion == BASELINE:
        return f"{said} Nothing beat last week's value here by more than chance: use it, and look for what explains it."
    if best.mae is not None and naive.mae:
        less = 1 - best.mae / naive.mae
        if less > 0:
            said += f" That is {100 * less:.0f} % less error than last week's value."
        else:
            said += " Yet on the judged days last week's value erred no more: trust neither far."
    return said


def backtest_page(series: CsvSeries, result: Backtest, notes: Sequence[str]) -> str:
    """Return the page of a backtest: verdict, table, fan chart, errors by hour and day, coverage, weights, method."""
    best, naive = result.models[result.champion], result.models[BASELINE]
    score = best.accuracy
    first, last = local(pd.DatetimeIndex([result.origins[0], result.origins[-1]]), result.timezone)
    judged = f"{len(result.origins)} forecasts of {result.horizon} hours, {first:%Y-%m-%d} to {last:%Y-%m-%d}"
    less = None if not naive.accuracy.mae or score.mae is None else 1 - score.mae / naive.accuracy.mae
    tiles = [
        (title_of(result.champion), "champion"),
        (_percent(score.mape), "mean error (MAPE)"),
        (number(score.mase), "MASE: 1 is last week's usual error"),
        (_less(less), "error than last week's value"),
        ("-" if score.coverage is None else f"{100 * score.coverage:.0f} %", "of hours inside the 80 % band"),
    ]
    parts = [
        f"<h1>How well {escape(series.name)} can be forecast</h1>",
        f'<p class="soft">{_about(series)}. Judged on {judged}.</p>',
        f'<p class="lead">{escape(verdict(result))}</p>',
        _tiles(tiles),
        "<h2>Every model</h2>",
        _table(
            [(one.name, one.accuracy, one.fit_seconds, one.predict_seconds) for one in ranked(result)], result.champion
        ),
        _followed(result),
        "<h2>What it said and what came</h2>",
        *_fans(series, result, best),
        "<h2>Error by hour of the day</h2>",
        _by_hour(series, result),
        "<h2>Error by day</h2>",
        _by_day(series, result),
        "<h2>Does the 80 % band hold?</h2>",
        _coverage(result, best),
    ]
    parts.extend(_weights(result.weights, "How the ensemble is mixed"))
    parts.append("<h2>How this was measured</h2>")
    parts.append(
        f"<p>Every model forecast {result.horizon} hours from local midnight ({escape(result.timezone)}) knowing "
        "nothing of what came after, and was fitted again every 14 days on everything before. The judged days lie in "
        "the last 20 % of the series. Bands, the ensemble's weights and the champion of a day rest on days before it. "
        "MASE is scaled by the weekly changes of the history before the first judged day.</p>"
    )
    parts.append(_notes(notes))
    return _page(f"Backtest of {series.name}", parts)


def _less(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{abs(100 * share):.0f} % {'less' if share >= 0 else 'more'}"


def run_page(series: CsvSeries, answer: Forecast, selection: Selection, notes: Sequence[str]) -> str:
    """Return the page of a forecast: fan chart behind the last week, the hours as a table, and what it rests on."""
    score = selection.scores.get(answer.model)
    zone = selection.timezone
    start = local(answer.index[:1], zone)[0]
    said = f"{_capital(title_of(answer.model))} speaks"
    if score is not None and score.mape is not None:
        said += f"; over the last {selection.days} days it was {_percent(score.mape)} off on average, a day ahead"
    if answer.rung != "champion":
        said += f". It is a rung below the champion ({title_of(selection.champion)}): the notes say why"
    peak = int(np.argmax(answer.p50))
    tiles = [
        (number(float(answer.p50.sum())), f"{series.name} over the {answer.horizon} hours (sum of P50)"),
        (number(float(answer.p50[peak])), f"highest, {local(answer.index, zone)[peak]:%a %d %b %H:%M}"),
        (number(float((answer.p90 - answer.p10).mean())), "mean width of the 80 % band"),
    ]
    parts = [
        f"<h1>The next {answer.horizon} hours of {escape(series.name)}</h1>",
        f'<p class="soft">{_about(series)}. From {start:%A %Y-%m-%d %H:%M} ({escape(zone)}).</p>',
        f'<p class="lead">{escape(said)}.</p>',
        _tiles(tiles),
        "<h2>Forecast</h2>",
        _ahead(series, answer, zone),
    ]
    if selection.scores:
        order = sorted(selection.scores.items(), key=lambda item: item[1].mae or 0.0)
        parts.append(f"<h2>How the models did on the last {selection.days} days</h2>")
        parts.append(_table([(name, one, None, None) for name, one in order], answer.model))
        parts.append(
            '<p class="soft">A day ahead from each local midnight, fitted on what lies before these days. '
            "A backtest over more of the series is the better judge.</p>"
        )
    parts.extend(_weights(selection.weights, "How the ensemble is mixed"))
    parts.append(_hours(answer, zone))
    parts.append("<h2>Notes</h2>")
    parts.append(_notes(notes))
    return _page(f"Forecast of {series.name}", parts)


def _page(title: str, parts: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>\n"
        + "\n".join(parts)
        + "\n<footer>Energy Cloud. Hover over a plot for its figures.</footer>"
        "</main></body></html>\n"
    )


def _about(series: CsvSeries) -> str:
    index = local(pd.DatetimeIndex(series.values.index), series.timezone)
    step = "hourly rows" if series.step_minutes == 60 else f"rows of {series.step_minutes} minutes"
    span = f"{index[0]:%Y-%m-%d} to {index[-1]:%Y-%m-%d}"
    return f"{len(index):,} hours from {span} ({escape(series.timezone)}), from {step}"


def _tiles(tiles: Sequence[tuple[str, str]]) -> str:
    return (
        '<div class="tiles">'
        + "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in tiles)
        + "</div>"
    )


def _table(rows: Sequence[tuple[str, Accuracy, float | None, float | None]], champion: str) -> str:
    columns = {name: [_in_percent(name, getattr(score, name)) for _, score, _, _ in rows] for name, _, _, _ in FIGURES}
    best = {}
    for name, _, _, target in FIGURES:
        known = {place: abs(value - target) for place, value in enumerate(columns[name]) if value is not None}
        best[name] = min(known, key=known.__getitem__) if known else -1
    shown = {name: column(values) for name, values in columns.items()}
    head = "".join(f'<th title="{escape(what)}">{label}</th>' for _, label, what, _ in FIGURES)
    timed = any(fit is not None for _, _, fit, _ in rows)
    head += "<th>fit s</th><th>predict ms</th>" if timed else ""
    body = []
    for place, (model, _, fit, predict) in enumerate(rows):
        cells = "".join(
            f"<td{' class=best' if best[name] == place else ''}>{shown[name][place]}</td>" for name, _, _, _ in FIGURES
        )
        cells += f"<td>{fit or 0:.2f}</td><td>{1000 * (predict or 0):.0f}</td>" if timed else ""
        mark = ' class="champion"' if model == champion else ""
        body.append(f"<tr{mark}><td>{escape(_capital(title_of(model)))} <code>{escape(model)}</code></td>{cells}</tr>")
    key = "; ".join(f"<b>{label}</b> {escape(what)}" for _, label, what, _ in FIGURES)
    return (
        f'<div class="wide"><table><thead><tr><th>Model</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
        f'</div><p class="soft" style="font-size:.85rem">{key}.</p>'
    )


def _in_percent(name: str, value: float | None) -> float | None:
    return value if value is None or name != "coverage" else 100 * value


def _followed(result: Backtest) -> str:
    score = result.followed
    if score.mape is None and score.mase is None:
        return ""
    names = ", ".join(title_of(name) for name in sorted(set(result.champions.values())))
    return (
        "<p>The champion is chosen on all forecast days, those before the judged ones among them, and another must be "
        f"better by {100 * MARGIN:.0f} % to replace it. Taking on each judged day the champion of the days before it "
        f"({escape(names)}) gives MAPE {_percent(score.mape)}, MASE {number(score.mase)}: expect that.</p>"
    )


def _placed(forecasts: Sequence[Forecast]) -> tuple[Floats, pd.DatetimeIndex]:
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
    x, stamps = _placed(forecasts)
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


def _fans(series: CsvSeries, result: Backtest, best: ModelResult) -> list[str]:
    errors = _errors(result, best)
    known = [place for place in range(len(errors)) if np.isfinite(errors[place])]
    if not known:
        return ["<p>No judged hour has a value.</p>"]
    last = best.forecasts[-max(1, FAN_HOURS // result.horizon) :]
    whole = all(b.origin - a.origin < pd.Timedelta(hours=result.horizon + 2) for a, b in pairwise(last))
    side = "" if whole else " (days between them were not judged)"
    what = f"The last {len(last)} judged forecasts of {title_of(result.champion)}"
    parts = [
        f'<p class="soft">{escape(_capital(what))}{side}.</p>',
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
    _, stamps = _placed(model.forecasts)
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


_CLOCK: Final = [Tick(float(hour), f"{hour:02}") for hour in range(24)]


def _compared(result: Backtest) -> list[tuple[ModelResult, str, str]]:
    """Return the models of the comparing plots with label and style: the others thin, then last week's, the best."""
    rest = [one for one in result.models.values() if one.forecasts and one.name not in {BASELINE, result.champion}]
    shown = [(one, "other models", "thin") for one in rest]
    if result.champion != BASELINE and result.models[BASELINE].forecasts:
        shown.append((result.models[BASELINE], title_of(BASELINE), "naive"))
    return [*shown, (result.models[result.champion], title_of(result.champion), "main")]


def _by_hour(series: CsvSeries, result: Backtest) -> str:
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


def _by_day(series: CsvSeries, result: Backtest) -> str:
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


def _coverage(result: Backtest, best: ModelResult) -> str:
    values = _hourly(result, best, covered=True)
    score = best.accuracy.coverage
    if score is None:
        return "<p>No judged hour has a value.</p>"
    percent = 100 * score
    low, high = GOOD_COVERAGE
    said = "as it should be" if low <= percent <= high else "too narrow" if percent < low else "wider than needed"
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


def _weights(weights: dict[str, float], title: str) -> list[str]:
    parts = sorted(((title_of(name), share) for name, share in weights.items() if share > 0), key=lambda each: -each[1])
    return [f"<h2>{title}</h2>", shares("Weights of the ensemble", parts)] if len(parts) > 1 else []


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return "<p>The file was read as it stands; nothing was repaired or left out.</p>"
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _ahead(series: CsvSeries, answer: Forecast, zone: str) -> str:
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


def _hours(answer: Forecast, zone: str) -> str:
    clock = local(answer.index, zone)
    rows = "".join(
        f"<tr><td>{clock[place]:%a %Y-%m-%d %H:%M}</td><td>{number(float(answer.p10[place]))}</td>"
        f"<td>{number(float(answer.p50[place]))}</td><td>{number(float(answer.p90[place]))}</td></tr>"
        for place in range(answer.horizon)
    )
    return (
        f"<details><summary>The {answer.horizon} hours as a table</summary><div class=wide><table><thead><tr>"
        f"<th>{escape(zone)}</th><th>P10</th><th>P50</th><th>P90</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
