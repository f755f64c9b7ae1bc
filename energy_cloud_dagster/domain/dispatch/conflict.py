"""Why nothing fits: the smallest set of hard constraints that cannot hold together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

from energy_cloud_dagster.domain.dispatch import lp, reduce
from energy_cloud_dagster.domain.dispatch.lp import SolverFailed
from energy_cloud_dagster.domain.dispatch.matrices import Switches, build
from energy_cloud_dagster.domain.dispatch.problem import Problem

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
        ("reserve", limits.reserve_up is not None or limits.reserve_down is not None),
    ]


def _own(problem: Problem) -> Iterator[str]:
    units, stores = problem.generators, problem.stores
    named: dict[int, tuple[str, ...]] = dict.fromkeys(stores.place.tolist(), ("minSoc", "maxSoc", "endSoc"))
    for place, ramped, least in zip(
        units.place.tolist(), np.isfinite(units.ramp).any(axis=1), units.min_power.any(axis=1), strict=True
    ):
        named[place] = ("rampRate",) * bool(ramped) + ("minPower",) * bool(least)
    for place in sorted(named):
        yield from (f"{problem.ids[place]}.{limit}" for limit in named[place])


def _feasible(problem: Problem, switches: Switches) -> bool:
    """Whether some plan keeps what is not dropped; what may fall short does, but no more than all of the demand."""
    soft = not problem.strict
    bounded = np.full(problem.steps, "demand" not in switches.dropped)
    switches = replace(switches, goals=soft, bounded=bounded)
    matrices = build(problem, switches)
    if reduce.wanted(problem, matrices):
        raw = reduce.run(problem, switches, matrices, partial(lp.run, presolve=True, primal=True))
        if raw is not None:
            return raw.status != "infeasible"
    return lp.run(replace(matrices, cost=np.zeros(matrices.cost.size))).status != "infeasible"


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
