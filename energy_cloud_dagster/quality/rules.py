"""What a plausible reading is, by the role of its series, in the units of the registry (kWh, kW, °C, m/s, fraction)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Part of every digest of validated rows: a changed rule is a changed result.
RULES_VERSION: Final = "rows-1"


@dataclass(frozen=True, slots=True)
class PlausibleRange:
    """Closed range of values that a series of this role can take."""

    least: float
    greatest: float


#: A home's hour stays under 50 kWh; a 2,050 kW turbine may exceed its rating by a tenth and draws power when still.
PLAUSIBLE: Final[dict[str, PlausibleRange]] = {
    "load": PlausibleRange(0.0, 50.0),
    "pv": PlausibleRange(0.0, 50.0),
    "region_load": PlausibleRange(0.0, 1_000_000.0),
    "temperature": PlausibleRange(-60.0, 60.0),
    "solar": PlausibleRange(0.0, 1_000_000.0),
    "wind": PlausibleRange(-205.0, 2_255.0),
    "wind_speed": PlausibleRange(0.0, 75.0),
    "soc": PlausibleRange(0.0, 1.0),
    "storage": PlausibleRange(-10_000.0, 10_000.0),
}
#: What a participant's connection can carry in an hour (Wh): 50 kWh for a home, 10 MWh for a VPP.
CONNECTION_WH: Final[dict[str, int]] = {"prosumer": 50_000, "vpp": 10_000_000}
#: Series without a role are stored and bounded only by what a float of energy can sensibly be.
ANY_SERIES: Final = PlausibleRange(-1e9, 1e9)


def plausible_range(role: str | None) -> PlausibleRange:
    """Return the range for ``role``; unknown and missing roles get the widest one."""
    return PLAUSIBLE.get(role or "", ANY_SERIES)
