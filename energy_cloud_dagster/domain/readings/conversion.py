"""Units that readings may come in. Energy and power are never turned into each other here.

A power sent to an energy series is refused: how long it was held is the device's knowledge, not ours.
"""

from __future__ import annotations

import math
from typing import Final

from energy_cloud_dagster.domain.errors import Rejected

#: unit -> (dimension, size in the smallest unit of that dimension); integers, so that 1,500 Wh are exactly 1.5 kWh.
_UNITS: Final[dict[str, tuple[str, int]]] = {
    "W": ("power", 1),
    "kW": ("power", 1_000),
    "MW": ("power", 1_000_000),
    "Wh": ("energy", 1),
    "kWh": ("energy", 1_000),
    "MWh": ("energy", 1_000_000),
    "°C": ("temperature", 1),
    "m/s": ("speed", 1),
    "%": ("fraction", 1),
    "1": ("fraction", 100),
    "V": ("voltage", 1),
    "A": ("current", 1),
    "Hz": ("frequency", 1),
}

#: dimension -> the unit that a series of it is kept in.
BASE_UNITS: Final = {
    "power": "kW",
    "energy": "kWh",
    "temperature": "°C",
    "speed": "m/s",
    "fraction": "1",
    "voltage": "V",
    "current": "A",
    "frequency": "Hz",
}


def dimension(unit: str) -> str:
    """Return what ``unit`` measures; an unknown unit is ``Rejected`` as ``bad_unit``."""
    known = _UNITS.get(unit)
    if known is None:
        raise Rejected("bad_unit", f"unit {shown(unit)} is unknown; use one of {', '.join(_UNITS)}", pointer="/unit")
    return known[0]


def convert(value: float, unit: str, target: str) -> float:
    """Return ``value`` in ``target``; another dimension is ``bad_unit``, an overflow ``not_finite``."""
    if unit == target:
        return value
    if dimension(unit) != dimension(target):
        same = [name for name, (kind, _) in _UNITS.items() if kind == dimension(target)]
        raise Rejected(
            "bad_unit",
            f"unit {unit} measures {dimension(unit)}, but this series is {dimension(target)} in {target}; "
            f"send {' or '.join(same)}",
            pointer="/unit",
        )
    converted = value * _UNITS[unit][1] / _UNITS[target][1]
    if not math.isfinite(converted):
        raise Rejected("not_finite", f"value {value!r} {unit} is too large for {target}", pointer="/value")
    return converted


def shown(text: str) -> str:
    """Return foreign text for a message: quoted, printable ASCII, at most 60 characters of it."""
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")
