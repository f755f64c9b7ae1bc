"""What a solve gives: flows in kW, stored energy in kWh, and the value of every limit.

:func:`flows_of` and :func:`duals_of` read them from a solver's columns and rows; nothing here knows the solver.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, Problem
from energy_cloud_dagster.domain.dispatch.solving.matrices import DRAWS, GOALS, SUPPLIES, Goal, Matrices, Switches
from energy_cloud_dagster.domain.dispatch.solving.reserve import add_reserve_values

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, eq=False)
class Flows:
    """A plan: kW per step, none below 0; ``stored`` is kWh at the end of each step.

    ``generation`` (G, T); ``charge``, ``discharge``, ``stored`` (S, T); ``imported``, ``exported`` (K, T); ``shed``
    (L, T); ``unmet`` (T,); ``on`` (G, T) only where a unit has a least power, true in the cells without one.
    """

    generation: Floats
    charge: Floats
    discharge: Floats
    stored: Floats
    imported: Floats
    exported: Floats
    shed: Floats
    unmet: Floats
    on: BoolArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Duals:
    """``price`` (T,) of a kWh of demand, and in ``limits`` what one more unit of a limit saves, never below 0.

    Values are in currency over the horizon per kW (``generation`` and ``ramp`` (G, T), ``minPower`` (G, T) for one kW
    less of it; ``charge`` and ``discharge`` (S, T) power; ``import`` and ``export`` (K, T); ``shed`` (L, T);
    ``maxGridImport``, ``reserveUp`` and ``reserveDown`` (T,), for one kW less of reserve), per kWh (``full``,
    ``empty`` (S, T): maxSoc up, minSoc down; ``endSoc`` (S,) down), per unit of ``maxEmissions`` (), per kWh of
    renewables less for ``minRenewable`` (), and per currency unit of what ``maxCost`` () allows. A key is there only
    where the problem has such a limit; limits of 0 (solar at night) have a value too.
    """

    price: Floats
    limits: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A plan and how good it is: shortfalls of the goals (kWh, kWh, currency) and the cost without the unmet penalty.

    ``optimal`` says that the optimum is proven, within ``gap`` (relative; 0 for a linear programme, ``None`` where
    nothing was proven). ``solver`` is ``lp`` or ``ga``.
    ``unproven`` is by how much less, at most, a goal might fall short, of goals whose search the time limit ended.
    """

    flows: Flows
    duals: Duals
    shortfalls: dict[Goal, float]
    cost: float
    optimal: bool = True
    gap: float | None = 0.0
    solver: str = "lp"
    unproven: Mapping[Goal, float] = field(default_factory=dict)


#: Names of the column blocks that are flows of their own.
_FLOWS: Final = ("generation", "charge", "discharge", "stored", "imported", "shed")


def flows_of(problem: Problem, matrices: Matrices, x: Floats, switches: Switches) -> Flows:
    """Return the flows of one solve; what the solver's tolerance leaves outside the bounds is clipped."""
    # negative zero becomes zero
    values = np.minimum(np.maximum(x, matrices.lower), matrices.upper) + 0.0
    flows = {name: matrices.column(name, values) for name in _FLOWS}
    exported = np.zeros(flows["imported"].shape)
    exported[matrices.cells["exported"]] = matrices.column("exported", values)
    unmet = matrices.column("unmet", values) if switches.goals else np.zeros(problem.steps)
    on: BoolArray | None = switches.on
    if "on" in matrices.columns:
        on = np.ones(flows["generation"].shape, bool)
        on.ravel()[matrices.cells["on"]] = matrices.column("on", values) > 0.5
    return Flows(**flows, exported=exported, unmet=unmet, on=on)


def shortfalls_of(problem: Problem, matrices: Matrices, x: Floats) -> dict[Goal, float]:
    """Return the shortfalls that the goals' columns hold, of the goals that the problem has."""
    values = np.maximum(matrices.column("goals", x), 0.0).tolist()
    return {goal: values[GOALS.index(goal)] for goal in goals_of(problem)}


def goals_of(problem: Problem) -> tuple[Goal, ...]:
    """Return the goals that ``problem`` has, in order."""
    limits = problem.constraints
    asked = {"unmetDemand": True, "minRenewable": limits.min_renewable, "maxCost": limits.max_cost}
    return tuple(goal for goal in GOALS if asked[goal] is not None)


def cost_of(problem: Problem, flows: Flows) -> float:
    """Return the cost of the flows over the horizon, without the penalty for unmet demand."""
    ties = problem.ties
    total = np.vdot(problem.generators.cost, flows.generation)
    total += np.vdot(problem.stores.cost, flows.discharge) + np.vdot(problem.loads.cost, flows.shed)
    total += np.vdot(ties.cost, flows.imported)
    exporting = ties.exports
    if exporting.any():
        total -= np.vdot(ties.export_price[exporting], flows.exported[exporting])
    return float(total) * problem.step_hours


