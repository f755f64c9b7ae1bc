"""A whole population of rough plans made feasible at once: merit order, storage, ramps and connections, step by step.

A plan is cut into segments, each a flow between two limits at one price: output, import, export (below 0), shed,
discharge and charge (below 0). Starting from each plan's own wishes, every step is balanced by moving the segments in
the order of what they cost: that is the optimum of a lone step, and what is left to search is what ties steps together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, Problem

#: Equal costs are ordered by priority: what is curtailed or shed last is raised first.
_PRIORITY_WEIGHT = 1e-9


@dataclass(slots=True)
class Genes:
    """What distinguishes P plans of n segments: wishes, and the worth of what couples steps.

    ``wish`` (T, P, n) is where a segment starts (kW; the balance moves it). ``worth`` (T, P, S) is the value
    of a stored kWh, ``share`` and ``clean`` (P,) what a kWh of renewables and a unit of emissions less are worth;
    ``on`` (T, P, G) says which units with a least power run. ``ceiling`` (T, P, n) is the share of what it could give
    that a segment is let give, which emissions and reserve ask for; (T, P, 1) where they do not.
    """

    wish: Floats
    worth: Floats
    share: Floats
    clean: Floats
    on: BoolArray
    ceiling: Floats

    def take(self, chosen: np.ndarray) -> Genes:
        """Return copies of the plans ``chosen``, by index or mask."""
        return Genes(*(each[..., chosen] if each.ndim == 1 else each[:, chosen] for each in self.each()))

    def joined(self, other: Genes) -> Genes:
        """Return these plans followed by ``other``."""
        pairs = zip(self.each(), other.each(), strict=True)
        return Genes(*(np.concatenate(pair, axis=0 if pair[0].ndim == 1 else 1) for pair in pairs))

    def each(self) -> tuple[Any, ...]:
        """Return the arrays in their order."""
        return self.wish, self.worth, self.share, self.clean, self.on, self.ceiling


@dataclass(slots=True)
class Plans:
    """P repaired plans: ``flow`` (T, P, n) kW, ``stored`` (T, P, S) kWh, ``left`` (T, P) kW that no segment gives.

    Where ``left`` is above 0 demand stays unmet; below 0 there is more than anything takes, which no plan may have.
    """

    flow: Floats
    stored: Floats
    left: Floats


class Segments:
    """The segments of ``problem``, and the repair of genes to plans."""

    def __init__(self, problem: Problem) -> None:
        units, ties, loads, stores = problem.generators, problem.ties, problem.loads, problem.stores
        self.problem = problem
        sizes = [len(units.place), len(ties.place), len(ties.place), len(loads.place), *[len(stores.place)] * 2]
        edges = np.cumsum([0, *sizes]).tolist()
        self.units, self.imports, self.exports, self.sheds, self.gives, self.takes = (
            slice(low, high) for low, high in pairwise(edges)
        )
        self.count = edges[-1]
        shape = (problem.steps, self.count)
        self.low, self.high, self.cost, self.emissions = (np.zeros(shape) for _ in range(4))
        self.ramp = units.ramp.T
        self._most = _reachable(problem)
        self.high[:, self.units] = self._most
        self.high[:, self.imports] = _import_limits(problem)
        self.low[:, self.exports] = -np.where(ties.exports[:, None], ties.capacity, 0.0).T
        self.high[:, self.sheds] = loads.limit.T
        self.high[:, self.gives], self.low[:, self.takes] = stores.power.T, -stores.power.T
        self.cost[:, self.units], self.cost[:, self.imports] = units.cost.T, ties.cost.T
        self.cost[:, self.exports] = np.where(ties.exports[:, None], ties.export_price, 0.0).T
        self.cost[:, self.sheds], self.cost[:, self.gives] = loads.cost.T, stores.cost.T
        self.emissions[:, self.units], self.emissions[:, self.imports] = units.emissions.T, ties.emissions.T
        self.renewable, self.sourced = np.zeros(self.count), np.zeros(self.count)
        self.renewable[self.units] = units.renewable
        self.sourced[self.units] = self.sourced[self.imports] = 1.0
        self.least = units.min_power.T
        self.committed = bool(units.min_power.any())
        limits = problem.constraints
        # what cannot be turned down in time and cannot be exported has to stay low before, at the price of unmet demand
        slow = ((units.ramp < units.limit) | (units.min_power > 0)).any(axis=1)
        outlet = -self.low[:, self.exports].sum(axis=1)
        stuck = slow.any() and bool((self.high[:, self.units][:, slow].sum(axis=1) > outlet).any())
        #: Whether a plan may have to give less than it could.
        self.guarded = stuck or limits.max_emissions is not None or limits.reserve_up is not None
        self._order = np.zeros(self.count)
        self._order[self.units] = -_PRIORITY_WEIGHT * problem.priority[units.place]
        self._order[self.sheds] = _PRIORITY_WEIGHT * problem.priority[loads.place]
        self._one_way = np.sqrt(stores.efficiency)
        size = stores.energy[:, None]
        #: Least and most (T, S) kWh after each step, the end state among them.
        self.least_stored, self.most_stored = (stores.min_soc * size).T.copy(), (stores.max_soc * size).T
        self.least_stored[-1:] = np.maximum(self.least_stored[-1:], stores.end_soc * stores.energy)
        self._least_safe, self._most_safe = self._safe_contents()

    def _safe_contents(self) -> tuple[Floats, Floats]:
        """Return the least and most (T, S) kWh after each step from which all later limits are within reach.

        Where the rest of the plant gives less than all stores can take, each counts on its part of it.
        """
        stores, hours, eta = self.problem.stores, self.problem.step_hours, self._one_way
        least, most, power = self.least_stored.copy(), self.most_stored.copy(), stores.power.T
        supply = self.high[:, : self.gives.start].sum(axis=1)
        part = np.minimum(1.0, supply / np.maximum(power.sum(axis=1), 1e-12))
        for step in range(self.problem.steps - 2, -1, -1):
            change = power[step + 1] * hours
            least[step] = np.maximum(least[step], least[step + 1] - part[step + 1] * change * eta)
            most[step] = np.minimum(most[step], most[step + 1] + change / eta)
        return least, most

    def repair(self, genes: Genes) -> Plans:
        """Return the plans that ``genes`` become; only what ``left`` holds and the goals can still be wrong."""
        problem, hours, eta = self.problem, self.problem.step_hours, self._one_way
        steps, population, _ = genes.wish.shape
        flow = np.empty(genes.wish.shape)
        stored = np.empty((steps, population, len(eta)))
        left = np.empty((steps, population))
        share = problem.constraints.min_renewable or 0.0
        extra = genes.share[:, None] * (share * self.sourced - self.renewable) + self._order
        content = np.broadcast_to(problem.stores.energy * problem.stores.soc, (population, len(eta)))
        before = np.broadcast_to(problem.generators.initial, (population, len(problem.generators.place)))
        for step in range(steps):
            low = np.repeat(self.low[step][None], population, axis=0)
            high = np.repeat(self.high[step][None], population, axis=0)
            self._bound_units(step, genes, before, low, high)
            self._bound_stores(step, content, low, high)
            if self.guarded:
                high = np.where(self.low[step] < 0, high, low + genes.ceiling[step] * (high - low))
            key = self.cost[step] + extra + genes.clean[:, None] * self.emissions[step]
            worth = genes.worth[step]
            key[:, self.gives] += worth / eta
            key[:, self.takes] += worth * eta
            wish = np.minimum(np.maximum(genes.wish[step], low), high)
            need = problem.demand[step] - wish.sum(axis=1)
            here = _balanced(wish, low, high, key, need)
            for forward, backward in ((self.imports, self.exports), (self.gives, self.takes)):
                both = np.minimum(here[:, forward], -here[:, backward])
                here[:, forward] -= both
                here[:, backward] += both
            flow[step], left[step] = here, problem.demand[step] - here.sum(axis=1)
            content = content - (here[:, self.takes] * eta + here[:, self.gives] / eta) * hours
            stored[step], before = content, here[:, self.units]
        return Plans(flow, stored, left)

    # -- reserve

    def room_up(self, plans: Plans) -> Floats:
        """Return the kW (T, P) that each step can add: units by limit and ramp, stores by power and content, ties."""
        units, stores, hours = self.problem.generators, self.problem.stores, self.problem.step_hours
        given = plans.flow[:, :, self.units]
        unit = np.minimum(units.limit.T[:, None] - given, self.ramp[:, None])
        if self.committed:
            unit = np.where((self.least[:, None] > 0) & (given <= 0), 0.0, unit)
        net = plans.flow[:, :, self.gives] + plans.flow[:, :, self.takes]
        content = plans.stored - (stores.min_soc * stores.energy[:, None]).T[:, None]
        store = np.minimum(stores.power.T[:, None] - net, content * self._one_way / hours)
        ties = plans.flow[:, :, self.imports] + plans.flow[:, :, self.exports]
        tie = self.problem.ties.capacity.T[:, None] - ties
        imported = self.problem.constraints.max_grid_import
        free = np.inf if imported is None else imported[:, None] - ties.sum(axis=2)
        room: Floats = unit.sum(axis=2) + store.sum(axis=2) + np.minimum(tie.sum(axis=2), free)
        return room

    def room_down(self, plans: Plans) -> Floats:
        """Return the kW (T, P) that each step can take, as :meth:`room_up`."""
        stores, ties, hours = self.problem.stores, self.problem.ties, self.problem.step_hours
        given = plans.flow[:, :, self.units]
        unit = np.minimum(given - np.where(given > 0, self.least[:, None], 0.0), self.ramp[:, None])
        net = plans.flow[:, :, self.gives] + plans.flow[:, :, self.takes]
        content = (stores.max_soc * stores.energy[:, None]).T[:, None] - plans.stored
        store = np.minimum(stores.power.T[:, None] + net, content / (self._one_way * hours))
        tie = plans.flow[:, :, self.imports] + plans.flow[:, :, self.exports]
        tie = tie + np.where(ties.exports[:, None], ties.capacity, 0.0).T[:, None]
        room: Floats = unit.sum(axis=2) + store.sum(axis=2) + tie.sum(axis=2)
        return room

    # -- limits of one step, given the one before

    def _bound_units(self, step: int, genes: Genes, before: Floats, low: Floats, high: Floats) -> None:
        ramp = self.ramp[step]
        # nan, where nothing is known of the time before, bounds nothing
        floor = np.fmax(before - ramp, 0.0)
        ceiling = np.fmin(before + ramp, self._most[step])
        if self.committed:
            least = self.least[step]
            runs = (genes.on[step] | (floor > 0)) & (ceiling >= least)
            floor = np.where((least > 0) & runs, np.maximum(floor, least), floor)
            ceiling = np.where((least > 0) & ~runs, 0.0, ceiling)
        low[:, self.units] = np.minimum(floor, ceiling)
        high[:, self.units] = ceiling

    def _bound_stores(self, step: int, content: Floats, low: Floats, high: Floats) -> None:
        """Keep what is stored where every later limit, the last one too, can still be reached."""
        power, eta, hours = self.problem.stores.power[:, step], self._one_way, self.problem.step_hours
        above = content - self._least_safe[step]
        below = self._most_safe[step] - content
        # above its limit a store must give, below it must take
        most = np.minimum(np.where(above >= 0, above * eta, above / eta) / hours, power)
        least = -np.minimum(np.where(below >= 0, below / eta, below * eta) / hours, power)
        most = np.maximum(most, least)
        high[:, self.gives], low[:, self.gives] = np.maximum(most, 0.0), np.maximum(least, 0.0)
        high[:, self.takes], low[:, self.takes] = np.minimum(most, 0.0), np.minimum(least, 0.0)


def _balanced(flow: Floats, low: Floats, high: Floats, key: Floats, need: Floats) -> Floats:
    """Raise the cheapest segments (P, n) by ``need`` (P,) kW, or lower the dearest where it is below 0."""
    up = (need > 0)[:, None]
    room = np.where(up, high - flow, flow - low)
    order = np.argsort(np.where(up, key, -key), axis=1, kind="stable")
    rooms = np.take_along_axis(room, order, axis=1)
    before = np.cumsum(rooms, axis=1) - rooms
    moved = np.empty(flow.shape)
    np.put_along_axis(moved, order, np.clip(np.abs(need)[:, None] - before, 0.0, rooms), axis=1)
    return np.where(up, flow + moved, flow - moved)


def _reachable(problem: Problem) -> Floats:
    """Return the most (T, G) that units may give, within their ramps before and after; 0 where one must be off."""
    units = problem.generators
    most, least, ramp = units.limit.T.copy(), units.min_power.T, units.ramp.T
    before = np.where(np.isnan(units.initial), np.inf, units.initial)
    for step in range(problem.steps):
        most[step] = np.minimum(most[step], before + ramp[step])
        most[step][most[step] < least[step]] = 0.0
        before = most[step]
    for step in range(problem.steps - 2, -1, -1):
        most[step] = np.minimum(most[step], most[step + 1] + ramp[step + 1])
        most[step][most[step] < least[step]] = 0.0
    return most


def _import_limits(problem: Problem) -> Floats:
    """Return the most (T, K) that each connection imports; a common limit goes to the cheapest first."""
    ties, limits = problem.ties, problem.constraints
    most = ties.capacity.T.copy()
    if limits.max_grid_import is None or not most.size:
        return most
    order = np.argsort(ties.cost.T, axis=1, kind="stable")
    wanted = np.take_along_axis(most, order, axis=1)
    before = np.cumsum(wanted, axis=1) - wanted
    np.put_along_axis(most, order, np.clip(limits.max_grid_import[:, None] - before, 0.0, wanted), axis=1)
    return most
