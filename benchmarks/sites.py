"""How good the forecasts of many sites are, site by site, and what a thousand of them cost.

The protocol: 24 hours from the local midnights of the last fifth of the days (73 of them where there are more),
refitted every 14 days, nothing known after the origin, no weather. MASE is scaled by the weekly change before the
first scored day. "No worse": a site's MAE is at most that of the similar day and of the weekly naive. "Worst": the
largest ratio of a site's MAE to the better of the two.

    python benchmarks/sites.py [--quick] [--only PART] [--meters 50] [--sites 1000]

The ten homes are sample data; the Swiss meters lie beside the checkout (`../shared/data`) and are left out, with a
word, where they do not. `--quick` scores every fourth day and grows fewer trees.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from energy_cloud_dagster.domain.forecasting import with_holidays
from energy_cloud_dagster.domain.forecasting.forecast import QUANTILES
from energy_cloud_dagster.domain.forecasting.models.boosting import GradientBoosting
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers
from energy_cloud_dagster.domain.forecasting.sites.blend import forecast_sites
from energy_cloud_dagster.domain.forecasting.sites.panel import Panel, wall_hours
from energy_cloud_dagster.domain.forecasting.sites.pooled import FittedSites, SiteModel
from energy_cloud_dagster.domain.forecasting.sites.profiles import Past, similar_day, weekly_naive
from energy_cloud_dagster.domain.forecasting.sites.reconcile import fit_reconciler
from energy_cloud_dagster.sample_data import files

SHARED = Path(__file__).parents[2] / "shared" / "data" / "meters"
SEED = 14
REFIT = timedelta(days=14)
ORIGINS = 73
#: Days before the first scored one whose errors the first reconciliation rests on.
BURN_IN = 28
DAY = 24


@dataclass
class Run:
    """Forecasts of one set: arrays (sites, hours) of the forecast days one after the other."""

    actual: list[Floats] = field(default_factory=list)
    p10: list[Floats] = field(default_factory=list)
    p50: list[Floats] = field(default_factory=list)
    p90: list[Floats] = field(default_factory=list)
    similar: list[Floats] = field(default_factory=list)
    weekly: list[Floats] = field(default_factory=list)
    fit_seconds: list[float] = field(default_factory=list)
    predict_seconds: list[float] = field(default_factory=list)

    def only(self, days: npt.NDArray[np.bool_]) -> Run:
        """Return the run of some of its days; the seconds are those of all."""
        names = ("actual", "p10", "p50", "p90", "similar", "weekly")
        kept = {name: [getattr(self, name)[day] for day in np.flatnonzero(days)] for name in names}
        return Run(**kept, fit_seconds=self.fit_seconds, predict_seconds=self.predict_seconds)


def homes() -> Panel:
    """Return the loads of the ten homes."""
    frame = files.read_values(files.FOLDER / files.LOAD.name, files.LOAD.columns)
    return Panel.of({str(name): frame[name] for name in frame}, "America/Los_Angeles")


def swiss(meters: int) -> Panel | None:
    """Return ``meters`` Swiss households, evenly from the sorted ones; None where the data is not there."""
    paths = [SHARED / f"swiss_households_2018_15min_part{part}.csv.gz" for part in (1, 2)]
    if not all(path.exists() for path in paths):
        return None
    frame = pd.concat([pd.read_csv(path) for path in paths])
    frame.index = pd.DatetimeIndex(pd.to_datetime(frame.pop("timestamp"), utc=True))
    hourly = frame.sort_index(axis=1).resample("h").sum(min_count=4)
    chosen = np.linspace(0, hourly.shape[1] - 1, min(meters, hourly.shape[1])).round().astype(int)
    return Panel.of({str(name): hourly[name] for name in hourly.columns[chosen]}, "Europe/Zurich")


def midnights(panel: Panel) -> tuple[Integers, Integers]:
    """Return the columns of all local midnights with a whole day after them, and of those that are scored."""
    walls = wall_hours(panel.index, panel.timezone)
    every = np.flatnonzero((walls % DAY == 0) & (np.arange(len(walls)) + DAY <= len(walls)))
    last = every[int(np.ceil(0.8 * len(every))) :]
    return every, last[np.unique(np.linspace(0, len(last) - 1, ORIGINS).round().astype(int))]


def follow(panel: Panel, columns: Sequence[int], model: SiteModel) -> Run:
    """Forecast the day after every one of ``columns``, refitting as the protocol says."""
    run, fitted, fitted_at = Run(), None, None
    walls, grid = wall_hours(panel.index, panel.timezone), panel.walls()
    for column in columns:
        origin = panel.index[column].to_pydatetime()
        before = panel.before(origin)
        if fitted_at is None or origin - fitted_at >= REFIT:
            started = time.process_time()
            fitted, fitted_at = model.fit(before, seed=SEED), origin
            run.fit_seconds.append(time.process_time() - started)
        started = time.process_time()
        found = forecast_sites(fitted, before, origin, DAY)
        run.predict_seconds.append(time.process_time() - started)
        past = Past.at(grid, int(walls[column]), walls[column : column + DAY])
        run.actual.append(panel.values[:, column : column + DAY])
        run.similar.append(np.nan_to_num(similar_day(past)))
        run.weekly.append(np.nan_to_num(weekly_naive(past)))
        for name in ("p10", "p50", "p90"):
            getattr(run, name).append(getattr(found, name))
    return run


def judge(name: str, panel: Panel, columns: Integers, run: Run) -> None:
    """Print the lines of one set."""
    before = panel.values[:, : columns[0]]
    scale = np.nanmean(np.abs(before[:, 168:] - before[:, :-168]), axis=1)
    actual, p10, p50, p90, similar, weekly = (
        np.concatenate(getattr(run, one), axis=1) for one in ("actual", "p10", "p50", "p90", "similar", "weekly")
    )
    errors = {
        title: np.nanmean(np.abs(one - actual), axis=1)
        for title, one in (("weekly naive", weekly), ("similar day", similar), ("blend", p50))
    }
    moving = scale > 0
    print(f"\n{name}: {len(actual)} sites, {len(columns)} days from {panel.index[columns[0]]:%Y-%m-%d}")
    print(f"  {'':14}{'median MASE':>12}{'worst site':>12}{'no worse':>10}{'within 5 %':>12}")
    better = np.minimum(errors["weekly naive"], errors["similar day"])
    for title, error in errors.items():
        ratio = np.where(better > 0, error / np.where(better > 0, better, 1.0), np.where(error > 1e-9, np.inf, 1.0))
        mase = error[moving] / scale[moving]
        shares = f"{100 * (ratio <= 1 + 1e-9).mean():9.1f}%{100 * (ratio <= 1.05).mean():11.1f}%"
        print(f"  {title:14}{np.median(mase):12.3f}{ratio.max():12.3f}{shares}")
    guesses = zip(QUANTILES, (p10, p50, p90), strict=True)
    loss = np.mean([np.maximum(q * (actual - one), (q - 1) * (actual - one)) for q, one in guesses], axis=0)
    pinball = np.mean(np.nanmean(loss, axis=1)[moving] / scale[moving])
    inside = ((p10 <= actual) & (actual <= p90))[np.isfinite(actual)].mean()
    print(f"  P10-P90 cover {100 * inside:.1f} %, mean pinball {pinball:.3f} of the weekly change")
    fit, predict = np.median(run.fit_seconds), np.median(run.predict_seconds)
    print(f"  CPU: fit {fit:.1f} s, predict {1000 * predict:.0f} ms")


def reconciled(panel: Panel, columns: Sequence[int], run: Run) -> None:
    """Print what reconciling the sites with a forecast of their sum does to both."""
    total = pd.Series(panel.values.sum(axis=0), index=panel.index)
    flags = with_holidays(None, panel.index, panel.timezone)
    fitted, fitted_at, days = None, None, []
    for column in columns:
        origin = panel.index[column].to_pydatetime()
        if fitted is None or fitted_at is None or origin - fitted_at >= REFIT:
            past = total[total.index < origin]
            fitted = GradientBoosting().fit(past, flags[flags.index < origin], timezone=panel.timezone, seed=SEED)
            fitted_at = origin
        ahead = flags[(flags.index >= origin - timedelta(days=14)) & (flags.index < origin + timedelta(hours=DAY))]
        days.append(fitted.predict(total[total.index < origin], ahead, origin, DAY).p50)
    truth = np.stack(run.actual)
    sites, whole = np.stack(run.p50), np.stack(days)
    found: dict[str, tuple[list[Floats], list[Floats]]] = {
        name: ([], []) for name in ("as forecast", "reconciled", "bottom-up")
    }
    for day in range(BURN_IN, len(columns)):
        known = slice(max(0, day - 56), day)
        total_errors = (whole[known] - truth[known].sum(axis=1)).reshape(-1)
        site_errors = (sites[known] - truth[known]).transpose(1, 0, 2).reshape(len(panel.keys), -1)
        together = fit_reconciler(total_errors, site_errors).reconcile(whole[day], sites[day])
        for name, (top, each) in (
            ("as forecast", (whole[day], sites[day])),
            ("reconciled", together),
            ("bottom-up", (sites[day].sum(axis=0), sites[day])),
        ):
            found[name][0].append(top - truth[day].sum(axis=0))
            found[name][1].append(each - truth[day])
    print(f"\nTheir sum and they, reconciled (MinT, shrunk), {len(columns) - BURN_IN} days, kWh")
    # the medians of skewed homes lie below their means and add up to less than their sum's: what is coherent is a mean,
    # better by the square of its errors, not by their size
    print(f"  {'':14}{'MAE, sum':>10}{'a site':>10}{'RMSE, sum':>12}{'a site':>10}")
    for name, (tops, each_day) in found.items():
        whole_errors, own_errors = np.concatenate(tops), np.concatenate(each_day, axis=1)
        sizes = [np.abs(one).mean() for one in (whole_errors, own_errors)]
        roots = [np.sqrt(np.square(one).mean()) for one in (whole_errors, own_errors)]
        print(f"  {name:14}{sizes[0]:10.3f}{sizes[1]:10.4f}{roots[0]:12.3f}{roots[1]:10.4f}")


def many(sites: int, trees: int) -> dict[str, float]:
    """Fit and forecast ``sites`` made from measured homes; return seconds of wall time and megabytes."""
    panel = homes()
    days = 60
    draw = np.random.default_rng(SEED)
    hours = DAY * days
    starts = DAY * 7 * draw.integers(0, (panel.values.shape[1] - hours - DAY) // (DAY * 7), sites)
    rows = [
        panel.values[place % 10, start : start + hours] * draw.uniform(0.5, 2) * draw.uniform(0.8, 1.2, hours)
        for place, start in enumerate(starts)
    ]
    made = Panel(tuple(f"site-{place}" for place in range(sites)), panel.start, np.stack(rows), panel.timezone)
    origin: datetime = (panel.start + pd.Timedelta(hours=hours - DAY)).to_pydatetime()
    started = time.process_time()
    text = SiteModel(trees=trees).fit(made.before(origin), seed=SEED).to_text()
    fit = time.process_time() - started
    started, cpu = time.perf_counter(), time.process_time()
    fitted = FittedSites.from_text(text)
    found = forecast_sites(fitted, made, origin, DAY)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert found.p50.shape == (sites, DAY)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"fit": fit, "predict": seconds, "cpu": cpu, "peak": peak, "text": len(text) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description="Forecasts of many sites: accuracy site by site, and cost.")
    parser.add_argument("--quick", action="store_true", help="Score every fourth day and grow fewer trees.")
    parser.add_argument("--meters", type=int, default=50, help="Swiss meters; 358 are all.")
    parser.add_argument("--only", choices=["homes", "meters", "cost"], help="One part of it.")
    parser.add_argument("--sites", type=int, default=1000, help="Sites of the run for cost.")
    chosen = parser.parse_args()
    model = SiteModel(trees=40) if chosen.quick else SiteModel()
    print("Sites")
    if chosen.only in (None, "homes"):
        _homes(model, quick=chosen.quick)
    if chosen.only in (None, "meters"):
        _meters(model, chosen.meters)
    if chosen.only in (None, "cost"):
        _cost(model, chosen.sites)


def _homes(model: SiteModel, *, quick: bool) -> None:
    panel = homes()
    every, scored = midnights(panel)
    if quick:
        judge("Ten homes", panel, scored[::4], follow(panel, scored[::4], model))
        return
    days = every[np.searchsorted(every, scored[0]) - BURN_IN :]
    run = follow(panel, days, model)
    judge("Ten homes", panel, scored, run.only(np.isin(days, scored)))
    reconciled(panel, days, run)


def _meters(model: SiteModel, count: int) -> None:
    panel = swiss(count)
    if panel is None:
        print("\nSwiss meters: not measured here, their data does not lie beside the checkout")
        return
    _, scored = midnights(panel)
    judge("Swiss meters", panel, scored, follow(panel, scored, model))


def _cost(model: SiteModel, sites: int) -> None:
    # a process of its own, so that the memory is its own too
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        cost = pool.submit(many, sites, model.trees).result()
    print(f"\n{sites} sites x 24 h on one core, from the stored text ({cost['text']:.1f} MB)")
    print(f"  predict {cost['predict']:.1f} s ({cost['cpu']:.1f} s of CPU), fit {cost['fit']:.0f} s of CPU")
    print(f"  {cost['peak']:.0f} MB of memory at most")


if __name__ == "__main__":
    main()
