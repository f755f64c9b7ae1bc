"""Prophet with temperature: fitted by the package, evaluated here.

Prophet's point forecast is a sum that a few lines of NumPy evaluate: level, Fourier terms, regressors. So a fitted
model is kept as its coefficients (a few kB of JSON), the hourly forecast needs neither Prophet nor Stan (their imports
cost about three seconds of CPU), and the text holds nothing of the machine or the moment. A test holds the evaluation
against Prophet's own ``predict``.

What was chosen, and why (Victoria, 24 origins over two years, 8 weeks of history, measured temperature):

- the level is flat: over some weeks a trend extrapolates the weather (MAPE 5.2 % with Prophet's trend, 4.6 % flat);
- workdays and weekends have daily shapes of their own (6.2 % with one shape, 5.2 % with two);
- heating and cooling degree-hours of the hour and of the trailing day, with a second knee for hot hours (3.9 %).

Quantiles come from residuals by hour of the day rather than from Prophet's sampling, which is random and slow. The
residuals are those of a forecast whose temperature is that of the day before, as in use it will be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt
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
from energy_cloud_dagster.domain.forecasting.series import (
    Floats,
    days_off,
    floats,
    future_index,
    hourly,
    hourly_frame,
    hours_of_day,
    local,
    residual_bands,
)
from energy_cloud_dagster.domain.forecasting.weather import MEMORY_HOURS, TEMPERATURE, degree_features, trailing_mean

if TYPE_CHECKING:
    from prophet import Prophet

HOUR: Final = pd.Timedelta(hours=1)
#: Fewest known hours to fit on: two weeks, so that every hour of the week was seen twice.
LEAST_HOURS: Final = 336
#: Days of history from which a yearly cycle is fitted too.
YEARLY_FROM_DAYS: Final = 350
#: Days after which a forecast says that its model is old.
OLD_AFTER_DAYS: Final = 14
#: How far beyond the training range a degree-hour column may go, in its tens of degrees.
EXTRAPOLATION: Final = 0.5

#: Name, period in days, Fourier pairs, and the kind of day on which it acts.
SEASONALITIES: Final = (
    ("daily_workday", 1.0, 10, "workday"),
    ("daily_day_off", 1.0, 10, "day_off"),
    ("weekly", 7.0, 3, None),
)
YEARLY: Final = ("yearly", 365.25, 4, None)

Season = tuple[str, float, int, str | None]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the fitting packages from writing to the terminal.

    cmdstanpy attaches a handler of its own and reports every fit on stderr, and prophet complains about a plotting
    library that nothing here uses. It has to happen around the import and the fit: cmdstanpy resets its logger's
    level when it is first imported, so a level set by an entry point is lost. What goes wrong still raises.
    """
    loggers = [logging.getLogger(name) for name in ("cmdstanpy", "prophet", "prophet.models", "prophet.plot")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def load_prophet() -> None:
    """Import Prophet, which takes seconds: callers that tell start-up from work do it beforehand."""
    with _quiet():
        import prophet  # noqa: F401


def _conditions(index: pd.DatetimeIndex, timezone: str) -> dict[str, npt.NDArray[np.bool_]]:
    off = days_off(index, timezone)
    return {"workday": ~off, "day_off": off}


def _seasonal_terms(index: pd.DatetimeIndex, timezone: str, seasons: tuple[Season, ...]) -> Floats:
    """Return Prophet's Fourier columns, shape ``(hours, 2 x sum of orders)``, in its order: sine, cosine by order."""
    days = np.asarray((local(index, timezone) - pd.Timestamp(0)) / pd.Timedelta(days=1), dtype=np.float64)
    conditions = _conditions(index, timezone)
    blocks = []
    for _, period, order, condition in seasons:
        angles = 2 * np.pi * days[:, None] * np.arange(1, order + 1) / period
        block = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(days), 2 * order)
        blocks.append(block if condition is None else block * conditions[condition][:, None])
    return np.hstack(blocks)


def _regressor_columns(frame: pd.DataFrame) -> dict[str, Floats]:
    """Return the regression columns of ``frame``, a gapless hourly grid: temperature as degree-hours, others as is."""
    columns: dict[str, Floats] = {}
    for name in frame.columns:
        values = floats(frame[name])
        if name == TEMPERATURE:
            columns |= degree_features(values, floats(trailing_mean(frame[name])))
        else:
            columns[str(name)] = values
    return columns


