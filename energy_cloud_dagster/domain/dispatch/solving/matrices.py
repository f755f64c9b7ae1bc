"""The linear or mixed-integer programme of a problem as arrays: costs, bounds, and the rows in compressed form.

Nothing here loops over variables, and nothing knows a solver. All rows that a problem has are written down once, by
:func:`build`; :class:`Switches` say which are left out, which flows are fixed, and whether goals may fall short.
Demand stands in the balance rows alone, so that their duals are the whole derivative of the objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.dispatch.problem import (
    UNMET_PENALTY_PER_KWH,
    BoolArray,
    Floats,
    IntArray,
    Problem,
)

Indices = npt.NDArray[np.int32]
Directions = npt.NDArray[np.int8]
Goal = Literal["unmetDemand", "minRenewable", "maxCost"]
#: The goals in strict order; the cost comes last.
GOALS: Final[tuple[Goal, ...]] = ("unmetDemand", "minRenewable", "maxCost")

#: What a pair of flows (discharge and charge, import and export) may do: both, one of them, or either (an integer).
FREE, SUPPLIES, DRAWS, EITHER = 0, 1, -1, 2

#: Bounds that cross by less than this share are one value that was computed in two ways.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Switches:
    """What a model holds besides the problem.

    ``dropped`` names hard constraints to leave out (``demand``, ``maxGridImport``, ``BAT-1.endSoc``). With ``goals``
    the shortfalls are columns, and ``bounded`` (T,) are the steps with unmet ≤ demand. ``stores`` (S, T) and ``ties``
    (K, T) hold what each pair of flows may do; ``on`` (G, T) fixes the units that have a ``min_power``, ``None`` leaves
    them to integers.
    """

    dropped: frozenset[str] = frozenset()
    goals: bool = False
    bounded: BoolArray | None = None
    stores: Directions | None = None
    ties: Directions | None = None
    on: BoolArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Matrices:
    """Minimise ``cost @ x`` with ``lower ≤ x ≤ upper`` and ``row_lower ≤ A @ x ≤ row_upper``.

    A is in compressed rows (``start``, ``index``, ``value``). ``integer`` marks whole columns (``None``: there are
    none). ``columns`` and ``rows`` give (offset, shape) of each block by name; a block that exists for some resources
    or cells only has their indices in ``cells``: of generators for ``ramp``, of ties for ``exported``, of cells of the
    full (G, T), (S, T) or (K, T) for ``on``, ``store_direction`` and ``tie_direction``.
    """

    cost: Floats
    lower: Floats
    upper: Floats
    row_lower: Floats
    row_upper: Floats
    start: Indices
    index: Indices
    value: Floats
    integer: BoolArray | None
    columns: Mapping[str, tuple[int, tuple[int, ...]]]
    rows: Mapping[str, tuple[int, tuple[int, ...]]]
    cells: Mapping[str, IntArray] = field(default_factory=dict)

    def column(self, name: str, values: Floats) -> Floats:
        """Return the block ``name`` of one value per column, in its shape."""
        return _block(self.columns[name], values)

    def row(self, name: str, values: Floats) -> Floats:
        """Return the block ``name`` of one value per row, in its shape."""
        return _block(self.rows[name], values)


def _block(place: tuple[int, tuple[int, ...]], values: Floats) -> Floats:
    offset, shape = place
    size = 1
    for length in shape:
        size *= length
    return values[offset : offset + size].reshape(shape)


def build(problem: Problem, switches: Switches | None = None) -> Matrices:
    """Return the programme of ``problem``: costs in currency over the horizon, flows in kW, stored energy in kWh.

    Rows of one resource come first and those of the whole plan last, which HiGHS solves faster than the other way
    round. Bounds that contradict each other are handed on as they are: they make the programme infeasible.
    """
    return Builder(problem, switches or Switches()).matrices()


class Builder:
    """The programme while it grows: columns by :meth:`add`, rows by :meth:`rule`, in the order of the calls."""

    def __init__(self, problem: Problem, switches: Switches) -> None:
        self.problem, self.switches = problem, switches
        self.hours, self.steps = problem.step_hours, problem.steps
        self.width = 0
        self.columns: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.cells: dict[str, IntArray] = {}
        self._costs: list[Floats] = []
        self._lowers: list[Floats] = []
        self._uppers: list[Floats] = []
        self._integers: list[tuple[int, int]] = []
        self.height = 0
        self.rows: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._row_lowers: list[Floats] = []
        self._row_uppers: list[Floats] = []
        self._lengths: list[IntArray] = []
        self._indices: list[npt.NDArray[np.int64]] = []
        self._values: list[Floats] = []

    def matrices(self) -> Matrices:
        """Return the whole programme."""
        self._flows()
        self._goals()
        self._store_rows()
        self._ramp_rows()
        self._unit_rows()
        self._apart()
        limits = self.problem.constraints
        if self.wanted("reserve") and (limits.reserve_up is not None or limits.reserve_down is not None):
            from energy_cloud_dagster.domain.dispatch.solving.reserve import add_reserve

            add_reserve(self)
        self._plan_rows()
        self._balance()
        integer = None
        if self._integers:
            integer = np.zeros(self.width, bool)
            for offset, size in self._integers:
                integer[offset : offset + size] = True
        start = np.zeros(self.height + 1, np.int32)
        if self._lengths:
            np.cumsum(np.concatenate(self._lengths), out=start[1:])
        lower, upper = _joined(self._lowers), _joined(self._uppers)
        # a state of charge that is both the least and the most may come out a digit apart
        crossed = lower > upper
        if crossed.any():
            near = crossed & (lower - upper <= _ROUNDING * np.maximum(1.0, np.abs(upper)))
            lower = np.where(near, upper, lower)
        return Matrices(
            cost=_joined(self._costs),
            lower=lower,
            upper=upper,
            row_lower=_joined(self._row_lowers),
            row_upper=_joined(self._row_uppers),
            start=start,
            index=_joined(self._indices).astype(np.int32),
            value=_joined(self._values),
            integer=integer,
            columns=self.columns,
            rows=self.rows,
            cells=self.cells,
        )

    def wanted(self, name: str) -> bool:
        """Whether the constraint of the whole plan, or of a resource, is to be held."""
        return name not in self.switches.dropped

    def kept(self, place: IntArray, limit: str) -> BoolArray | None:
        """Return which of the resources at ``place`` keep their own ``limit``; ``None`` means all of them."""
        if not self.switches.dropped:
            return None
        return np.array([self.wanted(f"{self.problem.ids[each]}.{limit}") for each in place.tolist()], bool)

    # -- columns

    def add(
        self, name: str, lower: Floats | float, upper: Floats, cost: Floats | float = 0.0, *, whole: bool = False
    ) -> IntArray:
        """Append a block of columns in the shape of ``upper`` and return their indices."""
        shape, size = upper.shape, upper.size
        self.columns[name] = (self.width, shape)
        self._lowers.append(_spread(lower, shape))
        self._uppers.append(upper.ravel())
        self._costs.append(_spread(cost, shape))
        if whole and size:
            self._integers.append((self.width, size))
        indices = np.arange(self.width, self.width + size).reshape(shape)
        self.width += size
        return indices

    def _flows(self) -> None:
        problem, hours = self.problem, self.hours
        units, stores, ties, loads = problem.generators, problem.stores, problem.ties, problem.loads
        self._commitment()
        self.generation = self.add("generation", *self._unit_bounds(), units.cost * hours)
        power_in = power_out = stores.power
        if self.switches.stores is not None:
            power_in = np.where(self.switches.stores == SUPPLIES, 0.0, power_in)
            power_out = np.where(self.switches.stores == DRAWS, 0.0, power_out)
        self.charge = self.add("charge", 0.0, power_in)
        self.discharge = self.add("discharge", 0.0, power_out, stores.cost * hours)
        self.empty, self.full = self._levels()
        least = self.empty
        if stores.place.size:
            end = stores.end_soc * stores.energy
            if (kept := self.kept(stores.place, "endSoc")) is not None:
                end = np.where(kept, end, 0.0)
            least = least.copy()
            np.maximum(least[:, -1], end, out=least[:, -1])
        self.stored = self.add("stored", least, self.full)
        self.exporting = np.flatnonzero(ties.exports)
        self.cells["exported"] = self.exporting
        most_in, most_out = ties.capacity, ties.capacity[self.exporting]
        if self.switches.ties is not None:
            most_in = np.where(self.switches.ties == DRAWS, 0.0, most_in)
            most_out = np.where(self.switches.ties[self.exporting] == SUPPLIES, 0.0, most_out)
        self.imported = self.add("imported", 0.0, most_in, ties.cost * hours)
        self.exported = self.add("exported", 0.0, most_out, ties.export_price[self.exporting] * -hours)
        self.shed = self.add("shed", 0.0, loads.limit, loads.cost * hours)

    def _commitment(self) -> None:
        """Find the units' least power (0 where a unit may give anything) and the cells that need an integer."""
        units = self.problem.generators
        least = units.min_power
        if least.any() and (kept := self.kept(units.place, "minPower")) is not None:
            least = np.where(kept[:, None], least, 0.0)
        self.least = least
        self.committed = np.flatnonzero(least) if self.switches.on is None else np.zeros(0, np.int64)

    def _unit_bounds(self) -> tuple[Floats | float, Floats]:
        units, on = self.problem.generators, self.switches.on
        lower: Floats | float = 0.0
        upper = units.limit
        if on is not None and self.least.any():
            off = (self.least > 0) & ~on
            lower, upper = np.where(off, 0.0, self.least), np.where(off, 0.0, upper)
        initial = units.initial
        self.ramped = self._ramped()
        known = ~np.isnan(initial) & np.isfinite(units.ramp[:, 0]) & self.ramped
        if known.any():
            lower, upper = np.broadcast_to(lower, upper.shape).copy(), upper.copy()
            ramp = units.ramp[:, 0]
            lower[:, 0] = np.where(known, np.maximum(lower[:, 0], initial - ramp), lower[:, 0])
            upper[:, 0] = np.where(known, np.minimum(upper[:, 0], initial + ramp), upper[:, 0])
        return lower, upper

    def _ramped(self) -> BoolArray:
        units = self.problem.generators
        ramped: BoolArray = np.isfinite(units.ramp).any(axis=1)
        if (kept := self.kept(units.place, "rampRate")) is not None:
            ramped &= kept
        return ramped

    def _levels(self) -> tuple[Floats, Floats]:
        """Return the least and the most energy (S, T) in kWh."""
        stores = self.problem.stores
        energy = stores.energy[:, None]
        empty, full = stores.min_soc * energy, stores.max_soc * energy
        if (kept := self.kept(stores.place, "minSoc")) is not None:
            empty = np.where(kept[:, None], empty, 0.0)
        if (kept := self.kept(stores.place, "maxSoc")) is not None:
            full = np.where(kept[:, None], full, energy)
        return empty, full

    def _goals(self) -> None:
        self.unmet = self.shortfall = None
        if self.switches.goals:
            bounded = self.switches.bounded
            most = np.full(self.steps, np.inf)
            if bounded is not None:
                most = np.where(bounded, self.problem.demand, most)
            self.unmet = self.add("unmet", 0.0, most)
            penalty = np.array([UNMET_PENALTY_PER_KWH, 0.0, 0.0])
            self.shortfall = self.add("goals", 0.0, np.full(len(GOALS), np.inf), penalty)

    # -- rows

    def rule(
        self, name: str, index: IntArray, value: Floats | float, lower: Floats | float, upper: Floats | float
    ) -> None:
        """Append rows of equal length: ``index`` is (*shape, terms), the bounds are of that shape or one for all."""
        shape, terms = index.shape[:-1], index.shape[-1]
        count = index.size // terms if terms else 0
        if count == 0:
            return
        self._open(name, shape, lower, upper)
        self._lengths.append(np.full(count, terms))
        self._indices.append(index.ravel())
        self._values.append(_spread(value, index.shape))

    def _open(self, name: str, shape: tuple[int, ...], lower: Floats | float, upper: Floats | float) -> None:
        self.rows[name] = (self.height, shape)
        self._row_lowers.append(_spread(lower, shape))
        self._row_uppers.append(_spread(upper, shape))
        size = 1
        for length in shape:
            size *= length
        self.height += size

    def bare(self, name: str, lower: Floats, upper: Floats) -> None:
        """Append rows without a term: they hold or, where there is nothing to hold them with, nothing does."""
        self._open(name, lower.shape, lower, upper)
        self._lengths.append(np.zeros(lower.size, np.int64))

    def _store_rows(self) -> None:
        """Energy at the end of a step less that before = √efficiency * charged - discharged / √efficiency.

        In kW, energy over hours: with the small factors of a step of minutes the simplex method takes up to forty times
        as long.
        """
        stores, hours = self.problem.stores, self.hours
        count, steps = self.stored.shape
        if count == 0:
            return
        one_way = np.sqrt(stores.efficiency)[:, None]
        index = np.empty((count, steps, 4), np.int64)
        value = np.empty((count, steps, 4))
        index[..., 0], value[..., 0] = self.charge, -one_way
        index[..., 1], value[..., 1] = self.discharge, 1.0 / one_way
        index[..., 2], value[..., 2] = self.stored, 1.0 / hours
        index[:, 1:, 3], value[..., 3] = self.stored[:, :-1], -1.0 / hours
        before = np.zeros((count, steps))
        before[:, 0] = stores.soc * stores.energy / hours
        self._open("stored", (count, steps), before, before)
        # the first step has no column before it
        there = np.ones((count, steps, 4), bool)
        there[:, 0, 3] = False
        lengths = np.full((count, steps), 4)
        lengths[:, 0] = 3
        self._lengths.append(lengths.ravel())
        self._indices.append(index[there])
        self._values.append(value[there])

    def _ramp_rows(self) -> None:
        chosen = np.flatnonzero(self.ramped)
        self.cells["ramp"] = chosen
        if chosen.size and self.steps > 1:
            output, rate = self.generation[chosen], self.problem.generators.ramp[chosen, 1:]
            index = np.stack([output[:, 1:], output[:, :-1]], axis=2)
            self.rule("ramp", index, np.array([1.0, -1.0]), -rate, rate)

    def _unit_rows(self) -> None:
        """A unit with a least power: least * on ≤ output ≤ limit * on."""
        self.on: IntArray | None = None
        cells = self.committed
        if cells.size:
            self.cells["on"] = cells
            limit, least = self.problem.generators.limit.ravel()[cells], self.least.ravel()[cells]
            # with less available than the least it may give, a unit stays off
            on = self.add("on", 0.0, np.where(limit < least, 0.0, 1.0), whole=True)
            output = self.generation.ravel()[cells]
            place = np.full(self.generation.size, -1)
            place[cells] = on
            self.on = place.reshape(self.generation.shape)
            self._pairs("on_limit", output, on, -limit, -np.inf, 0.0)
            self._pairs("on_least", output, on, -least, 0.0, np.inf)

    def _pairs(
        self, name: str, one: IntArray, other: IntArray, factor: Floats, lower: float, upper: Floats | float
    ) -> None:
        value = np.ones((one.size, 2))
        value[:, 1] = factor
        self.rule(name, np.stack([one, other], axis=1), value, lower, upper)

    def _apart(self) -> None:
        """Keep two flows apart by an integer where asked: one if the first of them may run."""
        problem, switches = self.problem, self.switches
        if switches.stores is not None:
            cells = np.flatnonzero(switches.stores == EITHER)
            self._either("store_direction", cells, self.discharge, self.charge, problem.stores.power)
        if switches.ties is not None and self.exporting.size:
            place = np.full(self.imported.shape, -1)
            place[self.exporting] = self.exported
            cells = np.flatnonzero((switches.ties == EITHER) & (place >= 0))
            self._either("tie_direction", cells, self.imported, place, problem.ties.capacity)

    def _either(self, name: str, cells: IntArray, supply: IntArray, draw: IntArray, limit: Floats) -> None:
        if cells.size:
            self.cells[name] = cells
            most = limit.ravel()[cells]
            direction = self.add(name, 0.0, np.ones(cells.size), whole=True)
            self._pairs(f"{name}_supply", supply.ravel()[cells], direction, -most, -np.inf, 0.0)
            self._pairs(f"{name}_draw", draw.ravel()[cells], direction, most, -np.inf, most)

    def _plan_rows(self) -> None:
        problem, limits, hours = self.problem, self.problem.constraints, self.hours
        generators, ties = problem.generators, problem.ties
        if limits.max_grid_import is not None and self.wanted("maxGridImport"):
            self.rule("maxGridImport", self.imported.T, 1.0, -np.inf, limits.max_grid_import)
        if limits.max_emissions is not None and self.wanted("maxEmissions"):
            rate = np.concatenate([generators.emissions.ravel(), ties.emissions.ravel()])
            emitting = np.flatnonzero(rate)
            index = np.concatenate([self.generation.ravel(), self.imported.ravel()])[emitting]
            self.whole("maxEmissions", index, rate[emitting] * hours, -np.inf, limits.max_emissions)
        if limits.min_renewable is not None and self.wanted("minRenewable"):
            share = (generators.renewable - limits.min_renewable) * hours
            value = np.concatenate(
                [np.repeat(share, self.steps), np.full(self.imported.size, -limits.min_renewable * hours)]
            )
            index = np.concatenate([self.generation.ravel(), self.imported.ravel()])
            self.whole("minRenewable", index, value, 0.0, np.inf, goal=1)
        if limits.max_cost is not None and self.wanted("maxCost"):
            self._cost_row(limits.max_cost)
        if self.unmet is not None:
            self.whole("unmetDemand", self.unmet, np.full(self.steps, hours), 0.0, 0.0, goal=0, sign=-1.0)

    def whole(
        self,
        name: str,
        index: IntArray,
        value: Floats,
        lower: float,
        upper: float,
        *,
        goal: int = -1,
        sign: float = 1.0,
    ) -> None:
        """Append one row over the whole plan, with the shortfall of ``goal`` where there are such columns."""
        if goal >= 0 and self.shortfall is not None:
            index, value = np.append(index, self.shortfall[goal]), np.append(value, sign)
        self.rule(name, index[None, :], value[None, :], lower, upper)

    def _cost_row(self, most: float) -> None:
        """Cost - most * energy served ≤ 0; what reaches the demand is net supply without what was shed."""
        blocks = (self.generation, self.discharge, self.imported, self.charge, self.exported, self.shed)
        served = (1.0, 1.0, 1.0, -1.0, -1.0, 0.0)
        index = np.concatenate([block.ravel() for block in blocks])
        factor = np.repeat(served, [block.size for block in blocks]) * (-most * self.hours)
        value = _joined(self._costs)[index] + factor
        there = np.flatnonzero(value)
        self.whole("maxCost", index[there], value[there], -np.inf, 0.0, goal=2, sign=-1.0)

    def _balance(self) -> None:
        if not self.wanted("demand"):
            return
        blocks = [self.generation, self.discharge, self.imported, self.shed, self.charge, self.exported]
        signs = [1.0, 1.0, 1.0, 1.0, -1.0, -1.0]
        if self.unmet is not None:
            blocks.append(self.unmet[None, :])
            signs.append(1.0)
        index = np.concatenate(blocks, axis=0).T
        value = np.repeat(signs, [block.shape[0] for block in blocks])
        demand = self.problem.demand
        if index.size:
            self.rule("balance", index, value, demand, demand)
        elif demand.any():
            self.bare("balance", demand, demand)


def _spread(values: Floats | float, shape: tuple[int, ...]) -> Floats:
    """Broadcast to one value per cell, flat; numpy's own function takes four times as long on small arrays."""
    if isinstance(values, np.ndarray) and values.shape == shape:
        return values.ravel()
    cells = np.empty(shape)
    cells[...] = values
    return cells.ravel()


def _joined[T: np.generic](parts: list[npt.NDArray[T]]) -> npt.NDArray[T]:
    return np.concatenate(parts) if parts else np.zeros(0)  # type: ignore[return-value]
