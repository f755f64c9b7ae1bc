"""The simulated battery of the sample VPP: a pure function of time, so that every replay agrees.

Rule of every local day (UTC+9): charge from 11:00 to 14:00, discharge from 18:00 to 21:00, both at constant power,
between the same two states of charge. The round-trip efficiency is lost in equal parts (its root) each way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from energy_cloud_dagster.sample_data.calendar import LOCAL_OFFSET
from energy_cloud_dagster.sample_data.community import BATTERY_EFFICIENCY, BATTERY_KWH

if TYPE_CHECKING:
    import numpy as np

SOC_LOW: Final = 0.2
SOC_HIGH: Final = 0.9
CHARGE_HOURS: Final = (11.0, 14.0)
DISCHARGE_HOURS: Final = (18.0, 21.0)

_ONE_WAY: Final = math.sqrt(BATTERY_EFFICIENCY)
_SWING_KWH: Final = (SOC_HIGH - SOC_LOW) * BATTERY_KWH
#: kWh at the terminals between local midnight and each hour: charged positive, discharged positive.
_CHARGED_KWH: Final = _SWING_KWH / _ONE_WAY
_DISCHARGED_KWH: Final = _SWING_KWH * _ONE_WAY


def soc(epoch_seconds: np.ndarray) -> np.ndarray:
    """Return the state of charge (0 to 1) at each UTC second since 1970."""
    import numpy as np

    hour = _local_hour(epoch_seconds)
    share: np.ndarray = np.interp(hour, (*CHARGE_HOURS, *DISCHARGE_HOURS), (SOC_LOW, SOC_HIGH, SOC_HIGH, SOC_LOW))
    return share


def output_kw(epoch_seconds: np.ndarray, minutes: int) -> np.ndarray:
    """Return the mean power in kW at the terminals over the ``minutes`` after each second; discharge is positive.

    An interval may not cross local midnight.
    """
    import numpy as np

    begin = _local_hour(epoch_seconds)
    end = begin + minutes / 60
    energy: np.ndarray = np.zeros(len(epoch_seconds))
    for hours, total_kwh in ((DISCHARGE_HOURS, _DISCHARGED_KWH), (CHARGE_HOURS, -_CHARGED_KWH)):
        energy += np.interp(end, hours, (0.0, total_kwh)) - np.interp(begin, hours, (0.0, total_kwh))
    return energy * 60 / minutes


def _local_hour(epoch_seconds: np.ndarray) -> np.ndarray:
    hour: np.ndarray = ((epoch_seconds + int(LOCAL_OFFSET.total_seconds())) % 86_400) / 3_600
    return hour
