"""What a turbine makes of the wind: the measured power curve by the method of bins (IEC 61400-12-1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.series import Floats

#: Width of a bin in m/s, and the least number of values in one that counts (30 minutes of 10-minute means).
BIN: Final = 0.5
LEAST_IN_BIN: Final = 3
LEAST_BINS: Final = 6
#: Highest speed of the grid, m/s: every turbine stands still there.
HIGHEST: Final = 40.0
#: kg/m³ at sea level and 15 °C, to which speeds are normalised.
REFERENCE_DENSITY: Final = 1.225
#: Spreads (of the middle half of a bin) beyond which a value is a fault or a curtailment, not a curve.
OUTLYING: Final = 3.0


def normal_speed(speed: Floats, density: Floats | None) -> Floats:
    """Return the speed (m/s) at reference density with the same power: ``v (rho / 1.225)^(1/3)``, rho in kg/m³.

    IEC 61400-12-1 normalises turbines with active power control so. An unknown density leaves the speed as it is.
    """
    if density is None:
        return speed
    usable = np.isfinite(density) & (density > 0.5) & (density < 2.0)
    return speed * np.where(usable, np.where(usable, density, 1.0) / REFERENCE_DENSITY, 1.0) ** (1 / 3)


@dataclass(frozen=True)
class PowerCurve:
    """Power over wind speed through the points ``(speeds, power)``, linear between them.

    ``speeds`` in m/s ascend from 0; ``power`` is in the unit that it was fitted in (kW, kWh per hour, a fraction).
    Above the last bin that was measured the power of that bin is held up to ``cut_out``, above which it is zero.
    """

    speeds: tuple[float, ...]
    power: tuple[float, ...]
    cut_out: float = 25.0

    def __call__(self, speed: npt.ArrayLike, density: Floats | None = None) -> Floats:
        """Return the power at ``speed`` (m/s, any shape) in air of ``density`` (kg/m³); NaN stays NaN."""
        normal = normal_speed(np.asarray(speed, dtype=np.float64), density)
        power: Floats = np.interp(normal, self.speeds, self.power)
        return np.where(normal > self.cut_out, 0.0, power)

    def document(self) -> dict[str, Any]:
        """Return the curve for JSON."""
        return {"speeds": list(self.speeds), "power": list(self.power), "cut_out": self.cut_out}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Return what ``document`` wrote; anything else raises ``InvalidInput``."""
        try:
            return cls(tuple(document["speeds"]), tuple(document["power"]), float(document["cut_out"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"a stored power curve cannot be read: {error}") from error


def power_curve(
    speed: Floats, power: Floats, *, density: Floats | None = None, cut_out: float = 25.0, monotone: bool = True
) -> PowerCurve:
    """Fit a curve to paired ``speed`` (m/s) and ``power`` by bins of 0.5 m/s: the mean of each over at least 3 pairs.

    Pairs that are not finite or negative in speed are left out, own use (power below zero) counts as zero, and within
    a bin values far from its middle half (a standstill in good wind) are not counted. With ``monotone`` the curve
    never falls below what weaker wind made (pooled adjacent violators, weighted by the pairs). Raises ``InvalidInput``
    where fewer than six bins are filled.
    """
    if speed.shape != power.shape:
        raise InvalidInput(f"speed and power do not pair: {speed.shape} and {power.shape}")
    normal = normal_speed(speed, density)
    known = np.isfinite(normal) & np.isfinite(power) & (normal >= 0) & (normal < HIGHEST)
    normal, made = normal[known], np.maximum(power[known], 0.0)
    bins = np.round(normal / BIN).astype(np.int64)
    speeds, means, counts = [], [], []
    for one in np.unique(bins):
        inside = bins == one
        if inside.sum() < LEAST_IN_BIN:
            continue
        values = made[inside]
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        reach = OUTLYING * max(high - low, 1e-3 * float(made.max()), 1e-12)
        fair = np.abs(values - middle) <= reach
        speeds.append(float(normal[inside][fair].mean()))
        means.append(float(values[fair].mean()))
        counts.append(int(fair.sum()))
    if len(speeds) < LEAST_BINS:
        raise InvalidInput(f"only {len(speeds)} bins of wind speed are known; a power curve needs {LEAST_BINS}")
    levels = _rising(means, counts) if monotone else means
    if speeds[0] > BIN:
        speeds, levels = [0.0, *speeds], [0.0, *levels]
    return PowerCurve(tuple(speeds), tuple(levels), cut_out)


def _rising(values: list[float], counts: list[int]) -> list[float]:
    """Return the nearest sequence that never falls (least squares weighted by ``counts``)."""
    blocks: list[tuple[float, int, int]] = []
    for value, count in zip(values, counts, strict=True):
        blocks.append((value, count, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (above, more, wide), (below, fewer, narrow) = blocks[-2], blocks[-1]
            blocks[-2:] = [((above * more + below * fewer) / (more + fewer), more + fewer, wide + narrow)]
    return [value for value, _, width in blocks for _ in range(width)]
