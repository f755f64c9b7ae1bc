"""Plans for a future that is known as P10, P50 and P90 only.

Three ways to take an :class:`Outlook` into account, all answered by :func:`solve_outlook`:

- ``p50``: the middle of every band, as if it were certain;
- ``robust``: this step as foreseen, for every later one a margin towards the bad side (more demand, less sun and wind),
  so that more is kept back for it. As cheap as ``p50``;
- ``scenarios``: three futures, which share their first step's decision: it is the cheapest on their average. Each goes
  on as it likes, as a plan that is made anew at the next step will. The plan shown is that of the middle one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np

from energy_cloud_dagster.domain.dispatch.flows import Outcome, cost_of
from energy_cloud_dagster.domain.dispatch.problem import Floats, Problem
from energy_cloud_dagster.domain.errors import InvalidInput

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.solution import Solution

Risk = Literal["p50", "robust", "scenarios"]
RISKS: Final[tuple[Risk, ...]] = get_args(Risk)
#: Share of the way from P50 to the bad end of a band that ``robust`` plans with.
MARGIN: Final = 0.5
#: The futures: how bad each is, and its probability. The three-point approximation of a distribution by its 10th, 50th
#: and 90th percentiles (Swanson's mean; Hurst, Brown & Swanson 2000).
FUTURES: Final = ((1.0, 0.3), (0.0, 0.4), (-1.0, 0.3))
#: Share by which costs fall over the horizon, to decide between plans that cost the same.
PATIENCE: Final = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Quantiles by step (T,): kW of a demand, a fraction (0..1) of an availability."""

    p10: Floats
    p50: Floats
    p90: Floats

    def __post_init__(self) -> None:
        if np.ndim(self.p50) != 1 or not np.shape(self.p10) == np.shape(self.p50) == np.shape(self.p90):
            raise InvalidInput("a band's quantiles are three series of equal length")
        if not (np.less_equal(self.p10, self.p50).all() and np.less_equal(self.p50, self.p90).all()):
            raise InvalidInput("a band's quantiles cross, or are not numbers")

    def towards_p90(self, share: Floats | float) -> Floats:
        """Return the series that lies ``share`` of the way from P50 to P90, to P10 where it is negative."""
        side = np.where(np.asarray(share) >= 0, self.p90 - self.p50, self.p50 - self.p10)
        moved: Floats = self.p50 + share * side
        return moved


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """What is foreseen: the demand, and the availability of resources by id; those not named are certain."""

    demand: Band
    availability: Mapping[str, Band] = field(default_factory=dict)


def foreseen(problem: Problem, outlook: Outlook, badness: Floats | float = 0.0) -> Problem:
    """Return ``problem`` with one future of ``outlook`` in place of its demand and availability.

    ``badness``, one or one per step (T,), is 0 for the middle of every band, 1 for the bad end (P90 of demand, P10 of
    availability), -1 for the good one. Raises ``InvalidInput`` where the outlook has another number of steps or names
    something that is no generator of the problem.
    """
    units = problem.generators
    bands = {"the demand": outlook.demand, **outlook.availability}
    for name, band in bands.items():
        if len(band.p50) != problem.steps:
            raise InvalidInput(f"the outlook of {name} has {len(band.p50)} steps, the problem {problem.steps}")
    index = {problem.ids[place]: row for row, place in enumerate(units.place.tolist())}
    availability = units.availability.copy()
    for name, band in outlook.availability.items():
        if name not in index:
            raise InvalidInput(f"the outlook names {name}, which is no generator of the problem")
        availability[index[name]] = np.clip(band.towards_p90(np.negative(badness)), 0.0, 1.0)
    return replace(
        problem,
        demand=np.maximum(outlook.demand.towards_p90(badness), 0.0),
        generators=replace(units, availability=availability, limit=units.capacity * availability),
    )


def with_margin(problem: Problem, outlook: Outlook, margin: float = MARGIN) -> Problem:
    """Return ``problem`` with the first step as foreseen and ``margin`` (0..1) of bad luck in every later one."""
    badness = np.full(problem.steps, margin)
    badness[0] = 0.0
    return foreseen(problem, outlook, badness)


