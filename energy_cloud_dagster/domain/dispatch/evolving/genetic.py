"""Dispatch by a genetic algorithm: for costs that no linear programme can state, and a second opinion on those it can.

A population of plans is repaired to feasibility (:mod:`repair`), valued by cost, renewable share and unmet demand, and
bred by tournament, crossover and mutation; the best are kept as they are. Its gap to the linear programme's plan is
always part of the answer, and the same seed gives the same plan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.evolving.breeding import Breeder, Ratings
from energy_cloud_dagster.domain.dispatch.evolving.repair import Plans, Segments
from energy_cloud_dagster.domain.dispatch.flows import Duals, Flows, Outcome, cost_of, goals_of
from energy_cloud_dagster.domain.dispatch.problem import UNMET_PENALTY_PER_KWH, Floats, IntArray, Problem
from energy_cloud_dagster.domain.dispatch.solving import goals
from energy_cloud_dagster.domain.dispatch.solving.budget import Budget
from energy_cloud_dagster.domain.dispatch.solving.goals import Impossible, SolverFailed
from energy_cloud_dagster.domain.dispatch.solving.matrices import Goal
from energy_cloud_dagster.domain.errors import InvalidInput

#: Costs of P plans (P,), in currency over the horizon, from what each resource gives (P, R, T) in kW: storage is
#: discharge - charge, grid import - export, a load what is shed. It must be finite; resources keep the problem's order.
CostOf = Callable[[Floats], Floats]

#: Plans that are carried over as they are.
_ELITE: Final = 4
#: What the value of a plan counts a goal's shortfall at, so that goals keep their order (multiples of the dearest kWh).
_UNMET_WEIGHT: Final = 1e3
_SHARE_WEIGHT: Final = 1e2
_LIMIT_WEIGHT: Final = 1e5
#: Shortfalls below this share of the energy demanded are rounding.
_NOTHING: Final = 1e-9
#: A limit or goal is kept to this share of the energy demanded.
_KEPT: Final = 1e-7
#: Plans times resources times steps that fit in memory several times over.
_MAX_CELLS: Final = 20_000_000


def optimise(
    problem: Problem,
    *,
    seed: int = 0,
    cost: CostOf | None = None,
    population: int = 100,
    generations: int = 50,
    budget: Budget | None = None,
) -> Outcome | Impossible:
    """Return the best plan that ``generations`` of ``population`` plans find; ``gap`` compares it with the LP's plan.

    ``cost`` replaces the problem's own costs; the gap is then that of the two plans under ``cost``, and may be below
    0. Unmet demand counts at its penalty in both. ``price`` is the linear programme's, and no limits are valued.
    ``budget``, the problem's time limit by default, may end it earlier.
    Raises SolverFailed where no plan of the last generation keeps the hard limits, and InvalidInput where the problem
    is too large or ``cost`` gives something else than numbers.
    """
    if population * problem.size * problem.steps > _MAX_CELLS:
        raise InvalidInput("the genetic algorithm takes fewer resources and steps; use lp", pointer="/solver")
    if population <= _ELITE or generations < 1:
        raise InvalidInput(f"a population has more than {_ELITE} plans and at least one generation")
    linear = goals.optimise(problem, budget=budget)
    if isinstance(linear, Impossible):
        return linear
    search = _Search(problem, cost, np.random.default_rng(seed))
    flows = search.best(population, generations, budget or Budget(problem.time_limit))
    spent = cost_of(problem, flows)
    found, best = (spent, linear.cost) if cost is None else search.costs_under(cost, (flows, linear.flows))
    penalty = UNMET_PENALTY_PER_KWH * problem.step_hours
    found, best = found + penalty * float(flows.unmet.sum()), best + penalty * float(linear.flows.unmet.sum())
    shortfalls = search.shortfalls(flows, spent)
    if problem.strict and max(shortfalls.values()) > _KEPT * max(1.0, search.demanded):
        raise SolverFailed("the genetic algorithm found no plan that keeps all goals; the linear programme does")
    return Outcome(
        flows=flows,
        duals=Duals(price=linear.duals.price),
        shortfalls=shortfalls,
        cost=spent,
        optimal=False,
        gap=(found - best) / max(abs(best), _NOTHING),
        solver="ga",
    )


class _Search:
    def __init__(self, problem: Problem, cost: CostOf | None, rng: np.random.Generator) -> None:
        self.problem, self.cost = problem, cost
        self.segments = Segments(problem)
        self.breeder = Breeder(self.segments, rng, merit=cost is None)
        self.dearest = max(UNMET_PENALTY_PER_KWH, float(np.abs(self.segments.cost).max(initial=0.0)))
        self.demanded = float(problem.demand.sum()) * problem.step_hours
        self.tolerance = _NOTHING * max(1.0, self.demanded)

    def best(self, population: int, generations: int, budget: Budget) -> Flows:
        genes = self.breeder.first(population)
        plans = self.segments.repair(genes)
        ratings = self._rate(plans)
        for _ in range(generations):
            if budget.over():
                break
            elite = np.argsort(self._rank(ratings), kind="stable")[:_ELITE]
            children = self.breeder.children(genes, plans, ratings, population - _ELITE)
            born = self.segments.repair(children)
            genes, plans = genes.take(elite).joined(children), _kept(plans, elite, born)
            ratings = self._rate(plans)
        winner = int(self._rank(ratings).argmin())
        if ratings.broken[winner] > _KEPT * max(1.0, self.demanded):
            raise SolverFailed("the genetic algorithm found no plan that keeps all limits; the linear programme does")
        return self._flows(plans, winner)

    # -- the value of a plan

    def _rank(self, ratings: Ratings) -> Floats:
        """Return the values, such that a plan that breaks a limit by however little is behind all that keep them."""
        kept = ratings.broken <= 0.5 * _KEPT * max(1.0, self.demanded)
        return np.where(kept, ratings.value, ratings.value + (np.ptp(ratings.value) + 1.0))

    def _rate(self, plans: Plans) -> Ratings:
        """Return cost, plus 10 and more per kWh unmet, plus what the renewable share and the cost cap are short of."""
        segments, hours, limits = self.segments, self.problem.step_hours, self.problem.constraints
        unmet = np.maximum(plans.left, 0.0).sum(axis=0) * hours
        own = np.einsum("tpn,tn->p", plans.flow, segments.cost) * hours
        spent = own if self.cost is None else self._asked(self.cost, self._net(plans))
        dear = self.dearest if self.cost is None else max(self.dearest, float(np.abs(spent).max()))
        value = spent + _UNMET_WEIGHT * dear * unmet
        share = limits.min_renewable or 0.0
        slack = np.einsum("tpn,n->p", plans.flow, segments.renewable - share * segments.sourced) * hours
        if limits.min_renewable is not None:
            value += _SHARE_WEIGHT * dear * np.maximum(-slack - self.tolerance, 0.0)
        if limits.max_cost is not None:
            shed = plans.flow[:, :, segments.sheds].sum(axis=(0, 2)) * hours
            value += _SHARE_WEIGHT * np.maximum(own - limits.max_cost * (self.demanded - unmet - shed), 0.0)
        broken = self._broken(plans)
        return Ratings(value + _LIMIT_WEIGHT * dear * broken, slack, broken)

    def _broken(self, plans: Plans) -> Floats:
        """Return by how much (kWh, and units of emissions) plans break what repair does not see to."""
        problem, segments, hours = self.problem, self.segments, self.problem.step_hours
        wrong = np.maximum(-plans.left, 0.0) + np.maximum(plans.left - problem.demand[:, None], 0.0)
        broken = wrong.sum(axis=0) * hours
        limits = problem.constraints
        if limits.max_emissions is not None:
            emitted = np.einsum("tpn,tn->p", plans.flow, segments.emissions) * hours
            broken += np.maximum(emitted - limits.max_emissions, 0.0)
        for wanted, room in ((limits.reserve_up, segments.room_up), (limits.reserve_down, segments.room_down)):
            if wanted is not None:
                broken += np.maximum(wanted[:, None] - room(plans), 0.0).sum(axis=0) * hours
        content = np.maximum(segments.least_stored[:, None] - plans.stored, 0.0)
        broken += (content + np.maximum(plans.stored - segments.most_stored[:, None], 0.0)).sum(axis=(0, 2))
        ramps = np.maximum(np.abs(np.diff(plans.flow[:, :, segments.units], axis=0)) - segments.ramp[1:, None], 0.0)
        return np.where(broken > self.tolerance, broken, 0.0) + ramps.sum(axis=(0, 2)) * hours

    def _net(self, plans: Plans) -> Floats:
        segments, problem = self.segments, self.problem
        net = np.empty((plans.flow.shape[1], problem.size, problem.steps))
        flow = plans.flow.transpose(1, 2, 0)
        net[:, problem.generators.place] = flow[:, segments.units]
        net[:, problem.ties.place] = flow[:, segments.imports] + flow[:, segments.exports]
        net[:, problem.loads.place] = flow[:, segments.sheds]
        net[:, problem.stores.place] = flow[:, segments.gives] + flow[:, segments.takes]
        return net

    @staticmethod
    def _asked(cost: CostOf, net: Floats) -> Floats:
        spent = np.asarray(cost(net), dtype=np.float64)
        if spent.shape != (len(net),) or not np.isfinite(spent).all():
            raise InvalidInput("a cost function gives one finite number per plan")
        return spent

    def costs_under(self, cost: CostOf, plans: tuple[Flows, ...]) -> tuple[float, ...]:
        problem = self.problem
        net = np.empty((len(plans), problem.size, problem.steps))
        for row, flows in zip(net, plans, strict=True):
            row[problem.generators.place] = flows.generation
            row[problem.ties.place] = flows.imported - flows.exported
            row[problem.loads.place] = flows.shed
            row[problem.stores.place] = flows.discharge - flows.charge
        return tuple(self._asked(cost, net).tolist())

    # -- the answer

    def _flows(self, plans: Plans, winner: int) -> Flows:
        segments, flow = self.segments, plans.flow[:, winner].T
        units = self.problem.generators
        generation = flow[segments.units].copy()
        on = (units.min_power <= 0) | (generation > 0) if segments.committed else None
        return Flows(
            generation=generation,
            charge=-flow[segments.takes] + 0.0,
            discharge=flow[segments.gives].copy(),
            stored=plans.stored[:, winner].T.copy(),
            imported=flow[segments.imports].copy(),
            exported=-flow[segments.exports] + 0.0,
            shed=flow[segments.sheds].copy(),
            unmet=np.maximum(plans.left[:, winner], 0.0),
            on=on,
        )

    def shortfalls(self, flows: Flows, spent: float) -> dict[Goal, float]:
        """Return what each goal that the problem has is short of: kWh, kWh and currency."""
        problem, limits, hours = self.problem, self.problem.constraints, self.problem.step_hours
        unmet = float(flows.unmet.sum()) * hours
        generated = flows.generation.sum(axis=1)
        renewable = float(generated[problem.generators.renewable].sum())
        sourced = float(generated.sum() + flows.imported.sum())
        served = self.demanded - unmet - float(flows.shed.sum()) * hours
        every: dict[Goal, float] = {
            "unmetDemand": unmet,
            "minRenewable": max(0.0, (limits.min_renewable or 0.0) * sourced - renewable) * hours,
            "maxCost": max(0.0, spent - (limits.max_cost or 0.0) * served),
        }
        return {goal: every[goal] for goal in goals_of(problem)}


def _kept(plans: Plans, elite: IntArray, born: Plans) -> Plans:
    return Plans(
        flow=np.concatenate((plans.flow[:, elite], born.flow), axis=1),
        stored=np.concatenate((plans.stored[:, elite], born.stored), axis=1),
        left=np.concatenate((plans.left[:, elite], born.left), axis=1),
    )
