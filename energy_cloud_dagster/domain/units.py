"""Units and money. Inside, settled energy is integer Wh and money integer micro units (10⁻⁶ of the currency).

kWh from kW is done here and nowhere else (and in the dbt macro ``energy_kwh`` for the marts).
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

MICRO: Final = 1_000_000
WH_PER_KWH: Final = 1_000
MINUTES_PER_HOUR: Final = 60

#: Constant conversion of the sample tariffs and prices into the market's currency; see the README of ``sample_data``.
KRW_PER_USD: Final = 1_300
KRW_PER_EUR: Final = 1_450


def energy_kwh(mean_power_kw: float, minutes: float) -> float:
    """Return the energy in kWh of a mean power in kW held for ``minutes``."""
    return mean_power_kw * minutes / MINUTES_PER_HOUR


def to_wh(energy_in_kwh: float) -> int:
    """Return whole Wh, half to even, so that the same float always gives the same integer."""
    return int(Decimal(repr(float(energy_in_kwh))).scaleb(3).to_integral_value(ROUND_HALF_EVEN))


def to_micro(amount: float | Decimal) -> int:
    """Return an amount of currency (or a price per kWh) as integer micro units, half to even."""
    exact = amount if isinstance(amount, Decimal) else Decimal(repr(float(amount)))
    return int(exact.scaleb(6).to_integral_value(ROUND_HALF_EVEN))


def value_micro(quantity_wh: int, price_micro_per_kwh: int) -> int:
    """Return the value of ``quantity_wh`` at a price per kWh, in micro units.

    Halves round to even; the sign follows the quantity. Both sides of a trade use one number, so money is conserved.
    """
    return int((Decimal(quantity_wh * price_micro_per_kwh) / WH_PER_KWH).to_integral_value(ROUND_HALF_EVEN))


def decimal_string(micro: int) -> str:
    """Return micro units as a plain decimal string, without exponent and without trailing zeros."""
    text = f"{Decimal(micro).scaleb(-6):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
