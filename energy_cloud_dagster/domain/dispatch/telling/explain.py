"""A plan in sentences that an operator reads: who meets the demand of a step and why, what one more kWh costs.

All of it is read from the flows and the duals of the plan. Figures are taken over whole arrays, so that ten thousand
resources cost little; a plan of many resources is told by sums per type and the largest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.telling.outlook import goals, impossible
from energy_cloud_dagster.domain.dispatch.telling.reasons import DUAL_TOLERANCE, Reasons
from energy_cloud_dagster.domain.dispatch.telling.wording import NAMED, Clock, Units, listed

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.flows import Flows, Outcome
    from energy_cloud_dagster.domain.dispatch.problem import Floats, IntArray, Problem

__all__ = ["binding", "goals", "impossible", "sentences"]

#: Powers below this share of the largest are the solver's tolerance.
_NOTHING: Final = 1e-6
#: Up to this many resources are told by name, more by type.
_BY_NAME: Final = 30
#: The verbs of what flows out of a resource (into it), by type; generators give.
_VERBS: Final = {
    "storage": ("discharges", "charges"),
    "grid": ("imports", "exports"),
    "load": ("sheds", "sheds"),
}
_GIVES: Final = ("gives", "gives")
_IDLE: Final = ("nothing runs",)


def binding(problem: Problem, outcome: Outcome) -> tuple[tuple[str, ...], ...]:
    """Return the names of the limits that bind in each step: those of the resources in order, then the plan's.

    A limit binds where one more unit of it would save something; names are the fields of the document, such as
    ``BAT-1.capacity`` (``availability`` where that is below 1), ``GAS-1.rampRate`` or ``maxGridImport``.
    """
    limits, steps = outcome.duals.limits, problem.steps
    floor = DUAL_TOLERANCE * problem.step_hours
    rows = [row for row in _rows(problem, limits) if row[0].size]
    found: list[list[str]] = [[] for _ in range(steps)]
    if rows:
        places = np.concatenate([place for _, place, _ in rows])
        suffixes = [suffix for values, _, suffix in rows for _ in range(len(values))]
        order = np.argsort(places, kind="stable")
        at, ranks = (np.concatenate([values for values, _, _ in rows])[order] > floor).T.nonzero()
        own = zip(places[order].tolist(), order.tolist(), strict=True)
        names = [f"{problem.ids[place]}.{suffixes[row]}" for place, row in own]
        for step, rank in zip(at.tolist(), ranks.tolist(), strict=True):
            found[step].append(names[rank])
    for dual, name in (("maxGridImport",) * 2, ("reserveUp", "reserve.up"), ("reserveDown", "reserve.down")):
        if dual in limits:
            for step in (limits[dual] > floor).nonzero()[0].tolist():
                found[step].append(name)
    whole = [name for name in ("maxEmissions", "minRenewable", "maxCost") if limits.get(name, 0.0) > DUAL_TOLERANCE]
    return tuple((*each, *whole) for each in found)


def _rows(problem: Problem, limits: Mapping[str, Floats]) -> Iterator[tuple[Floats, IntArray, str]]:
    """Yield the values (n, T) of each kind of limit, per kW and step, whose they are and the document's name of it."""
    units, stores, ties, hours = problem.generators, problem.stores, problem.ties, problem.step_hours
    # a limit of nothing, such as that of the sun at night, binds nobody
    for name, family in (("generation", units), ("shed", problem.loads)):
        if name in limits:
            derated = family.availability < 1
            yield limits[name] * (~derated & (family.limit > 0)), family.place, "capacity"
            yield limits[name] * (derated & (family.limit > 0)), family.place, "availability"
    # one capacity bounds both directions
    for one, other, most, place in (
        ("discharge", "charge", stores.power, stores.place),
        ("import", "export", ties.capacity, ties.place),
    ):
        if one in limits:
            yield np.maximum(limits[one], limits[other]) * (most > 0), place, "capacity"
    for name, suffix in (("ramp", "rampRate"), ("minPower", "minPower")):
        if name in limits:
            yield limits[name], units.place, suffix
    # these are worth something per kWh
    for name, suffix in (("full", "maxSoc"), ("empty", "minSoc")):
        if name in limits:
            yield limits[name] * hours, stores.place, suffix
    if "endSoc" in limits:
        last = np.zeros((len(stores.place), problem.steps))
        last[:, -1] = limits["endSoc"] * hours
        yield last, stores.place, "endSoc"


