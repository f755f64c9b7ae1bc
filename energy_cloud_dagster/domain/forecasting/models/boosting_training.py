"""How the parts of gradient boosting are fitted, and the columns that fit and forecast share."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.models.features import (
    DAY,
    LONG_DAYS,
    LOOK_BACK,
    Grid,
    Rows,
    memory_columns,
    rows_of,
    similar_days,
    stacked,
    static_design,
    tree_columns,
)
from energy_cloud_dagster.domain.forecasting.models.hour_ridge import (
    LEAD_PARTS,
    Filler,
    HourRidge,
    cells_of,
    fit_hour_ridge,
    spread,
)
from energy_cloud_dagster.domain.forecasting.models.trees import Ground, joined
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers

#: Days over which a training row loses half of its weight, by part.
HALF_LIFE: Final = {"static": 700.0, "memory": 700.0, "trees": 500.0}
PENALTY: Final = {"static": 40.0, "memory": 25.0}
#: Residuals are cut at this many robust deviations, so that one spike does not bend a forecast.
CUT: Final = 10.0

#: Forests of P50, each on all but every n-th week. They differ on purpose: an even one corrects what the memory says,
#: an odd one learns the memory itself; their mean is better than either kind (Victoria: 2.78 against 2.83 and 2.84 %).
FORESTS: Final = 4
MEMORY_SHARE: Final = 0.5
ROUNDS: Final = (150, 200)
LEARNING_RATES: Final = (0.05, 0.08)
TREES: Final = {
    "objective": "l1",
    "num_leaves": 31,
    "max_depth": 8,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.2,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
}
BINS: Final = 127
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
}
#: Histories shorter than this are also fitted without each n-th week, for the errors of parts 1 and 2 there.
LEARNT_BY_HEART_DAYS: Final = 180
#: A week that was left out has neighbours on both sides, the week ahead has not: bands are wider by a fortnight's
#: share of the history (21 to 60 days of measured load held 58 to 70 % of the hours instead of 80 %).
DOUBT_DAYS: Final = 14
#: Shares of the mean of similar days that such a history may mix in: with few or noisy days it is hard to beat.
SHARES: Final = (0.0, 0.25, 0.5, 0.75)


def residual_of(grid: Grid, base: Floats, cut: float) -> Floats:
    """Return load minus ``base``, cut at ``cut``; not known where a regressor is not, for the base is none there."""
    residual = np.clip(grid.load - base, -cut, cut)
    for values in grid.columns.values():
        residual = np.where(np.isfinite(values), residual, np.nan)
    return residual


def full_table(grid: Grid, rows: Rows, memory: Floats, base: Floats) -> Floats:
    """Return the columns of part 3: those of part 2, those of the trees alone, and what part 1 says."""
    return np.hstack([memory, stacked(tree_columns(grid, rows)), base[rows.place][:, None]])


def training_rows(grid: Grid, seed: int) -> Rows:
    """Return the rows of a fit: from every local midnight a day ahead, and from as many hours drawn by ``seed``.

    Forecasts are made at midnight for a day and at every hour for the next ones; both are trained for. Rows whose
    load is not known are left out; a short history gives more origins a day.
    """
    days = (grid.size - LOOK_BACK) // DAY
    first = LOOK_BACK + DAY * (LONG_DAYS if days >= 180 else 14 if days >= 60 else 7 if days >= 21 else 4)
    hours = np.arange(first, grid.size - DAY + 1)
    midnights = hours[grid.hour[hours] == 0]
    draws = 1 if days >= 180 else 3
    random = np.random.default_rng(seed)
    drawn = np.unique(np.concatenate([midnights + random.integers(1, DAY, len(midnights)) for _ in range(draws)]))
    origins = np.sort(np.concatenate([midnights, drawn[drawn + DAY <= grid.size]]))
    rows = rows_of(origins, np.arange(DAY))
    usable = np.isfinite(grid.load[rows.place])
    return Rows(rows.origin[usable], rows.lead[usable])


def weights_of(grid: Grid, places: Integers, part: str) -> Floats:
    """Return what the rows at ``places`` weigh in a ``part``: half as much after each half-life."""
    return np.asarray(0.5 ** ((grid.size - places) / DAY / HALF_LIFE[part]), dtype=np.float64)


def fit_static(grid: Grid, design: Floats, weeks: npt.NDArray[np.bool_] | None = None) -> HourRidge:
    """Return part 1 of ``grid`` from its ``design``, on the hours that ``weeks`` chooses (None: all)."""
    chosen = np.isfinite(grid.load)
    hours = np.flatnonzero(chosen if weeks is None else chosen & weeks)
    return fit_hour_ridge(
        design[hours],
        grid.load[hours],
        grid.hour[hours],
        weights_of(grid, hours, "static"),
        parts=1,
        days=len(hours) / DAY,
        penalty=PENALTY["static"],
    )


def fit_memory(grid: Grid, rows: Rows, table: Floats, target: Floats) -> HourRidge:
    """Return part 2: the regression of ``target`` on ``table``, both by row."""
    return fit_hour_ridge(
        table,
        target,
        cells_of(grid.hour[rows.place], rows.lead),
        weights_of(grid, rows.place, "memory"),
        parts=LEAD_PARTS,
        days=len(np.unique(rows.origin // DAY)),
        penalty=PENALTY["memory"],
    )


def _linear(
    grid: Grid, design: Floats, rows: Rows, weeks: npt.NDArray[np.bool_] | None = None
) -> tuple[HourRidge, HourRidge, Floats, float, Floats, Floats]:
    """Return parts 1 and 2, fitted where ``weeks`` chooses: with the base, the cut, the table and what is remembered.

    ``weeks`` is by hour of the grid; the table and what is remembered are for all ``rows``.
    """
    static = fit_static(grid, design, weeks)
    base = static.evaluate(design, grid.hour)
    raw = residual_of(grid, base, np.inf)
    cut = CUT * (spread(raw) or float(np.nanstd(raw)) or 1.0)
    table = stacked(memory_columns(grid, rows, np.clip(raw, -cut, cut)))
    target = np.clip(grid.load[rows.place] - base[rows.place], -cut, cut)
    chosen = np.ones(len(target), dtype=np.bool_) if weeks is None else weeks[rows.place]
    memory = fit_memory(grid, Rows(rows.origin[chosen], rows.lead[chosen]), table[chosen], target[chosen])
    return static, memory, base, cut, table, memory.evaluate(table, cells_of(grid.hour[rows.place], rows.lead))


def fit_parts(grid: Grid, *, yearly: bool, seed: int) -> dict[str, Any]:
    """Return the fitted parts of ``grid``, whose first ``LOOK_BACK`` hours have no load, by their names.

    Raises ``InvalidInput`` where no row has a known load.
    """
    design = static_design(grid, yearly=yearly)[1]
    rows = training_rows(grid, seed)
    place = rows.place
    if not len(place):
        raise InvalidInput("gradient boosting needs known hours after its first days; there are none")
    static, memory, base, cut, table, remembered = _linear(grid, design, rows)
    residual = residual_of(grid, base, cut)
    target = np.clip(grid.load[place] - base[place], -cut, cut)
    groups = grid.day // 7 % FORESTS
    optimism = np.zeros(len(place))
    plain = None
    if (grid.size - LOOK_BACK) / DAY < LEARNT_BY_HEART_DAYS:
        for number in np.unique(groups[place]):
            held = groups[place] == number
            if held.all():
                continue
            _, _, other, _, _, said = _linear(grid, design, rows, groups != number)
            optimism[held] = (base[place] + remembered - other[place] - said)[held]
        plain = grid.load[place] - similar_days(grid, rows)
    columns = full_table(grid, rows, table, base)
    filler = Filler.fit(columns)
    forests = _forests(
        filler(columns).astype(np.float32),
        target,
        remembered,
        weights_of(grid, place, "trees"),
        groups[place],
        optimism,
        plain,
        1 + DOUBT_DAYS * DAY / (grid.size - LOOK_BACK),
        seed,
    )
    return {
        "static": static,
        "memory": memory,
        "filler": filler,
        "persistence": _persistence(residual),
        "cut": cut,
        "tail": residual[-(LONG_DAYS + 1) * DAY :].astype(np.float32),
    } | forests


def _persistence(residual: Floats) -> float:
    """Return the correlation of the residual with that of the day before, cut to 0 and 0.95."""
    today, yesterday = residual[DAY:], residual[:-DAY]
    both = np.isfinite(today) & np.isfinite(yesterday)
    if both.sum() < DAY or not today[both].std() or not yesterday[both].std():
        return 0.0
    return float(np.clip(np.corrcoef(today[both], yesterday[both])[0, 1], 0.0, 0.95))


def _forests(
    table: npt.NDArray[np.float32],
    target: Floats,
    remembered: Floats,
    weights: Floats,
    groups: Integers,
    optimism: Floats,
    plain: Floats | None,
    doubt: float,
    seed: int,
) -> dict[str, Any]:
    """Return the forests of P50, P10 and P90: the last two on the errors of forests that did not see the week.

    ``target`` is what part 1 leaves, ``remembered`` what part 2 says of it, and ``optimism`` how much further off
    both would have been without the row's own week. ``plain`` are the errors of the mean of similar days; where they
    are given, ``similar`` is the share of that mean that would have been best. ``doubt`` widens the bands.
    """
    scale = float(np.sqrt(np.average((target - remembered) ** 2, weights=weights))) or 1.0
    ground = Ground(table, weights, bins=BINS)
    members, honest = [], np.zeros(len(target))
    for number in range(FORESTS):
        kind = number % 2
        held = groups == number
        aim = (target if kind else target - remembered) / scale
        settings = {**TREES, "learning_rate": LEARNING_RATES[kind], "seed": seed * FORESTS + number}
        others = None if held.all() else ~held
        forest = ground.grown(aim, rows=others, rounds=ROUNDS[kind], settings=settings)
        members.append(forest)
        honest[held] = aim[held] - forest.evaluate(table[held])
    honest += optimism / scale
    similar = 0.0
    if plain is not None:
        errors = np.where(np.isfinite(plain), plain / scale, honest)
        mixes = [(1 - share) * honest + share * errors for share in SHARES]
        best = int(np.argmin([np.average(np.abs(mix), weights=weights) for mix in mixes]))
        similar, honest = SHARES[best], mixes[best]
    bands = {}
    for name, alpha in (("lower", 0.1), ("upper", 0.9)):
        settings = {**BANDS, "alpha": alpha, "seed": seed}
        bands[name] = joined([ground.grown(honest, rounds=BAND_ROUNDS, settings=settings)], scale * doubt)
    return {"centre": joined(members, scale / FORESTS), "similar": similar, **bands}
