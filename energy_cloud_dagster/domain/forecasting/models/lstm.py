"""An LSTM that reads the last 168 hours and writes the next 24, with quantiles.

One LSTM cell reads the look-back hour by hour (value, deviation from the last like hour, hour, day of the week,
holiday, temperature, humidity and whatever else is given). A second cell starts from its state and walks through the
hours ahead with what is known of them; a small head turns each step into the deviation of P50 from the base (see
``lstm_features``) and the distances of P10 and P90. Training is in ``lstm_training``, in JAX, an extra; prediction is
NumPy, a few milliseconds. Longer horizons are answered a day at a time on the P50 of the days before.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, Self

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import (
    Forecast,
    banded,
    canonical_text,
    natural_floor,
    parsed_text,
    refuse_look_ahead,
    text_digest,
)
from energy_cloud_dagster.domain.forecasting.models.lstm_features import (
    BLOCK,
    LIMIT,
    LOOK_BACK,
    REACH,
    Scale,
    Singles,
    Table,
    filled,
    scale_of,
    table,
)
from energy_cloud_dagster.domain.forecasting.models.lstm_network import Weights, network, packed, unpacked
from energy_cloud_dagster.domain.forecasting.models.lstm_training import Material, Plan, train
from energy_cloud_dagster.domain.forecasting.series import (
    Floats,
    floats,
    future_index,
    hour_of,
    hourly,
    hourly_frame,
    hours_of_day,
    value_at,
)

HOUR: Final = pd.Timedelta(hours=1)
#: Fewest known hours to fit on: three weeks.
LEAST_HOURS: Final = 504
#: Known hours among the last 168 that a forecast needs, and those that an hour to learn from needs.
LEAST_KNOWN: Final = 24
LEAST_LEARNT: Final = 84
#: Days after which a forecast says that its network is old.
OLD_AFTER_DAYS: Final = 42
#: Days at the end that decide when to stop, at most a fifth of the history.
HELD_DAYS: Final = 28
#: Days after which an origin is drawn half as often.
HALF_LIFE_DAYS: Final = 500.0
#: How much more often a local midnight is drawn, the origin of a day ahead.
MIDNIGHT: Final = 6.0
#: Width of the middle 90 % by which a value may lie outside of all but a thousandth of the history.
MARGIN: Final = 1.5
#: Growth of the known hours from which on a warm start becomes a first fit.
REFIT_GROWTH: Final = 2
#: The band grows as the number of the day to this power (measured on a week of days ahead).
WIDENING: Final = 0.2

#: Three networks of 32 units, much dropped out and decayed. One of 48 without learned its history by heart after two
#: epochs: on Victoria's 73 days its MAPE with temperature was 2.24 % and 59 % of hours lay inside, against 2.19 and 73.
PLAN: Final = Plan(
    hidden=32,
    head=32,
    batch=128,
    round_steps=64,
    rounds=8,
    patience=3,
    rate=3e-3,
    last_steps=64,
    last_rate=5e-4,
    warm_steps=32,
    warm_rate=2e-4,
    decay=0.1,
    dropout=0.3,
)


@dataclass(frozen=True, eq=False)
class FittedLSTM:
    """Trained networks (their quantiles are averaged) and the units of their inputs."""

    timezone: str
    train_start: datetime
    train_end: datetime
    regressors: tuple[str, ...]
    scale: Scale
    #: Mean and spread of the inputs of the look-back (2, P) and of the hours ahead (2, A).
    past_units: Singles
    ahead_units: Singles
    members: tuple[Weights, ...]
    floor: float | None
    #: Values outside are taken for faults of a meter and not seen.
    believed: tuple[float, float]
    seed: int
    #: Known hours of the last first fit; warm starts keep it.
    learnt: int
    name: str = "lstm"

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.to_text())

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast as ``Fitted`` says; regressors of the last four weeks sharpen it, those of the horizon are needed.

        Raises ``InvalidInput`` where fewer than 24 of the last 168 hours are known or a regressor is missing ahead.
        """
        refuse_look_ahead(self.train_end, origin)
        index = future_index(origin, horizon)
        start = hour_of(origin)
        first = start - REACH * HOUR
        recent, future_regressors = _since(recent, first), _since(future_regressors, first)
        past = hourly(recent, before=origin)
        grid = pd.date_range(first, periods=REACH + horizon, freq="h")
        values, faults = _believed(value_at(past, grid), self.believed)
        known = int(np.isfinite(values[REACH - LOOK_BACK : REACH]).sum())
        if known < LEAST_KNOWN:
            seen = f"{known} are known" + (f", {faults} look like faults" if faults else "")
            raise InvalidInput(f"the lstm needs {LEAST_KNOWN} known hours of the last {LOOK_BACK}; {seen}")
        columns = self._columns(future_regressors, grid, horizon)
        bands = np.empty((horizon, 3))
        for begin in range(0, horizon, BLOCK):
            end = min(begin + BLOCK, horizon)
            part = slice(begin, REACH + end)
            block = self._block(values[part], {name: column[part] for name, column in columns.items()}, grid[part])
            spread = (begin / BLOCK + 1) ** WIDENING
            middle = block[:, 1]
            bands[begin:end] = middle[:, None] + spread * (block - middle[:, None])
            values[REACH + begin : REACH + end] = middle
        age = (origin - self.train_end).days
        notes = [f"the model was fitted {age} days before"] if age > OLD_AFTER_DAYS else []
        if faults:
            notes.append(f"{faults} hours before the origin look like faults and were left out")
        if known < LEAST_LEARNT:
            notes.append(f"only {known} of the last {LOOK_BACK} hours are known")
        return banded(
            index,
            bands[:, 1],
            bands[:, 0],
            bands[:, 2],
            model=self.name,
            rung="champion",
            notes=tuple(notes),
            floor=self.floor,
        )

    def _columns(
        self, future_regressors: pd.DataFrame | None, grid: pd.DatetimeIndex, horizon: int
    ) -> dict[str, Floats]:
        if not self.regressors:
            return {}
        if future_regressors is None or not set(self.regressors) <= {str(name) for name in future_regressors.columns}:
            raise InvalidInput(f"the model needs the regressors {', '.join(self.regressors)}")
        frame = hourly_frame(future_regressors, grid)[list(self.regressors)]
        missing = int(frame.iloc[-horizon:].isna().any(axis=1).sum())
        if missing:
            raise InvalidInput(f"a regressor is missing in {missing} of {horizon} hours")
        return filled(frame)

    def _block(self, values: Floats, columns: dict[str, Floats], grid: pd.DatetimeIndex) -> Floats:
        """Return the quantiles of the hours of ``grid`` after the first ``REACH``, in the unit of the series."""
        features = table(values, columns, grid, self.timezone, self.scale)
        rows = slice(REACH, len(grid))
        level = float(features.level[REACH])
        base = np.where(np.isfinite(features.base[rows]), features.base[rows], level)
        past = _standard(features.past[REACH - LOOK_BACK : REACH], self.past_units, kept=2)
        value = np.clip(past[:, 0] - np.float32(level / self.scale.spread), -LIMIT, LIMIT)
        past[:, 0] = np.where(past[:, 1] > 0, value, 0)
        hours = len(base)
        ahead = np.hstack(
            [
                _standard(features.ahead[rows], self.ahead_units),
                np.broadcast_to(features.origin[REACH], (hours, features.origin.shape[1])),
                ((base - level) / self.scale.spread)[:, None],
                (np.arange(hours) / BLOCK)[:, None],
            ]
        ).astype(np.float32)
        deviations = network(self.members, past, ahead)
        return np.asarray(base[:, None] + self.scale.deviation * deviations, dtype=np.float64)

    def refit(
        self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int
    ) -> FittedLSTM:
        """Return the network trained on for some steps on ``history``: ``LSTM(warm=self).fit`` in one call."""
        model = LSTM(warm=self, members=len(self.members))
        return model.fit(history, regressors, timezone=timezone, seed=seed)

    def to_text(self) -> str:
        """Return canonical JSON; the arrays are base64 of compressed little-endian 32-bit floats."""
        return canonical_text(
            {
                "model": self.name,
                "format": 1,
                "timezone": self.timezone,
                "train_start": self.train_start.isoformat(),
                "train_end": self.train_end.isoformat(),
                "regressors": self.regressors,
                "scale": asdict(self.scale),
                "past_units": packed(self.past_units),
                "ahead_units": packed(self.ahead_units),
                "members": [{name: packed(array) for name, array in one.items()} for one in self.members],
                "floor": self.floor,
                "believed": self.believed,
                "seed": self.seed,
                "learnt": self.learnt,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the model that ``to_text`` wrote."""
        document = parsed_text(text, "lstm")
        try:
            return cls(
                timezone=document["timezone"],
                train_start=datetime.fromisoformat(document["train_start"]),
                train_end=datetime.fromisoformat(document["train_end"]),
                regressors=tuple(document["regressors"]),
                scale=Scale(
                    spread=document["scale"]["spread"],
                    deviation=document["scale"]["deviation"],
                    regressors=tuple((name, mean, width) for name, mean, width in document["scale"]["regressors"]),
                    yearly=document["scale"]["yearly"],
                ),
                past_units=unpacked(document["past_units"]),
                ahead_units=unpacked(document["ahead_units"]),
                members=tuple({name: unpacked(one[name]) for name in one} for one in document["members"]),
                floor=document["floor"],
                believed=(document["believed"][0], document["believed"][1]),
                seed=document["seed"],
                learnt=document["learnt"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, zlib.error) as error:
            raise InvalidInput(f"a stored lstm is damaged: {error}; fit it again") from error


def _standard(values: Singles, units: Singles, *, kept: int = 0) -> Singles:
    """Return ``values`` less the mean ``units[0]`` over the spread ``units[1]``, cut to ±6 but for ``kept`` columns."""
    result: Singles = ((values - units[0]) / units[1]).astype(np.float32)
    np.clip(result[:, kept:], -LIMIT, LIMIT, out=result[:, kept:])
    return result


def _units(values: Singles, *, kept: int = 0) -> Singles:
    """Return mean and spread of the columns; the first ``kept`` stay as they are, as does what does not vary."""
    mean, spread = values.mean(axis=0), values.std(axis=0)
    fixed = spread < 1e-4
    fixed[:kept] = True
    return np.stack([np.where(fixed, 0, mean), np.where(fixed, 1, spread)]).astype(np.float32)


@dataclass(frozen=True)
class LSTM:
    """The network of this module; ``warm`` is one to go on from, which takes seconds where the first fit takes minutes.

    A warm start needs the same time zone and regressors, and a history of less than twice the hours of the first fit:
    a network that was made for some weeks does not grow into years. Else the fit is a first one. On Victoria a network
    of half a year before was as good as one warmed every two weeks (MAPE 2.19 and 2.20 %): the start is gentle, it
    keeps up with what changes and costs no accuracy. Half of its draws from the last two months made it 0.02 worse.
    """

    warm: FittedLSTM | None = None
    plan: Plan = PLAN
    members: int = 3
    name: str = "lstm"

    def fit(
        self,
        history: pd.Series[Any],
        regressors: pd.DataFrame | None,
        *,
        timezone: str,
        seed: int,
        told: Callable[[int, float], None] | None = None,
    ) -> FittedLSTM:
        """Fit as ``Model`` says, on one thread; ``told`` hears the rounds and their loss on the held-back weeks.

        Raises ``InvalidInput`` where fewer than 504 hours are known, a regressor never is, the series does not vary,
        or JAX is not installed.
        """
        past = hourly(history)
        values = floats(past)
        number = int(np.isfinite(values).sum())
        if number < LEAST_HOURS:
            raise InvalidInput(f"the lstm needs {LEAST_HOURS} known hours; {number} are known")
        if float(np.nanmax(values)) == float(np.nanmin(values)):
            raise InvalidInput("the series never changes: there is nothing for an lstm to learn")
        believed = _range(values)
        values, _ = _believed(values, believed)
        index = pd.DatetimeIndex(past.index)
        columns = _regressors(regressors, index)
        names = tuple(sorted(columns))
        warm = self.warm if self._goes_on(names, timezone, number) else None
        scale = scale_of(values, columns, index, timezone) if warm is None else warm.scale
        features = table(values, columns, index, timezone, scale)
        past_units = _units(features.past, kept=2) if warm is None else warm.past_units
        ahead_units = _units(features.ahead) if warm is None else warm.ahead_units
        material = _material(values, features, scale, past_units, ahead_units, index, timezone)
        plan = self.plan
        if warm is not None:
            plan = replace(plan, hidden=warm.members[0]["past_state"].shape[0], head=len(warm.members[0]["head_bias"]))
        members = tuple(
            train(
                material,
                plan,
                seed=seed + 1000 * member,
                warm=None if warm is None else warm.members[member],
                told=told,
            )
            for member in range(self.members if warm is None else len(warm.members))
        )
        return FittedLSTM(
            timezone=timezone,
            train_start=index[0].to_pydatetime(),
            train_end=(index[-1] + HOUR).to_pydatetime(),
            regressors=names,
            scale=scale,
            past_units=past_units,
            ahead_units=ahead_units,
            members=members,
            floor=natural_floor(values),
            believed=believed,
            seed=seed,
            learnt=number if warm is None else warm.learnt,
        )

    def _goes_on(self, names: tuple[str, ...], timezone: str, known: int) -> bool:
        warm = self.warm
        return (
            warm is not None
            and (warm.regressors, warm.timezone) == (names, timezone)
            and known < REFIT_GROWTH * warm.learnt
        )


def _since[Rows: (pd.Series[Any], pd.DataFrame | None)](rows: Rows, first: pd.Timestamp) -> Rows:
    """Return the rows from ``first`` on, so that years are not sorted for a day; faults are left for others to name."""
    if rows is not None and isinstance(rows.index, pd.DatetimeIndex) and rows.index.tz is not None:
        return rows[rows.index >= first]
    return rows


def _range(values: Floats) -> tuple[float, float]:
    """Return what is believed of the series: all but a thousandth at each end, and a wide margin."""
    low, below, above, high = np.nanquantile(values, [0.001, 0.05, 0.95, 0.999])
    margin = MARGIN * max(above - below, 0.1 * (high - low), 1e-9)
    return float(low - margin), float(high + margin)


def _believed(values: Floats, believed: tuple[float, float]) -> tuple[Floats, int]:
    """Return ``values`` with NaN for those outside the range, and their number."""
    low, high = believed
    with np.errstate(invalid="ignore"):
        faults = (values < low) | (values > high)
    return np.where(faults, np.nan, values), int(faults.sum())


def _regressors(regressors: pd.DataFrame | None, index: pd.DatetimeIndex) -> dict[str, Floats]:
    if regressors is None:
        return {}
    frame = hourly_frame(regressors, index)
    for name in frame.columns:
        if not frame[name].notna().any():
            raise InvalidInput(f"the regressor {name} has no value in the history")
    return filled(frame)


def _material(
    values: Floats,
    features: Table,
    scale: Scale,
    past_units: Singles,
    ahead_units: Singles,
    index: pd.DatetimeIndex,
    timezone: str,
) -> Material:
    """Return the training material: targets, the rows to learn from and how often each is drawn."""
    deviation = (values - features.base) / scale.deviation
    known = np.isfinite(deviation)
    counted = np.concatenate([[0], np.cumsum(known)])
    rows = np.arange(LOOK_BACK, len(values) - BLOCK + 1)
    rows = rows[(features.counts[rows] >= LEAST_LEARNT) & (counted[rows + BLOCK] - counted[rows] >= BLOCK // 2)]
    held_from = len(values) - min(HELD_DAYS * 24, len(values) // 5)
    held = rows[(rows >= held_from) & ((rows - held_from) % 6 == 0)]
    if len(held) < 4 or (rows + BLOCK <= held_from).sum() < LOOK_BACK:
        raise InvalidInput("the history has too many gaps for an lstm")
    midnight = hours_of_day(index[rows], timezone) == 0
    age = (len(values) - rows) / 24
    return Material(
        past=_standard(features.past, past_units, kept=2),
        ahead=_standard(features.ahead, ahead_units),
        origin=features.origin,
        base=np.nan_to_num(features.base / scale.spread).astype(np.float32),
        level=np.nan_to_num(features.level / scale.spread).astype(np.float32),
        target=np.clip(np.nan_to_num(deviation), -12, 12).astype(np.float32),
        weight=known.astype(np.float32),
        origins=rows.astype(np.int64),
        chance=np.where(midnight, MIDNIGHT, 1.0) * 0.5 ** (age / HALF_LIFE_DAYS),
        held=held.astype(np.int64),
    )
