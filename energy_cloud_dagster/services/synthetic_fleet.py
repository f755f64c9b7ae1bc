"""A fleet of any size: meters ``SIM-000001`` … whose loads are composed from the ten measured homes.

No load is invented: each meter replays one home, from zero to seven weeks later (so that weekday and hour agree), times
a factor between 0.6 and 1.6. Which, is drawn from the seed and the meter's id alone; the size of the fleet changes no
meter. Intervals are hours, as the homes were measured.

A meter may have a cumulative ``register`` besides: kWh counted from 2020 on, read at the start of each interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import TYPE_CHECKING, Final

from energy_cloud_dagster import sample_data
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import HOUR, utc
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services.dice import stream
from energy_cloud_dagster.services.fleet_faults import REGISTER
from energy_cloud_dagster.services.simulator import Message, latencies_by_seed

if TYPE_CHECKING:
    import numpy as np
    import sqlalchemy as sa

#: More would not fit the six digits of an id.
LARGEST: Final = 999_999
#: From when on registers count.
COUNTED_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
DEVICE_TYPE: Final = "smart-meter"

_WEEKS: Final = 8
_DECIMALS: Final = 6
_HOUR_SECONDS: Final = 3_600
_CHUNK: Final = timedelta(days=7)
#: Rows a statement: PostgreSQL takes 65,535 parameters.
_REGISTER_BATCH: Final = 2_000


class SyntheticFleet:
    """``size`` meters in ``region_id``, the same for the same ``seed``."""

    def __init__(self, size: int, seed: int = 0, *, region_id: str = "busan", registers: bool = False) -> None:
        import numpy as np

        if not 1 <= size <= LARGEST:
            raise InvalidInput(f"a fleet has 1 to {LARGEST} devices, not {size}")
        self.ids = [f"SIM-{number:06}" for number in range(1, size + 1)]
        self._region_id = region_id
        self._registers = registers
        numbers = np.array([stream(seed, each, "meter") for each in self.ids], dtype=np.uint64)
        self._seeds = numbers
        self._home = (numbers % np.uint64(len(plain.HOMES))).astype(np.int64)
        self._weeks = (numbers // np.uint64(1_000) % np.uint64(_WEEKS)).astype(np.int64)
        self._scale = 0.6 + (numbers // np.uint64(1_000_000) % np.uint64(1_001)).astype(float) / 1_000

    def devices(self) -> Iterator[plain.Device]:
        """Yield what the registry must know of the meters; their series have no role, nothing is settled by them."""
        consumption, register = plain.Series("consumption", "kWh", "energy"), plain.Series(REGISTER, "kWh", "state")
        series = (consumption, register) if self._registers else (consumption,)
        for device_id in self.ids:
            yield plain.Device(device_id, self._region_id, DEVICE_TYPE, 60, series, "residential")

    def register(self, connection: sa.Connection, created_at: datetime) -> int:
        """Add what the registry lacks of the meters and return how many rows that were; never commits."""
        from energy_cloud_dagster.adapters import registry

        return sum(
            registry.seed(connection, plain.Community((), (), (), batch, ()), created_at)
            for batch in batched(self.devices(), _REGISTER_BATCH)
        )

    def messages(self, start: datetime, end: datetime) -> Iterator[Message]:
        """Yield the messages of every hour that starts in ``[start, end)``, ordered by their simulated receipt.

        Hours that were not measured are left out. ``InvalidInput`` where registers are asked for before 2020.
        """
        begin, stop = utc(start), utc(end)
        if self._registers and begin < COUNTED_FROM:
            raise InvalidInput(f"registers count from {COUNTED_FROM:%Y} on; begin later")
        while begin < stop:
            last = min(begin + _CHUNK, stop)
            hours = sample_data.interval_starts(60, begin, last)
            loads = self._loads(hours)
            counts = self._counts(hours) if self._registers else None
            for index, second in enumerate(hours.tolist()):
                yield from self._hour(second, loads[:, :, index], None if counts is None else counts[:, :, index])
            begin = last

    def count(self, start: datetime, end: datetime) -> int:
        """Return how many messages ``messages`` yields for the same arguments."""
        import numpy as np

        hours = sample_data.interval_starts(60, utc(start), utc(end))
        spoken = ~np.isnan(self._loads(hours)[self._home, self._weeks])
        registers = spoken.size if self._registers else 0
        return int(spoken.sum()) + registers

    def _hour(self, second: int, loads: np.ndarray, counts: np.ndarray | None) -> Iterator[Message]:
        import numpy as np

        delays = latencies_by_seed(self._seeds, np.array([second], dtype=np.int64))
        consumption = np.round(loads[self._home, self._weeks] * self._scale, _DECIMALS).tolist()
        register = None if counts is None else self._register_values(counts)
        ts = datetime.fromtimestamp(second, UTC)
        received = [ts + HOUR + timedelta(seconds=delay) for delay in range(int(delays.max()) + 1)]
        for index in np.argsort(delays, kind="stable").tolist():
            device_id, at, value = self.ids[index], received[delays[index]], consumption[index]
            if value == value:  # noqa: PLR0124 - NaN: not measured
                yield self._message(at, device_id, "consumption", ts, value)
            if register is not None:
                yield self._message(at, device_id, REGISTER, ts, register[index])

    def _message(self, at: datetime, device_id: str, metric: str, ts: datetime, value: float) -> Message:
        return Message(at, device_id, metric, ts, value, "kWh", "high", self._region_id, DEVICE_TYPE)

    def _register_values(self, counts: np.ndarray) -> list[float]:
        import numpy as np

        counted: list[float] = np.round(counts[self._home, self._weeks] * self._scale, _DECIMALS).tolist()
        return counted

    def _loads(self, hours: np.ndarray) -> np.ndarray:
        """Return kWh of shape (homes, weeks of delay, hours), NaN where nothing was measured."""
        import numpy as np

        loads = np.full((len(plain.HOMES), _WEEKS, len(hours)), np.nan)
        if not len(hours):
            return loads
        first = datetime.fromtimestamp(int(hours[0]), UTC) - (_WEEKS - 1) * timedelta(weeks=1)
        after = datetime.fromtimestamp(int(hours[-1]), UTC) + HOUR
        for place, home in enumerate(plain.HOMES):
            values = _measured(home, first, after)
            for weeks in range(_WEEKS):
                offset = (_WEEKS - 1 - weeks) * 168
                loads[place, weeks] = values[offset : offset + len(hours)]
        return loads

    def _counts(self, hours: np.ndarray) -> np.ndarray:
        """Return the kWh of ``COUNTED_FROM`` up to each hour, shape (homes, weeks of delay, hours)."""
        import numpy as np

        counts = np.zeros((len(plain.HOMES), _WEEKS, len(hours)))
        first = COUNTED_FROM - (_WEEKS - 1) * timedelta(weeks=1)
        after = datetime.fromtimestamp(int(hours[-1]), UTC) + HOUR
        begin = (int(hours[0]) - int(COUNTED_FROM.timestamp())) // _HOUR_SECONDS
        for place, home in enumerate(plain.HOMES):
            # Always summed from the same hour: the last bit of a sum depends on where it began.
            total = np.concatenate(([0.0], np.cumsum(np.nan_to_num(_measured(home, first, after)))))
            for weeks in range(_WEEKS):
                offset = (_WEEKS - 1 - weeks) * 168
                counts[place, weeks] = total[offset + begin :][: len(hours)] - total[offset]
        return counts


def _measured(home: int, start: datetime, end: datetime) -> np.ndarray:
    """Return the load of every hour of ``[start, end)`` in kWh, NaN where it was not measured."""
    import numpy as np

    hours = sample_data.interval_starts(60, start, end)
    found = sample_data.series(f"home_{home:02}/load_kwh", start, end)
    values = np.full(len(hours), np.nan)
    values[np.searchsorted(hours, found.index.as_unit("s").asi8)] = found.to_numpy()  # type: ignore[attr-defined]
    return values