def solve_outlook(problem: Problem, outlook: Outlook, risk: Risk = "scenarios", *, margin: float = MARGIN) -> Solution:
    """Return the plan for ``problem`` under ``outlook``, made with ``risk`` as the module says.

    The solution's own problem says what it was solved for: its demand and availability are those of the middle future
    (``p50``, ``scenarios``) or have the margin in them (``robust``). Of plans that cost the same the one is chosen that
    spends later and saves earlier (:func:`patient`). Where no plan holds in all three futures, that of the middle one
    answers and says so. Raises what ``solve`` and :func:`foreseen` raise.
    """
    if risk not in RISKS:
        raise InvalidInput(f"risk is {risk!r}; give {', '.join(RISKS)}")
    if risk == "robust":
        return _solved(with_margin(problem, outlook, margin))
    middle = foreseen(problem, outlook)
    if risk == "p50" or problem.solver == "ga":
        return _solved(middle)
    return _hedged(problem, outlook, middle)


def patient(problem: Problem) -> Problem:
    """Return ``problem`` with all costs falling evenly over the horizon by a share (``PATIENCE``) that decides nothing.

    Between hours of equal prices a plan is indifferent, but one that is made anew every hour should not be: what is
    bought later may not be needed by then, and what is saved now is certain.
    """
    units, stores, ties, loads = problem.generators, problem.stores, problem.ties, problem.loads
    share = 1.0 - PATIENCE * np.arange(problem.steps) / problem.steps
    return replace(
        problem,
        generators=replace(units, cost=units.cost * share),
        stores=replace(stores, cost=stores.cost * share),
        ties=replace(ties, cost=ties.cost * share, export_price=ties.export_price * share),
        loads=replace(loads, cost=loads.cost * share),
    )


def _solved(problem: Problem) -> Solution:
    from energy_cloud_dagster.domain.dispatch import solve
    from energy_cloud_dagster.domain.dispatch.solution import completed_solution
    from energy_cloud_dagster.domain.dispatch.solving.goals import Impossible, optimise

    outcome = Impossible if problem.solver == "ga" else optimise(patient(problem))
    if not isinstance(outcome, Outcome):
        return solve(problem)
    return completed_solution(problem, _at_its_cost(problem, outcome))


def _hedged(problem: Problem, outlook: Outlook, middle: Problem) -> Solution:
    from energy_cloud_dagster.domain.dispatch.ahead.hedging import Scenario, hedge
    from energy_cloud_dagster.domain.dispatch.solution import completed_solution

    futures = [middle if badness == 0 else foreseen(problem, outlook, badness) for badness, _ in FUTURES]
    weights = [weight for _, weight in FUTURES]
    scenarios = [Scenario(patient(one), weight) for one, weight in zip(futures, weights, strict=True)]
    found = hedge(scenarios, free=frozenset(outlook.availability))
    if found is None:
        return _saying(
            _solved(middle), "No plan holds in every future of the forecast: this is the one for its middle."
        )
    outcomes = [_at_its_cost(one, each) for one, each in zip(futures, found, strict=True)]
    expected = sum(weight * each.cost for weight, each in zip(weights, outcomes, strict=True))
    costs = [f"{each.cost:,.0f}" for each in outcomes]
    return _saying(
        completed_solution(middle, outcomes[futures.index(middle)]),
        f"The first step is the one that is cheapest on the average of three futures ({expected:,.0f}): the bad one "
        f"would cost {costs[0]}, the middle one, which is shown, {costs[1]}, the good one {costs[2]}.",
    )


def _at_its_cost(problem: Problem, outcome: Outcome) -> Outcome:
    return replace(outcome, cost=cost_of(problem, outcome.flows))


def _saying(solution: Solution, text: str) -> Solution:
    # first, for it is why the first step may look dear for the future that is shown
    return replace(solution, explanation=(text, *solution.explanation))