def _day_ahead_columns(frame: pd.DataFrame) -> dict[str, Floats]:
    """Return the columns as a forecast knows them: the temperature is that of the day before.

    The trailing mean is half measured on average over the leads of a day, so it is taken half way.
    """
    columns = _regressor_columns(frame)
    if TEMPERATURE in frame.columns:
        yesterday = frame[TEMPERATURE].shift(24)
        memory = trailing_mean(frame[TEMPERATURE])
        half_way = (memory + memory.shift(24)) / 2
        columns |= degree_features(floats(yesterday), floats(half_way))
    return columns


@dataclass(frozen=True)
class FittedProphet:
    """The coefficients of one fit, all in the unit of the series."""

    timezone: str
    train_start: datetime
    train_end: datetime
    regressors: tuple[str, ...]
    seasons: tuple[Season, ...]
    level: float
    seasonal: tuple[float, ...]
    #: Column name, coefficient, largest value that is believed (None: any).
    columns: tuple[tuple[str, float, float | None], ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    floor: float | None
    name: str = "prophet"

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.to_text())

    def evaluate(self, index: pd.DatetimeIndex, columns: dict[str, Floats]) -> Floats:
        """Return the point forecast at ``index`` with the regression ``columns``, not yet cut at the floor."""
        total = self.level + _seasonal_terms(index, self.timezone, self.seasons) @ np.asarray(self.seasonal)
        for name, coefficient, most in self.columns:
            values = columns[name]
            total = total + coefficient * (values if most is None else np.minimum(values, most))
        return np.asarray(total, dtype=np.float64)

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast as ``Fitted`` says. ``recent`` is not used: the level is the one of the fit.

        Raises ``InvalidInput`` where a regressor is missing in any hour of the horizon.
        """
        del recent
        refuse_look_ahead(self.train_end, origin)
        index = future_index(origin, horizon)
        columns: dict[str, Floats] = {}
        if self.regressors:
            if future_regressors is None or not set(self.regressors) <= set(future_regressors.columns):
                raise InvalidInput(f"the model needs the regressors {', '.join(self.regressors)}")
            grid = pd.date_range(end=index[-1], periods=horizon + MEMORY_HOURS - 1, freq="h")
            frame = hourly_frame(future_regressors[list(self.regressors)], grid)
            missing = int(frame.loc[index].isna().any(axis=1).sum())
            if missing:
                raise InvalidInput(f"a regressor is missing in {missing} of {horizon} hours")
            columns = {name: values[-horizon:] for name, values in _regressor_columns(frame).items()}
        centre = self.evaluate(index, columns)
        hours = hours_of_day(index, self.timezone)
        age = (origin - self.train_end).days
        return banded(
            index,
            centre,
            centre + np.asarray(self.lower)[hours],
            centre + np.asarray(self.upper)[hours],
            model=self.name,
            rung="champion",
            notes=(f"the model was fitted {age} days before",) if age > OLD_AFTER_DAYS else (),
            floor=self.floor,
        )

    def to_text(self) -> str:
        """Return canonical JSON."""
        document = asdict(self) | {
            "model": self.name,
            "format": 1,
            "train_start": self.train_start.isoformat(),
            "train_end": self.train_end.isoformat(),
        }
        del document["name"]
        return canonical_text(document)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the model that ``to_text`` wrote."""
        document = parsed_text(text, "prophet")
        return cls(
            timezone=document["timezone"],
            train_start=datetime.fromisoformat(document["train_start"]),
            train_end=datetime.fromisoformat(document["train_end"]),
            regressors=tuple(document["regressors"]),
            seasons=tuple((name, period, order, condition) for name, period, order, condition in document["seasons"]),
            level=document["level"],
            seasonal=tuple(document["seasonal"]),
            columns=tuple((name, coefficient, most) for name, coefficient, most in document["columns"]),
            lower=tuple(document["lower"]),
            upper=tuple(document["upper"]),
            floor=document["floor"],
        )


