"""Forecasts of many sites at once: every site gets the blend of forecasts that its own last days deserve.

Blend, similar day, persistence: the ladder of ``ladder.py``, in columns. The blend weighs the pooled model and the
cheap forecasts by their errors on the site's own recent days, each made from what was known before that day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Forecast, Rung
from energy_cloud_dagster.domain.forecasting.series import Floats, future_index, hour_of
from energy_cloud_dagster.domain.forecasting.sites.bands import Bands, calibrated
from energy_cloud_dagster.domain.forecasting.sites.columns import Cheap, last_known
from energy_cloud_dagster.domain.forecasting.sites.panel import Panel, Walls, wall_hours
from energy_cloud_dagster.domain.forecasting.sites.pooled import FittedSites
from energy_cloud_dagster.domain.forecasting.sites.profiles import LEAST_HOURS, Past

Flags = npt.NDArray[np.bool_]

#: What the experts of ``EXPERTS`` weigh before a site has shown anything: half is the similar day, so that a blend
#: whose other half turns out wrong is hardly worse than it.
PRIOR: Final = np.array([0.3, 0.45, 0.1, 0.05, 0.05, 0.05])
#: A fortnight in which an expert was worse than the best by the share ``w`` of the similar day's error divides its
#: weight by e to ``SHARPNESS w + CERTAINTY w^2``: small differences are mostly chance, large ones are not.
SHARPNESS: Final = 3.0
CERTAINTY: Final = 6.0
#: Days that the experts are judged on.
JUDGED_DAYS: Final = 14
#: Hours that are looked at for gaps and for a stuck meter, and fewest known ones that mean it is stuck.
LOOK_BACK_HOURS: Final = 168
STUCK_HOURS: Final = 24
CHAMPION: Final = "site_blend"


@dataclass(frozen=True, eq=False)
class SiteForecasts:
    """Quantiles of all sites: ``p10 <= p50 <= p90``, each (sites, hours), finite, in the unit of the panel.

    ``models`` and ``rungs`` say for every site what answered, ``notes`` why and on what it rests. ``weights`` (sites,
    experts) are those of ``EXPERTS`` in the blend.
    """

    keys: tuple[str, ...]
    index: pd.DatetimeIndex
    p10: Floats
    p50: Floats
    p90: Floats
    models: tuple[str, ...]
    rungs: tuple[Rung, ...]
    notes: tuple[tuple[str, ...], ...]
    weights: Floats

    def forecast(self, key: str) -> Forecast:
        """Return one site's forecast; an unknown key raises ``InvalidInput``."""
        if key not in self.keys:
            raise InvalidInput(f"no site {key!r} was forecast")
        place = self.keys.index(key)
        return Forecast(
            self.index,
            self.p10[place],
            self.p50[place],
            self.p90[place],
            model=self.models[place],
            rung=self.rungs[place],
            notes=self.notes[place],
        )


def forecast_sites(
    fitted: FittedSites | None, panel: Panel, origin: datetime, horizon: int, *, kinds: bool = True
) -> SiteForecasts:
    """Forecast ``horizon`` hours from ``origin`` on for every site of ``panel``; always answers.

    - ``champion``: the blend with the pooled model ``fitted``;
    - ``similar_day``: the blend of the cheap forecasts alone, where none is fitted or it does not fit the panel, and
      the constant value of a site that has not moved for a week;
    - ``persistence``: the last known value, zero where there is none, between the least and the most ever known.

    ``kinds`` is whether days off differ from workdays (loads) or not (the sun). Hours of ``panel`` at or after
    ``origin`` never matter. Six weeks of history serve it fully: four behind each of the fourteen days on which the
    forecasts are judged. A site that was never negative is not forecast below zero, and one that was zero around an
    hour of the day for four weeks (PV by night) is zero there. Only malformed input raises (``InvalidInput``).
    """
    index = future_index(origin, horizon)
    known = panel.before(origin)
    targets = wall_hours(index, panel.timezone)
    walls = known.walls()
    past = Past.at(walls, int(targets[0]), targets, kinds=kinds)
    cheap = Cheap.of(past, kinds=kinds)
    refusal = _refusal(fitted, panel, origin, kinds=kinds)
    speaking = fitted if refusal is None else None
    losses, days, bands = _judge(walls, int(targets[0]), known, speaking, kinds=kinds)
    pooled = np.full((*cheap.typical.shape[:2], 3), np.nan)
    if speaking is not None:
        pooled = speaking.pooled(past, cheap)
        days = days * max(1.0, speaking.judged_days / JUDGED_DAYS)
    experts = np.concatenate([pooled[..., 1:2], cheap.experts], axis=-1)
    weights = _weights(losses, days, np.isfinite(pooled[..., 1]).all(axis=1))
    centre = _weighted(experts, weights)
    hours = targets % 24
    low, high = bands.applied(cheap.typical, hours)
    if speaking is not None:
        # quantiles are mixed where they lie, not as widths around P50: a base load has nothing below it
        share = np.where(np.isfinite(pooled[..., 1]), weights[:, :1], 0.0)
        model_low, model_high = speaking.judged(panel.keys)[1].applied(pooled, hours)
        low = np.where(share > 0, share * np.nan_to_num(model_low) + (1 - share) * low, low)
        high = np.where(share > 0, share * np.nan_to_num(model_high) + (1 - share) * high, high)
    dark = _dark(past)
    for one in (low, centre, high):
        one[dark] = 0.0
    return _laddered(known, past, index, low, centre, high, weights, refusal)


