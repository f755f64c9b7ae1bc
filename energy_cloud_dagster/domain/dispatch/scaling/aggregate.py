"""One resource for many that are alike: exactly where they are identical up to their size, nearly where they are not.

The sum of n identical convex sets is n times one of them, so identical resources lose nothing by being one: the plan
of the sum is shared out in proportion and costs the same. That holds for generators, stores and loads; units with a
least power, grid connections and resources of different priority are never merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, Generators, IntArray, Loads, Problem, Stores

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.flows import Duals, Flows

#: Fewer resources are not worth a look for identical ones, nor is a problem that would keep more than this share.
LEAST_RESOURCES: Final = 200
_PAYS: Final = 0.7
#: Digits to which two parameters agree that were meant to be one.
_DIGITS: Final = 12
#: Resources that :func:`alike` keeps of each family at most: enough for prices, few enough for a quick solve.
_MOST_FREE: Final = 128
_MOST_RAMPED: Final = 128
_MOST_STORES: Final = 128
_MOST_LOADS: Final = 32
#: Stores of so many efficiencies are kept apart by them, so that the merged problem is a relaxation.
_MOST_KINDS: Final = 4
#: It puts about this many into one.
_LEAST_PER_GROUP: Final = 5
_COST_WEIGHT: Final = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """``problem`` in which each generator, store and load stands for a group of ``whole``'s; ties are as they were.

    ``units`` (G,), ``stores`` (S,) and ``loads`` (L,) give the row in ``problem`` that a row of ``whole`` went into.
    """

    whole: Problem
    problem: Problem
    units: IntArray
    stores: IntArray
    loads: IntArray

    @property
    def pays(self) -> bool:
        """Whether ``problem`` is much smaller than ``whole``."""
        return self.problem.size <= _PAYS * self.whole.size

    @property
    def loosens(self) -> bool:
        """Whether every plan of ``whole``, added up, is one of ``problem``: what is impossible here is so there."""
        whole, small = self.whole, self.problem
        same_losses = (small.stores.efficiency[self.stores] == whole.stores.efficiency).all()
        same_emissions = whole.constraints.max_emissions is None or bool(
            (small.generators.emissions[self.units] == whole.generators.emissions).all()
        )
        return bool(same_losses) and same_emissions and whole.constraints.max_cost is None

    def dropped(self, names: frozenset[str]) -> frozenset[str]:
        """Return what ``problem`` leaves out where ``whole`` leaves out ``names``: what one member of a group does."""
        whole, small = self.whole, self.problem
        if not any("." in name for name in names):
            return names
        called = dict(zip(whole.ids, whole.ids, strict=True))
        for places, rows, group in (
            (whole.generators.place, self.units, small.generators.place),
            (whole.stores.place, self.stores, small.stores.place),
            (whole.loads.place, self.loads, small.loads.place),
        ):
            called |= {
                whole.ids[place]: small.ids[mine]
                for place, mine in zip(places.tolist(), group[rows].tolist(), strict=True)
            }
        split = (name.rpartition(".") for name in names)
        return frozenset(called.get(own, own) + dot + limit for own, dot, limit in split)

    def spread(self, flows: Flows) -> Flows:
        """Return the flows of ``whole``: each takes the share of its group's flow that its headroom is of the group's.

        Headroom is the limit in the step for generators and loads, the size for ramps and stores, so that no limit is
        passed. The result is a plan of ``whole`` only where the groups are of identical resources.
        """
        whole, small = self.whole, self.problem
        generation = _scaled(flows.generation, self.units, _share(whole.generators, small.generators, self.units))
        energy = (whole.stores.energy / small.stores.energy[self.stores])[:, None]
        shed = _scaled(flows.shed, self.loads, _ratio(whole.loads.limit, small.loads.limit[self.loads]))
        return replace(
            flows,
            generation=np.minimum(generation, whole.generators.limit),
            charge=np.minimum(flows.charge[self.stores] * energy, whole.stores.power),
            discharge=np.minimum(flows.discharge[self.stores] * energy, whole.stores.power),
            stored=flows.stored[self.stores] * energy,
            shed=np.minimum(shed, whole.loads.limit),
            on=None if flows.on is None else flows.on[self.units],
        )

    def spread_duals(self, duals: Duals) -> Duals:
        """Return the duals of ``whole``: one more unit of a limit saves the same in each member of a group."""
        rows: Mapping[str, IntArray] = {
            **dict.fromkeys(("generation", "ramp", "minPower"), self.units),
            **dict.fromkeys(("charge", "discharge", "full", "empty", "endSoc"), self.stores),
            "shed": self.loads,
        }
        limits = {name: value[rows[name]] if name in rows else value for name, value in duals.limits.items()}
        return replace(duals, limits=limits)


def exact(problem: Problem) -> Aggregate:
    """Return ``problem`` with identical resources merged: its optimum costs what that of ``problem`` does.

    Generators without a ramp rate are identical if they cost and emit the same, whatever their limits are; those with
    one, and stores, if all their parameters are in the proportion of their sizes; loads if they cost the same.
    """
    units, stores, loads = problem.generators, problem.stores, problem.loads
    ramped, committed = _ramped(units), units.min_power.any(axis=1)
    priority = problem.priority.astype(np.float64)
    size = np.where(ramped, units.limit.max(axis=1, initial=0.0), 1.0)[:, None]
    scale = np.where(size > 0, size, 1.0)
    nothing = np.zeros(units.limit.shape)
    merged_units = _identical(
        np.where(committed, np.arange(len(committed)), -1.0),
        units.renewable,
        priority[units.place],
        units.cost,
        units.emissions,
        np.where(ramped[:, None], units.limit / scale, nothing),
        np.where(ramped[:, None], units.ramp / scale, nothing),
        np.where(ramped, units.initial / scale[:, 0], 0.0),
    )
    energy = stores.energy[:, None]
    merged_stores = _identical(
        *(stores.soc, stores.end_soc, stores.efficiency),
        *(stores.cost, stores.min_soc, stores.max_soc, stores.power / energy),
    )
    merged_loads = _identical(priority[loads.place], loads.cost)
    return _merged(problem, merged_units, merged_stores, merged_loads)


def alike(problem: Problem) -> Aggregate:
    """Return a problem of at most a few hundred resources whose prices are near those of ``problem``.

    Resources that are near each other in cost, duration and state are merged, with the mean of what differs.
    """
    units, stores, loads = problem.generators, problem.stores, problem.loads
    ramped, committed = _ramped(units), units.min_power.any(axis=1)
    cost, shape = _profile(units.cost)
    size = np.maximum(units.limit.max(axis=1, initial=0.0), 1e-9)
    pace = np.where(ramped, np.minimum(units.ramp, size[:, None]).mean(axis=1) / size, 0.0)
    begin = np.where(np.isnan(units.initial), 0.0, units.initial) / size
    features = np.stack([cost, shape, units.emissions.mean(axis=1), pace, begin], axis=1)
    family = 4 * ramped + 2 * np.isnan(units.initial) + units.renewable
    labels = _near(family, features, np.where(ramped, _MOST_RAMPED, _MOST_FREE))
    # units with a least power stay alone
    labels = np.where(committed, labels.max(initial=0) + 1 + np.arange(len(labels)), labels)
    cost, shape = _profile(stores.cost)
    duration = stores.energy / np.maximum(stores.power.mean(axis=1), 1e-9)
    state = [stores.soc, stores.end_soc, stores.min_soc.mean(axis=1), stores.max_soc.mean(axis=1)]
    features = np.stack([cost, shape, np.minimum(duration, 1e6), stores.efficiency, *state], axis=1)
    kinds, family = np.unique(stores.efficiency, return_inverse=True)
    if kinds.size > _MOST_KINDS:
        family = np.zeros(len(features), np.int64)
    merged_stores = _near(family, features, np.full(len(features), _MOST_STORES))
    features = np.stack(_profile(loads.cost), axis=1)
    merged_loads = _near(np.zeros(len(features), np.int64), features, np.full(len(features), _MOST_LOADS))
    return _merged(problem, _numbered(labels), merged_stores, merged_loads)


# -- groups


def _ramped(units: Generators) -> BoolArray:
    ramped: BoolArray = np.isfinite(units.ramp).any(axis=1)
    return ramped


def _identical(*parts: Floats | BoolArray) -> IntArray:
    """Number rows that agree in all ``parts``, (n,) or (n, T), in the order of their first members."""
    count = len(parts[0])
    if not count:
        return np.zeros(0, np.int64)
    columns: list[Floats] = []
    for part in parts:
        table = np.asarray(part, np.float64).reshape(count, -1)
        # series are constant more often than not, and a row that is one number is compared as one
        constant = table.shape[1] > 1 and bool((table == table[:, :1]).all())
        columns.append(table[:, :1] if constant else table)
    table = _rounded(np.concatenate(columns, axis=1))
    rows = np.ascontiguousarray(table).view(np.dtype((np.void, table.dtype.itemsize * table.shape[1]))).ravel()
    return _numbered(np.unique(rows, return_inverse=True)[1].astype(np.int64))


def _rounded(table: Floats) -> Floats:
    """Round to significant digits, so that one number computed in two ways stays one; nan and -0.0 have one form."""
    finite = np.isfinite(table) & (table != 0.0)
    digits = np.where(finite, np.floor(np.log10(np.abs(np.where(finite, table, 1.0)))), 0.0)
    unit = 10.0 ** (digits - (_DIGITS - 1))
    rounded: Floats = np.where(finite, np.round(table / unit) * unit, np.where(np.isnan(table), np.nan, table + 0.0))
    return rounded


def _numbered(labels: IntArray) -> IntArray:
    """Renumber ``labels`` from 0 in the order of their first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse]