@dataclass(frozen=True)
class ProphetModel:
    """Prophet with a flat level, daily shapes by kind of day, a weekly and (from a year on) a yearly cycle.

    The regressor ``temperature`` (°C) enters as degree-hours; any other column (a holiday flag, say) enters linearly.
    """

    name: str = "prophet"

    def fit(
        self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int
    ) -> FittedProphet:
        """Fit as ``Model`` says; starts Stan as a child process for a fraction of a second per 1,000 hours.

        Raises ``InvalidInput`` where fewer than 336 hours have a value and all regressors.
        """
        past = hourly(history)
        index = pd.DatetimeIndex(past.index)
        values = floats(past)
        ahead: dict[str, Floats] = {}
        columns: dict[str, Floats] = {}
        names: tuple[str, ...] = ()
        if regressors is not None and not past.empty:
            names = tuple(sorted(str(name) for name in regressors.columns))
            grid = pd.date_range(end=index[-1], periods=len(index) + MEMORY_HOURS - 1, freq="h")
            frame = hourly_frame(regressors, grid)[list(names)]
            columns = {name: column[-len(index) :] for name, column in _regressor_columns(frame).items()}
            ahead = {name: column[-len(index) :] for name, column in _day_ahead_columns(frame).items()}
        usable = np.isfinite(np.vstack([values, *columns.values()])).all(axis=0)
        if usable.sum() < LEAST_HOURS:
            raise InvalidInput(
                f"prophet needs {LEAST_HOURS} hours that have a value and all regressors; {int(usable.sum())} have"
            )
        long = index[-1] - index[0] >= pd.Timedelta(days=YEARLY_FROM_DAYS)
        seasons = (*SEASONALITIES, YEARLY) if long else SEASONALITIES
        table = _table(index[usable], {name: column[usable] for name, column in columns.items()}, timezone)
        package = _package_fit(table.assign(y=values[usable]), seasons, tuple(columns), seed)
        level, seasonal, coefficients = _coefficients(package, seasons, tuple(columns))
        degrees = {name: float(columns[name].max(where=usable, initial=0.0)) for name in columns if name not in names}
        flat = (0.0,) * 24
        unbanded = FittedProphet(
            timezone=timezone,
            train_start=index[0].to_pydatetime(),
            train_end=(index[-1] + HOUR).to_pydatetime(),
            regressors=names,
            seasons=seasons,
            level=level,
            seasonal=seasonal,
            columns=tuple(
                (name, coefficients[name], degrees[name] + EXTRAPOLATION if name in degrees else None)
                for name in columns
            ),
            lower=flat,
            upper=flat,
            floor=natural_floor(values),
        )
        lower, upper = residual_bands(values - unbanded.evaluate(index, ahead), hours_of_day(index, timezone))
        return replace(unbanded, lower=tuple(lower.tolist()), upper=tuple(upper.tolist()))


def _table(index: pd.DatetimeIndex, columns: dict[str, Floats], timezone: str) -> pd.DataFrame:
    """Return what the package takes: local wall time, kinds of day, regression columns."""
    return pd.DataFrame({"ds": local(index, timezone)} | _conditions(index, timezone) | columns)


def _package_fit(table: pd.DataFrame, seasons: tuple[Season, ...], columns: tuple[str, ...], seed: int) -> Prophet:
    """Return the package's own fitted model of ``table`` with its column ``y``."""
    load_prophet()
    with _quiet():
        from prophet import Prophet

        model = Prophet(
            growth="flat",
            daily_seasonality=False,
            weekly_seasonality=False,
            yearly_seasonality=False,
            uncertainty_samples=0,
        )
        for name, period, order, condition in seasons:
            model.add_seasonality(name, period=period, fourier_order=order, condition_name=condition)
        for name in columns:
            # A prior as wide as Prophet's would let one mild hour decide what a heat wave does.
            model.add_regressor(name, prior_scale=0.5, standardize=False)
        model.fit(table, seed=seed)
        if model.stan_backend is not None:
            model.stan_backend.cleanup()  # the CSV files that Stan left
    return model


def _coefficients(
    model: Prophet, seasons: tuple[Season, ...], columns: tuple[str, ...]
) -> tuple[float, tuple[float, ...], dict[str, float]]:
    """Return level, Fourier coefficients and regression coefficients in the unit of the series."""
    scale = float(np.asarray(model.y_scale, dtype=np.float64))
    beta = np.asarray(model.params["beta"], dtype=np.float64).ravel() * scale
    terms = 2 * sum(order for _, _, order, _ in seasons)
    level = float(np.asarray(model.params["m"]).ravel()[0]) * scale
    return level, tuple(beta[:terms].tolist()), dict(zip(columns, beta[terms:].tolist(), strict=True))
