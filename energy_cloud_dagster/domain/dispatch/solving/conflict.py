"""Why nothing fits: the smallest set of hard constraints that cannot hold together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any, Final, NamedTuple

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import Problem
from energy_cloud_dagster.domain.dispatch.scaling import reduce
from energy_cloud_dagster.domain.dispatch.solving import lp
from energy_cloud_dagster.domain.dispatch.solving.budget import GRACE, Budget
from energy_cloud_dagster.domain.dispatch.solving.lp import Raw, SolverFailed
from energy_cloud_dagster.domain.dispatch.solving.matrices import Matrices, Switches, build

#: A conflict of more resources than these names kinds of limits instead: nobody relaxes two hundred of them by hand.
_NAMED: Final = 12
#: The same after so many simplex iterations, which take about half a minute.
_WORK: Final = 1_000_000


#: With integers any plan will do, however far from the best one.
_ANY: Final = 1e6


class Conflict(NamedTuple):
    """Constraints that cannot hold together; whether none can be left out is not known where not ``smallest``."""

    names: tuple[str, ...]
    smallest: bool = True


class _Spent(Exception):
    """The search took too long to go into detail; what it had so far is a conflict, but not the smallest one."""


def smallest_conflict(problem: Problem, switches: Switches, budget: Budget | None = None) -> Conflict:
    """Return the names of constraints that conflict, such as ``("demand", "maxGridImport")`` or ``("BAT-1.endSoc",)``.

    ``switches`` are those under which the problem was found infeasible. Constraints of the whole plan are tried by
    growing number, so that as few as possible are named; of the resources' own, a set is returned from which none can
    be left out (QuickXplain, U. Junker, AAAI 2004), first by kind and then by resource. Where it would name more than a
    dozen resources or take minutes to tell them apart, or ``budget``, the problem's time limit by
    default, is over, a kind stands for all of
    them (``endSoc``). Capacities and availabilities are facts, not constraints.
    """
    plan_wide = [name for name, asked in _plan_wide(problem) if asked]
    kinds = _kinds(problem)
    search = _Search(problem, switches, frozenset(plan_wide), kinds, budget or Budget(problem.time_limit))
    try:
        chosen = _chosen(plan_wide, kinds, search)
        needed = _explain(frozenset(chosen), list(kinds), search)
    except _Spent:
        return Conflict((*plan_wide, *kinds), smallest=False)
    places = {name: place for kind in needed for name, place in kinds[kind].items()}
    try:
        # in the order of the document
        members = sorted(places, key=places.__getitem__)
        search.limited = True
        return Conflict((*chosen, *_explain(frozenset(chosen), members, search)))
    except _Spent:
        return Conflict((*chosen, *needed))


def _chosen(plan_wide: list[str], kinds: Iterable[str], search: _Search) -> tuple[str, ...]:
    for size in range(len(plan_wide) + 1):
        for chosen in combinations(plan_wide, size):
            if search.infeasible((*chosen, *kinds)):
                return chosen
    raise SolverFailed("the solver found the problem impossible, then each of its constraints possible")


class _Search:
    """Answers whether some constraints conflict, as long as there is time; a kind stands for all its members."""

    def __init__(
        self,
        problem: Problem,
        switches: Switches,
        plan_wide: frozenset[str],
        kinds: dict[str, dict[str, int]],
        budget: Budget,
    ) -> None:
        self._problem, self._switches, self._kinds, self._budget = problem, switches, kinds, budget
        self._every = plan_wide.union(*kinds.values())
        self._work, self._needed = 0, 0
        #: whether the work counts that is done from now on, and what is found to be needed
        self.limited = False

    def infeasible(self, names: Iterable[str]) -> bool:
        """Whether no plan keeps ``names``; what may fall short does, but no more than all of the demand."""
        if self._work > _WORK or self._budget.over(GRACE):
            raise _Spent
        kept = frozenset(names).union(*(self._kinds.get(name, ()) for name in names))
        dropped = self._every - kept
        bounded = np.full(self._problem.steps, "demand" not in dropped)
        switches = replace(self._switches, dropped=dropped, goals=not self._problem.strict, bounded=bounded)
        matrices = build(self._problem, switches)
        # the costs are kept: without any, the simplex method loses its way among plans that are all alike
        raw = None
        if reduce.wanted(self._problem, matrices):
            raw = reduce.run(self._problem, switches, matrices, partial(self._run, presolve=True, primal=True))
        if raw is None:
            raw = self._run(matrices)
        return raw.status == "infeasible"

    def needs_one_more(self) -> None:
        """Count a constraint that cannot be left out."""
        self._needed += self.limited
        if self._needed > _NAMED:
            raise _Spent

    def _run(self, matrices: Matrices, **options: Any) -> Raw:
        raw = lp.run(matrices, time_limit=self._budget.left(GRACE), gap=_ANY, **options)
        if raw.status == "unknown":
            raise _Spent
        if self.limited:
            self._work += raw.iterations
        return raw


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


def _kinds(problem: Problem) -> dict[str, dict[str, int]]:
    """Return the resources' own constraints: of each kind the names, with their places in the document's order."""
    units, stores = problem.generators, problem.stores
    ramped, least = np.isfinite(units.ramp).any(axis=1), units.min_power.any(axis=1)
    places = {
        "rampRate": units.place[ramped],
        "minPower": units.place[least],
        **dict.fromkeys(("minSoc", "maxSoc", "endSoc"), stores.place),
    }
    return {
        kind: {f"{problem.ids[place]}.{kind}": place for place in chosen.tolist()}
        for kind, chosen in places.items()
        if chosen.size
    }


def _explain(background: frozenset[str], names: list[str], search: _Search) -> list[str]:
    """Return a part of ``names`` that conflicts with ``background`` and from which nothing can be left out."""
    if not names or search.infeasible(background):
        return []
    return _split(background, names, search)


def _split(background: frozenset[str], names: list[str], search: _Search) -> list[str]:
    if len(names) == 1:
        search.needs_one_more()
        return names
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    needed = _explain(background | frozenset(first), second, search)
    return _explain(background | frozenset(needed), first, search) + needed
