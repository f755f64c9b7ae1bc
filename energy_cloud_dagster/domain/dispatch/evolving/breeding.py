"""How plans of the genetic algorithm begin, and how two become one: tournament, crossover, exchange and mutation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.evolving.repair import Genes, Plans, Segments
from energy_cloud_dagster.domain.dispatch.problem import Floats, IntArray

#: Plans that meet in a tournament.
_TOURNAMENT: Final = 3


@dataclass(slots=True)
class Ratings:
    """Of P plans: ``value`` to be minimised, ``slack`` of the renewable share and ``broken`` hard limits, in kWh."""

    value: Floats
    slack: Floats
    broken: Floats


class Breeder:
    """Makes genes for ``segments``; ``merit`` says that the problem's own costs are what is minimised."""

    def __init__(self, segments: Segments, rng: np.random.Generator, *, merit: bool) -> None:
        self.problem, self.segments, self.rng, self.merit = segments.problem, segments, rng, merit
        prices = segments.cost
        self.cheap, self.dear = float(prices.min(initial=0.0)), float(prices.max(initial=0.0))

    def first(self, population: int) -> Genes:
        """Return plans by merit order for many values of storage, renewables and emissions, and random ones."""
        rng, segments, problem = self.rng, self.segments, self.problem
        steps, stores, units = problem.steps, len(problem.stores.place), len(problem.generators.place)
        low, high = segments.low[:, None, :], segments.high[:, None, :]
        shape = (steps, population, segments.count)
        wish = np.broadcast_to(low, shape).copy()
        # a cost of the caller's own knows no merit order
        random = np.arange(population) % 4 == 3 if self.merit else np.arange(population) % 4 != 0
        wishes = low + rng.random(shape) * (high - low)
        wish[:, random] = np.where(rng.random(shape) < 0.5, wishes, low)[:, random]
        # some keep what they store for hours in which demand would stay unmet
        most = np.where(np.arange(population) % 8 == 5, 2 * self.dear + 0.1, self.dear)[:, None]
        worth = rng.uniform(self.cheap, most, (1, population, 1)) * rng.uniform(0.9, 1.1, (1, population, stores))
        spread = 2 * (self.dear - self.cheap) + 0.01
        sometimes = rng.random((2, population)) < 0.5
        share = np.where(sometimes[0], rng.uniform(0, spread, population), 0.0)
        clean = np.where(sometimes[1], rng.uniform(0, spread, population), 0.0)
        limits = problem.constraints
        dirtiest = float(segments.emissions.max(initial=0.0))
        on = problem.generators.cost.T[:, None] <= rng.uniform(self.cheap, self.dear, (1, population, 1))
        on[:, : population // 4] = True
        return Genes(
            wish=wish,
            worth=np.broadcast_to(worth, (steps, population, stores)).copy(),
            share=share if limits.min_renewable is not None else np.zeros(population),
            clean=np.zeros(population) if limits.max_emissions is None or not dirtiest else clean / dirtiest,
            on=np.broadcast_to(on, (steps, population, units)).copy(),
            ceiling=self._ceilings(population),
        )

    def _ceilings(self, population: int) -> Floats:
        steps, count = self.problem.steps, self.segments.count
        if not self.segments.guarded:
            return np.ones((steps, population, 1))
        ceiling = np.ones((steps, population, count))
        # every second plan gives less all the time: all of it, or some segments only
        level, some = self.rng.random((population, 1)), self.rng.random((population, count)) < 0.5
        some[::4] = True
        ceiling[:, ::2] = np.where(some, level, 1.0)[::2]
        return ceiling

    def children(self, genes: Genes, plans: Plans, ratings: Ratings, count: int) -> Genes:
        """Return children of the winners of tournaments: half mixed by parts, half from repaired flows; all mutated.

        Of the latter half are blends of both parents, the others one parent with an exchange.
        """
        rng = self.rng
        one, other = (self._winners(ratings, count) for _ in range(2))
        children, others = genes.take(one), genes.take(other)
        # parts: another parent's steps from a cut on, or some of its segments
        steps = self.problem.steps
        late = np.arange(steps)[:, None, None] >= rng.integers(0, steps + 1, (1, count, 1))
        some = rng.random((1, count, self.segments.count)) < 0.5
        in_time = (rng.random(count) < 0.5)[None, :, None]
        children.wish = np.where(np.where(in_time, late, some), others.wish, children.wish)
        children.worth = np.where(late, others.worth, children.worth)
        children.on = np.where(late, others.on, children.on)
        if self.segments.guarded:
            children.ceiling = np.where(np.where(in_time, late, some), others.ceiling, children.ceiling)
        weight = rng.uniform(-0.2, 1.2, count)
        # where one parent has too few renewables and the other enough, the best blend may be just enough
        ahead, behind = ratings.slack[one], ratings.slack[other]
        crossing = (ahead * behind < 0) & (rng.random(count) < 0.5)
        weight = np.where(crossing, behind / np.where(crossing, behind - ahead, 1.0), weight)
        blended = rng.random(count) < 0.5
        w = weight[blended]
        mixed = w[:, None] * plans.flow[:, one[blended]] + (1 - w)[:, None] * plans.flow[:, other[blended]]
        children.wish[:, blended] = mixed
        self._exchange(
            children, plans, one, np.flatnonzero(blended & (rng.random(count) < 0.5) & (self.segments.count > 0))
        )
        for name in ("share", "clean"):
            mine, theirs = getattr(children, name), getattr(others, name)
            setattr(children, name, np.where(rng.random(count) < 0.5, mine, 0.5 * (mine + theirs)))
        self._mutate(children)
        return children

    def _exchange(self, children: Genes, plans: Plans, parents: IntArray, chosen: IntArray) -> None:
        """Make ``chosen`` children copies of their parents in which one segment gives what another gave, in some steps.

        A pair at a time, this is the local search that finds the cheaper of two that are alike to every limit.
        """
        rng, segments, steps = self.rng, self.segments, self.problem.steps
        if not len(chosen):
            return
        count = len(chosen)
        flow = plans.flow[:, parents[chosen]]
        less, more = rng.integers(0, segments.count, (2, count))
        clock, begin = np.arange(steps)[:, None], rng.integers(0, steps, count)
        during = (clock >= begin) & (clock < begin + rng.integers(1, steps + 1, count))
        every = np.arange(count)
        room = np.minimum(flow[:, every, less] - segments.low[:, less], segments.high[:, more] - flow[:, every, more])
        part = np.where(rng.random(count) < 0.4, 1.0, rng.random(count) ** 3)
        amount = np.where(during, np.maximum(room, 0.0) * part, 0.0)
        flow[:, every, less] -= amount
        flow[:, every, more] += amount
        children.wish[:, chosen] = flow

    def _winners(self, ratings: Ratings, count: int) -> IntArray:
        rivals: IntArray = self.rng.integers(0, len(ratings.value), (count, _TOURNAMENT))
        winners: IntArray = rivals[np.arange(count), ratings.value[rivals].argmin(axis=1)]
        return winners

    def _mutate(self, children: Genes) -> None:
        rng, segments, steps = self.rng, self.segments, self.problem.steps
        count = children.wish.shape[1]
        begin = rng.integers(0, steps, (2, 1, count, 1))
        length = rng.integers(1, steps + 1, (2, 1, count, 1))
        clock = np.arange(steps)[:, None, None]
        first, second = ((clock >= begin[i]) & (clock < begin[i] + length[i]) for i in range(2))
        # wishes over some steps: a new one, or none but the merit order's
        hit = (rng.random((1, count, segments.count)) < 1.5 / max(1, segments.count)) & first
        hit &= rng.random((count, 1)) < 0.5
        low, high = segments.low[:, None, :], segments.high[:, None, :]
        level = np.where(rng.random((1, count, segments.count)) < 0.4, 0.0, rng.random((1, count, segments.count)))
        children.wish = np.where(hit, low + level * (high - low), children.wish)
        if segments.guarded:
            lower = (rng.random((1, count, segments.count)) < 0.3) & second & (rng.random((1, count, 1)) < 0.4)
            one = np.where(rng.random((1, count, 1)) < 0.3, 1.0, rng.random((1, count, 1)))
            children.ceiling = np.where(lower, one, children.ceiling)
        spread = max(self.dear - self.cheap, 1e-3)
        moved = (rng.random((count, 1)) < 0.4) & second
        change = rng.normal(0, 0.15 * spread, (1, count, children.worth.shape[2]))
        children.worth += np.where(moved, change, 0.0)
        for factors in (children.share, children.clean):
            np.multiply(factors, np.where(rng.random(count) < 0.3, rng.lognormal(0, 0.5, count), 1.0), out=factors)
            factors[rng.random(count) < 0.05] = 0.0
        if segments.committed:
            units = children.on.shape[2]
            flip = (rng.random((1, count, units)) < 1.0 / units) & second & (rng.random((count, 1)) < 0.5)
            children.on ^= flip
