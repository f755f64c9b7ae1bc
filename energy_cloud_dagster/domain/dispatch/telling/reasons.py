"""Why a step of a plan is as it is, read from its duals: the limits that bind, the hours that a store works for.

Every figure is an array over all resources first; only the resource that matters most in a step is spoken of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.telling.wording import Clock, Units, money

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.flows import Outcome
    from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, Problem

#: A dual above this says that a limit binds (currency per kWh).
DUAL_TOLERANCE: Final = 1e-7
#: Prices that differ by less are the same price (currency per kWh).
_SAME_PRICE: Final = 1e-6
#: Limits with a reason of their own that a sentence names, the most valuable first.
_CLAUSES: Final = 2

#: The largest dual of each step and the row it is in.
_Peaks = tuple[list[float], list[int]]


class Reasons:
    """What can be said of each step of a plan; ``nothing`` is the power (kW) below which nothing flows."""

    def __init__(self, problem: Problem, outcome: Outcome, units: Units, clock: Clock, nothing: float) -> None:
        self._price, self.price = outcome.duals.price, outcome.duals.price.tolist()
        self._problem, self._flows, self._limits = problem, outcome.flows, outcome.duals.limits
        self._units, self._clock, self._nothing = units, clock, nothing
        self._prices = [money(price) for price in self.price]
        self._floor = DUAL_TOLERANCE * problem.step_hours
        # a connection that is closed does not do all it can
        self._import, self._export = (self._peaks(name, problem.ties.capacity > 0) for name in ("import", "export"))
        self._all_imports = self._series("maxGridImport")
        self._ramp, self._least = self._peaks("ramp"), self._peaks("minPower")
        self._up, self._down = self._series("reserveUp"), self._series("reserveDown")
        self._costs = self._costs_in_plan()
        self._setters = self._price_setters()
        self._curtailed = self._curtailment()
        self._trips: dict[int, list[int | None]] = {}
        self._stores, self._store_places = self._busiest_stores(), problem.stores.place.tolist()

    # -- what a sentence is made of

    def store(self, step: int) -> tuple[int, str] | None:
        """Return the store that moves most in ``step`` (its place among the resources) and why it does, if one does."""
        if self._stores is None or abs(net := self._stores[0][step]) <= self._nothing:
            return None
        row = self._stores[1][step]
        place, verb = self._store_places[row], "discharges" if net > 0 else "charges"
        text = f"{self._problem.ids[place]} {verb} {self._units.power(abs(net))} {self._trip(row, step, net > 0)}"
        if net > 0 and (limit := self._import_limit(step)) is not None:
            text += f" because {limit[0]}"
        text = text.removesuffix(",")
        return place, text

    def clauses(self, step: int) -> Iterator[str]:
        """Yield why the rest of ``step`` is as it is: connections, curtailment, ramps, least powers, reserve."""
        unit = self._units.name
        if (limit := self._import_limit(step)) is not None:
            told = self._stores is not None and self._stores[0][step] > self._nothing
            text = "" if told else f"{limit[0]}, and "
            yield f"{text}one more {unit} of import would save {self._worth(limit[1])}"
        if self._export is not None and (value := self._export[0][step]) > self._floor:
            tie = self._problem.ids[self._problem.ties.place[self._export[1][step]]]
            yield f"{tie} exports all it can, and one more {unit} of export would earn {self._worth(value)}"
        if self._curtailed is not None and (left := self._curtailed[0][step]) > self._nothing:
            yield self._why_curtailed(step, left, self._curtailed[1][step], full=self._curtailed[2][step])
        tight = list(self._tight(step))
        if len(tight) > _CLAUSES:
            tight = sorted(tight, key=lambda each: -each[0])[:_CLAUSES]
        for _, text in tight:
            yield text

    def price_clause(self, step: int, *, unmet: bool) -> str:
        """Return what one more kWh of demand would cost in ``step``, and who would give it."""
        if unmet:
            return "one more kWh of demand would stay unmet too"
        price = self._prices[step]
        text = f"one more kWh would save {price[1:]}" if price[0] == "-" else f"one more kWh would cost {price}"
        row = self._setters[step]
        return text if row < 0 else f"{text} ({self._setter(row)})"

    # -- limits

    def _peaks(self, name: str, where: BoolArray | None = None) -> _Peaks | None:
        values = self._limits.get(name)
        if values is not None and where is not None:
            values = values * where
        if values is None or not values.size or values.max() <= self._floor:
            return None
        rows = values.argmax(axis=0)
        return values[rows, np.arange(values.shape[1])].tolist(), rows.tolist()

    def _series(self, name: str) -> list[float] | None:
        values = self._limits.get(name)
        return None if values is None or not values.size or values.max() <= self._floor else values.tolist()

    def _worth(self, value: float) -> str:
        return money(value * self._units.factor)

    def _import_limit(self, step: int) -> tuple[str, float] | None:
        own = 0.0 if self._import is None else self._import[0][step]
        every = 0.0 if self._all_imports is None else self._all_imports[step]
        if max(own, every) <= self._floor:
            return None
        if every >= own or self._import is None:
            return "maxGridImport allows no more import", every
        return f"{self._problem.ids[self._problem.ties.place[self._import[1][step]]]} imports all it can", own

    def _tight(self, step: int) -> Iterator[tuple[float, str]]:
        ids, place, unit = self._problem.ids, self._problem.generators.place, self._units.name
        if self._ramp is not None and (value := self._ramp[0][step]) > self._floor:
            unit_id = ids[place[self._ramp[1][step]]]
            worth = f"one more {unit} per step would save {self._worth(value)}"
            yield value, f"{unit_id} changes as fast as its rampRate allows, and {worth}"
        if self._least is not None and (value := self._least[0][step]) > self._floor:
            row = self._least[1][step]
            power = float(self._problem.generators.min_power[row, step])
            least, worth = self._units.power(power), f"one {unit} less of it would save {self._worth(value)}"
            if power > self._nothing:
                yield value, f"{ids[place[row]]} runs at its minPower of {least}, and {worth}"
        for name, values in (("up", self._up), ("down", self._down)):
            if values is not None and (value := values[step]) > self._floor:
                yield value, f"each {unit} of reserve {name} costs {self._worth(value)}"

    # -- who sets the price

    def _costs_in_plan(self) -> tuple[Floats, Floats]:
        """Return what a kWh of each generator and each import costs, shares and emissions at what they are worth."""
        problem, units, ties = self._problem, self._problem.generators, self._problem.ties
        sourced, bought = units.cost, ties.cost
        if (worth := float(self._limits.get("minRenewable", 0.0))) > DUAL_TOLERANCE:
            share = problem.constraints.min_renewable or 0.0
            sourced, bought = sourced + worth * (share - units.renewable[:, None]), bought + worth * share
        if (worth := float(self._limits.get("maxEmissions", 0.0))) > DUAL_TOLERANCE:
            sourced, bought = sourced + worth * units.emissions, bought + worth * ties.emissions
        return sourced, bought

    def _price_setters(self) -> list[int]:
        """Return per step the first row that is neither at nothing nor at its limit and costs the price; -1: none.

        The rows are generators, imports, exports, sheds.
        """
        problem, flows, (sourced, bought) = self._problem, self._flows, self._costs
        units, ties, loads = problem.generators, problem.ties, problem.loads
        flow = np.concatenate((flows.generation, flows.imported, flows.exported, flows.shed))
        if not flow.size:
            return [-1] * problem.steps
        most = np.concatenate((units.limit, ties.capacity, ties.capacity, loads.limit))
        above = np.concatenate((sourced, bought, ties.export_price, loads.cost)) - self._price
        # no price for exports is NaN, which is near nothing
        sets = (flow > self._nothing) & (flow < most - self._nothing) & (np.abs(above) <= _SAME_PRICE)
        rows: list[int] = np.where(sets.any(axis=0), sets.argmax(axis=0), -1).tolist()
        return rows

    def _setter(self, row: int) -> str:
        problem = self._problem
        units, ties = len(problem.generators.place), len(problem.ties.place)
        if row < units:
            return f"from {problem.ids[problem.generators.place[row]]}"
        row -= units
        if row < 2 * ties:
            name = problem.ids[problem.ties.place[row % ties]]
            return f"imported over {name}" if row < ties else f"kept from export over {name}"
        return f"shed by {problem.ids[problem.loads.place[row - 2 * ties]]}"

    # -- curtailment

    def _curtailment(self) -> tuple[list[float], list[int], list[bool]] | None:
        """Return per step what renewables could give and do not (kW), who does so most, and whether stores are full."""
        units, stores = self._problem.generators, self._problem.stores
        left = units.limit - self._flows.generation
        left *= units.renewable[:, None]
        total = left.sum(axis=0)
        if not total.size or total.max() <= self._nothing:
            return None
        level, size = self._flows.stored, stores.energy[:, None]
        taken = (level >= stores.max_soc * size - self._nothing) | (self._flows.charge >= stores.power - self._nothing)
        return total.tolist(), left.argmax(axis=0).tolist(), taken.all(axis=0).tolist()

    def _why_curtailed(self, step: int, left: float, row: int, *, full: bool) -> str:
        problem = self._problem
        most = problem.ids[problem.generators.place[row]]
        text = f"{self._units.power(left)} of renewables stay unused, most at {most}, because "
        units = self._problem.generators
        least, runs = float(units.min_power[row, step]), self._flows.generation[row, step] > self._nothing
        if not runs and least > units.limit[row, step]:
            return f"{text}it could not reach its minPower of {self._units.power(least)}"
        ramps, price, cost = self._limits.get("ramp"), self.price[step], float(self._costs[0][row, step])
        if ramps is not None and ramps[row, step : step + 2].max() > self._floor:
            return f"{text}its rampRate holds it"
        if self._up is not None and self._up[step] > self._floor:
            return f"{text}they are kept as reserve"
        if price > cost + _SAME_PRICE and least > 0 and not runs:
            return f"{text}it would have to give its minPower of {self._units.power(least)} at least"
        if price > cost + _SAME_PRICE:
            return f"{text}other limits of the plan hold them"
        reasons = ["the stores take no more"] if full and len(problem.stores.place) else []
        if self._export is not None and self._export[0][step] > self._floor:
            reasons.append("no more can be exported")
        if reasons:
            return text + " and ".join(reasons)
        if price > cost - _SAME_PRICE:
            return f"{text}nothing takes them for more than their cost of {money(cost)}"
        return f"{text}a kWh is worth {self._prices[step]} there and costs {money(cost)}"

    # -- stores

    def _busiest_stores(self) -> _Peaks | None:
        if not self._flows.charge.size:
            return None
        net = self._flows.discharge - self._flows.charge
        rows = np.abs(net).argmax(axis=0)
        return net[rows, np.arange(net.shape[1])].tolist(), rows.tolist()

    def _trip(self, row: int, step: int, supplies: bool) -> str:
        """Return the other half of what a store does: where its kWh goes to, or came from."""
        if row not in self._trips:
            self._trips[row] = self._partners(row)
        other, tight = self._trips[row][step], self._limits.get("discharge" if supplies else "charge")
        text = "at full power " if tight is not None and tight[row, step] > self._floor else ""
        text += f"at {self._prices[step]} per kWh"
        if other is None:
            ends = self._limits.get("endSoc")
            if supplies:
                return f"{text}, of what it held"
            if ends is not None and ends[row] > DUAL_TOLERANCE:
                return f"{text} to end as full as it must"
            least = self._limits.get("empty")
            return (
                f"{text} to keep its minSoc" if least is not None and least[row, step:].max() > DUAL_TOLERANCE else text
            )
        there, when = self._prices[other], self._clock.seen_from(step, other)
        if not supplies:
            return f"{text} to discharge at {there} {when}"
        return f"{text}, {'charged' if other < step else 'to be charged again'} at {there} {when},"

    def _partners(self, row: int) -> list[int | None]:
        """Return per step the step that a store charges for, or discharges from, at the best price; None: the ends.

        A kWh reaches a later discharge as long as the store is never empty in between; what is discharged first can
        be charged later as long as it is never full in between.
        """
        price, stores, flows = self.price, self._problem.stores, self._flows
        size = float(stores.energy[row])
        charge, discharge = flows.charge[row].tolist(), flows.discharge[row].tolist()
        empty = (flows.stored[row] <= stores.min_soc[row] * size + self._nothing).tolist()
        full = (flows.stored[row] >= stores.max_soc[row] * size - self._nothing).tolist()
        partners: list[int | None] = [None] * len(price)
        best: int | None = None
        refill: int | None = None
        for step in range(len(price) - 1, -1, -1):
            best, refill = None if empty[step] else best, None if full[step] else refill
            if charge[step] > self._nothing:
                partners[step] = best
                refill = step if refill is None or price[step] < price[refill] else refill
            elif discharge[step] > self._nothing:
                partners[step] = refill
                best = step if best is None or price[step] > price[best] else best
        source: int | None = None
        for step in range(len(price)):
            source = None if step and empty[step - 1] else source
            if charge[step] > self._nothing:
                source = step if source is None or price[step] < price[source] else source
            elif discharge[step] > self._nothing and source is not None:
                partners[step] = source
        return partners
