"""What a forecast is, and the one protocol that every model answers to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.series import Floats

Rung = Literal["champion", "similar_day", "persistence"]
QUANTILES: Final = (0.1, 0.5, 0.9)


@dataclass(frozen=True, eq=False)
class Forecast:
    """Quantiles of the hours ``index``: kWh per hour, or a fraction of capacity for an availability.

    ``index`` holds UTC hour starts without gaps; ``p10 <= p50 <= p90``, all finite, of the index's length and
    read-only. ``rung`` says which step of the ladder answered and ``notes`` why it was not a higher one, or what the
    answer rests on. A breach of these raises ``InvalidInput``.
    """

    index: pd.DatetimeIndex
    p10: Floats
    p50: Floats
    p90: Floats
    model: str
    rung: Rung
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.index.tz is None or str(self.index.tz) != "UTC" or len(self.index) == 0:
            raise InvalidInput("a forecast needs a UTC index of at least one hour")
        if (np.diff(self.index.to_numpy()) != np.timedelta64(1, "h")).any():
            raise InvalidInput("a forecast's hours follow one another without gaps")
        for name in ("p10", "p50", "p90"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != (len(self.index),):
                raise InvalidInput(f"{name} has the shape {values.shape}, not ({len(self.index)},)")
            if not np.isfinite(values).all():
                raise InvalidInput(f"{name} of {self.model} has a value that is not finite")
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        if (self.p10 > self.p50).any() or (self.p50 > self.p90).any():
            raise InvalidInput(f"the quantiles of {self.model} cross")

    @property
    def origin(self) -> datetime:
        """Start of the first hour."""
        return self.index[0].to_pydatetime()

    @property
    def horizon(self) -> int:
        """Number of hours."""
        return len(self.index)

    def with_notes(self, *notes: str) -> Forecast:
        """Return the same forecast with ``notes`` after its own, each once."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def frame(self) -> pd.DataFrame:
        """Return the quantiles as columns ``p10, p50, p90`` on ``index``."""
        return pd.DataFrame({"p10": self.p10, "p50": self.p50, "p90": self.p90}, index=self.index)


def banded(
    index: pd.DatetimeIndex,
    centre: Floats,
    lower: Floats,
    upper: Floats,
    *,
    model: str,
    rung: Rung,
    notes: tuple[str, ...] = (),
    floor: float | None = None,
    ceiling: float | None = None,
) -> Forecast:
    """Return a forecast around ``centre`` with the bounds ``lower`` and ``upper``, cut to ``[floor, ceiling]``.

    A bound on the wrong side of the centre is moved onto it.
    """
    low = -np.inf if floor is None else floor
    high = np.inf if ceiling is None else ceiling
    p50 = np.clip(centre, low, high)
    return Forecast(
        index=index,
        p10=np.minimum(np.clip(lower, low, high), p50),
        p50=p50,
        p90=np.maximum(np.clip(upper, low, high), p50),
        model=model,
        rung=rung,
        notes=notes,
    )


def natural_floor(history: Floats) -> float | None:
    """Return 0 where no known value is negative (loads, generation), else None."""
    known = history[np.isfinite(history)]
    return 0.0 if len(known) and float(known.min()) >= 0 else None


@runtime_checkable
class Fitted(Protocol):
    """A model that has seen its training hours. Its text is all there is to it: equal texts forecast equally."""

    @property
    def name(self) -> str:
        """Name of the model, such as ``prophet``."""

    @property
    def train_start(self) -> datetime:
        """Start of the first hour it saw."""

    @property
    def train_end(self) -> datetime:
        """End of the last hour it saw; it must not be after an origin that it forecasts from."""

    @property
    def regressors(self) -> tuple[str, ...]:
        """Columns that ``predict`` needs in ``future_regressors``."""

    @property
    def digest(self) -> str:
        """SHA-256 of ``to_text()``, hexadecimal."""

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast ``horizon`` hours from ``origin`` on; rung ``champion``.

        ``recent`` is the series before ``origin`` (later rows are ignored). ``future_regressors`` covers the horizon
        and may begin earlier; its earlier rows are the measured past. Raises ``InvalidInput`` where it cannot answer.
        """

    def to_text(self) -> str:
        """Return the model as canonical JSON without anything that depends on time or machine."""

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the model that ``to_text`` wrote; other text raises ``InvalidInput``."""


class Model(Protocol):
    """A way to forecast one hourly series. Instances are settings: they keep nothing of what they fitted."""

    @property
    def name(self) -> str:
        """Name under which its forecasts are kept."""

    def fit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> Fitted:
        """Fit on every row of ``history``; the caller has cut it at its now.

        Both inputs are hourly with a UTC index; gaps are allowed. ``timezone`` gives the local hours and days.
        The same arguments give the same text. Raises ``InvalidInput`` where the history is too short.
        """


def canonical_text(document: Mapping[str, Any]) -> str:
    """Return ``document`` as JSON with sorted keys and no spaces; NaN is refused."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parsed_text(text: str, name: str, *, formats: tuple[int, ...] = (1,)) -> dict[str, Any]:
    """Return the document in ``text``, which must be one of the model ``name`` in one of ``formats``."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"a stored model is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("model") != name or document.get("format") not in formats:
        known = " or ".join(map(str, formats))
        raise InvalidInput(f"a stored model is not a {name} model of format {known}; fit it again")
    return document


def text_digest(text: str) -> str:
    """Return the SHA-256 of ``text`` as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_look_ahead(train_end: datetime, origin: datetime) -> None:
    """Raise ``InvalidInput`` where a model saw hours at or after ``origin``."""
    if train_end > origin:
        raise InvalidInput(
            f"the model saw hours up to {train_end.isoformat()}, after the origin {origin.isoformat()}; "
            "use one that was fitted before"
        )