def _refusal(fitted: FittedSites | None, panel: Panel, origin: datetime, *, kinds: bool) -> str | None:
    """Return why the pooled model does not answer, None where it does."""
    if fitted is None:
        return "champion: none is fitted" if kinds else "champion: none is needed where days are alike"
    if fitted.train_end > origin:
        return f"champion: it saw hours up to {fitted.train_end.isoformat()}, after the origin"
    if fitted.timezone != panel.timezone or fitted.kinds != kinds:
        return "champion: it was fitted for another time zone or kind of series"
    return None


def _judge(
    walls: Walls, origin: int, panel: Panel, fitted: FittedSites | None, *, kinds: bool
) -> tuple[Floats, Floats, Bands]:
    """Return the experts' mean errors (sites, experts), how many days they rest on (sites,), and the typical bands.

    The errors are those of the days before ``origin``, from the same hour on, each forecast from what was known
    before it. Of the pooled model only days after its fit count as they are; for those that it has seen it is taken
    to be what its judged fit was beside the similar day. Without a model its column is NaN.
    """
    sites = len(walls.values)
    errors, known_hours = np.zeros((sites, len(PRIOR))), np.zeros((sites, len(PRIOR)))
    unseen = origin if fitted is None else _wall(fitted.train_end, panel)
    worth = np.full(sites, np.nan) if fitted is None else fitted.judged(panel.keys)[0]
    typical, truth, hours = [], [], []
    for day in range(1, JUDGED_DAYS + 1):
        start = origin - 24 * day
        if start - 24 * 7 < walls.first:
            break
        targets = start + np.arange(24)
        past = Past.at(walls, start, targets, kinds=kinds)
        cheap = Cheap.of(past, kinds=kinds)
        actual = walls.at(targets)
        error = np.abs(cheap.experts - actual[..., None])
        own = worth[:, None] * error[..., 0]
        if fitted is not None and start >= unseen:
            own = np.abs(fitted.pooled(past, cheap)[..., 1] - actual)
        error = np.concatenate([own[..., None], error], axis=-1)
        errors += np.where(np.isfinite(error), error, 0.0).sum(axis=1)
        known_hours += np.isfinite(error).sum(axis=1)
        typical.append(cheap.typical)
        truth.append(actual)
        hours.append(targets % 24)
    losses = np.where(known_hours > 0, errors / np.maximum(known_hours, 1), np.nan)
    if not typical:
        return losses, np.zeros(sites), Bands.wide(sites)
    found, actual = np.concatenate(typical, axis=1), np.concatenate(truth, axis=1)
    known = np.isfinite(actual) & np.isfinite(found[..., 1])
    return losses, known_hours[:, 1] / 24, calibrated(found, actual, known, np.concatenate(hours))


def _wall(moment: datetime, panel: Panel) -> int:
    """Return the wall hour of a whole UTC hour."""
    return int(wall_hours(pd.DatetimeIndex([hour_of(moment)]), panel.timezone)[0])


def _weights(losses: Floats, days: Floats, pooled: Flags) -> Floats:
    """Return the weights (sites, experts): the prior, times e to minus how much worse than the best each was.

    ``pooled`` says where the pooled model answers at all; an expert that was never judged is as good as the prior.
    """
    best = np.where(np.isfinite(losses), losses, np.inf).min(axis=1)
    scale = np.where(np.isfinite(losses[:, 1]), losses[:, 1], best)
    usable = np.isfinite(best) & (scale > 0)
    worse = np.where(usable[:, None], losses - np.where(usable, best, 0.0)[:, None], 0.0)
    worse = np.nan_to_num(worse / np.where(usable, scale, 1.0)[:, None])
    evidence = (SHARPNESS * worse + CERTAINTY * np.square(worse)) * (days / JUDGED_DAYS)[:, None]
    score = PRIOR * np.exp(-evidence)
    score[~pooled, 0] = 0.0
    return np.asarray(score / score.sum(axis=1, keepdims=True))


