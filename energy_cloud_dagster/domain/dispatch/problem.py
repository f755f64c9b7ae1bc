"""A dispatch problem as plain data, and the only way in: :func:`parse_problem` refuses what cannot be meant.

Power is kW, energy kWh, money the market's currency; a series has one value per step. Nothing here knows a solver.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from energy_cloud_dagster.domain.dispatch.fields import Fields, at, listing, shape_of
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.units import MINUTES_PER_HOUR

Series = tuple[float, ...]

#: What a kWh of unmet demand adds to the reported cost.
UNMET_PENALTY_PER_KWH: Final = 10.0
RENEWABLE_TYPES: Final = frozenset({"solar", "wind", "hydro"})
GENERATOR_TYPES: Final = RENEWABLE_TYPES | {"chp"}
TYPES: Final = (*sorted(GENERATOR_TYPES), "grid", "load", "storage")

#: A year of quarter hours, and a bound on steps times resources that keeps memory in sight.
MAX_STEPS: Final = 35_136
MAX_CELLS: Final = 2_000_000

DEFAULT_STEP_MINUTES: Final = 60.0
DEFAULT_EFFICIENCY: Final = 0.9
DEFAULT_SOC: Final = 0.5

_DESCRIPTIVE: Final = frozenset(
    {"name", "description", "location", "current", "unit", "status", "lastUpdate", "metadata"}
    | {"deviceId", "vppId", "resourceId", "owner"}
)
_COMMON: Final = frozenset({"id", "type", "capacity", "costPerKWh", "minPower", "priority"})
_FIELDS: Final = {
    # a panel's or turbine's own efficiency is part of its availability, so it is accepted and says nothing here
    "generator": _COMMON | {"availability", "rampRate", "initialOutput", "emissionsPerKWh", "efficiency"},
    "storage": _COMMON | {"energyCapacity", "soc", "efficiency", "minSoc", "maxSoc", "endSoc"},
    "grid": _COMMON | {"exportPrice", "emissionsPerKWh"},
    "load": _COMMON | {"availability"},
}
#: Fields of a resource that may be arrays; a location may be one too, but says nothing about the number of steps.
_SERIES_FIELDS: Final = (
    *("capacity", "availability", "costPerKWh", "exportPrice"),
    *("rampRate", "emissionsPerKWh", "minSoc", "maxSoc"),
)
_PLAN_FIELDS: Final = frozenset(
    {"demand", "resources", "constraints", "horizon", "stepMinutes", "start", "solver", "strict"}
)
_CONSTRAINT_FIELDS: Final = frozenset({"minRenewable", "maxCost", "maxGridImport", "maxEmissions", "reserve"})


@dataclass(frozen=True, slots=True)
class Generator:
    """Solar, wind, hydro or CHP: 0 ≤ output ≤ ``limit`` (kW); the rest is curtailed at no cost."""

    id: str
    type: str
    capacity: Series
    availability: Series
    cost: Series
    ramp_rate: Series | None = None
    initial_output: float | None = None
    emissions: Series | None = None

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
    soc: float = DEFAULT_SOC
    efficiency: float = DEFAULT_EFFICIENCY
    end_soc: float | None = None
    type: str = "storage"

    @property
    def least_end_soc(self) -> float:
        """The fraction that the last step must reach: ``endSoc``, else the initial one as far as ``maxSoc`` allows."""
        return min(self.soc, self.max_soc[-1]) if self.end_soc is None else self.end_soc


@dataclass(frozen=True, slots=True)
class Grid:
    """A connection: imports at ``cost``, exports at ``export_price`` where there is one, never both in one step."""

    id: str
    capacity: Series
    cost: Series
    export_price: Series | None = None
    emissions: Series | None = None
    type: str = "grid"


@dataclass(frozen=True, slots=True)
class Load:
    """A load that may be shed: 0 ≤ shed ≤ ``limit`` (kW) at ``cost``, its value of lost load."""

    id: str
    capacity: Series
    availability: Series
    cost: Series
    type: str = "load"

    @property
    def limit(self) -> Series:
        """Capacity times availability in kW, one value per step."""
        return tuple(c * a for c, a in zip(self.capacity, self.availability, strict=True))


Resource = Generator | Storage | Grid | Load


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the whole plan has to keep: a share, money per kWh served, kW per step, the unit of ``emissionsPerKWh``."""

    min_renewable: float | None = None
    max_cost: float | None = None
    max_grid_import: Series | None = None
    max_emissions: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Demand (kW per step) and what there is to meet it; resources keep the order of the document."""

    demand: Series
    resources: tuple[Resource, ...]
    constraints: Constraints = Constraints()
    step_minutes: float = DEFAULT_STEP_MINUTES
    strict: bool = False
    start: datetime | None = None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.demand)

    @property
    def step_hours(self) -> float:
        """Length of a step in hours, which turns kW into kWh."""
        return self.step_minutes / MINUTES_PER_HOUR

    def step_start(self, step: int) -> datetime | None:
        """When ``step`` (from 0) starts, if the problem says when it starts."""
        return None if self.start is None else self.start + step * timedelta(minutes=self.step_minutes)


def parse_problem(document: Any) -> Problem:
    """Return the problem that ``document`` (the body of ``optimize`` plus ``resources``) states.

    Demand, availability, prices and limits may be a number or an array of one value per step. The number of steps is
    ``horizon``, else the length of the arrays, else 1. Raises :class:`InvalidInput` with the JSON pointer of the first
    fault; a field that is not known is a fault, so that a misspelt limit is never ignored.
    """
    plan = Fields(document, "", _PLAN_FIELDS | _DESCRIPTIVE | {"id", "market", "currency"})
    if plan.get("solver", "lp") != "lp":
        raise InvalidInput('solver must be "lp"; others are not supported yet', pointer="/solver")
    resources = listing(plan.required("resources"), "/resources")
    limits = Fields(plan.get("constraints", {}), "/constraints", _CONSTRAINT_FIELDS)
    steps = _steps(plan, resources, limits)
    if steps * max(1, len(resources)) > MAX_CELLS:
        raise InvalidInput(f"{steps} steps for {len(resources)} resources is past {MAX_CELLS:,}", pointer="/resources")
    minutes = plan.number("stepMinutes", DEFAULT_STEP_MINUTES, high=24 * MINUTES_PER_HOUR)
    if minutes == 0:
        raise InvalidInput("must be above 0", pointer="/stepMinutes")
    return Problem(
        demand=plan.series("demand", steps, required=True),
        resources=_resources(resources, steps),
        constraints=_constraints(limits, steps),
        step_minutes=minutes,
        strict=plan.flag("strict"),
        start=plan.moment("start"),
    )


def _steps(plan: Fields, resources: list[Any], limits: Fields) -> int:
    lengths = [shape_of(plan.get("demand"))]
    lengths += [shape_of(each.get(name)) for each in resources if isinstance(each, dict) for name in _SERIES_FIELDS]
    lengths.append(shape_of(limits.get("maxGridImport")))
    steps = plan.whole("horizon", low=1) or next((length for length in lengths if length is not None), 1)
    if not 1 <= steps <= MAX_STEPS:
        pointer = "/horizon" if plan.get("horizon") is not None else "/demand"
        raise InvalidInput(f"a plan has 1 to {MAX_STEPS:,} steps, not {steps:,}", pointer=pointer)
    return steps


def _constraints(limits: Fields, steps: int) -> Constraints:
    reserve = limits.get("reserve")
    if reserve is not None and (not isinstance(reserve, dict) or any(reserve.values())):
        raise InvalidInput("reserve is not supported yet", pointer="/constraints/reserve")
    return Constraints(
        min_renewable=limits.optional_number("minRenewable", high=1),
        max_cost=limits.optional_number("maxCost"),
        max_grid_import=limits.optional_series("maxGridImport", steps),
        max_emissions=limits.optional_number("maxEmissions"),
    )


def _resources(items: list[Any], steps: int) -> tuple[Resource, ...]:
    read: list[Resource] = []
    taken: dict[str, int] = {}
    for index, item in enumerate(items):
        pointer = at("/resources", index)
        if not isinstance(item, dict):
            raise InvalidInput("must be an object", pointer=pointer)
        kind = item.get("type")
        if kind not in TYPES:
            raise InvalidInput(f"type must be one of {', '.join(TYPES)}, not {kind!r}", pointer=f"{pointer}/type")
        family = "generator" if kind in GENERATOR_TYPES else kind
        fields = Fields(item, pointer, _FIELDS[family] | _DESCRIPTIVE)
        name = fields.text("id", f"{kind.upper()}-{index + 1:03d}")
        if name in taken:
            raise InvalidInput(f"{name!r} is the id of /resources/{taken[name]} too", pointer=f"{pointer}/id")
        taken[name] = index
        if fields.number("minPower", 0.0) > 0:
            raise InvalidInput("minPower (unit commitment) is not supported yet", pointer=f"{pointer}/minPower")
        if fields.whole("priority"):
            raise InvalidInput("priority is not supported yet", pointer=f"{pointer}/priority")
        read.append(_READERS[family](name, kind, fields, steps))
    return tuple(read)


def _generator(name: str, kind: str, fields: Fields, steps: int) -> Generator:
    return Generator(
        id=name,
        type=kind,
        capacity=fields.series("capacity", steps, required=True),
        availability=fields.series("availability", steps, default=1.0, high=1),
        # a subsidy is a negative cost
        cost=fields.series("costPerKWh", steps, low=None),
        ramp_rate=fields.optional_series("rampRate", steps),
        initial_output=fields.optional_number("initialOutput"),
        emissions=fields.optional_series("emissionsPerKWh", steps),
    )


def _storage(name: str, _kind: str, fields: Fields, steps: int) -> Storage:
    store = Storage(
        id=name,
        capacity=fields.series("capacity", steps, required=True),
        energy_capacity=fields.number("energyCapacity"),
        cost=fields.series("costPerKWh", steps),
        soc=fields.number("soc", DEFAULT_SOC, high=1),
        efficiency=fields.number("efficiency", DEFAULT_EFFICIENCY, high=1),
        min_soc=fields.series("minSoc", steps, high=1),
        max_soc=fields.series("maxSoc", steps, default=1.0, high=1),
        end_soc=fields.optional_number("endSoc", high=1),
    )
    for field, value in (("energyCapacity", store.energy_capacity), ("efficiency", store.efficiency)):
        if value == 0:
            raise InvalidInput("must be above 0", pointer=at(fields.pointer, field))
    if any(low > high for low, high in zip(store.min_soc, store.max_soc, strict=True)):
        raise InvalidInput("minSoc must not be above maxSoc", pointer=at(fields.pointer, "minSoc"))
    return store


def _grid(name: str, _kind: str, fields: Fields, steps: int) -> Grid:
    return Grid(
        id=name,
        capacity=fields.series("capacity", steps, required=True),
        # wholesale prices do go below zero
        cost=fields.series("costPerKWh", steps, low=None),
        export_price=fields.optional_series("exportPrice", steps, low=None),
        emissions=fields.optional_series("emissionsPerKWh", steps),
    )


def _load(name: str, _kind: str, fields: Fields, steps: int) -> Load:
    return Load(
        id=name,
        capacity=fields.series("capacity", steps, required=True),
        availability=fields.series("availability", steps, default=1.0, high=1),
        cost=fields.series("costPerKWh", steps),
    )


_READERS: Final[dict[str, Any]] = {"generator": _generator, "storage": _storage, "grid": _grid, "load": _load}
