"""Goals in strict order, and flows that exclude each other: from a problem to its one optimum.

A plan that meets all goals is found by the first solve. Otherwise each goal is minimised in order and its least
shortfall becomes a cap for the goals after it; cost comes last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from energy_cloud_dagster.domain.dispatch.lp import Answer, Goal, Model, Pair, SolverFailed, Switches
from energy_cloud_dagster.domain.dispatch.problem import Grid, Problem, Series, Storage

#: What two solves of one problem may differ by and still be the same optimum (relative).
_SAME: Final = 1e-7
#: Flows below this share of the capacity are the solver's tolerance, not a decision.
_NOTHING: Final = 1e-7
#: Slack given to caps that rounding put out of reach, in turn (relative).
_HAIRS: Final = (1e-8, 1e-7, 1e-6)
#: Attempts to part overlapping flows by fixing directions before integers decide.
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """An optimum: its flows, the goals' shortfalls (kWh, kWh, currency), and the price of demand per kWh and step."""

    answer: Answer
    shortfalls: dict[Goal, float]
    prices: Series
    cost: float


@dataclass(frozen=True, slots=True)
class Impossible:
    """Nothing satisfies the hard constraints; ``switches`` are those under which that was found."""

    switches: Switches


def optimise(problem: Problem) -> Outcome | Impossible:
    """Return the plan that is best in the order unmet, renewable share, cost cap, cost.

    Flows that exclude each other are left free first, which is a relaxation. Where they overlap, one direction is
    fixed: an equal objective proves that plan optimal. Where it is not equal, integers decide.
    """
    relaxed = _solved(problem, Switches())
    if isinstance(relaxed, Impossible):
        return relaxed
    return _apart(problem, relaxed)


def _apart(problem: Problem, relaxed: Outcome) -> Outcome | Impossible:
    seen: dict[Pair, bool] = {}
    trial = relaxed
    for _ in range(_ATTEMPTS):
        overlaps = _overlaps(problem, trial.answer)
        if not overlaps:
            return trial
        seen |= overlaps
        found = _solved(problem, Switches(directions=seen))
        if isinstance(found, Impossible) or not _same(found, relaxed):
            break
        trial = found
    binaries = frozenset(seen)
    while True:
        mixed = _solved(problem, Switches(binaries=binaries))
        if isinstance(mixed, Impossible):
            return mixed
        more = frozenset(_overlaps(problem, mixed.answer)) - binaries
        if not more:
            break
        binaries |= more
    # prices are those of the linear programme with the integers fixed
    fixed = _solved(problem, Switches(directions=_directions(problem, mixed.answer)))
    return mixed if isinstance(fixed, Impossible) else fixed


def _solved(problem: Problem, switches: Switches) -> Outcome | Impossible:
    """Climb the goals; unmet ≤ demand is left out until it matters, which keeps the prices of unmet steps clean."""
    while True:
        outcome = _climb(problem, switches)
        if outcome is None:
            return Impossible(switches)
        over = {
            step
            for step, (unmet, demand) in enumerate(zip(outcome.answer.unmet, problem.demand, strict=True))
            if unmet > demand + _NOTHING * max(1.0, demand) and step not in switches.bounded
        }
        if not over:
            return outcome
        switches = replace(switches, bounded=switches.bounded | over)


def _climb(problem: Problem, switches: Switches) -> Outcome | None:
    model = Model(problem, switches)
    for goal in model.goals:
        model.cap(goal, 0.0)
    answer = model.minimise("cost")
    if answer is not None:
        return _outcome(problem, answer, dict.fromkeys(model.goals, 0.0), answer.balance_duals)
    if problem.strict:
        return None
    for goal in model.goals:
        model.cap(goal, None)
    shortfalls: dict[Goal, float] = {}
    slopes: dict[Goal, Series] = {}
    for goal in model.goals:
        answer = _minimise(model, goal, shortfalls)
        if answer is None:
            return None
        least = max(answer.goals[goal], 0.0)
        if least > _NOTHING:
            slopes[goal] = _total_slope(answer, slopes)
        shortfalls[goal] = least
        model.cap(goal, least)
    answer = _minimise(model, "cost", shortfalls)
    return None if answer is None else _outcome(problem, answer, shortfalls, _total_slope(answer, slopes))


