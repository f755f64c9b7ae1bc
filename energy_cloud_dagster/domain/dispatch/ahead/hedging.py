"""One decision for several futures: a two-stage stochastic programme of the first step.

The programmes of the futures stand side by side, each weighted by its probability, and rows make those columns of the
first step equal that must be decided before it is known which future comes: what stores do, and what units give that no
weather decides. Everything else (ties, sun and wind, loads, all later steps) is each future's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.flows import (
    Flows,
    Outcome,
    cost_of,
    duals_of,
    flows_of,
    goals_of,
    shortfalls_of,
)
from energy_cloud_dagster.domain.dispatch.problem import Floats, IntArray, Problem
from energy_cloud_dagster.domain.dispatch.solving import lp
from energy_cloud_dagster.domain.dispatch.solving.lp import Raw, SolverFailed
from energy_cloud_dagster.domain.dispatch.solving.matrices import GOALS, Goal, Indices, Matrices, Switches, build
from energy_cloud_dagster.domain.dispatch.solving.pairs import Pairs, directions, netted, overlaps

#: Slack of the cap on an earlier goal's shortfall, relative.
_HAIR: Final = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """One future: a problem of the same resources and steps as the others', and its probability."""

    problem: Problem
    weight: float


def hedge(
    scenarios: Sequence[Scenario], *, free: frozenset[str] = frozenset(), time_limit: float | None = None
) -> tuple[Outcome, ...] | None:
    """Return the scenarios' plans, whose common first step costs least on the average; ``None`` where none hold.

    ``free`` names the generators whose output the weather decides, besides sun, wind and hydro. Goals are met in their
    strict order as the average of the futures' shortfalls. ``time_limit`` (seconds) is the first problem's by default;
    a plan at hand when it is over has ``optimal`` false. Priorities of resources are not looked at. Raises
    SolverFailed where the time ends without a plan.
    """
    limit = scenarios[0].problem.time_limit if time_limit is None else time_limit
    joint = _Joint(scenarios, _decided(scenarios[0].problem, free), limit)
    found = joint.solved([Switches() for _ in scenarios])
    if found is None and not scenarios[0].problem.strict:
        bounded = np.ones(scenarios[0].problem.steps, dtype=bool)
        found = joint.solved([Switches(goals=True, bounded=bounded) for _ in scenarios])
    return None if found is None else joint.told(joint.apart(found))


