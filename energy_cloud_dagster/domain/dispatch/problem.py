"""A dispatch problem as columns: one array per quantity and kind of resource, so that nothing is built cell by cell.

Power is kW, energy kWh, money the market's currency. Arrays are float64 in C order and read-only by convention; T is
the number of steps. Nothing here knows a solver or JSON; :func:`parsing.parse_problem` is the way in from a document.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.units import MINUTES_PER_HOUR

Floats = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Series = tuple[float, ...]

#: What a kWh of unmet demand adds to the reported cost.
UNMET_PENALTY_PER_KWH: Final = 10.0
RENEWABLE_TYPES: Final = frozenset({"solar", "wind", "hydro"})
GENERATOR_TYPES: Final = RENEWABLE_TYPES | {"chp"}
TYPES: Final = (*sorted(GENERATOR_TYPES), "grid", "load", "storage")

#: A year of quarter hours.
MAX_STEPS: Final = 35_136
#: Steps times resources: seven days of five minutes for a good thousand resources. Each takes some 1.3 kB, in all 3 GB,
#: and a thousand of mixed kind take two minutes.
MAX_CELLS: Final = 2_500_000

DEFAULT_STEP_MINUTES: Final = 60.0
DEFAULT_EFFICIENCY: Final = 0.9
DEFAULT_SOC: Final = 0.5


# -- columns


@dataclass(frozen=True, slots=True, eq=False)
class Generators:
    """Solar, wind, hydro and CHP (G of them): 0 ≤ output ≤ ``limit``; the rest is curtailed at no cost.

    ``place`` (G,) is the index among the problem's resources. ``limit`` (G, T) is capacity times availability in kW.
    ``min_power`` (G, T) is 0 where a unit may give anything up to its limit, else it is off or between the two;
    ``ramp`` (G, T) bounds the change between steps (kW per step, ``inf`` where nothing does), ``initial`` (G,) is the
    output before the first step (nan where it is unknown), ``emissions`` (G, T) are per kWh.
    """

    place: IntArray
    renewable: BoolArray
    capacity: Floats
    availability: Floats
    limit: Floats
    cost: Floats
    emissions: Floats
    min_power: Floats
    ramp: Floats
    initial: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Stores:
    """Stores (S of them): ``power`` (S, T) kW both ways at the terminals, √``efficiency`` each way.

    ``energy`` (S,) is kWh; ``soc`` (S,), ``min_soc`` and ``max_soc`` (S, T) are fractions of it, ``end_soc`` (S,) the
    least fraction at the end: ``endSoc``, else the initial one as far as ``maxSoc`` allows. ``cost`` (S, T) is per kWh
    discharged.
    """

    place: IntArray
    power: Floats
    energy: Floats
    soc: Floats
    efficiency: Floats
    cost: Floats
    min_soc: Floats
    max_soc: Floats
    end_soc: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Ties:
    """Grid connections (K of them): import at ``cost`` (K, T), export at ``export_price`` (K, T; nan where none).

    ``exports`` (K,) says which may export; ``capacity`` (K, T) is kW both ways, ``emissions`` are per kWh imported.
    """

    place: IntArray
    capacity: Floats
    cost: Floats
    export_price: Floats
    exports: BoolArray
    emissions: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """Loads that may be shed (L of them): 0 ≤ shed ≤ ``limit`` (L, T) kW at ``cost`` (L, T), the value of lost load."""

    place: IntArray
    capacity: Floats
    availability: Floats
    limit: Floats
    cost: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Constraints:
    """What the whole plan has to keep: a share, money per kWh served, kW per step, the unit of ``emissionsPerKWh``.

    ``reserve_up`` and ``reserve_down`` (T,) are the kW that can still be added or taken in each step.
    """

    min_renewable: float | None = None
    max_cost: float | None = None
    max_grid_import: Floats | None = None
    max_emissions: float | None = None
    reserve_up: Floats | None = None
    reserve_down: Floats | None = None


# -- one resource at a time, for readers to whom speed does not matter


@dataclass(frozen=True, slots=True)
class Generator:
    """Solar, wind, hydro or CHP: 0 ≤ output ≤ ``limit`` (kW), off or at least ``min_power`` where that is above 0."""

    id: str
    type: str
    capacity: Series
    availability: Series
    cost: Series
    ramp_rate: Series | None = None
    initial_output: float | None = None
    emissions: Series | None = None
    min_power: Series = ()
    priority: int = 0

    @property
    def renewable(self) -> bool:
        """Whether its energy counts towards ``minRenewable``."""
        return self.type in RENEWABLE_TYPES

    @property
    def limit(self) -> Series:
        """Capacity times availability in kW, one value per step."""
        return tuple(c * a for c, a in zip(self.capacity, self.availability, strict=True))


@dataclass(frozen=True, slots=True)
class Storage:
    """A store: ``capacity`` kW both ways at its terminals, √``efficiency`` each way, ``cost`` per kWh discharged."""

    id: str
    capacity: Series
    energy_capacity: float
    cost: Series
    min_soc: Series
    max_soc: Series
    soc: float
    efficiency: float
    #: The fraction that the last step must reach, given or not.
    end_soc: float
    type: str = "storage"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Grid:
    """A connection: imports at ``cost``, exports at ``export_price`` where there is one, never both in one step."""

    id: str
    capacity: Series
    cost: Series
    export_price: Series | None = None
    emissions: Series | None = None
    type: str = "grid"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """A load that may be shed: 0 ≤ shed ≤ ``limit`` (kW) at ``cost``, its value of lost load."""

    id: str
    capacity: Series
    availability: Series
    cost: Series
    type: str = "load"
    priority: int = 0

    @property
    def limit(self) -> Series:
        """Capacity times availability in kW, one value per step."""
        return tuple(c * a for c, a in zip(self.capacity, self.availability, strict=True))


Resource = Generator | Storage | Grid | Load


# -- the problem


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Demand (kW, (T,)) and what there is to meet it; ``ids``, ``types`` and ``priority`` keep the document's order.

    ``time_limit`` (seconds) is how long a solver may search; ``None`` is until the optimum is proven.
    """

    demand: Floats
    ids: tuple[str, ...]
    types: tuple[str, ...]
    priority: IntArray
    generators: Generators
    stores: Stores
    ties: Ties
    loads: Loads
    constraints: Constraints
    step_minutes: float = DEFAULT_STEP_MINUTES
    strict: bool = False
    start: datetime | None = None
    solver: Literal["lp", "ga"] = "lp"
    time_limit: float | None = None
    #: holds ``resources`` once they were asked for; a copy made by ``dataclasses.replace`` starts without
    _views: list[tuple[Resource, ...]] = field(init=False, repr=False, default_factory=list)

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return self.demand.size

    @property
    def size(self) -> int:
        """Number of resources R."""
        return len(self.ids)

    @property
    def step_hours(self) -> float:
        """Length of a step in hours, which turns kW into kWh."""
        return self.step_minutes / MINUTES_PER_HOUR

    def step_start(self, step: int) -> datetime | None:
        """When ``step`` (from 0) starts, if the problem says when it starts."""
        return None if self.start is None else self.start + step * timedelta(minutes=self.step_minutes)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The resources one by one in the document's order, made on first use; code that must be fast reads columns."""
        if not self._views:
            self._views.append(tuple(_views_of(self)))
        return self._views[0]


