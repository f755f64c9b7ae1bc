"""The forecasts' HTML page: one file that explains itself, with the doubts as visible as the figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.cli.charts import column, number
from energy_cloud_dagster.domain.forecasting.judging.champion import MARGIN
from energy_cloud_dagster.domain.forecasting.series import local, value_at

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.csv_series import CsvSeries
    from energy_cloud_dagster.domain.forecasting.forecast import Forecast
    from energy_cloud_dagster.domain.forecasting.judging.accuracy import Accuracy
    from energy_cloud_dagster.domain.forecasting.judging.backtest import Backtest, ModelResult
    from energy_cloud_dagster.domain.forecasting.judging.selection import Selection
from energy_cloud_dagster.cli.forecast_plots import (
    BASELINE,
    ahead,
    by_day,
    by_hour,
    capital,
    coverage,
    fans,
    mixture,
    placed,
    title_of,
)

#: MAPE in percent above which it says little: values near zero make it up.
MAPE_READABLE: Final = 30.0
MAPE_IN_WORDS: Final = "mean error (MAPE)"
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
figure{margin:10px 0 0;overflow-x:auto}svg.long{min-width:620px}
figcaption{font-size:.85rem;color:var(--soft);display:flex;gap:18px;flex-wrap:wrap}
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


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.{1 if value >= 10 else 2}f} %"


def _headline(result: Backtest) -> tuple[str, str]:
    """Return the champion's error in percent and of what: of each value, or of the mean where values come near zero."""
    score = result.models[result.champion].accuracy
    if score.mape is None or score.mape <= MAPE_READABLE or score.mae is None:
        return _percent(score.mape), MAPE_IN_WORDS
    _, stamps = placed(result.models[result.champion].forecasts)
    usual = float(np.nanmean(np.abs(value_at(result.actual, stamps))))
    return _percent(100 * score.mae / usual), "mean error, of the mean value"


def ranked(result: Backtest) -> list[ModelResult]:
    """Return the models from the least error to the largest; those that never answered come last."""
    return sorted(result.models.values(), key=lambda one: (one.accuracy.mae is None, one.accuracy.mae or 0.0, one.name))


def verdict(result: Backtest) -> str:
    """Say in one or two sentences which model was best, how good it was, and whether that beats last week's value."""
    best, naive = result.models[result.champion].accuracy, result.models[BASELINE].accuracy
    figure, what = _headline(result)
    said = f"The model to use here is {title_of(result.champion)}"
    if figure != "-":
        said += f": {figure} {'off on average' if what == MAPE_IN_WORDS else 'of the mean value off on average'}"
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
        (capital(title_of(result.champion).removeprefix("the ")), "champion"),
        _headline(result),
        (number(score.mase), "MASE: 1 is last week's usual error"),
        (_less(less), "error than last week's value"),
        ("-" if score.coverage is None else f"{100 * score.coverage:.0f} %", "of hours inside the 80 % band"),
    ]
    parts = [
        f"<h1>How well {escape(series.name)} can be forecast</h1>",
        f'<p class="soft">{_about(series)}. Judged on {judged}.</p>',
        f'<p class="lead">{escape(verdict(result))}</p>',
        *(
            f'<p class="soft">Mind: {escape(note)}. Real ones are worse.</p>'
            for note in result.notes
            if "perfect forecast" in note
        ),
        _tiles(tiles),
        "<h2>Every model</h2>",
        _table(
            [(one.name, one.accuracy, one.fit_seconds, one.predict_seconds) for one in ranked(result)], result.champion
        ),
        _followed(result),
        "<h2>What it said and what came</h2>",
        *fans(series, result, best),
        "<h2>Error by hour of the day</h2>",
        by_hour(series, result),
        "<h2>Error by day</h2>",
        by_day(series, result),
        "<h2>Does the 80 % band hold?</h2>",
        coverage(result, best),
    ]
    parts.extend(mixture(result.weights, "How the ensemble is mixed"))
    parts.append("<h2>How this was measured</h2>")
    parts.append(
        f"<p>Every model forecast {result.horizon} hours from local midnight ({escape(result.timezone)}) knowing "
        "nothing of what came after, and was fitted again every 14 days on everything before. The judged days lie in "
        "the last 20 % of the series. Bands, the ensemble's weights and the champion of a day rest on days before it. "
        "MASE is scaled by the weekly changes of the history before the first judged day.</p>"
    )
    parts.extend(["<h2>Notes</h2>", _notes(notes)])
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
    said = f"{capital(title_of(answer.model))} speaks"
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
        ahead(series, answer, zone),
    ]
    if selection.scores:
        order = sorted(selection.scores.items(), key=lambda item: item[1].mae or 0.0)
        parts.append(f"<h2>How the models did on the last {selection.days} days</h2>")
        parts.append(_table([(name, one, None, None) for name, one in order], answer.model))
        parts.append(
            '<p class="soft">A day ahead from each local midnight, fitted on what lies before these days. '
            "A backtest over more of the series is the better judge.</p>"
        )
    parts.extend(mixture(selection.weights, "How the ensemble is mixed"))
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
        body.append(f"<tr{mark}><td>{escape(capital(title_of(model)))} <code>{escape(model)}</code></td>{cells}</tr>")
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
        "<p>The champion has the least MASE on the judged days, which flatters it a little. Taking on each judged day "
        f"the champion of the days before it ({escape(names)}; another must be better by {100 * MARGIN:.0f} % to "
        f"replace it) gives MAPE {_percent(score.mape)}, MASE {number(score.mase)}: expect that.</p>"
    )


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return "<p>The file was read as it stands; nothing was repaired or left out.</p>"
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


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
