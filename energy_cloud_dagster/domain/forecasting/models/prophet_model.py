"""Prophet with temperature, holidays and a memory of last week: fitted by the package, evaluated here.

Prophet's point forecast is a sum that a few lines of NumPy evaluate: level, Fourier terms, regressors. So a fitted
model is kept as its coefficients, the hourly forecast needs neither Prophet nor Stan (their imports cost about three
seconds of CPU), and the text holds nothing of the machine or the moment. A test holds the evaluation against Prophet's
own ``predict``.

What was chosen, and why (Victoria, a day ahead):

- the level is flat: over some weeks a trend extrapolates the weather (MAPE 5.2 % with Prophet's trend, 4.6 % flat);
- workdays, Saturdays and days of rest have daily shapes of their own (6.2 % with one shape, 5.2 % with two), and from
  a year of history on the shape follows the season (products of the year's and the day's terms);
- heating and cooling degree-hours of the hour and of the trailing days, with a second knee for hot and cold hours;
- the residuals of the last week correct the hours ahead (``residual_correction``): a plain Prophet ignores yesterday.

Quantiles come from the errors that the correction left out of sample, by hour of the day and lead, rather than from
Prophet's sampling, which is random and slow. They are those of the regressors as given: where the temperature ahead is
itself a forecast, calibrate them on forecasts that were made with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Self

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
from energy_cloud_dagster.domain.forecasting.models.prophet_start import Start, posterior_mode
from energy_cloud_dagster.domain.forecasting.models.prophet_terms import (
    DEGREE_COLUMNS,
    HOLIDAY,
    MEDIUM,
    SHORT,
    YEARLY,
    Season,
    conditions,
    context_of,
    regression_columns,
    seasonal_terms,
)
from energy_cloud_dagster.domain.forecasting.models.residual_correction import WINDOW, Correction, fit_correction
from energy_cloud_dagster.domain.forecasting.series import (
    Floats,
    floats,
    future_index,
    hourly,
    hourly_frame,
    hours_of_day,
    local,
    residual_bands,
    value_at,
)

if TYPE_CHECKING:
    from prophet import Prophet

HOUR: Final = pd.Timedelta(hours=1)
#: Version of the text that is written; version 1 knew no correction.
FORMAT: Final = 2
#: Fewest known hours to fit on: two weeks, so that every hour of the week was seen twice.
LEAST_HOURS: Final = 336
#: Days of history from which residuals are corrected, Saturdays have a shape of their own, a year's cycle is fitted.
CORRECTED_FROM_DAYS: Final = 20
MEDIUM_FROM_DAYS: Final = 50
YEARLY_FROM_DAYS: Final = 350
#: Hours before the origin that are evaluated: the correction's week and what its gaps and the weather's memory need.
LOOK_BACK: Final = WINDOW + 72
#: Fewest known residuals of the last week for a correction.
LEAST_RESIDUALS: Final = 24
#: Days after which a forecast says that its model is old.
OLD_AFTER_DAYS: Final = 14
#: How far beyond the training range a degree-hour column may go, in its tens of degrees.
EXTRAPOLATION: Final = 0.5
#: Standard deviations of the priors, in units of the largest value: Prophet's own, and one that holds regressors in.
SEASON_PRIOR: Final = 10.0
REGRESSOR_PRIOR: Final = 0.5


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
    #: Bands by hour of the day for a forecast that is not corrected.
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    floor: float | None
    #: None for a history of less than a month, and for a model that an earlier version stored.
    correction: Correction | None = None
    name: str = "prophet"

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.to_text())

    def evaluate(self, index: pd.DatetimeIndex, columns: Mapping[str, Floats]) -> Floats:
        """Return the regression at ``index``, not corrected and not yet cut at the floor.

        ``columns`` holds what ``regression_columns`` made of the regressors.
        """
        total = self.level + seasonal_terms(index, self.timezone, self.seasons, columns.get(HOLIDAY)) @ np.asarray(
            self.seasonal
        )
        if self.columns:
            total = total + np.column_stack([columns[name] for name, _, _ in self.columns]) @ np.asarray(
                [coefficient for _, coefficient, _ in self.columns]
            )
        return np.asarray(total, dtype=np.float64)

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast as ``Fitted`` says: the regression, corrected by its residuals of the week before ``origin``.

        Where fewer than a day of those residuals is known (of the series, or of a regressor in the past) the
        regression stands alone and a note says so. Raises ``InvalidInput`` where a regressor is missing in any hour
        of the horizon.
        """
        refuse_look_ahead(self.train_end, origin)
        index = future_index(origin, horizon)
        grid = pd.date_range(end=index[-1], periods=horizon + LOOK_BACK, freq="h")
        frame = pd.DataFrame(index=grid)
        if self.regressors:
            if future_regressors is None or not set(self.regressors) <= set(future_regressors.columns):
                raise InvalidInput(f"the model needs the regressors {', '.join(self.regressors)}")
            frame = hourly_frame(future_regressors[list(self.regressors)], grid)
            missing = int(frame.iloc[-horizon:].isna().any(axis=1).sum())
            if missing:
                raise InvalidInput(f"a regressor is missing in {missing} of {horizon} hours")
        limits = {name: most for name, _, most in self.columns if most is not None}
        columns = regression_columns(frame, self.timezone, limits=limits, yearly=self._yearly)
        regression = self.evaluate(grid, columns)
        hours = hours_of_day(grid, self.timezone)
        age = (origin - self.train_end).days
        notes = (f"the model was fitted {age} days before",) if age > OLD_AFTER_DAYS else ()
        centre, ahead = regression[-horizon:], hours[-horizon:]
        spread = np.column_stack([np.asarray(self.lower)[ahead], np.zeros(horizon), np.asarray(self.upper)[ahead]])
        if self.correction is not None:
            residuals = value_at(hourly(_since(recent, grid[0]), before=origin), grid) - regression
            if np.isfinite(residuals[-horizon - WINDOW : -horizon]).sum() >= LEAST_RESIDUALS:
                off = conditions(grid, self.timezone, columns.get(HOLIDAY))["resting"]
                added, spread = self.correction.apply(residuals, context_of(columns, len(grid)), off, hours, horizon)
                centre = centre + added
            else:
                notes = (*notes, "too little of the last week is known to correct the regression")
        low, middle, high = (centre + spread[:, place] for place in range(3))
        return banded(index, middle, low, high, model=self.name, rung="champion", notes=notes, floor=self.floor)

    @property
    def _yearly(self) -> bool:
        return any(name == YEARLY[0] for name, _, _, _ in self.seasons)

    def to_text(self) -> str:
        """Return canonical JSON."""
        document = asdict(self) | {
            "model": self.name,
            "format": FORMAT,
            "train_start": self.train_start.isoformat(),
            "train_end": self.train_end.isoformat(),
        }
        del document["name"]
        return canonical_text(document)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the model that ``to_text`` wrote; format 1 is read too and forecasts as it did, without correction."""
        document = parsed_text(text, "prophet", formats=(1, FORMAT))
        correction = document.get("correction")
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
            correction=None if correction is None else Correction.of(correction),
        )


def _since(recent: pd.Series[Any], start: pd.Timestamp) -> pd.Series[Any]:
    """Return the rows from ``start`` on, so that years cost nothing; a faulty index is left to ``hourly``."""
    if isinstance(recent.index, pd.DatetimeIndex) and recent.index.tz is not None:
        return recent[recent.index >= start]
    return recent


@dataclass(frozen=True)
class ProphetModel:
    """Prophet with a flat level, daily shapes by kind of day, a weekly and (from a year on) a yearly cycle.

    The regressor ``temperature`` (°C) enters as degree-hours; ``holiday`` (0 or 1) makes a day one of rest and has an
    effect of its own; any other column enters linearly. From a month of history on the residuals of the last week
    correct the hours ahead.

    ``search`` says who looks for the mode of the posterior: the package, by Stan, or this module's linear algebra,
    which takes a fifth of the time and agrees to nine digits (a test holds it to that): for backtests of many fits.
    """

    search: Literal["stan", "algebra"] = "stan"
    name: str = "prophet"

    def fit(
        self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int
    ) -> FittedProphet:
        """Fit as ``Model`` says; a search by Stan runs in a child process.

        Raises ``InvalidInput`` where fewer than 336 hours have a value and all regressors.
        """
        past = hourly(history)
        index = pd.DatetimeIndex(past.index)
        values = floats(past)
        frame = pd.DataFrame(index=index)
        names: tuple[str, ...] = ()
        if regressors is not None and not past.empty:
            names = tuple(sorted(str(name) for name in regressors.columns))
            grid = pd.date_range(end=index[-1], periods=len(index) + LOOK_BACK, freq="h")
            frame = hourly_frame(regressors, grid)[list(names)]
        known = np.isfinite(values) & frame.iloc[-len(index) :].notna().all(axis=1).to_numpy()
        if known.sum() < LEAST_HOURS:
            raise InvalidInput(
                f"prophet needs {LEAST_HOURS} hours that have a value and all regressors; {int(known.sum())} have"
            )
        days = (index[-1] - index[0]) / pd.Timedelta(days=1)
        yearly = days >= YEARLY_FROM_DAYS
        seasons = (*(MEDIUM if days >= MEDIUM_FROM_DAYS else SHORT), *((YEARLY,) if yearly else ()))
        columns = regression_columns(frame, timezone, yearly=yearly)
        columns = {name: column[-len(index) :] for name, column in columns.items()}
        holiday = columns.get(HOLIDAY)
        kinds = conditions(index, timezone, holiday)
        terms = seasonal_terms(index[known], timezone, seasons, None if holiday is None else holiday[known])
        scales = {name: _scale(column[known]) if name in names else (0.0, 1.0) for name, column in columns.items()}
        scaled = {name: (column[known] - scales[name][0]) / scales[name][1] for name, column in columns.items()}
        start = posterior_mode(
            np.column_stack([terms, *scaled.values()]),
            values[known],
            np.asarray([SEASON_PRIOR] * terms.shape[1] + [REGRESSOR_PRIOR] * len(scaled)),
            days=days,
        )
        if self.search == "stan":
            table = _table(index[known], scaled, {name: kind[known] for name, kind in kinds.items()}, timezone)
            package = _package_fit(table.assign(y=values[known]), seasons, tuple(columns), seed, start=start)
            level, seasonal, coefficients = _coefficients(package, seasons, tuple(columns))
        else:
            level = start.level * start.scale
            found = start.coefficients * start.scale
            seasonal = tuple(found[: terms.shape[1]].tolist())
            coefficients = dict(zip(columns, found[terms.shape[1] :].tolist(), strict=True))
        for name, (middle, width) in scales.items():
            coefficients[name] /= width
            level -= coefficients[name] * middle
        residuals = np.full(len(index), np.nan)
        residuals[known] = start.residuals
        hours = hours_of_day(index, timezone)
        lower, upper = residual_bands(residuals, hours)
        context = context_of(columns, len(index))
        return FittedProphet(
            timezone=timezone,
            train_start=index[0].to_pydatetime(),
            train_end=(index[-1] + HOUR).to_pydatetime(),
            regressors=names,
            seasons=seasons,
            level=level,
            seasonal=seasonal,
            columns=tuple(
                (
                    name,
                    coefficients[name],
                    float(columns[name][known].max()) + EXTRAPOLATION if name in DEGREE_COLUMNS else None,
                )
                for name in columns
            ),
            lower=tuple(lower.tolist()),
            upper=tuple(upper.tolist()),
            floor=natural_floor(values),
            correction=fit_correction(residuals, context, kinds["resting"], hours)
            if days >= CORRECTED_FROM_DAYS
            else None,
        )


def _scale(column: Floats) -> tuple[float, float]:
    """Return what to subtract from a column of any unit, and by what to divide it; a flag stays as it is."""
    width = float(column.std())
    return (0.0, 1.0) if width == 0 or set(np.unique(column)) <= {0.0, 1.0} else (float(column.mean()), width)


def _table(
    index: pd.DatetimeIndex,
    columns: Mapping[str, Floats],
    kinds: Mapping[str, npt.NDArray[np.bool_]],
    timezone: str,
) -> pd.DataFrame:
    """Return what the package takes: local wall time, kinds of day, regression columns."""
    return pd.DataFrame({"ds": local(index, timezone)} | dict(kinds) | dict(columns))


def _package_fit(
    table: pd.DataFrame, seasons: tuple[Season, ...], columns: tuple[str, ...], seed: int, start: Start | None = None
) -> Prophet:
    """Return the package's own fitted model of ``table`` with its column ``y``, its search begun at ``start``."""
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
            model.add_seasonality(
                name, period=period, fourier_order=order, prior_scale=SEASON_PRIOR, condition_name=condition
            )
        for name in columns:
            # A prior as wide as Prophet's would let one mild hour decide what a heat wave does.
            model.add_regressor(name, prior_scale=REGRESSOR_PRIOR, standardize=False)
        begin = {} if start is None else {"init": start.parameters()}
        try:
            model.fit(table, seed=seed, **begin)
        except RuntimeError as error:
            raise InvalidInput(f"Stan found no fit: {error}") from error
        finally:
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
