"""The answer to a dispatch problem, as arrays and as the JSON document that the API and the command line give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isnan
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import UNMET_PENALTY_PER_KWH, Floats, Problem, Series
from energy_cloud_dagster.domain.dispatch.telling import explain
from energy_cloud_dagster.domain.intervals import rfc3339

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.flows import Outcome
    from energy_cloud_dagster.domain.dispatch.solving.budget import Budget

#: Shortfalls below this share of what was asked for are the solver's tolerance.
_TOLERANCE: Final = 1e-6
#: Digits after the point in documents: below any meter, above the solver's tolerance.
_DIGITS: Final = 9
#: From here on a double has no such digits: fewer, then what there is.
_COARSE, _COARSE_DIGITS, _COARSEST = 1e6, 6, 1e9


def _nothing() -> Floats:
    return np.empty((0, 0))


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one resource does, in kW per step; storage is discharge - charge, grid import - export, load what is shed.

    ``soc`` is the fraction of the energy capacity at the end of each step.
    """

    resource_id: str
    type: str
    output: Series
    charge: Series | None = None
    discharge: Series | None = None
    soc: Series | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """A goal that fell short: kWh for ``unmetDemand``, a fraction for ``minRenewable``, money per kWh for ``maxCost``.

    ``shortfall`` is what was minimised: kWh, kWh of renewables, and currency.
    """

    constraint: str
    required: float
    achieved: float
    shortfall: float


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A plan, or the reason why there is none (``status`` ``infeasible``, ``conflict``; the arrays are then empty).

    ``output`` (R, T) is kW in the order of the problem's resources: of storage discharge - charge, of grid
    import - export, of a load what is shed. ``charge``, ``discharge`` (kW) and ``soc`` (the fraction of the energy
    capacity at the end of each step) are (S, T) in the order of ``problem.stores``; ``unmet``, ``total_output`` (kW)
    and ``marginal_price`` (per kWh of demand) are (T,).

    ``cost`` includes unmet energy at 10 per kWh; ``average_cost`` is without it, per kWh served (demand - unmet -
    shed), as ``maxCost`` counts. ``optimal`` says that the plan is proven the best one; else ``gap`` is by what share
    of its cost one that falls no shorter of any goal may be cheaper, ``None`` where nothing is known. ``binding`` names
    the limits that bind.
    """

    problem: Problem
    status: Literal["completed", "infeasible"]
    cost: float | None = None
    unmet_energy: float | None = None
    average_cost: float | None = None
    renewable_ratio: float | None = None
    output: Floats = field(default_factory=_nothing)
    charge: Floats = field(default_factory=_nothing)
    discharge: Floats = field(default_factory=_nothing)
    soc: Floats = field(default_factory=_nothing)
    unmet: Floats = field(default_factory=lambda: np.empty(0))
    total_output: Floats = field(default_factory=lambda: np.empty(0))
    marginal_price: Floats = field(default_factory=lambda: np.empty(0))
    binding: tuple[tuple[str, ...], ...] = ()
    violations: tuple[Violation, ...] = ()
    conflict: tuple[str, ...] = ()
    explanation: tuple[str, ...] = ()
    solver: str = "lp"
    optimal: bool = True
    gap: float | None = None

    @property
    def allocation(self) -> tuple[Allocation, ...]:
        """The plan resource by resource, for readers to whom speed does not matter."""
        problem, rows = self.problem, self.output.tolist()
        row_of = {place: row for row, place in enumerate(problem.stores.place.tolist())}
        flows = [array.tolist() for array in (self.charge, self.discharge, self.soc)]
        return tuple(
            Allocation(
                problem.ids[place],
                problem.types[place],
                tuple(output),
                *(tuple(each[row_of[place]]) for each in flows if place in row_of),
            )
            for place, output in enumerate(rows)
        )

    def to_document(self, *, solve_seconds: float | None = None) -> dict[str, Any]:
        """Return the answer of ``optimize`` as plain JSON values; the caller measures and passes ``solve_seconds``.

        ``output`` and ``totalOutput`` are numbers when there is one step, arrays otherwise. ``optimal`` and ``gap`` are
        there when the optimum was not proven. The same plan gives the same document, to the last digit.
        """
        document: dict[str, Any] = {
            "status": self.status,
            "cost": _figure(self.cost),
            "unmetEnergy": _figure(self.unmet_energy),
            "averageCost": _figure(self.average_cost),
            "renewableRatio": _figure(self.renewable_ratio),
            "totalOutput": None,
            "steps": [],
            "allocation": [],
            "violations": [
                {
                    "constraint": each.constraint,
                    "required": _figure(each.required),
                    "achieved": _figure(each.achieved),
                    "shortfall": _figure(each.shortfall),
                }
                for each in self.violations
            ],
            "solver": self.solver,
            "explanation": list(self.explanation),
        }
        if self.status == "infeasible":
            document["conflict"] = list(self.conflict)
        else:
            total = _rounded(self.total_output)
            document["totalOutput"] = total[0] if self.problem.steps == 1 else total
            document["steps"] = self._steps()
            document["allocation"] = self._allocation()
        if not self.optimal or self.solver == "ga":
            document |= {"optimal": self.optimal, "gap": _figure(self.gap)}
        if solve_seconds is not None:
            document["solveSeconds"] = round(solve_seconds, 6)
        return document

    def _steps(self) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = [
            # an optimum of integers alone has no prices
            {"marginalPrice": None if isnan(price) else price, "binding": list(binding)}
            for price, binding in zip(_rounded(self.marginal_price), self.binding, strict=True)
        ]
        if self.problem.start is None:
            return steps
        return [{"start": start, **step} for start, step in zip(starts(self.problem), steps, strict=True)]

    def _allocation(self) -> list[dict[str, Any]]:
        problem, rows = self.problem, _rounded(self.output)
        if problem.steps == 1:
            rows = [row[0] for row in rows]
        documents: list[dict[str, Any]] = [
            {"resourceId": name, "type": kind, "output": output}
            for name, kind, output in zip(problem.ids, problem.types, rows, strict=True)
        ]
        stores = zip(_rounded(self.charge), _rounded(self.discharge), _rounded(self.soc), strict=True)
        for place, (charge, discharge, soc) in zip(problem.stores.place.tolist(), stores, strict=True):
            documents[place] |= {"charge": charge, "discharge": discharge, "soc": soc}
        return documents


def starts(problem: Problem) -> list[str]:
    """Return when each step starts, as RFC 3339; an empty list where the problem does not say."""
    moments = (problem.step_start(step) for step in range(problem.steps))
    return [rfc3339(moment) for moment in moments if moment is not None]


def infeasible_solution(problem: Problem, conflict: tuple[str, ...], smallest: bool = True) -> Solution:
    """Return the answer that says which constraints cannot hold together; ``smallest`` if none can be left out."""
    explanation = (explain.impossible(conflict, problem, smallest=smallest),)
    return Solution(problem, "infeasible", conflict=conflict, explanation=explanation, solver=problem.solver)


def completed_solution(problem: Problem, outcome: Outcome, budget: Budget | None = None) -> Solution:
    """Return the plan with its figures, its violations and its explanation, which keeps to ``budget``."""
    flows, hours = outcome.flows, problem.step_hours
    unmet_energy = float(flows.unmet.sum()) * hours
    # what the solver's tolerance leaves is not an unmet demand
    if unmet_energy <= _TOLERANCE * max(1.0, float(problem.demand.sum()) * hours):
        unmet_energy = 0.0
    output = np.empty((problem.size, problem.steps))
    output[problem.generators.place] = flows.generation
    output[problem.stores.place] = flows.discharge - flows.charge
    output[problem.ties.place] = flows.imported - flows.exported
    output[problem.loads.place] = flows.shed
    energy = _energies(problem, outcome)
    violations = tuple(_violations(problem, outcome.cost, unmet_energy, energy))
    return Solution(
        problem,
        "completed",
        cost=outcome.cost + UNMET_PENALTY_PER_KWH * unmet_energy,
        unmet_energy=unmet_energy,
        average_cost=outcome.cost / energy.served if energy.served > _TOLERANCE else None,
        renewable_ratio=energy.renewable / energy.sourced if energy.sourced > _TOLERANCE else None,
        output=output,
        charge=flows.charge,
        discharge=flows.discharge,
        soc=flows.stored / problem.stores.energy[:, None],
        unmet=flows.unmet,
        total_output=output.sum(axis=0),
        marginal_price=outcome.duals.price,
        binding=explain.binding(problem, outcome),
        violations=violations,
        explanation=(*explain.sentences(problem, outcome), *explain.goals(problem, outcome, budget)),
        solver=outcome.solver,
        optimal=outcome.optimal,
        gap=outcome.gap,
    )


@dataclass(frozen=True, slots=True)
class _Energies:
    """kWh over the horizon: served (demand - unmet - shed), from renewables, and of all generation and import."""

    served: float
    renewable: float
    sourced: float


def _energies(problem: Problem, outcome: Outcome) -> _Energies:
    flows, hours = outcome.flows, problem.step_hours
    generated = flows.generation.sum(axis=1)
    served = problem.demand.sum() - flows.unmet.sum() - flows.shed.sum()
    sourced = generated.sum() + np.maximum(flows.imported - flows.exported, 0.0).sum()
    renewable = generated[problem.generators.renewable].sum()
    return _Energies(float(served) * hours, float(renewable) * hours, float(sourced) * hours)


def _violations(problem: Problem, cost: float, unmet: float, energy: _Energies) -> Iterator[Violation]:
    limits = problem.constraints
    if unmet > 0:
        yield Violation("unmetDemand", 0.0, unmet, unmet)
    if limits.min_renewable is not None:
        shortfall = limits.min_renewable * energy.sourced - energy.renewable
        if shortfall > _TOLERANCE * max(1.0, energy.sourced):
            yield Violation("minRenewable", limits.min_renewable, energy.renewable / energy.sourced, shortfall)
    if limits.max_cost is not None:
        shortfall = cost - limits.max_cost * energy.served
        if shortfall > _TOLERANCE * max(1.0, abs(cost)):
            # where nothing is served there is no price per kWh, and the money itself is what was spent
            achieved = cost / energy.served if energy.served > _TOLERANCE else cost
            yield Violation("maxCost", limits.max_cost, achieved, shortfall)


def _figure(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS) + 0.0


def _rounded(values: Floats) -> Any:
    """Return ``values`` as (nested) lists, rounded to the digits that a double of their size has."""
    size = np.abs(values)
    if size.max(initial=0.0) < _COARSE:
        return (np.round(values, _DIGITS) + 0.0).tolist()
    fine = np.where(size < _COARSE, values, 0.0)
    coarse = np.where(size < _COARSEST, values, 0.0)
    rounded = np.where(size < _COARSE, np.round(fine, _DIGITS), np.round(coarse, _COARSE_DIGITS))
    return (np.where(size < _COARSEST, rounded, values) + 0.0).tolist()
