"""Gradient boosting on what two regressions leave: day-ahead load by the hour, with quantiles.

A forecast is a sum of three parts, each fitted on what the one before leaves:

1. calendar and weather: a ridge regression per hour of the day on days, holidays, degree-hours with several knees,
   trailing means of the temperature and the time of the year. It knows no yesterday and so holds for any horizon;
2. memory: a ridge regression per hour on how the last hours, days and the last week differed from part 1;
3. trees (LightGBM) on everything, for what is neither additive nor linear.

The trees are a few forests that each leave out every n-th week. So every training row is forecast by a forest that
did not see it, and the quantiles are grown on these honest errors rather than on those of rows learnt by heart.

Loads that never come near zero are modelled as logarithms: weather and weekends act on them in percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.features import (
    LOOK_BACK,
    Grid,
    Rows,
    grid_of,
    memory_columns,
    rows_of,
    stacked,
    static_design,
    tree_columns,
)
from energy_cloud_dagster.domain.forecasting.forecast import (
    Forecast,
    banded,
    canonical_text,
    natural_floor,
    parsed_text,
    refuse_look_ahead,
    text_digest,
)
from energy_cloud_dagster.domain.forecasting.hour_ridge import Filler, HourRidge, fit_hour_ridge, spread
from energy_cloud_dagster.domain.forecasting.series import (
    Floats,
    Integers,
    floats,
    future_index,
    hourly,
    hourly_frame,
)
from energy_cloud_dagster.domain.forecasting.trees import Forest, grown, joined

HOUR: Final = pd.Timedelta(hours=1)
DAY: Final = 24
#: Fewest known hours to fit on, and to forecast from in the last week.
LEAST_HOURS: Final = 336
LEAST_RECENT: Final = 24
#: Days of history from which the time of the year is a column.
YEARLY_FROM_DAYS: Final = 350
#: Days after which a forecast says that its model is old.
OLD_AFTER_DAYS: Final = 14
#: Days over which a training row loses half of its weight, by part.
HALF_LIFE: Final = {"static": 700.0, "memory": 700.0, "trees": 500.0}
PENALTY: Final = {"static": 40.0, "memory": 10.0}
#: A load whose smallest value is at least this share of its median is modelled as a logarithm.
LOGARITHM_FROM: Final = 0.2
#: Residuals are cut at this many robust deviations, so that one spike does not bend a regression.
CUT: Final = 10.0
#: A forecast stays within the training range and this share of it on both sides.
BEYOND: Final = 0.25

FORESTS: Final = 4
ROUNDS: Final = 200
TREES: Final = {
    "objective": "l2",
    "num_leaves": 31,
    "max_depth": 8,
    "learning_rate": 0.05,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 127,
}
BAND_ROUNDS: Final = 80
BANDS: Final = {
    "objective": "quantile",
    "num_leaves": 8,
    "max_depth": 4,
    "learning_rate": 0.08,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
    "max_bin": 63,
}


@dataclass(frozen=True, eq=False)
class FittedBoosting:
    """The arrays of one fit. Everything but ``low``, ``high`` and ``floor`` is in the unit of the model's own scale."""

    timezone: str
    train_start: datetime
    train_end: datetime
    regressors: tuple[str, ...]
    logarithm: bool
    yearly: bool
    static: HourRidge
    memory: HourRidge
    filler: Filler
    #: Corrections of P50, and the distances of P10 and P90 from it.
    centre: Forest
    lower: Forest
    upper: Forest
    #: How much of a day's unexplained load is left a day later, 0 to 1: what widens the bands of further days.
    persistence: float
    #: Where residuals are cut, and the range of the forecast.
    cut: float
    low: float
    high: float
    floor: float | None
    name: str = "gradient_boosting"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.to_text())

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast as ``Fitted`` says, a day at a time: a further day takes P50 of the days before for its past.

        Its bands are wider by the error that lasts from day to day. Raises ``InvalidInput`` where fewer than 24 of
        the last 168 hours are known or a regressor is missing in any hour of the horizon.
        """
        refuse_look_ahead(self.train_end, origin)
        index = future_index(origin, horizon)
        start = index[0] - LOOK_BACK * HOUR
        past = hourly(recent[(recent.index >= start) & (recent.index < index[0])], before=origin)
        if int(np.isfinite(floats(past[past.index >= index[0] - 168 * HOUR])).sum()) < LEAST_RECENT:
            raise InvalidInput(f"gradient boosting needs {LEAST_RECENT} known hours in the last week")
        frame = None
        if self.regressors:
            if future_regressors is None or not set(self.regressors) <= set(future_regressors.columns):
                raise InvalidInput(f"the model needs the regressors {', '.join(self.regressors)}")
            known = future_regressors.loc[future_regressors.index >= start, list(self.regressors)]
            frame = hourly_frame(known, pd.date_range(start, index[-1], freq="h"))
            missing = int(frame.loc[index].isna().any(axis=1).sum())
            if missing:
                raise InvalidInput(f"a regressor is missing in {missing} of {horizon} hours")
        grid = grid_of(
            _scaled(past, self.logarithm),
            frame,
            start=start.to_pydatetime(),
            hours=LOOK_BACK + horizon,
            timezone=self.timezone,
            names=self.regressors,
        )
        centre, lower, upper = self._answers(grid, horizon)
        age = (origin - self.train_end).days
        return banded(
            index,
            *(np.clip(self._unscaled(values), self.low, self.high) for values in (centre, lower, upper)),
            model=self.name,
            rung="champion",
            notes=(f"the model was fitted {age} days before",) if age > OLD_AFTER_DAYS else (),
            floor=self.floor,
        )

    def _answers(self, grid: Grid, horizon: int) -> tuple[Floats, Floats, Floats]:
        """Return centre, lower and upper bound of the last ``horizon`` hours of ``grid``, on the model's scale."""
        base = static_part(self.static, grid, self.yearly)
        centre, lower, upper = np.zeros(horizon), np.zeros(horizon), np.zeros(horizon)
        variance, left = 0.0, 1.0
        for first in range(0, horizon, DAY):
            leads = np.arange(min(DAY, horizon - first))
            rows = rows_of(np.array([LOOK_BACK + first]), leads)
            table, guess = self.table(grid, rows, base)
            variance, left = variance + left, left * self.persistence**2
            factor = np.sqrt(variance)
            day = slice(first, first + len(leads))
            centre[day] = guess + self.centre.evaluate(table)
            lower[day] = centre[day] + factor * np.minimum(self.lower.evaluate(table), 0.0)
            upper[day] = centre[day] + factor * np.maximum(self.upper.evaluate(table), 0.0)
            grid.load[rows.place] = centre[day]
        return centre, lower, upper

    def table(self, grid: Grid, rows: Rows, base: Floats) -> tuple[npt.NDArray[np.float32], Floats]:
        """Return the columns of the trees for ``rows``, shape ``(rows, columns)``, and parts 1 and 2 together."""
        memory = memory_table(grid, rows, base, self.cut)
        guess = base[rows.place] + self.memory.evaluate(memory, grid.hour[rows.place])
        return self.filler(full_table(grid, rows, memory, base, guess)).astype(np.float32), guess

    def _unscaled(self, values: Floats) -> Floats:
        return np.exp(np.minimum(values, 300.0)) if self.logarithm else values

    def to_text(self) -> str:
        """Return canonical JSON."""
        return canonical_text(
            {
                "model": self.name,
                "format": 1,
                "timezone": self.timezone,
                "train_start": self.train_start.isoformat(),
                "train_end": self.train_end.isoformat(),
                "regressors": self.regressors,
                "logarithm": self.logarithm,
                "yearly": self.yearly,
                "persistence": self.persistence,
                "cut": self.cut,
                "low": self.low,
                "high": self.high,
                "floor": self.floor,
            }
            | {name: getattr(self, name).document() for name in PARTS}
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the model that ``to_text`` wrote."""
        document = parsed_text(text, "gradient_boosting")
        try:
            return cls(
                timezone=document["timezone"],
                train_start=datetime.fromisoformat(document["train_start"]),
                train_end=datetime.fromisoformat(document["train_end"]),
                regressors=tuple(document["regressors"]),
                **{
                    name: document[name]
                    for name in ("logarithm", "yearly", "persistence", "cut", "low", "high", "floor")
                },
                **{name: kind.of(document[name]) for name, kind in PARTS.items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(f"a stored gradient boosting model cannot be read: {error!r}; fit it again") from error


NUMBERS: Final = ("logarithm", "yearly", "persistence", "cut", "low", "high", "floor")
PARTS: Final[dict[str, Any]] = {
    "static": HourRidge,
    "memory": HourRidge,
    "filler": Filler,
    "centre": Forest,
    "lower": Forest,
    "upper": Forest,
}


def _scaled(values: pd.Series[float], logarithm: bool) -> pd.Series[float]:
    """Return ``values`` on the model's scale; where that is a logarithm, zero and less are not known."""
    if not logarithm:
        return values
    return pd.Series(np.log(floats(values.where(values > 0))), index=values.index)


def static_part(static: HourRidge, grid: Grid, yearly: bool) -> Floats:
    """Return part 1 at every hour of ``grid``."""
    return static.evaluate(static_design(grid, yearly=yearly)[1], grid.hour)


def memory_table(grid: Grid, rows: Rows, base: Floats, cut: float) -> Floats:
    """Return the columns of part 2, shape ``(rows, columns)``; residuals beyond ``cut`` are cut."""
    return stacked(memory_columns(grid, rows, np.clip(grid.load - base, -cut, cut)))


def full_table(grid: Grid, rows: Rows, memory: Floats, base: Floats, guess: Floats) -> Floats:
    """Return the columns of part 3: those of part 2, those of the trees alone, and what parts 1 and 2 say."""
    return np.hstack([memory, stacked(tree_columns(grid, rows)), base[rows.place][:, None], guess[:, None]])


@dataclass(frozen=True)
class GradientBoosting:
    """Two regressions per hour of the day and LightGBM on what they leave; see the module."""

    name: str = "gradient_boosting"

    def fit(
        self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int
    ) -> FittedBoosting:
        """Fit as ``Model`` says, about ten seconds of one core on three years.

        Raises ``InvalidInput`` where fewer than 336 hours are known or they are all the same.
        """
        past = hourly(history)
        values = floats(past)
        known = values[np.isfinite(values)]
        if len(known) < LEAST_HOURS:
            raise InvalidInput(f"gradient boosting needs {LEAST_HOURS} known hours; {len(known)} are")
        if float(known.min()) == float(known.max()):
            raise InvalidInput(f"gradient boosting needs a series that moves; every known hour is {known[0]:g}")
        names = () if regressors is None else tuple(sorted(str(name) for name in regressors.columns))
        start = past.index[0] - LOOK_BACK * HOUR
        hours = LOOK_BACK + len(past)
        frame = None
        if regressors is not None and names:
            frame = hourly_frame(regressors, pd.date_range(start, periods=hours, freq="h"))
        logarithm = float(known.min()) > LOGARITHM_FROM * float(np.median(known))
        grid = grid_of(
            _scaled(past, logarithm), frame, start=start.to_pydatetime(), hours=hours, timezone=timezone, names=names
        )
        margin = BEYOND * float(known.max() - known.min())
        return FittedBoosting(
            timezone=timezone,
            train_start=past.index[0].to_pydatetime(),
            train_end=(past.index[-1] + HOUR).to_pydatetime(),
            regressors=names,
            logarithm=logarithm,
            yearly=len(past) >= YEARLY_FROM_DAYS * DAY,
            low=float(known.min()) - margin,
            high=float(known.max()) + margin,
            floor=natural_floor(values),
            **_parts(grid, yearly=len(past) >= YEARLY_FROM_DAYS * DAY, seed=seed),
        )


def _weights(grid: Grid, places: Integers, part: str) -> Floats:
    return np.asarray(0.5 ** ((grid.size - places) / DAY / HALF_LIFE[part]))


def training_rows(grid: Grid, seed: int) -> Rows:
    """Return the rows of a fit: from every local midnight a day ahead, and from as many hours drawn by ``seed``.

    Forecasts are made at midnight for a day and at every hour for the next ones; both are trained for. Rows whose
    load is not known are left out; a short history gives more origins a day.
    """
    days = (grid.size - LOOK_BACK) // DAY
    first = LOOK_BACK + DAY * (14 if days >= 60 else 7 if days >= 21 else 4)
    hours = np.arange(first, grid.size - DAY + 1)
    midnights = hours[grid.hour[hours] == 0]
    draws = 1 if days >= 180 else 3
    random = np.random.default_rng(seed)
    drawn = np.unique(np.concatenate([midnights + random.integers(1, DAY, len(midnights)) for _ in range(draws)]))
    origins = np.sort(np.concatenate([midnights, drawn[drawn + DAY <= grid.size]]))
    rows = rows_of(origins, np.arange(DAY))
    usable = np.isfinite(grid.load[rows.place])
    return Rows(rows.origin[usable], rows.lead[usable])


def _parts(grid: Grid, *, yearly: bool, seed: int) -> dict[str, Any]:
    """Return the fitted parts of ``grid``, whose first ``LOOK_BACK`` hours have no load."""
    hours = np.flatnonzero(np.isfinite(grid.load))
    design = static_design(grid, yearly=yearly)[1]
    static = fit_hour_ridge(
        design[hours], grid.load[hours], grid.hour[hours], _weights(grid, hours, "static"), penalty=PENALTY["static"]
    )
    base = static.evaluate(design, grid.hour)
    residual = grid.load - base
    cut = CUT * (spread(residual) or float(np.nanstd(residual)) or 1.0)
    rows = training_rows(grid, seed)
    place = rows.place
    table = memory_table(grid, rows, base, cut)
    target = np.clip(residual[place], -cut, cut)
    memory = fit_hour_ridge(table, target, grid.hour[place], _weights(grid, place, "memory"), penalty=PENALTY["memory"])
    guess = base[place] + memory.evaluate(table, grid.hour[place])
    columns = full_table(grid, rows, table, base, guess)
    filler = Filler.fit(columns)
    forests = _forests(
        filler(columns).astype(np.float32),
        target - (guess - base[place]),
        _weights(grid, place, "trees"),
        (grid.day[place] // 7).astype(np.int64),
        seed,
    )
    return {
        "static": static,
        "memory": memory,
        "filler": filler,
        "persistence": _persistence(residual),
        "cut": cut,
    } | forests


def _persistence(residual: Floats) -> float:
    """Return the correlation of the residual with that of the day before, cut to 0 and 0.95."""
    today, yesterday = residual[DAY:], residual[:-DAY]
    both = np.isfinite(today) & np.isfinite(yesterday)
    if both.sum() < DAY or not today[both].std() or not yesterday[both].std():
        return 0.0
    return float(np.clip(np.corrcoef(today[both], yesterday[both])[0, 1], 0.0, 0.95))


def _forests(
    table: npt.NDArray[np.float32], target: Floats, weights: Floats, weeks: Integers, seed: int
) -> dict[str, Forest]:
    """Return the forests of P50, P10 and P90: the last two on the errors of forests that did not see the week."""
    scale = float(np.sqrt(np.average(target**2, weights=weights))) or 1.0
    members, honest = [], np.zeros(len(target))
    for number in range(FORESTS):
        held = weeks % FORESTS == number
        settings = {**TREES, "seed": seed * FORESTS + number}
        forest = grown(table[~held], target[~held] / scale, weights[~held], rounds=ROUNDS, settings=settings)
        members.append(forest)
        honest[held] = forest.evaluate(table[held])
    centre = joined(members, scale / FORESTS)
    errors = target / scale - honest
    bands = {
        name: joined(
            [grown(table, errors, weights, rounds=BAND_ROUNDS, settings={**BANDS, "alpha": alpha, "seed": seed})], scale
        )
        for name, alpha in (("lower", 0.1), ("upper", 0.9))
    }
    return {"centre": centre, **bands}
