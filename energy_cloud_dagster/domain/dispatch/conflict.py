"""Why nothing fits: the smallest set of hard constraints that cannot hold together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

from energy_cloud_dagster.domain.dispatch.lp import Model, SolverFailed, Switches
from energy_cloud_dagster.domain.dispatch.problem import Generator, Problem, Storage

Infeasible = Callable[[frozenset[str]], bool]


def smallest_conflict(problem: Problem, switches: Switches) -> tuple[str, ...]:
    """Return the names of constraints that conflict, such as ``("demand", "maxGridImport")`` or ``("BAT-1.endSoc",)``.

    ``switches`` are those under which the problem was found infeasible. Constraints of the whole plan are tried by
    growing number, so that as few as possible are named; of the resources' own, a set is returned from which none can
    be left out (QuickXplain, U. Junker, AAAI 2004). Capacities and availabilities are facts, not constraints.
    """
    plan_wide = [name for name, asked in _plan_wide(problem) if asked]
    own = list(_own(problem))
    every = frozenset(plan_wide) | frozenset(own)

    def infeasible(names: frozenset[str]) -> bool:
        return not _feasible(problem, replace(switches, dropped=every - names))

    for size in range(len(plan_wide) + 1):
        for chosen in combinations(plan_wide, size):
            if infeasible(frozenset(chosen) | frozenset(own)):
                needed = _explain(frozenset(chosen), own, infeasible)
                return (*chosen, *needed)
    raise SolverFailed("the solver found the problem impossible, then each of its constraints possible")


def _plan_wide(problem: Problem) -> list[tuple[str, bool]]:
    limits = problem.constraints
    return [
        ("demand", True),
        ("minRenewable", problem.strict and limits.min_renewable is not None),
        ("maxCost", problem.strict and limits.max_cost is not None),
        ("maxGridImport", limits.max_grid_import is not None),
        ("maxEmissions", limits.max_emissions is not None),
    ]


def _own(problem: Problem) -> Iterator[str]:
    for resource in problem.resources:
        if isinstance(resource, Storage):
            yield from (f"{resource.id}.{limit}" for limit in ("minSoc", "maxSoc", "endSoc"))
        elif isinstance(resource, Generator) and resource.ramp_rate is not None:
            yield f"{resource.id}.rampRate"


def _feasible(problem: Problem, switches: Switches) -> bool:
    bounded = frozenset(range(problem.steps)) if "demand" not in switches.dropped else frozenset[int]()
    model = Model(problem, replace(switches, bounded=bounded))
    if problem.strict:
        for goal in model.goals:
            model.cap(goal, 0.0)
    return model.minimise("unmetDemand") is not None


def _explain(background: frozenset[str], names: list[str], infeasible: Infeasible) -> list[str]:
    """Return a part of ``names`` that conflicts with ``background`` and from which nothing can be left out."""
    if not names or infeasible(background):
        return []
    return _split(background, names, infeasible)


def _split(background: frozenset[str], names: list[str], infeasible: Infeasible) -> list[str]:
    if len(names) == 1:
        return names
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    needed = _explain(background | frozenset(first), second, infeasible)
    return _explain(background | frozenset(needed), first, infeasible) + needed
