"""Goals in strict order, and decisions that only integers can make: from a problem to its one optimum.

A plan that meets all goals is found by the first solve, which does not even have columns for shortfalls. Where there is
none, each goal is minimised in order and its least shortfall becomes a cap for the goals after it; cost comes last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

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
from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, Problem
from energy_cloud_dagster.domain.dispatch.scaling import aggregate, reduce
from energy_cloud_dagster.domain.dispatch.solving import lp, priority, rounding
from energy_cloud_dagster.domain.dispatch.solving.budget import GRACE, SEARCH, Budget
from energy_cloud_dagster.domain.dispatch.solving.lp import Raw, SolverFailed
from energy_cloud_dagster.domain.dispatch.solving.matrices import GOALS, Goal, Matrices, Switches, build
from energy_cloud_dagster.domain.dispatch.solving.pairs import (
    NOTHING,
    Pairs,
    directions,
    netted,
    overlaps,
    with_paying_ties,
)

__all__ = ["Impossible", "Outcome", "SolverFailed", "optimise"]

#: What two solves of one problem may differ by and still be the same optimum (relative).
_SAME: Final = 1e-7
#: Slack given to caps that rounding put out of reach, in turn (relative).
_HAIRS: Final = (1e-8, 1e-7, 1e-6)
#: What a unit of each goal's shortfall weighs in a first look at all of them, in terms of the dearest flow.
_WEIGHTS: Final = np.array([1e5, 1e3, 1e1])
#: A row this close to a bound is at it (relative).
_REACHED: Final = 1e-6
#: Attempts to part overlapping flows by fixing directions before integers decide.
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Impossible:
    """Nothing satisfies the hard constraints; ``switches`` are those under which that was found."""

    switches: Switches


def optimise(
    problem: Problem, *, time_limit: float | None = None, budget: Budget | None = None
) -> Outcome | Impossible:
    """Return the plan that is best in the order unmet, renewable share, cost cap, cost, priorities.

    Flows that exclude each other are left free first, which is a relaxation. Where they overlap, one direction is
    fixed: an equal objective proves that plan optimal. Where it is not equal, integers decide. After ``time_limit``
    seconds (the problem's own by default) the plan at hand is returned with the gap that was proven, and SolverFailed
    is raised where there is none; ``budget`` is a limit that has been running already. Of many resources, identical
    ones are planned as one.
    """
    if budget is None:
        budget = Budget(problem.time_limit if time_limit is None else time_limit)
    if problem.size >= aggregate.LEAST_RESOURCES:
        merged = aggregate.exact(problem)
        if merged.pays:
            search = _Search(merged.problem, budget)
            found = search.outcome()
            # with integers to keep its flows apart, a merged store can do less than its members
            if isinstance(found, Outcome) and not search.parted:
                return replace(found, flows=merged.spread(found.flows), duals=merged.spread_duals(found.duals))
    return _Search(problem, budget).outcome()


class _Expired(Exception):
    """The time ran out before this solve had a plan."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One optimum, or the best plan when the time ran out: the last solve of a climb, and what the climb found.

    ``columns`` and ``rows`` are the total derivatives of the cost by each bound, through the caps of earlier goals too;
    they are empty where there are none (integers, or a solve that was cut short). ``bounds`` are the least shortfalls
    that are possible still, of goals that were not proven to fall short by no less.
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
    bounds: dict[Goal, float] = field(default_factory=dict)


class _Search:
    def __init__(self, problem: Problem, budget: Budget) -> None:
        self._problem, self._budget = problem, budget
        #: whether a goal is known to fall short, so that a solve without shortfalls need not be tried
        self._short = not problem.strict and _out_of_reach(problem)
        #: a plan of decisions that were not searched for, where time may be too short for a search
        self._first: _Found | None = None
        #: whether integers kept the flows of stores apart
        self.parted = False
        #: the least cost that integers leave possible
        self._bound = -np.inf

    def outcome(self) -> Outcome | Impossible:
        try:
            self._first = self._rounded()
            relaxed = self._solved(Switches())
        except _Expired:
            if self._first is None:
                raise self._too_late() from None
            return self._told(self._first, self._first)
        if isinstance(relaxed, Impossible):
            return relaxed
        self._short |= any(each > NOTHING for each in relaxed.shortfalls.values())
        try:
            found = self._decided(relaxed)
        except _Expired:
            found = self._cut_short(relaxed)
        return found if isinstance(found, Impossible) else self._told(found, relaxed)

    # -- decisions: which units are on, which of two flows runs

    def _rounded(self) -> _Found | None:
        """Return the best plan of some units being on that a linear programme would run, if time is limited at all."""
        problem, best = self._problem, None
        if self._budget.limit is None or not problem.generators.min_power.any():
            return None
        switches = Switches(goals=not problem.strict, bounded=np.ones(problem.steps, bool))
        matrices = build(problem, switches)
        cost = matrices.cost if problem.strict else _blended(matrices)
        raw = self._run(replace(matrices, integer=None, cost=cost))
        if raw.status != "optimal":
            return None
        for on in rounding.decisions(problem, matrices, raw.x):
            if best is not None and self._budget.over(SEARCH / 2):
                break
            try:
                found = self._solved(_held(on, _free(problem)))
            except _Expired:
                break
            if isinstance(found, Impossible) or overlaps(problem, found.flows) is not None:
                continue
            if best is None or (*found.shortfalls.values(), found.cost) < (*best.shortfalls.values(), best.cost):
                best = found
        if best is None:
            return None
        bounds = dict.fromkeys(goals_of(problem), 0.0)
        return replace(best, raw=replace(best.raw, bound=-np.inf), proven=False, bounds=bounds)

    def _decided(self, relaxed: _Found) -> _Found | Impossible:
        """Return the plan with every decision made, the last solve being linear wherever that is possible."""
        problem, on = self._problem, relaxed.flows.on
        pairs = overlaps(problem, relaxed.flows)
        if pairs is None and on is None:
            return relaxed
        if not relaxed.proven:
            raise _Expired
        seen = pairs or _free(problem)
        for _ in range(_ATTEMPTS):
            found = self._solved(_held(on, seen))
            if isinstance(found, Impossible) or not _as_good(found, relaxed):
                break
            more = overlaps(problem, found.flows)
            if more is None:
                return found
            seen = more.or_else(seen)
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
                return replace(found, proven=mixed.proven, bounds=mixed.bounds)
        return mixed

    def _cut_short(self, relaxed: _Found) -> _Found:
        """Return a plan from the relaxation's own decisions, when there is no time to find better ones."""
        problem, on, pairs = self._problem, relaxed.flows.on, overlaps(self._problem, relaxed.flows)
        for held in (_held(on, pairs or _free(problem)), _held(on, directions(problem, relaxed.flows))):
            try:
                found = self._solved(held, grace=True)
            except _Expired:
                break
            if not isinstance(found, Impossible) and overlaps(problem, found.flows) is None:
                return replace(found, proven=False, bounds=relaxed.bounds)
        if pairs is not None:
            raise self._too_late()
        # integers made it a plan already, if one without prices
        return replace(relaxed, columns=_NONE, rows=_NONE, proven=False)

    def _too_late(self) -> SolverFailed:
        return SolverFailed(f"no plan was found within {self._budget.limit:g} seconds")

    def _told(self, found: _Found, relaxed: _Found) -> Outcome:
        flows = priority.preferred(self._problem, found.matrices, found.raw, found.switches, found.flows, self._run)
        if found.columns.size:
            duals = duals_of(self._problem, found.matrices, found.columns, found.rows, found.switches)
        else:
            duals = Duals(np.full(self._problem.steps, np.nan))
        cost = found.cost if flows is found.flows else cost_of(self._problem, flows)
        gap: float | None = 0.0
        if not found.proven:
            gap, bound, objective = None, max(relaxed.raw.bound, self._bound), found.raw.objective
            # a plan whose goals fall short by less costs no less than any that may fall short by more
            if np.isfinite(bound) and _goals_as_good(found, relaxed):
                gap = max(objective - bound, 0.0) / max(abs(objective), NOTHING)
        unproven = {goal: found.shortfalls[goal] - least for goal, least in found.bounds.items()}
        unproven = {goal: less for goal, less in unproven.items() if less > _SAME * max(1.0, found.shortfalls[goal])}
        return Outcome(flows, duals, found.shortfalls, cost, optimal=found.proven, gap=gap, unproven=unproven)

    # -- goals

    def _best(
        self,
        switches: Switches,
        matrices: Matrices,
        basis: Any = None,
        guide: reduce.Guide | None = None,
        *,
        start: Floats | None = None,
        part: int = 1,
        grace: bool = False,
    ) -> Raw:
        """Solve the programme that was built under ``switches``: by way of a smaller one where that is quicker."""
        if basis is None and reduce.wanted(self._problem, matrices):
            raw = self._reduced(switches, matrices, guide, grace=grace)
            if raw is not None:
                return raw
        return self._run(matrices, basis=basis, start=start, part=part, grace=grace)

    def _reduced(
        self, switches: Switches, matrices: Matrices, guide: reduce.Guide | None, *, grace: bool
    ) -> Raw | None:
        def smaller(matrices: Matrices, *, basis: Any = None) -> Raw:
            return self._run(matrices, basis=basis, grace=grace, presolve=True, primal=True)

        return reduce.run(self._problem, switches, matrices, smaller, guide)

    def _run(
        self,
        matrices: Matrices,
        *,
        basis: Any = None,
        start: Floats | None = None,
        part: int = 1,
        grace: bool = False,
        **options: bool,
    ) -> Raw:
        """Solve within what is left of the time, with ``grace`` a little longer, to make a plan of a decision.

        A search for decisions takes one ``part``-th of it at most, and leaves some to that.
        """
        if matrices.integer is None:
            left = self._budget.left(GRACE if grace else 1.0)
        elif (left := self._budget.left(SEARCH)) is not None:
            left /= part
        return lp.run(matrices, basis=basis, start=start, time_limit=left, **options)

    def _solved(self, switches: Switches, *, grace: bool = False) -> _Found | Impossible:
        """Return the best plan under ``switches``; raises _Expired if there is no time to find any."""
        if not self._short:
            matrices = build(self._problem, switches)
            # to prove that integers keep no goal may take forever, and a climb finds a plan at once
            start = self._start(matrices)
            raw = self._best(switches, matrices, start=start, part=1 if self._problem.strict else 2, grace=grace)
            if raw.status == "unknown" and matrices.integer is not None and not self._problem.strict:
                self._short = True
            elif raw.status != "infeasible":
                return self._found(switches, matrices, raw, dict.fromkeys(goals_of(self._problem), 0.0))
            elif self._problem.strict:
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

    def _start(self, matrices: Matrices) -> Floats | None:
        first = self._first
        if matrices.integer is None or first is None:
            return None
        return rounding.start_of(matrices, first.matrices, first.raw.x, first.flows)

    def _climb(self, switches: Switches, basis: Any, *, grace: bool) -> _Found | None:
        matrices = build(self._problem, switches)
        caps: dict[Goal, float] = {}
        slopes: dict[Goal, tuple[Floats, Floats]] = {}
        bounds: dict[Goal, float] = {}
        last: tuple[Matrices, Raw] | None = None
        guide = reduce.Guide()
        if basis is None and reduce.wanted(self._problem, matrices):
            # one solve with all goals in its costs leaves little to each goal's own
            self._reduced(switches, replace(matrices, cost=_blended(matrices)), guide, grace=grace)
        stages = (*goals_of(self._problem), None)
        for part, goal in zip(range(len(stages), 0, -1), stages, strict=True):
            begun = basis, self._start(matrices) if last is None else last[1].x, guide
            staged, raw = self._minimise(switches, matrices, goal, caps, begun, part, grace=grace)
            if raw.status == "infeasible":
                return None
            if raw.status == "unknown":
                if last is None:
                    raise _Expired
                # the plan of the goal before this one is feasible, and all that there is
                staged, raw = last[0], replace(last[1], bound=-np.inf, column_duals=_NONE, row_duals=_NONE)
                found = self._found(switches, staged, replace(raw, status="stopped"), {})
                bounds |= {each: 0.0 for each in stages if each is not None and each not in caps}
                return replace(found, shortfalls=shortfalls_of(self._problem, staged, raw.x), bounds=bounds)
            last, basis = (staged, raw), raw.basis
            if goal is not None:
                caps[goal] = max(float(raw.x[_column(matrices, goal)]), 0.0)
                if raw.status != "optimal":
                    bounds[goal] = max(raw.bound, 0.0)
                if caps[goal] > NOTHING:
                    slopes[goal] = _total(matrices, raw, slopes)
        found = self._found(switches, staged, raw, caps)
        columns, rows = _total(matrices, raw, slopes)
        if slopes:
            columns, rows = _of_active_bounds(staged, raw, columns, rows)
        if not found.columns.size:
            columns = rows = _NONE
        return replace(found, columns=columns, rows=rows, proven=found.proven and not bounds, bounds=bounds)

    def _minimise(
        self,
        switches: Switches,
        matrices: Matrices,
        goal: Goal | None,
        caps: dict[Goal, float],
        begun: tuple[Any, Floats | None, reduce.Guide],
        part: int,
        *,
        grace: bool,
    ) -> tuple[Matrices, Raw]:
        """Minimise a goal, or the cost, under the caps found so far.

        Rounding may make a cap that was just reached look out of reach: then it is given a hair, the least that helps.
        ``begun`` is what the goals before it leave to start from: a basis, a plan, a guide.
        """
        basis, start, guide = begun
        cost = matrices.cost
        if goal is not None:
            cost = np.zeros(cost.size)
            cost[_column(matrices, goal)] = 1.0
        for hair in (0.0, *_HAIRS):
            upper = matrices.upper.copy()
            for capped, least in caps.items():
                upper[_column(matrices, capped)] = least + hair * max(1.0, least)
            staged = replace(matrices, cost=cost, upper=upper)
            raw = self._best(switches, staged, basis, guide, start=start, part=part, grace=grace)
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
    counts = np.diff(matrices.start)
    owners = np.arange(counts.size).repeat(counts)
    values = np.bincount(owners, matrices.value * raw.x[matrices.index], minlength=counts.size)
    span = _REACHED * np.maximum(1.0, np.abs(values))
    low, high = values <= matrices.row_lower + span, values >= matrices.row_upper - span
    return columns, np.where(((rows > 0) & ~low) | ((rows < 0) & ~high), 0.0, rows)


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


def _goals_as_good(found: _Found, relaxed: _Found) -> bool:
    return all(
        found.shortfalls[goal] <= short + _SAME * max(1.0, abs(short)) for goal, short in relaxed.shortfalls.items()
    )


def _same_goals(one: _Found, other: _Found) -> bool:
    return all(_near(one.shortfalls[goal], other.shortfalls[goal]) for goal in one.shortfalls)


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME * max(1.0, abs(other))