def _decided(problem: Problem, free: frozenset[str]) -> IntArray:
    """Return the generators that are told what to give before the step."""
    units = problem.generators
    told = [
        row
        for row, place in enumerate(units.place.tolist())
        if not units.renewable[row] and problem.ids[place] not in free
    ]
    return np.array(told, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One solve: what was switched in each future's programme, that programme, all of them as one, and the flows."""

    switches: list[Switches]
    blocks: list[Matrices]
    whole: Matrices
    raw: Raw
    flows: list[Flows]


class _Joint:
    def __init__(self, scenarios: Sequence[Scenario], units: IntArray, time_limit: float | None) -> None:
        self._problems = [one.problem for one in scenarios]
        total = sum(one.weight for one in scenarios)
        self._weights = [one.weight / total for one in scenarios]
        self._units, self._limit, self._spent = units, time_limit, 0.0

    def solved(self, switches: list[Switches]) -> _Found | None:
        """Return the optimum of all goals in order, ``None`` where there is no plan."""
        blocks = [build(problem, one) for problem, one in zip(self._problems, switches, strict=True)]
        whole: Matrices | None = _side_by_side(blocks, self._weights, [self._shared(block) for block in blocks])
        if switches[0].goals and whole is not None:
            whole = self._capped(blocks, whole)
        raw = None if whole is None else self._run(whole)
        if raw is None or whole is None:
            return None
        flows = [
            netted(problem, flows_of(problem, block, x, one))
            for problem, block, x, one in zip(self._problems, blocks, _parts(blocks, raw.x), switches, strict=True)
        ]
        return _Found(switches, blocks, whole, raw, flows)

    def _run(self, whole: Matrices) -> Raw | None:
        left = None if self._limit is None else max(self._limit - self._spent, 0.0)
        raw = lp.run(whole, time_limit=left)
        self._spent += raw.seconds
        if raw.status == "unknown":
            raise SolverFailed(f"no plan for the futures was found within {self._limit:g} seconds")
        return None if raw.status == "infeasible" else raw

    def _shared(self, block: Matrices) -> IntArray:
        """Return the columns of a block that all futures share: the first step's, as far as they are decided."""
        columns = np.arange(block.cost.size, dtype=np.float64)
        stores = [block.column(name, columns)[:, 0] for name in ("charge", "discharge")]
        units = block.column("generation", columns)[self._units, 0]
        return np.concatenate([*stores, units]).astype(np.int64)

    def _capped(self, blocks: list[Matrices], whole: Matrices) -> Matrices | None:
        """Return the programme with a cap on the average shortfall of each goal, at the least that it can be."""
        offsets = np.cumsum([0, *(block.cost.size for block in blocks)])[:-1]
        weights = np.array(self._weights)
        for goal in goals_of(self._problems[0]):
            places = offsets + np.array([block.columns["goals"][0] + GOALS.index(goal) for block in blocks])
            cost = np.zeros(whole.cost.size)
            cost[places] = weights
            raw = self._run(replace(whole, cost=cost))
            if raw is None:
                return None
            least = max(raw.objective, 0.0)
            whole = _with_row(whole, places, weights, least + _HAIR * max(1.0, least))
        return whole

    def apart(self, found: _Found) -> _Found:
        """Keep charge and discharge, import and export apart, by integers where they overlap."""
        while any(over := [overlaps(p, f) for p, f in zip(self._problems, found.flows, strict=True)]):
            switches = []
            for problem, one, pairs in zip(self._problems, found.switches, over, strict=True):
                held = _held_in(problem, one)
                held = held if pairs is None else held.or_else(pairs.either())
                switches.append(replace(one, stores=held.stores, ties=held.ties))
            found = self._again(switches)
        return found

    def _again(self, switches: list[Switches]) -> _Found:
        found = self.solved(switches)
        if found is None:
            raise SolverFailed("the futures' plan does not hold any more once its directions are fixed")
        return found

    def told(self, found: _Found) -> tuple[Outcome, ...]:
        """Return the outcomes; where integers decided, prices are those of the linear programme with them fixed."""
        proven, gap = found.raw.status == "optimal", _gap(found.raw)
        if found.whole.integer is not None:
            fixed = []
            for problem, flows, one in zip(self._problems, found.flows, found.switches, strict=True):
                pairs = directions(problem, flows).within(_held_in(problem, one))
                fixed.append(replace(one, on=flows.on, stores=pairs.stores, ties=pairs.ties))
            found = self._again(fixed)
        columns, rows = _parts(found.blocks, found.raw.column_duals), _row_parts(found.blocks, found.raw.row_duals)
        values = _parts(found.blocks, found.raw.x)
        outcomes = []
        for index, problem in enumerate(self._problems):
            block, switches, weight = found.blocks[index], found.switches[index], self._weights[index]
            duals = duals_of(problem, block, columns[index] / weight, rows[index] / weight, switches)
            missed = shortfalls_of(problem, block, values[index]) if switches.goals else {}
            short: dict[Goal, float] = dict.fromkeys(goals_of(problem), 0.0) | missed
            cost = cost_of(problem, found.flows[index])
            outcomes.append(Outcome(found.flows[index], duals, short, cost, optimal=proven, gap=gap))
        return tuple(outcomes)


def _held_in(problem: Problem, switches: Switches) -> Pairs:
    """Return what the switches hold of the pairs."""
    free = Pairs(
        np.zeros(problem.stores.power.shape, dtype=np.int8), np.zeros(problem.ties.capacity.shape, dtype=np.int8)
    )
    stores = free.stores if switches.stores is None else switches.stores
    return Pairs(stores, free.ties if switches.ties is None else switches.ties)


def _gap(raw: Raw) -> float | None:
    if raw.status == "optimal":
        return 0.0
    if not np.isfinite(raw.bound):
        return None
    return max(raw.objective - raw.bound, 0.0) / max(abs(raw.objective), _HAIR)


def _side_by_side(blocks: list[Matrices], weights: list[float], shared: list[IntArray]) -> Matrices:
    """Return the programmes as one, with rows that make the ``shared`` columns of each equal to those of the first."""
    widths = [block.cost.size for block in blocks]
    offsets = np.cumsum([0, *widths])[:-1]
    first, others = shared[0], shared[1:]
    # x of the first - x of the other = 0
    links = [np.stack([first, each + offset], axis=1).ravel() for each, offset in zip(others, offsets[1:], strict=True)]
    count = first.size * len(others)
    lengths = [np.diff(block.start) for block in blocks]
    zeros = np.zeros(count)
    integer = None
    if any(block.integer is not None for block in blocks):
        integer = np.concatenate(
            [np.zeros(block.cost.size, dtype=bool) if block.integer is None else block.integer for block in blocks]
        )
    return Matrices(
        cost=np.concatenate([weight * block.cost for weight, block in zip(weights, blocks, strict=True)]),
        lower=np.concatenate([block.lower for block in blocks]),
        upper=np.concatenate([block.upper for block in blocks]),
        row_lower=np.concatenate([*(block.row_lower for block in blocks), zeros]),
        row_upper=np.concatenate([*(block.row_upper for block in blocks), zeros]),
        start=_starts([*lengths, np.full(count, 2)]),
        index=np.concatenate(
            [*(block.index + offset for block, offset in zip(blocks, offsets, strict=True)), *links]
        ).astype(np.int32),
        value=np.concatenate([*(block.value for block in blocks), np.tile([1.0, -1.0], count)]),
        integer=integer,
        columns={},
        rows={},
    )


def _starts(lengths: list[IntArray]) -> Indices:
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int32)


def _with_row(whole: Matrices, index: IntArray, value: Floats, most: float) -> Matrices:
    """Return the programme with one more row: ``value @ x[index] <= most``."""
    return replace(
        whole,
        row_lower=np.append(whole.row_lower, -np.inf),
        row_upper=np.append(whole.row_upper, most),
        start=np.append(whole.start, whole.start[-1] + index.size).astype(np.int32),
        index=np.append(whole.index, index).astype(np.int32),
        value=np.append(whole.value, value),
    )


def _parts(blocks: list[Matrices], values: Floats) -> list[Floats]:
    """Return what belongs to each block, of one value per column."""
    ends = np.cumsum([block.cost.size for block in blocks])
    return np.split(values[: ends[-1]], ends[:-1])


def _row_parts(blocks: list[Matrices], values: Floats) -> list[Floats]:
    """Return what belongs to each block, of one value per row."""
    ends = np.cumsum([block.row_lower.size for block in blocks])
    return np.split(values[: ends[-1]], ends[:-1])
