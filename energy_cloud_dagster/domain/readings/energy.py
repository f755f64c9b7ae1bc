"""Energy of one hour of a series from its intervals; the marts compute the same in SQL (``fct_series__hourly``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from energy_cloud_dagster.domain.units import MINUTES_PER_HOUR, energy_kwh, to_wh

#: Name and version of the rule that fills an hour's gaps with the mean of its measured intervals.
SUBSTITUTION_RULE: Final = "hour-mean-1"
#: Share of an hour's intervals below which nothing is substituted.
LEAST_COVERAGE: Final = 0.5
#: Decimals of a kWh that sums of floats are rounded to before they become Wh: far below a meter's resolution, far above
#: what the order of a summation can change.
_DECIMALS: Final = 7


def hour_energy_kwh(kind: Literal["energy", "power"], interval_minutes: int, values: Sequence[float]) -> float | None:
    """Return the kWh of an hour of which ``values`` were measured: kWh per interval, or mean kW of each.

    Missing intervals get the mean of the measured ones (rule ``hour-mean-1``); None where less than half is measured.
    """
    intervals = max(MINUTES_PER_HOUR / interval_minutes, 1.0)
    if len(values) / intervals < LEAST_COVERAGE:
        return None
    mean = sum(values) / len(values)
    return mean * intervals if kind == "energy" else energy_kwh(mean, MINUTES_PER_HOUR)


def metered_wh(kwh: float) -> int:
    """Return metered energy as whole Wh, the same for every order in which its parts were summed."""
    return to_wh(round(kwh, _DECIMALS))
