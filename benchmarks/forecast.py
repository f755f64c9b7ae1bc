"""How good the forecasts are: a table of model, series and metric, beside the weekly naive and a plain Prophet.

The protocol: 24 hours from every local midnight of the last fifth of the days, 73 of them scored (evenly spread),
refitted every 14 days, nothing known after the origin but holidays and, where the series' name says so, the day's
measured temperature as a perfect forecast. MASE is scaled by the weekly change before the first scored day. Bands are
calibrated by the days before; the plain Prophet's are its own. `/ naive` is the MAE as a share of the weekly naive's
on the same hours.

    python benchmarks/forecast.py [--quick] [--series victoria,homes] [--models ...] [--jobs 2] [--chart FILE.svg]

All of it takes up to an hour on two cores, most of it the LSTM's and Prophet's fits; `--quick` a few minutes (17
origins, fits every 56 days, no LSTM, no plain Prophet).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

from _forecast import SERIES, PlainProphet, Task, fan_chart

from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.domain.forecasting import Accuracy, Backtest, accuracy, model_named
from energy_cloud_dagster.domain.forecasting.judging.backtest import judge, scored_origins
from energy_cloud_dagster.domain.forecasting.judging.rolling import Track, follow_model, measured_ahead, midnights
from energy_cloud_dagster.domain.forecasting.models.registry import MODELS

SEED = 14
PLAIN = PlainProphet.name
#: The slowest first, so that no core waits for one at the end.
ORDER = ("lstm", PLAIN, "prophet", "gradient_boosting")


@dataclass(frozen=True)
class Protocol:
    origins: int
    refit_days: int
    burn_in_days: int


FULL = Protocol(origins=73, refit_days=14, burn_in_days=56)
QUICK = Protocol(origins=17, refit_days=56, burn_in_days=28)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its ended children (Stan): a busy machine does not count."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def days_of(task: Task, protocol: Protocol) -> tuple[list[datetime], list[datetime]]:
    """Return the days that are forecast and those of them that are scored."""
    days = midnights(task.load, task.timezone)
    scored = scored_origins(days, protocol.origins, 0.2)
    return days[max(0, days.index(scored[0]) - protocol.burn_in_days) :], scored


def track(series: str, name: str, protocol: Protocol) -> Track:
    """Forecast one series with one model; runs in a process of its own."""
    task = SERIES[series]()
    run, scored = days_of(task, protocol)
    model = PlainProphet() if name == PLAIN else model_named(name)
    return follow_model(
        model,
        task.load,
        task.regressors,
        scored if name == PLAIN else run,  # what is not calibrated needs no days before
        timezone=task.timezone,
        seed=SEED,
        horizon=24,
        refit_days=protocol.refit_days,
        ahead=measured_ahead(task.regressors),
        clock=cpu_seconds,
    )


def report(task: Task, result: Backtest, plain: Track | None) -> list[dict[str, object]]:
    """Print the rows of one series and return them for JSON."""
    before = task.load[task.load.index < result.origins[0]]
    rows = {name: (one.accuracy, one.fit_seconds, one.predict_seconds) for name, one in result.models.items()}
    if plain is not None and plain.answered:
        figures = accuracy(task.load, [plain.forecasts[origin] for origin in result.origins], history=before)
        mean = sum(plain.fit_seconds) / len(plain.fit_seconds)
        rows[PLAIN] = (figures, mean, sorted(plain.predict_seconds)[len(plain.predict_seconds) // 2])
    naive = rows["seasonal_naive"][0].mae or math.nan
    print(f"\n{task.name} ({task.unit}), {len(result.origins)} days, {before.size:,} hours before the first of them")
    print("| model | MAPE % | MASE | / naive | RMSE | bias | pinball | P10-P90 holds % | fit CPU s | predict CPU ms |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    found = []
    for name, (figures, fit, predict) in rows.items():
        if figures.mae is None:
            continue
        label = f"**{name}**" if name == result.champion else name
        print(
            f"| {label} | {_figure(figures.mape, 2)} | {_figure(figures.mase, 3)} | {figures.mae / naive:.3f} | "
            f"{_figure(figures.rmse, 4, significant=True)} | {_figure(figures.bias, 3, significant=True)} | "
            f"{_figure(figures.pinball, 4, significant=True)} | {_percent(figures)} | {fit:.1f} | {1e3 * predict:.0f} |"
        )
        found.append(
            {"series": task.name, "model": name, "fit_seconds": fit, "predict_seconds": predict, **figures.as_dict()}
        )
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in result.weights.items() if weight > 0)
    taken = result.followed
    print(f"champion: {result.champion}; weights at the end: {weights}")
    print(
        f"the champion of each day, chosen by the days before it: MAPE {_figure(taken.mape, 2)} %, "
        f"MASE {_figure(taken.mase, 3)}, pinball {_figure(taken.pinball, 4, significant=True)}, "
        f"P10-P90 holds {_percent(taken)} %"
    )
    for one in result.models.values():
        if one.failed:
            print(f"left out: {one.name}: {one.failed}")
    for note in result.notes:
        print(f"note: {note}")
    return found


def _figure(value: float | None, digits: int, *, significant: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if significant else f"{value:.{digits}f}"


def _percent(figures: Accuracy) -> str:
    return "-" if figures.coverage is None else f"{100 * figures.coverage:.1f}"


def chart(task: Task, tracks: list[Track], protocol: Protocol, path: Path) -> None:
    """Draw a week of the summer, the load's hardest season here."""
    run, _ = days_of(task, protocol)
    week = run[-31:-24] if len(run) > 38 else run[-7:]
    result = judge(tracks, task.load, run, week, timezone=task.timezone, horizon=24)
    fan_chart(result, task.unit, f"{task.name}: {result.champion}, a day ahead", path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the forecasting models on measured series.")
    parser.add_argument(
        "--quick", action="store_true", help="17 origins, fits every 56 days, no LSTM, no plain Prophet."
    )
    parser.add_argument("--series", default=",".join(SERIES), help=f"Of {', '.join(SERIES)}.")
    parser.add_argument("--models", default=None, help=f"Of {', '.join([*MODELS, PLAIN])}.")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="Processes.")
    parser.add_argument("--json", type=Path, help="File to write the figures to.")
    parser.add_argument("--chart", type=Path, help="File (.svg, .png) for a fan chart of the last series.")
    options = parser.parse_args()
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(threads, "1")  # for the children: a fit's seconds are those of one core
    protocol = QUICK if options.quick else FULL
    usual = [name for name in (*MODELS, PLAIN) if not options.quick or name not in {"lstm", PLAIN}]
    models = options.models.split(",") if options.models else usual
    if "seasonal_naive" not in models:
        models.insert(0, "seasonal_naive")
    tasks: dict[str, Task] = {}
    for name in options.series.split(","):
        try:
            tasks[name] = SERIES[name]()
        except EnergyCloudError as error:
            print(f"{name} is left out: {error}")
    print("Day-ahead forecasts, 24 hours from local midnight")
    tracks: dict[tuple[str, str], Track] = {}
    started = time.monotonic()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        ranked = sorted(models, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
        waiting: dict[Future[Track], tuple[str, str]] = {
            pool.submit(track, series, name, protocol): (series, name) for name in ranked for series in tasks
        }
        for done in as_completed(waiting):
            series, name = waiting[done]
            try:
                tracks[series, name] = done.result()
            except EnergyCloudError as error:
                print(f"{series}: {name} is left out: {error}")
            if sys.stderr.isatty():
                print(
                    f"{len(tracks)} of {len(waiting)}: {series} {name}, {time.monotonic() - started:.0f} s",
                    file=sys.stderr,
                )
    rows: list[dict[str, object]] = []
    for series, task in tasks.items():
        own = [tracks[series, name] for name in models if name != PLAIN and (series, name) in tracks]
        run, scored = days_of(task, protocol)
        notes = ("temperature: measured values stand in for a perfect forecast",) if "temperature" in task.name else ()
        result = judge(own, task.load, run, scored, timezone=task.timezone, horizon=24, notes=notes)
        rows += report(task, result, tracks.get((series, PLAIN)))
        if options.chart and series == list(tasks)[-1]:
            chart(task, own, protocol, options.chart)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