def duals_of(problem: Problem, matrices: Matrices, columns: Floats, rows: Floats, switches: Switches) -> Duals:
    """Return the prices and the value of each limit from the duals of a linear programme that is minimised.

    A dual is the derivative of the objective by a bound: at an upper one it is at most 0, at a lower one at least 0.
    A limit of 0 that a switch put there (a unit that is off, the direction not taken) is no limit. The direction of
    pairs and the units that are on must be fixed (no integers in ``matrices``).
    """
    gain, loss = np.maximum(-columns, 0.0), np.maximum(columns, 0.0)
    price = np.zeros(problem.steps)
    if "balance" in matrices.rows:
        price = matrices.row("balance", rows) / problem.step_hours + 0.0
    limits: dict[str, Floats] = {}
    if problem.generators.place.size:
        _value_units(problem, matrices, switches, limits, (gain, loss, rows))
    if problem.stores.place.size:
        _value_stores(problem, matrices, switches, limits, (gain, loss))
    if problem.ties.place.size:
        limits["import"] = matrices.column("imported", gain)
        limits["export"] = np.zeros(limits["import"].shape)
        limits["export"][matrices.cells["exported"]] = matrices.column("exported", gain)
        if switches.ties is not None:
            limits["import"] = np.where(switches.ties == DRAWS, 0.0, limits["import"])
            limits["export"] = np.where(switches.ties == SUPPLIES, 0.0, limits["export"])
    if problem.loads.place.size:
        limits["shed"] = matrices.column("shed", gain)
    for name in ("maxGridImport", "reserveUp", "reserveDown"):
        if name in matrices.rows:
            limits[name] = np.abs(matrices.row(name, rows))
    for name in ("maxEmissions", "minRenewable", "maxCost"):
        if name in matrices.rows:
            limits[name] = np.abs(matrices.row(name, rows)).reshape(())
    if "reserveUp" in limits or "reserveDown" in limits:
        add_reserve_values(problem, matrices, limits, rows, columns)
    return Duals(price=price, limits=limits)


def _value_units(
    problem: Problem,
    matrices: Matrices,
    switches: Switches,
    limits: dict[str, Floats],
    values: tuple[Floats, Floats, Floats],
) -> None:
    units = problem.generators
    gain, loss, rows = values
    above, below = matrices.column("generation", gain), matrices.column("generation", loss)
    if units.min_power.any() and switches.on is not None:
        above = np.where((units.min_power > 0) & ~switches.on, 0.0, above)
        limits["minPower"] = np.where((units.min_power > 0) & switches.on, below, 0.0)
    limits["generation"] = above
    ramped = matrices.cells["ramp"]
    if not ramped.size:
        return
    limits["ramp"] = np.zeros(above.shape)
    if "ramp" in matrices.rows:
        limits["ramp"][ramped, 1:] = np.abs(matrices.row("ramp", rows))
    # the first change is bounded by the columns: what is tighter there than the limit itself is the ramp
    first = units.initial[ramped]
    rate, most, least = units.ramp[ramped, 0], units.limit[ramped, 0], units.min_power[ramped, 0]
    rising, falling = first + rate < most, first - rate > least
    limits["ramp"][ramped, 0] = np.where(rising, above[ramped, 0], 0.0) + np.where(falling, below[ramped, 0], 0.0)
    limits["generation"] = above.copy()
    limits["generation"][ramped, 0] = np.where(rising, 0.0, above[ramped, 0])
    if "minPower" in limits:
        limits["minPower"][ramped, 0] = np.where(falling, 0.0, limits["minPower"][ramped, 0])


def _value_stores(
    problem: Problem, matrices: Matrices, switches: Switches, limits: dict[str, Floats], values: tuple[Floats, Floats]
) -> None:
    stores = problem.stores
    gain, loss = values
    for name, other in (("charge", SUPPLIES), ("discharge", DRAWS)):
        value = matrices.column(name, gain)
        limits[name] = value if switches.stores is None else np.where(switches.stores == other, 0.0, value)
    limits["full"] = matrices.column("stored", gain)
    limits["empty"] = matrices.column("stored", loss).copy()
    last = limits["empty"][:, -1]
    ends = stores.end_soc > stores.min_soc[:, -1]
    limits["endSoc"] = np.where(ends, last, 0.0)
    limits["empty"][:, -1] = np.where(ends, 0.0, last)