def _weighted(experts: Floats, weights: Floats) -> Floats:
    """Return the weighted mean of what is known of the experts, NaN where nothing is."""
    known = np.isfinite(experts)
    spread = np.where(known, weights[:, None], 0.0)
    total = spread.sum(axis=-1)
    found = np.where(known, experts * weights[:, None], 0.0).sum(axis=-1)
    return np.where(total > 0, found / np.where(total > 0, total, 1.0), np.nan)


def _dark(past: Past) -> Flags:
    """Return which targets (sites, targets) were zero for four weeks, an hour before and after included."""
    most = np.where(np.isfinite(past.block), np.abs(past.block), 0.0).max(axis=1)
    known = np.isfinite(past.block).any(axis=1)
    around = np.maximum(np.maximum(np.roll(most, 1, axis=1), most), np.roll(most, -1, axis=1))
    return np.asarray((around == 0)[:, past.slots] & known[:, past.slots])


def _laddered(
    known: Panel,
    past: Past,
    index: pd.DatetimeIndex,
    low: Floats,
    centre: Floats,
    high: Floats,
    weights: Floats,
    refusal: str | None,
) -> SiteForecasts:
    """Return the forecasts with the lower rungs where a site needs them, and what is to be said of each."""
    values = known.values
    recent = values[:, -LOOK_BACK_HOURS:] if values.shape[1] else np.full((len(values), 1), np.nan)
    finite, recent_finite = np.isfinite(values), np.isfinite(recent)
    count = recent_finite.sum(axis=1)
    least = np.where(recent_finite, recent, np.inf).min(axis=1, initial=np.inf)
    most = np.where(recent_finite, recent, -np.inf).max(axis=1, initial=-np.inf)
    stuck = (count >= STUCK_HOURS) & (least == most)
    hours_known = np.isfinite(past.block[:, :JUDGED_DAYS]).any(axis=1).sum(axis=1)
    unknown = (hours_known < LEAST_HOURS) | ~np.isfinite(centre).all(axis=1)
    last = last_known(values)
    held = last[stuck][:, None]
    centre[stuck] = held
    low[stuck], high[stuck] = np.fmin(low[stuck], held), np.fmax(high[stuck], held)
    ever_least = np.where(finite, values, np.inf).min(axis=1, initial=np.inf)
    ever_most = np.where(finite, values, -np.inf).max(axis=1, initial=-np.inf)
    centre[unknown] = last[unknown][:, None]
    low[unknown] = np.where(np.isfinite(ever_least[unknown]), ever_least[unknown], 0.0)[:, None]
    high[unknown] = np.where(np.isfinite(ever_most[unknown]), ever_most[unknown], 0.0)[:, None]
    floor = np.where(ever_least >= 0, 0.0, -np.inf)[:, None]
    centre = np.maximum(centre, floor)
    low = np.minimum(np.maximum(np.where(np.isfinite(low), low, centre), floor), centre)
    high = np.maximum(np.where(np.isfinite(high), high, centre), centre)
    models, rungs, notes = [], [], []
    first = np.where(finite.any(axis=1), values.shape[1] - finite.argmax(axis=1), 0) if values.shape[1] else count * 0
    for site in range(len(values)):
        remarks = []
        model, rung = _named(bool(unknown[site]), bool(stuck[site]), refusal)
        if refusal is not None:
            remarks.append(refusal)
        if unknown[site]:
            remarks.append(f"similar day: only {hours_known[site]} hours of the day are known in {JUDGED_DAYS} days")
        elif stuck[site]:
            remarks.append(f"constant series: every known hour of the last week is {last[site]:g}")
        span = min(LOOK_BACK_HOURS, int(first[site]))
        if count[site] < span:
            remarks.append(f"gaps: {span - count[site]} of the last {span} hours are missing")
        if 0 < first[site] < LOOK_BACK_HOURS:
            remarks.append(f"short history: {first[site]} hours")
        if not first[site]:
            remarks.append("no known hour before the origin: zeros")
        models.append(model)
        rungs.append(rung)
        notes.append(tuple(remarks))
    return SiteForecasts(known.keys, index, low, centre, high, tuple(models), tuple(rungs), tuple(notes), weights)


def _named(unknown: bool, stuck: bool, refusal: str | None) -> tuple[str, Rung]:
    if unknown:
        return "persistence", "persistence"
    if stuck:
        return "similar_day", "similar_day"
    return (CHAMPION, "champion") if refusal is None else (CHAMPION, "similar_day")