def _minimise(model: Model, goal: Goal | Literal["cost"], caps: dict[Goal, float]) -> Answer | None:
    """Minimise under the caps found so far; ``None`` only where the rows themselves cannot hold.

    Rounding may make a cap that was just reached look out of reach: then it is given a hair, the least that helps.
    """
    answer = model.minimise(goal)
    if answer is not None or not caps:
        return answer
    for hair in _HAIRS:
        for capped, least in caps.items():
            model.cap(capped, least + hair * max(1.0, least))
        answer = model.minimise(goal)
        if answer is not None:
            return answer
    raise SolverFailed(f"no plan keeps the least {', '.join(caps)} that was found before")


def _total_slope(answer: Answer, slopes: dict[Goal, Series]) -> Series:
    """Derivative of the last objective by each step's demand: its dual, plus what moving the earlier caps would do."""
    total = list(answer.balance_duals)
    for goal, slope in slopes.items():
        for step, value in enumerate(slope):
            total[step] += answer.goal_duals[goal] * value
    return tuple(total)


def _outcome(problem: Problem, answer: Answer, shortfalls: dict[Goal, float], prices: Series) -> Outcome:
    netted = _netted(problem, answer)
    return Outcome(netted, shortfalls, tuple(price + 0.0 for price in prices), cost_of(problem, netted))


def cost_of(problem: Problem, answer: Answer) -> float:
    """Return the cost of the flows over the horizon, without the penalty for unmet demand."""
    total = 0.0
    for resource, supply, draw in zip(problem.resources, answer.supply, answer.draw, strict=True):
        total += sum(price * flow for price, flow in zip(resource.cost, supply, strict=True))
        if isinstance(resource, Grid) and resource.export_price is not None:
            total -= sum(price * flow for price, flow in zip(resource.export_price, draw, strict=True))
    return total * problem.step_hours


def _netted(problem: Problem, answer: Answer) -> Answer:
    """Import and export at once cancel where that costs nothing; every other constraint only gains."""
    supply, draw = list(answer.supply), list(answer.draw)
    for index, resource in enumerate(problem.resources):
        if isinstance(resource, Grid) and resource.export_price is not None:
            both = [
                min(inward, outward) if price >= sale else 0.0
                for inward, outward, price, sale in zip(
                    supply[index], draw[index], resource.cost, resource.export_price, strict=True
                )
            ]
            supply[index] = tuple(flow - less for flow, less in zip(supply[index], both, strict=True))
            draw[index] = tuple(flow - less for flow, less in zip(draw[index], both, strict=True))
    return replace(answer, supply=tuple(supply), draw=tuple(draw))


def _overlaps(problem: Problem, answer: Answer) -> dict[Pair, bool]:
    """Return the pairs of flows that run at once, with the direction that the step as a whole has."""
    return {
        (index, step): _supplies(problem.resources[index], answer.supply[index][step], answer.draw[index][step])
        for index, resource in enumerate(problem.resources)
        if isinstance(resource, Storage | Grid)
        for step in range(problem.steps)
        if min(answer.supply[index][step], answer.draw[index][step]) > _NOTHING * max(1.0, resource.capacity[step])
    }


def _directions(problem: Problem, answer: Answer) -> dict[Pair, bool]:
    return {
        (index, step): _supplies(resource, answer.supply[index][step], answer.draw[index][step])
        for index, resource in enumerate(problem.resources)
        if isinstance(resource, Storage) or (isinstance(resource, Grid) and resource.export_price is not None)
        for step in range(problem.steps)
    }


def _supplies(resource: object, supply: float, draw: float) -> bool:
    # what counts for a store is whether its energy falls
    factor = resource.efficiency if isinstance(resource, Storage) else 1.0
    return supply >= draw * factor


def _same(one: Outcome, other: Outcome) -> bool:
    pairs = [(one.cost, other.cost), *((one.shortfalls[goal], other.shortfalls[goal]) for goal in one.shortfalls)]
    return all(abs(a - b) <= _SAME * max(1.0, abs(b)) for a, b in pairs)
