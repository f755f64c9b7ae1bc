"""The linear programme of one dispatch problem: the only module that knows PuLP, and it is imported on first use.

A :class:`Model` holds the physics and the hard limits as rows, and the three goals that may fall short as one variable
each (kWh unmet, kWh of renewables short, currency above the cap), which :mod:`goals` minimises and caps in order.
Demand appears in the balance rows alone, so that their duals are the whole derivative of the objective.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Final, Literal

from energy_cloud_dagster.domain.dispatch.problem import (
    UNMET_PENALTY_PER_KWH,
    Generator,
    Grid,
    Load,
    Problem,
    Series,
    Storage,
)
from energy_cloud_dagster.domain.errors import EnergyCloudError

Goal = Literal["unmetDemand", "minRenewable", "maxCost"]
#: The goals in strict order; the cost comes last.
GOALS: Final[tuple[Goal, ...]] = ("unmetDemand", "minRenewable", "maxCost")
#: Index of a resource and of a step whose two flows (charge and discharge, import and export) exclude each other.
Pair = tuple[int, int]

#: A dual above this says that a limit binds (currency per kWh).
_DUAL_TOLERANCE: Final = 1e-7


class SolverFailed(EnergyCloudError):
    """HiGHS gave neither an optimum nor a proof that there is none."""


@dataclass(frozen=True, slots=True)
class Switches:
    """What a model holds besides the problem.

    ``dropped`` names hard constraints to leave out; ``binaries`` are the pairs of flows that an integer keeps apart;
    ``directions`` fixes them instead (true: discharge or import); ``bounded`` are the steps with unmet ≤ demand.
    """

    dropped: frozenset[str] = frozenset()
    binaries: frozenset[Pair] = frozenset()
    directions: Mapping[Pair, bool] = field(default_factory=dict)
    bounded: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """Flows in kW, stored energy in kWh, shape (resources, steps), and the duals of the last objective.

    ``supply`` is output, discharge, import or shed; ``draw`` is charge or export; ``stored`` is the end of each step.
    ``balance_duals`` are per kWh of demand; ``goal_duals`` say what one more unit of a goal's cap would save (≤ 0).
    """

    supply: tuple[Series, ...]
    draw: tuple[Series, ...]
    stored: tuple[Series, ...]
    unmet: Series
    goals: dict[Goal, float]
    balance_duals: Series
    goal_duals: dict[Goal, float]
    binding: tuple[tuple[str, ...], ...]


class Model:
    """The rows and columns of ``problem``; each :meth:`minimise` is one deterministic, single-threaded solve."""

    def __init__(self, problem: Problem, switches: Switches | None = None) -> None:
        import pulp

        self.problem = problem
        self.switches = switches or Switches()
        self._pulp = pulp
        self._lp = pulp.LpProblem("dispatch")
        self._steps = range(problem.steps)
        #: (name, step or None for the whole plan, row), for the report of what binds
        self._limits: list[tuple[str, int | None, Any]] = []
        self._add_flows()
        self._add_balance()
        self._add_resource_rows()
        self._add_plan_rows()

    # -- columns

    def _add_flows(self) -> None:
        resources = self.problem.resources
        count = range(len(resources))
        add = self._lp.add_variable_matrix
        self._supply = add("supply", (count, self._steps), 0) if resources else []
        self._draw: dict[int, list[Any]] = {}
        self._stored: dict[int, list[Any]] = {}
        for index, resource in enumerate(resources):
            limit = resource.limit if isinstance(resource, Generator | Load) else resource.capacity
            self._bound(self._supply[index], limit)
            if isinstance(resource, Storage):
                self._draw[index] = add(f"charge_{index}", self._steps, 0)
                self._stored[index] = add(f"stored_{index}", self._steps, 0, resource.energy_capacity)
            elif isinstance(resource, Grid) and resource.export_price is not None:
                self._draw[index] = add(f"export_{index}", self._steps, 0)
            if index in self._draw:
                self._bound(self._draw[index], limit)
        self._unmet = add("unmet", self._steps, 0)
        for step in self.switches.bounded:
            self._unmet[step].upBound = self.problem.demand[step]
        self._goals = {goal: self._lp.add_variable(goal, 0) for goal in GOALS}
        for (index, step), supplies in self.switches.directions.items():
            (self._draw if supplies else self._supply)[index][step].upBound = 0
        self._keep_apart(resources)

    def _keep_apart(self, resources: Iterable[Any]) -> None:
        capacities = [resource.capacity for resource in resources]
        for index, step in sorted(self.switches.binaries):
            supplies = self._lp.add_variable(f"supplies_{index}_{step}", cat="Binary")
            limit = capacities[index][step]
            self._row([(self._supply[index][step], 1), (supplies, -limit)], "<=", 0)
            self._row([(self._draw[index][step], 1), (supplies, limit)], "<=", limit)

    @staticmethod
    def _bound(variables: list[Any], limits: Series) -> None:
        for variable, limit in zip(variables, limits, strict=True):
            variable.upBound = limit

    # -- rows

    def _row(self, terms: list[tuple[Any, float]], sense: str, bound: float) -> Any:
        total = self._pulp.lpSum_vars_coefs(terms)
        row = total <= bound if sense == "<=" else total >= bound if sense == ">=" else total == bound
        return self._lp.addConstraint(row)

    def _limit(self, name: str, step: int | None, terms: list[tuple[Any, float]], sense: str, bound: float) -> None:
        self._limits.append((name, step, self._row(terms, sense, bound)))

    def _wanted(self, name: str) -> bool:
        return name not in self.switches.dropped

    def _net_supply(self, step: int) -> list[tuple[Any, float]]:
        terms = [(row[step], 1.0) for row in self._supply]
        return terms + [(row[step], -1.0) for row in self._draw.values()]

    def _add_balance(self) -> None:
        self._balance = [
            self._row([*self._net_supply(step), (self._unmet[step], 1.0)], "==", self.problem.demand[step])
            for step in self._steps
            if self._wanted("demand")
        ]
        hours = self.problem.step_hours
        self._row([*((unmet, hours) for unmet in self._unmet), (self._goals["unmetDemand"], -1.0)], "==", 0)

    def _add_resource_rows(self) -> None:
        for index, resource in enumerate(self.problem.resources):
            if isinstance(resource, Storage):
                self._add_store(index, resource)
            elif isinstance(resource, Generator) and resource.ramp_rate is not None:
                self._add_ramp(index, resource, resource.ramp_rate)

    def _add_store(self, index: int, store: Storage) -> None:
        one_way, hours, name = sqrt(store.efficiency), self.problem.step_hours, store.id
        stored, charge, discharge = self._stored[index], self._draw[index], self._supply[index]
        size = store.energy_capacity
        for step in self._steps:
            terms = [(stored[step], 1.0), (charge[step], -one_way * hours), (discharge[step], hours / one_way)]
            if step:
                terms.append((stored[step - 1], -1.0))
            self._row(terms, "==", 0.0 if step else store.soc * size)
            if store.min_soc[step] > 0 and self._wanted(f"{name}.minSoc"):
                self._limit(f"{name}.minSoc", step, [(stored[step], 1.0)], ">=", store.min_soc[step] * size)
            if store.max_soc[step] < 1 and self._wanted(f"{name}.maxSoc"):
                self._limit(f"{name}.maxSoc", step, [(stored[step], 1.0)], "<=", store.max_soc[step] * size)
        if store.least_end_soc > store.min_soc[-1] and self._wanted(f"{name}.endSoc"):
            bound = store.least_end_soc * size
            self._limit(f"{name}.endSoc", self.problem.steps - 1, [(stored[-1], 1.0)], ">=", bound)

    def _add_ramp(self, index: int, unit: Generator, rates: Series) -> None:
        name, output = f"{unit.id}.rampRate", self._supply[index]
        if not self._wanted(name):
            return
        for step in self._steps:
            change, before = [(output[step], 1.0)], 0.0
            if step:
                change.append((output[step - 1], -1.0))
            elif unit.initial_output is None:
                continue
            else:
                before = unit.initial_output
            self._limit(name, step, change, "<=", before + rates[step])
            self._limit(name, step, change, ">=", before - rates[step])

    def _add_plan_rows(self) -> None:
        limits, hours = self.problem.constraints, self.problem.step_hours
        if limits.max_grid_import is not None and self._wanted("maxGridImport"):
            ties = [i for i, resource in enumerate(self.problem.resources) if isinstance(resource, Grid)]
            for step, limit in enumerate(limits.max_grid_import if ties else ()):
                self._limit("maxGridImport", step, [(self._supply[i][step], 1.0) for i in ties], "<=", limit)
        if limits.max_emissions is not None and self._wanted("maxEmissions"):
            emitted = [
                (variable, rate * hours)
                for index, resource in enumerate(self.problem.resources)
                if isinstance(resource, Generator | Grid) and resource.emissions is not None
                for variable, rate in zip(self._supply[index], resource.emissions, strict=True)
            ]
            if emitted:
                self._limit("maxEmissions", None, emitted, "<=", limits.max_emissions)
        if limits.min_renewable is not None and self._wanted("minRenewable"):
            terms = [
                (variable, ((isinstance(resource, Generator) and resource.renewable) - limits.min_renewable) * hours)
                for index, resource in enumerate(self.problem.resources)
                if isinstance(resource, Generator | Grid)
                for variable in self._supply[index]
            ]
            self._limit("minRenewable", None, [*terms, (self._goals["minRenewable"], 1.0)], ">=", 0)
        if limits.max_cost is not None and self._wanted("maxCost"):
            terms = [*self._costs(), *self._served(-limits.max_cost * hours), (self._goals["maxCost"], -1.0)]
            self._limit("maxCost", None, terms, "<=", 0)

    def _served(self, factor: float) -> list[tuple[Any, float]]:
        """Energy served is what reaches the demand: net supply without what was shed."""
        shed = {i for i, resource in enumerate(self.problem.resources) if isinstance(resource, Load)}
        terms = [(each, factor) for i, row in enumerate(self._supply) if i not in shed for each in row]
        return terms + [(each, -factor) for row in self._draw.values() for each in row]

    def _costs(self) -> list[tuple[Any, float]]:
        hours, terms = self.problem.step_hours, []
        for index, resource in enumerate(self.problem.resources):
            terms += [(v, c * hours) for v, c in zip(self._supply[index], resource.cost, strict=True)]
            if isinstance(resource, Grid) and resource.export_price is not None:
                terms += [(v, -p * hours) for v, p in zip(self._draw[index], resource.export_price, strict=True)]
        return terms

    # -- solving

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The goals that this problem has, in order."""
        limits = self.problem.constraints
        asked = {"unmetDemand": True, "minRenewable": limits.min_renewable, "maxCost": limits.max_cost}
        return tuple(goal for goal in GOALS if asked[goal] is not None)

    def cap(self, goal: Goal, most: float | None) -> None:
        """Bound a goal's shortfall from above; ``None`` lifts the bound."""
        self._goals[goal].upBound = most

    def minimise(self, goal: Goal | Literal["cost"]) -> Answer | None:
        """Return the optimum for one goal under the present caps, ``None`` if nothing satisfies the rows."""
        if goal == "cost":
            terms = [*self._costs(), (self._goals["unmetDemand"], UNMET_PENALTY_PER_KWH)]
        else:
            terms = [(self._goals[goal], 1.0)]
        self._lp.setObjective(self._pulp.lpSum_vars_coefs(terms))
        return self._read() if self._solve() else None

    def _solve(self) -> bool:
        done = self._pulp.LpSolveStatus
        # Not threads=1: HiGHS refuses a count that differs from the one its process-wide scheduler started with.
        for presolve in ("choose", "off"):
            solver = self._pulp.HiGHS(msg=False, gapRel=0.0, gapAbs=1e-9, parallel="off", presolve=presolve)
            stats = self._lp.solve(solver)
            if stats.status == done.Optimal and stats.has_solution:
                return True
            if stats.status == done.Infeasible:
                return False
        # every column is bounded or costs something, so that "infeasible or unbounded" can only be the former
        raise SolverFailed(f"the solver stopped without an answer: {stats.status_str}")

    def _read(self) -> Answer:
        hours = self.problem.step_hours
        empty = (0.0,) * self.problem.steps
        count = range(len(self.problem.resources))
        return Answer(
            supply=tuple(_values(row) for row in self._supply),
            draw=tuple(_values(self._draw[i]) if i in self._draw else empty for i in count),
            stored=tuple(_values(self._stored[i]) if i in self._stored else () for i in count),
            unmet=_values(self._unmet),
            goals={goal: float(self._goals[goal].varValue or 0.0) for goal in self.goals},
            balance_duals=tuple(float(row.pi or 0.0) / hours for row in self._balance),
            goal_duals={goal: float(self._goals[goal].dj or 0.0) for goal in self.goals},
            binding=self._binding(),
        )

    def _binding(self) -> tuple[tuple[str, ...], ...]:
        names: list[list[str]] = [[] for _ in self._steps]
        weight = _DUAL_TOLERANCE * self.problem.step_hours
        for index, resource in enumerate(self.problem.resources):
            available = getattr(resource, "availability", None)
            for step in self._steps:
                flows = (self._supply[index][step], self._draw[index][step] if index in self._draw else None)
                if any(_at_top(flow, weight) for flow in flows if flow is not None):
                    derated = available is not None and available[step] < 1
                    names[step].append(f"{resource.id}.{'availability' if derated else 'capacity'}")
            for step, stored in enumerate(self._stored.get(index, ())):
                if abs(stored.dj or 0.0) > _DUAL_TOLERANCE:
                    names[step].append(f"{resource.id}.{'maxSoc' if stored.dj < 0 else 'minSoc'}")
        for name, place, row in self._limits:
            if abs(row.pi or 0.0) > _DUAL_TOLERANCE:
                for each in range(self.problem.steps) if place is None else (place,):
                    if name not in names[each]:
                        names[each].append(name)
        return tuple(tuple(each) for each in names)


def _values(variables: list[Any]) -> Series:
    """Clip what the solver's tolerance leaves outside the bounds; negative zero becomes zero."""
    return tuple(min(max(float(v.varValue or 0.0), 0.0), v.upBound) + 0.0 for v in variables)


def _at_top(variable: Any, weight: float) -> bool:
    return variable.upBound > 0 and (variable.dj or 0.0) < -weight