def sentences(problem: Problem, outcome: Outcome) -> Iterator[str]:
    """Yield one sentence per step of a plan, in order."""
    flows = outcome.flows
    net = _net(problem, flows)
    peak = max(float(np.abs(net).max(initial=0.0)), float(problem.demand.max(initial=0.0)))
    units, clock = Units(peak), Clock(problem)
    # what would be written as 0 is not told
    nothing = max(_NOTHING * max(1.0, peak), units.nothing)
    reasons = Reasons(problem, outcome, units, clock, nothing)
    tell = _ByName(problem, net, units, nothing) if problem.size <= _BY_NAME else _ByType(problem, net, units, nothing)
    demands = units.powers(problem.demand)
    for step, unmet in enumerate(flows.unmet.tolist()):
        store = reasons.store(step)
        parts = tell.sources(step, None if store is None else store[0])
        if store is not None:
            parts.append(store[1])
        if unmet > nothing:
            parts.append(f"{units.power(unmet)} stays unmet")
        parts += reasons.clauses(step)
        parts.append(reasons.price_clause(step, unmet=unmet > nothing))
        yield f"{clock.name(step)}: for {demands[step]} of demand {'; '.join(parts)}."


def _net(problem: Problem, flows: Flows) -> Floats:
    """Return what each resource gives (R, T) in the document's order: storage and grid less what they take (kW)."""
    net = np.empty((problem.size, problem.steps))
    net[problem.generators.place] = flows.generation
    net[problem.stores.place] = flows.discharge - flows.charge
    net[problem.ties.place] = flows.imported - flows.exported
    net[problem.loads.place] = flows.shed
    return net


class _ByName:
    """Who gives what, the largest first, each by its name."""

    def __init__(self, problem: Problem, net: Floats, units: Units, nothing: float) -> None:
        size = np.abs(net)
        # one more than is named, as the store that is told apart may be among them; equals keep their order
        first = np.argsort(-size, axis=0, kind="stable")[: NAMED + 1].T
        columns = np.arange(net.shape[1])[:, None]
        said = [
            f"{name} {verb}"
            for name, kind in zip(problem.ids, problem.types, strict=True)
            for verb in _VERBS.get(kind, _GIVES)
        ]
        whose = (2 * first + (net[first, columns] < 0)).ravel().tolist()
        powers = units.powers(size[first, columns])
        self._texts = [f"{said[who]} {power}" for who, power in zip(whose, powers, strict=True)]
        self._first, self._width = first.tolist(), first.shape[1]
        self._active = (size > nothing).sum(axis=0).tolist()

    def sources(self, step: int, told: int | None) -> list[str]:
        """Return the part of a sentence on everything but the resource ``told``, which speaks for itself."""
        active, begin = self._active[step], step * self._width
        if told is None:
            return (
                [listed(self._texts[begin : begin + min(active, NAMED)], max(0, active - NAMED))]
                if active
                else list(_IDLE)
            )
        if active == 1:
            return []
        names = self._texts[begin : begin + min(active, self._width)]
        if told in self._first[step]:
            del names[self._first[step].index(told)]
        return [listed(names[:NAMED], active - 1 - min(len(names), NAMED))]


class _ByType:
    """Who gives what, summed over all resources of a type, and the largest of all."""

    def __init__(self, problem: Problem, net: Floats, units: Units, nothing: float) -> None:
        self._problem, self._units, self._nothing = problem, units, nothing
        self._groups: list[tuple[str, list[float], list[int]]] = []
        types = np.asarray(problem.types)
        for kind in dict.fromkeys(problem.types):
            rows = net[types == kind]
            for sign, verb in zip((1.0, -1.0), _VERBS.get(kind, _GIVES), strict=True):
                part = np.clip(sign * rows, 0.0, None)
                counts = (part > nothing).sum(axis=0)
                if counts.any():
                    self._groups.append((f"{kind} {verb}", part.sum(axis=0).tolist(), counts.tolist()))
        # a connection is alone of its type, or nearly
        sources = np.where((types == "grid")[:, None], 0.0, net).argmax(axis=0)
        self._largest = sources.tolist()
        self._most = net[sources, np.arange(problem.steps)].tolist()

    def sources(self, step: int, _told: int | None) -> list[str]:
        """Return the part of a sentence on everything that runs."""
        groups = sorted(
            ((sums[step], name, count[step]) for name, sums, count in self._groups if count[step]), reverse=True
        )
        if not groups:
            return list(_IDLE)
        parts = [
            f"{name} {self._units.power(total)}" + (f" ({count:,})" if count > 1 else "")
            for total, name, count in groups
        ]
        text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        largest = f"the largest is {self._problem.ids[self._largest[step]]} with {self._units.power(self._most[step])}"
        return [text, largest] if self._most[step] > self._nothing else [text]