def _profile(cost: Floats) -> tuple[Floats, Floats]:
    """Return the mean of each series and where its weight lies, which is 0 for a constant one."""
    steps = cost.shape[1]
    slant = np.linspace(-1.0, 1.0, steps) if steps > 1 else np.zeros(steps)
    return cost.mean(axis=1), cost @ slant / max(steps, 1)


def _near(family: IntArray, features: Floats, most: IntArray) -> IntArray:
    """Number groups of near rows within each family: halves of halves along the widest feature."""
    labels = np.zeros(len(features), np.int64)
    spread = features.std(axis=0) if len(features) else np.ones(features.shape[1])
    scaled = features / np.where(spread > 0, spread, 1.0)
    # costs set prices, the rest only when they apply
    scaled[:, 0] *= _COST_WEIGHT
    count = 0
    for each in np.unique(family).tolist():
        rows = np.flatnonzero(family == each)
        wanted = min(int(most[rows[0]]), max(1, len(rows) // _LEAST_PER_GROUP))
        for group in _halves(rows, scaled, wanted):
            labels[group] = count
            count += 1
    return _numbered(labels)


def _halves(rows: IntArray, features: Floats, wanted: int) -> Iterator[IntArray]:
    if wanted <= 1 or len(rows) < 2:
        yield rows
        return
    widest = int(np.ptp(features[rows], axis=0).argmax())
    ordered = rows[np.argsort(features[rows, widest], kind="stable")]
    first = wanted // 2
    cut = len(rows) * first // wanted
    yield from _halves(ordered[:cut], features, first)
    yield from _halves(ordered[cut:], features, wanted - first)


# -- merging


class _Groups:
    """Sums and means over the rows with one label."""

    def __init__(self, labels: IntArray) -> None:
        self.order = np.argsort(labels, kind="stable")
        self.size = int(labels.max(initial=-1)) + 1
        self.begin = np.searchsorted(labels[self.order], np.arange(self.size))
        self.first = self.order[self.begin]
        self.labels = labels

    def total(self, values: Floats) -> Floats:
        if not self.size:
            return values
        total: Floats = np.add.reduceat(values[self.order], self.begin, axis=0)
        return total

    def mean(self, values: Floats, weight: Floats) -> Floats:
        """Return the weighted mean, which is exactly the value where all members have one value."""
        base = values[self.first]
        away = values - base[self.labels]
        if not away.any():
            return base
        return base + _ratio(self.total(away * weight), self.total(weight))


def _merged(whole: Problem, unit_rows: IntArray, store_rows: IntArray, load_rows: IntArray) -> Aggregate:
    units, stores, loads = _Groups(unit_rows), _Groups(store_rows), _Groups(load_rows)
    old, kept, shed = whole.generators, whole.stores, whole.loads
    places = np.concatenate(
        [old.place[units.first], kept.place[stores.first], whole.ties.place, shed.place[loads.first]]
    )
    kinds = np.cumsum([0, units.size, stores.size, len(whole.ties.place)])
    order = np.argsort(places, kind="stable")
    place = np.empty(len(places), np.int64)
    place[order] = np.arange(len(places))
    chosen = places[order].tolist()
    limit, capacity = units.total(old.limit), units.total(old.capacity)
    floor = 1e-9
    generators = Generators(
        place=place[: kinds[1]],
        renewable=old.renewable[units.first],
        capacity=capacity,
        availability=_ratio(limit, capacity),
        limit=limit,
        cost=units.mean(old.cost, old.limit + floor),
        emissions=units.mean(old.emissions, old.limit + floor),
        min_power=old.min_power[units.first],
        ramp=units.total(old.ramp),
        initial=units.total(old.initial),
    )
    energy, power = kept.energy, kept.power
    held = energy[:, None]
    sums = Stores(
        place=place[kinds[1] : kinds[2]],
        power=stores.total(power),
        energy=stores.total(energy),
        soc=stores.mean(kept.soc, energy),
        efficiency=stores.mean(kept.efficiency, energy),
        cost=stores.mean(kept.cost, power + floor),
        min_soc=stores.mean(kept.min_soc, np.broadcast_to(held, power.shape)),
        max_soc=stores.mean(kept.max_soc, np.broadcast_to(held, power.shape)),
        end_soc=stores.mean(kept.end_soc, energy),
    )
    limit, capacity = loads.total(shed.limit), loads.total(shed.capacity)
    small = replace(
        whole,
        ids=tuple(whole.ids[each] for each in chosen),
        types=tuple(whole.types[each] for each in chosen),
        priority=whole.priority[places[order]],
        generators=generators,
        stores=sums,
        ties=replace(whole.ties, place=place[kinds[2] : kinds[3]]),
        loads=Loads(
            place=place[kinds[3] :],
            capacity=capacity,
            availability=_ratio(limit, capacity),
            limit=limit,
            cost=loads.mean(shed.cost, shed.limit + floor),
        ),
    )
    return Aggregate(whole, small, unit_rows, store_rows, load_rows)


def _share(one: Generators, group: Generators, rows: IntArray) -> Floats:
    """Return the part (G, T) of the group's output that each member gives."""
    by_limit = _ratio(one.limit, group.limit[rows])
    # outputs that ramp keep one proportion over all steps
    size = _ratio(one.limit.max(axis=1, initial=0.0), group.limit.max(axis=1, initial=0.0)[rows])[:, None]
    return np.where(_ramped(one)[:, None], size, by_limit)


def _scaled(values: Floats, rows: IntArray, share: Floats) -> Floats:
    return values[rows] * share


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Return ``part / whole``, 0 where ``whole`` is."""
    ratio: Floats = np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole != 0)
    return ratio
