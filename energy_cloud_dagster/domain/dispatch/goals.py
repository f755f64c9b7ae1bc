"""Goals in strict order, and decisions that only integers can make: from a problem to its one optimum.

A plan that meets all goals is found by the first solve, which does not even have columns for shortfalls. Where there is
none, each goal is minimised in order and its least shortfall becomes a cap for the goals after it; cost comes last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from energy_cloud_dagster.domain.dispatch import aggregate, lp, priority, reduce
from energy_cloud_dagster.domain.dispatch.flows import (
    Duals,
    Flows,
    Outcome,
    cost_of,
    duals_of,
    flows_of,
    goals_of,
    shortfalls_of,
)
from energy_cloud_dagster.domain.dispatch.lp import Raw, SolverFailed
from energy_cloud_dagster.domain.dispatch.matrices import GOALS, Goal, Matrices, Switches, build
from energy_cloud_dagster.domain.dispatch.pairs import NOTHING, Pairs, directions, netted, overlaps, with_paying_ties
from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, Problem

__all__ = ["Impossible", "Outcome", "SolverFailed", "optimise"]

#: What two solves of one problem may differ by and still be the same optimum (relative).
_SAME: Final = 1e-7
#: Slack given to caps that rounding put out of reach, in turn (relative).
_HAIRS: Final = (1e-8, 1e-7, 1e-6)
#: What a unit of each goal's shortfall weighs in a first look at all of them, in terms of the dearest flow.
_WEIGHTS: Final = np.array([1e5, 1e3, 1e1])
#: Attempts to part overlapping flows by fixing directions before integers decide.
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Impossible:
    """Nothing satisfies the hard constraints; ``switches`` are those under which that was found."""

    switches: Switches


def optimise(problem: Problem, *, time_limit: float | None = None) -> Outcome | Impossible:
    """Return the plan that is best in the order unmet, renewable share, cost cap, cost, priorities.

    Flows that exclude each other are left free first, which is a relaxation. Where they overlap, one direction is
    fixed: an equal objective proves that plan optimal. Where it is not equal, integers decide. After ``time_limit``
    seconds (the problem's own by default) the plan at hand is returned with the gap that was proven, and SolverFailed
    is raised where there is none. Of many resources, identical ones are planned as one.
    """
    limit = problem.time_limit if time_limit is None else time_limit
    if problem.size >= aggregate.LEAST_RESOURCES:
        merged = aggregate.exact(problem)
        if merged.pays:
            search = _Search(merged.problem, limit)
            found = search.outcome()
            # with integers to keep its flows apart, a merged store can do less than its members
            if isinstance(found, Outcome) and not search.parted:
                return replace(found, flows=merged.spread(found.flows), duals=merged.spread_duals(found.duals))
    return _Search(problem, limit).outcome()


class _Expired(Exception):
    """The time ran out before this solve had a plan."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One optimum, or the best plan when the time ran out: the last solve of a climb, and what the climb found.

    ``columns`` and ``rows`` are the total derivatives of the cost by each bound, through the caps of earlier goals too;
    they are empty where there are none (integers, or a solve that was cut short).
    """

    switches: Switches
    matrices: Matrices
    raw: Raw
    flows: Flows
    shortfalls: dict[Goal, float]
    cost: float
    columns: Floats
    rows: Floats
    proven: bool


class _Search:
    def __init__(self, problem: Problem, time_limit: float | None) -> None:
        self._problem, self._limit, self._spent = problem, time_limit, 0.0
        #: whether a goal is known to fall short, so that a solve without shortfalls need not be tried
        self._short = not problem.strict and _out_of_reach(problem)
        #: whether integers kept the flows of stores apart
        self.parted = False
        #: the least cost that integers leave possible
        self._bound = -np.inf

    def outcome(self) -> Outcome | Impossible:
        try:
            relaxed = self._solved(Switches())
        except _Expired:
            raise SolverFailed(f"no plan was found within {self._limit:g} seconds") from None
        if isinstance(relaxed, Impossible):
            return relaxed
        self._short |= any(each > NOTHING for each in relaxed.shortfalls.values())
        try:
            found = self._decided(relaxed)
        except _Expired:
            found = self._cut_short(relaxed)
        return found if isinstance(found, Impossible) else self._told(found, relaxed)

    # -- decisions: which units are on, which of two flows runs

    def _decided(self, relaxed: _Found) -> _Found | Impossible:
        """Return the plan with every decision made, the last solve being linear wherever that is possible."""
        problem, on = self._problem, relaxed.flows.on
        pairs = overlaps(problem, relaxed.flows)
        if pairs is None and on is None:
            return relaxed
        seen = pairs or _free(problem)
        for _ in range(_ATTEMPTS):
            found = self._solved(_held(on, seen), grace=not relaxed.proven)
            if isinstance(found, Impossible) or not _as_good(found, relaxed):
                break
            more = overlaps(problem, found.flows)
            if more is None:
                return replace(found, proven=relaxed.proven)
            seen = more.or_else(seen)
        if not relaxed.proven:
            raise _Expired
        return self._mixed(seen)

    def _mixed(self, seen: Pairs) -> _Found | Impossible:
        problem, pairs = self._problem, with_paying_ties(self._problem, seen.either())
        while True:
            self.parted |= bool(pairs.stores.any())
            mixed = self._solved(Switches(stores=pairs.stores, ties=pairs.ties))
            if isinstance(mixed, Impossible):
                return mixed
            self._bound = max(self._bound, mixed.raw.bound)
            more = overlaps(problem, mixed.flows)
            if more is None:
                break
            pairs = with_paying_ties(problem, pairs.or_else(more.either()))
        # prices are those of the linear programme with the integers fixed
        every = directions(problem, mixed.flows)
        for fixed in (every.within(pairs), every):
            found = self._solved(_held(mixed.flows.on, fixed), grace=True)
            if not isinstance(found, Impossible) and _as_good(found, mixed) and overlaps(problem, found.flows) is None:
                return replace(found, proven=mixed.proven)
        return mixed

    def _cut_short(self, relaxed: _Found) -> _Found:
        """Return a plan from the relaxation's own decisions, when there is no time to find better ones."""
        held = _held(relaxed.flows.on, directions(self._problem, relaxed.flows))
        try:
            found = self._solved(held, grace=True)
        except _Expired:
            found = Impossible(held)
        if isinstance(found, Impossible):
            raise SolverFailed(f"no plan was found within {self._limit:g} seconds")
        return replace(found, proven=False)

    def _told(self, found: _Found, relaxed: _Found) -> Outcome:
        flows = priority.preferred(self._problem, found.matrices, found.raw, found.switches, found.flows, self._run)
        if found.columns.size:
            duals = duals_of(self._problem, found.matrices, found.columns, found.rows, found.switches)
        else:
            duals = Duals(np.full(self._problem.steps, np.nan))
        cost = found.cost if flows is found.flows else cost_of(self._problem, flows)
        gap: float | None = 0.0
        if not found.proven:
            gap = None
            bound, objective = max(relaxed.raw.bound, self._bound), found.raw.objective
            if np.isfinite(bound) and _same_goals(found, relaxed):
                gap = max(objective - bound, 0.0) / max(abs(objective), NOTHING)
        return Outcome(flows, duals, found.shortfalls, cost, optimal=found.proven, gap=gap)

    # -- goals

    def _best(
        self,
        switches: Switches,
        matrices: Matrices,
        basis: Any = None,
        guide: reduce.Guide | None = None,
        *,
        grace: bool = False,
    ) -> Raw:
        """Solve the programme that was built under ``switches``: by way of a smaller one where that is quicker."""
        if basis is None and reduce.wanted(self._problem, matrices):
            raw = self._reduced(switches, matrices, guide, grace=grace)
            if raw is not None:
                return raw
        return self._run(matrices, basis=basis, grace=grace)

    def _reduced(
        self, switches: Switches, matrices: Matrices, guide: reduce.Guide | None, *, grace: bool
    ) -> Raw | None:
        def smaller(matrices: Matrices, *, basis: Any = None) -> Raw:
            return self._run(matrices, basis=basis, grace=grace, presolve=True, primal=True)

        return reduce.run(self._problem, switches, matrices, smaller, guide)

    def _run(self, matrices: Matrices, *, basis: Any = None, grace: bool = False, **options: bool) -> Raw:
        """Solve within what is left of the time; with ``grace`` within all of it, to make a plan of a decision."""
        left = self._limit
        if left is not None and not grace:
            left = max(left - self._spent, 0.0)
        raw = lp.run(matrices, basis=basis, time_limit=left, **options)
        self._spent += raw.seconds
        return raw

    def _solved(self, switches: Switches, *, grace: bool = False) -> _Found | Impossible:
        """Return the best plan under ``switches``; raises _Expired if there is no time to find any."""
        if not self._short:
            matrices = build(self._problem, switches)
            raw = self._best(switches, matrices, grace=grace)
            if raw.status != "infeasible":
                return self._found(switches, matrices, raw, dict.fromkeys(goals_of(self._problem), 0.0))
            if self._problem.strict:
                return Impossible(switches)
        demand, basis = self._problem.demand, None
        # unmet ≤ demand is left out until it matters, which keeps the prices of unmet steps clean
        bounded = np.zeros(self._problem.steps, bool)
        while True:
            climb = replace(switches, goals=True, bounded=bounded)
            found = self._climb(climb, basis, grace=grace)
            if found is None:
                return Impossible(switches)
            over = (found.flows.unmet > demand + NOTHING * np.maximum(1.0, demand)) & ~bounded
            if not over.any():
                return found
            bounded, basis = bounded | over, found.raw.basis

    def _climb(self, switches: Switches, basis: Any, *, grace: bool) -> _Found | None:
        matrices = build(self._problem, switches)
        caps: dict[Goal, float] = {}
        slopes: dict[Goal, tuple[Floats, Floats]] = {}
        last: tuple[Matrices, Raw] | None = None
        proven, guide = True, reduce.Guide()
        if basis is None and reduce.wanted(self._problem, matrices):
            # one solve with all goals in its costs leaves little to each goal's own
            self._reduced(switches, replace(matrices, cost=_blended(matrices)), guide, grace=grace)
        for goal in (*goals_of(self._problem), None):
            staged, raw = self._minimise(switches, matrices, goal, caps, basis, guide, grace=grace)
            if raw.status == "infeasible":
                return None
            if raw.status == "unknown":
                if last is None:
                    raise _Expired
                # the plan of the goal before this one is feasible, and all that there is
                staged, raw = last[0], replace(last[1], bound=-np.inf, column_duals=_NONE, row_duals=_NONE)
                found = self._found(switches, staged, replace(raw, status="stopped"), {})
                return replace(found, shortfalls=shortfalls_of(self._problem, staged, raw.x))
            proven &= raw.status == "optimal"
            last, basis = (staged, raw), raw.basis
            if goal is not None:
                caps[goal] = max(float(raw.x[_column(matrices, goal)]), 0.0)
                if caps[goal] > NOTHING:
                    slopes[goal] = _total(matrices, raw, slopes)
        found = self._found(switches, staged, raw, caps)
        columns, rows = _of_active_bounds(staged, raw, *_total(matrices, raw, slopes))
        if not found.columns.size:
            columns = rows = _NONE
        return replace(found, columns=columns, rows=rows, proven=proven)

    def _minimise(
        self,
        switches: Switches,
        matrices: Matrices,
        goal: Goal | None,
        caps: dict[Goal, float],
        basis: Any,
        guide: reduce.Guide,
        *,
        grace: bool,
    ) -> tuple[Matrices, Raw]:
        """Minimise a goal, or the cost, under the caps found so far.

        Rounding may make a cap that was just reached look out of reach: then it is given a hair, the least that helps.
        """
        cost = matrices.cost
        if goal is not None:
            cost = np.zeros(cost.size)
            cost[_column(matrices, goal)] = 1.0
        for hair in (0.0, *_HAIRS):
            upper = matrices.upper.copy()
            for capped, least in caps.items():
                upper[_column(matrices, capped)] = least + hair * max(1.0, least)
            staged = replace(matrices, cost=cost, upper=upper)
            raw = self._best(switches, staged, basis, guide, grace=grace)
            if raw.status != "infeasible" or not caps:
                return staged, raw
        raise SolverFailed(f"no plan keeps the least {', '.join(caps)} that was found before")

    def _found(self, switches: Switches, matrices: Matrices, raw: Raw, shortfalls: dict[Goal, float]) -> _Found:
        if raw.status == "unknown":
            raise _Expired
        flows = netted(self._problem, flows_of(self._problem, matrices, raw.x, switches))
        linear = matrices.integer is None
        return _Found(
            switches=switches,
            matrices=matrices,
            raw=raw,
            flows=flows,
            shortfalls=shortfalls,
            cost=cost_of(self._problem, flows),
            columns=raw.column_duals if linear else _NONE,
            rows=raw.row_duals if linear else _NONE,
            proven=raw.status == "optimal",
        )


_NONE: Final = np.zeros(0)


def _column(matrices: Matrices, goal: Goal) -> int:
    return matrices.columns["goals"][0] + GOALS.index(goal)


def _blended(matrices: Matrices) -> Floats:
    """Return costs under which each goal weighs far more than the next: the goals' order most of the time."""
    cost = matrices.cost.copy()
    matrices.column("goals", cost)[...] += _WEIGHTS * max(float(np.abs(cost).max(initial=0.0)), 1e-3)
    return cost


def _total(matrices: Matrices, raw: Raw, slopes: dict[Goal, tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Derivatives of the last objective by each bound: its duals, plus what moving the earlier caps would do."""
    columns, rows = raw.column_duals, raw.row_duals
    for goal, (by_column, by_row) in slopes.items():
        moved = raw.column_duals[_column(matrices, goal)]
        columns, rows = columns + moved * by_column, rows + moved * by_row
    return columns, rows


def _of_active_bounds(matrices: Matrices, raw: Raw, columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Drop derivatives with the sign of a bound that the plan does not reach.

    Where goals fall short the sum over their duals can have it: more of a limit would serve a goal and cost more.
    """
    if not raw.x.size or not columns.size:
        return columns, rows
    span = NOTHING * np.maximum(1.0, np.abs(raw.x))
    low, high = raw.x <= matrices.lower + span, raw.x >= matrices.upper - span
    columns = np.where(((columns < 0) & ~high) | ((columns > 0) & ~low), 0.0, columns)
    open_below, open_above = np.isinf(matrices.row_lower), np.isinf(matrices.row_upper)
    return columns, np.where(((rows > 0) & open_below) | ((rows < 0) & open_above), 0.0, rows)


def _held(on: BoolArray | None, pairs: Pairs) -> Switches:
    return Switches(on=on, stores=pairs.stores, ties=pairs.ties)


def _free(problem: Problem) -> Pairs:
    return Pairs(np.zeros(problem.stores.power.shape, np.int8), np.zeros(problem.ties.capacity.shape, np.int8))


def _out_of_reach(problem: Problem) -> bool:
    """Whether some demand is above everything that there is, so that it stays unmet in any plan."""
    most = problem.generators.limit.sum(axis=0) + problem.stores.power.sum(axis=0)
    most = most + problem.ties.capacity.sum(axis=0) + problem.loads.limit.sum(axis=0)
    return bool((problem.demand > most * (1.0 + _SAME) + _SAME).any())


def _as_good(found: _Found, relaxed: _Found) -> bool:
    """Whether ``found`` reaches the relaxation's optimum, or more than what that had within its gap or its time."""
    return _same_goals(found, relaxed) and found.cost <= relaxed.cost + _SAME * max(1.0, abs(relaxed.cost))


def _same_goals(one: _Found, other: _Found) -> bool:
    return all(_near(one.shortfalls[goal], other.shortfalls[goal]) for goal in one.shortfalls)


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME * max(1.0, abs(other))