def _views_of(problem: Problem) -> list[Resource]:
    views: list[tuple[int, Resource]] = []
    units, stores, ties, loads = problem.generators, problem.stores, problem.ties, problem.loads
    names, priority = problem.ids, problem.priority.tolist()
    for row, place in enumerate(units.place.tolist()):
        unit = Generator(
            id=names[place],
            type=problem.types[place],
            capacity=_series(units.capacity[row]),
            availability=_series(units.availability[row]),
            cost=_series(units.cost[row]),
            ramp_rate=None if np.isinf(units.ramp[row]).all() else _series(units.ramp[row]),
            initial_output=None if np.isnan(units.initial[row]) else float(units.initial[row]),
            emissions=_series(units.emissions[row]) if units.emissions[row].any() else None,
            min_power=_series(units.min_power[row]),
            priority=priority[place],
        )
        views.append((place, unit))
    for row, place in enumerate(stores.place.tolist()):
        store = Storage(
            id=names[place],
            capacity=_series(stores.power[row]),
            energy_capacity=float(stores.energy[row]),
            cost=_series(stores.cost[row]),
            min_soc=_series(stores.min_soc[row]),
            max_soc=_series(stores.max_soc[row]),
            soc=float(stores.soc[row]),
            efficiency=float(stores.efficiency[row]),
            end_soc=float(stores.end_soc[row]),
            priority=priority[place],
        )
        views.append((place, store))
    for row, place in enumerate(ties.place.tolist()):
        tie = Grid(
            id=names[place],
            capacity=_series(ties.capacity[row]),
            cost=_series(ties.cost[row]),
            export_price=_series(ties.export_price[row]) if ties.exports[row] else None,
            emissions=_series(ties.emissions[row]) if ties.emissions[row].any() else None,
            priority=priority[place],
        )
        views.append((place, tie))
    for row, place in enumerate(loads.place.tolist()):
        load = Load(
            id=names[place],
            capacity=_series(loads.capacity[row]),
            availability=_series(loads.availability[row]),
            cost=_series(loads.cost[row]),
            priority=priority[place],
        )
        views.append((place, load))
    return [view for _, view in sorted(views, key=lambda each: each[0])]


def _series(row: Floats) -> Series:
    return tuple(row.tolist())
