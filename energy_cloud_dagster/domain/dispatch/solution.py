"""The answer to a dispatch problem, as data and as the JSON document that the API and the command line give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from energy_cloud_dagster.domain.dispatch.explain import impossible, sentences
from energy_cloud_dagster.domain.dispatch.goals import Outcome
from energy_cloud_dagster.domain.dispatch.problem import (
    UNMET_PENALTY_PER_KWH,
    Generator,
    Grid,
    Load,
    Problem,
    Series,
    Storage,
)
from energy_cloud_dagster.domain.intervals import rfc3339

#: Shortfalls below this share of what was asked for are the solver's tolerance.
_TOLERANCE: Final = 1e-6
#: Digits after the point in documents: below any meter, above the solver's tolerance.
_DIGITS: Final = 9


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


@dataclass(frozen=True, slots=True)
class Solution:
    """A plan, or the reason why there is none (``status`` ``infeasible``, ``conflict``; figures are then ``None``).

    ``cost`` includes unmet energy at 10 per kWh; ``average_cost`` is without it, per kWh served (demand - unmet -
    shed), as ``maxCost`` counts. ``marginal_price`` is per kWh of demand and step, ``binding`` the limits that bind.
    """

    status: Literal["completed", "infeasible"]
    cost: float | None = None
    unmet_energy: float | None = None
    average_cost: float | None = None
    renewable_ratio: float | None = None
    unmet: Series = ()
    total_output: Series = ()
    marginal_price: Series = ()
    binding: tuple[tuple[str, ...], ...] = ()
    allocation: tuple[Allocation, ...] = ()
    violations: tuple[Violation, ...] = ()
    conflict: tuple[str, ...] = ()
    explanation: tuple[str, ...] = ()
    starts: tuple[str | None, ...] = ()
    solver: str = "lp"

    def to_document(self, *, solve_seconds: float | None = None) -> dict[str, Any]:
        """Return the answer of ``optimize`` as plain JSON values; the caller measures and passes ``solve_seconds``.

        ``output`` and ``totalOutput`` are numbers when there is one step, arrays otherwise. The same plan gives the
        same document, to the last digit.
        """
        single = len(self.starts) == 1
        document: dict[str, Any] = {
            "status": self.status,
            "cost": _rounded(self.cost),
            "unmetEnergy": _rounded(self.unmet_energy),
            "averageCost": _rounded(self.average_cost),
            "renewableRatio": _rounded(self.renewable_ratio),
            "totalOutput": _per_step(self.total_output, single=single) if self.total_output else None,
            "steps": [
                {
                    **({} if start is None else {"start": start}),
                    "marginalPrice": _rounded(price),
                    "binding": list(binding),
                }
                for start, price, binding in zip(self.starts, self.marginal_price, self.binding, strict=True)
            ],
            "allocation": [_allocation_document(each, single=single) for each in self.allocation],
            "violations": [
                {
                    "constraint": each.constraint,
                    "required": _rounded(each.required),
                    "achieved": _rounded(each.achieved),
                    "shortfall": _rounded(each.shortfall),
                }
                for each in self.violations
            ],
            "solver": self.solver,
            "explanation": list(self.explanation),
        }
        if self.status == "infeasible":
            document["conflict"] = list(self.conflict)
        if solve_seconds is not None:
            document["solveSeconds"] = round(solve_seconds, 6)
        return document


def infeasible_solution(conflict: tuple[str, ...]) -> Solution:
    """Return the answer that says which constraints cannot hold together."""
    return Solution(status="infeasible", conflict=conflict, explanation=(impossible(conflict),))


def completed_solution(problem: Problem, outcome: Outcome) -> Solution:
    """Return the plan with its figures, its violations and its explanation."""
    answer, hours = outcome.answer, problem.step_hours
    unmet_energy = sum(answer.unmet) * hours
    # what the solver's tolerance leaves is not an unmet demand
    if unmet_energy <= _TOLERANCE * max(1.0, sum(problem.demand) * hours):
        unmet_energy = 0.0
    allocation = tuple(
        _allocation(resource, answer.supply[index], answer.draw[index], answer.stored[index])
        for index, resource in enumerate(problem.resources)
    )
    energy = energy_totals(problem, allocation, answer.unmet)
    solution = Solution(
        status="completed",
        cost=outcome.cost + UNMET_PENALTY_PER_KWH * unmet_energy,
        unmet_energy=unmet_energy,
        average_cost=outcome.cost / energy.served if energy.served > _TOLERANCE else None,
        renewable_ratio=energy.renewable / energy.sourced if energy.sourced > _TOLERANCE else None,
        unmet=answer.unmet,
        total_output=_sums(problem.steps, (each.output for each in allocation)),
        marginal_price=outcome.prices,
        binding=answer.binding,
        allocation=allocation,
        violations=tuple(_violations(problem, outcome.cost, unmet_energy, energy)),
        starts=tuple(
            None if (start := problem.step_start(s)) is None else rfc3339(start) for s in range(problem.steps)
        ),
    )
    return replace(solution, explanation=tuple(sentences(problem, solution)))


@dataclass(frozen=True, slots=True)
class EnergyTotals:
    """kWh over the horizon: served (demand - unmet - shed), from renewables, and of all generation and import."""

    served: float
    renewable: float
    sourced: float


def energy_totals(problem: Problem, allocation: Iterable[Allocation], unmet: Series) -> EnergyTotals:
    """Return the energies that ``maxCost`` and ``minRenewable`` are measured by."""
    served = sum(problem.demand) - sum(unmet)
    renewable = sourced = 0.0
    for resource, each in zip(problem.resources, allocation, strict=True):
        if isinstance(resource, Load):
            served -= sum(each.output)
        elif isinstance(resource, Grid):
            sourced += sum(max(flow, 0.0) for flow in each.output)
        elif isinstance(resource, Generator):
            sourced += sum(each.output)
            renewable += sum(each.output) if resource.renewable else 0.0
    hours = problem.step_hours
    return EnergyTotals(served * hours, renewable * hours, sourced * hours)


def _violations(problem: Problem, cost: float, unmet: float, energy: EnergyTotals) -> Iterable[Violation]:
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


def _allocation(resource: Any, supply: Series, draw: Series, stored: Series) -> Allocation:
    output = tuple(out - back for out, back in zip(supply, draw, strict=True))
    if not isinstance(resource, Storage):
        return Allocation(resource.id, resource.type, output)
    soc = tuple(energy / resource.energy_capacity for energy in stored)
    return Allocation(resource.id, resource.type, output, charge=draw, discharge=supply, soc=soc)


def _sums(steps: int, rows: Iterable[Series]) -> Series:
    totals = [0.0] * steps
    for row in rows:
        for step, value in enumerate(row):
            totals[step] += value
    return tuple(totals)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS) + 0.0


def _per_step(values: Series, *, single: bool) -> float | list[float | None] | None:
    return _rounded(values[0]) if single else [_rounded(value) for value in values]


def _allocation_document(each: Allocation, *, single: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "resourceId": each.resource_id,
        "type": each.type,
        "output": _per_step(each.output, single=single),
    }
    for name, values in (("charge", each.charge), ("discharge", each.discharge), ("soc", each.soc)):
        if values is not None:
            document[name] = [_rounded(value) for value in values]
    return document
