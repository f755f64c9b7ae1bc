"""Random dispatch problems with all features mixed, and what they should cost: one integer programme per goal.

The programme is written from the interface's text and the document itself: it shares no line with the package. Every
pair of flows that exclude each other has its integer, whether it would pay to run both or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any, NamedTuple

import highspy
import numpy as np

PENALTY = 10.0
RENEWABLE = ("solar", "wind", "hydro")
GENERATORS = (*RENEWABLE, "chp")
KINDS = ("solar", "wind", "hydro", "chp", "chp", "storage", "storage", "grid", "load")
#: What an earlier goal may give way by when a later one is sought, relative.
HAIR = 1e-9
WISH_HAIR = 1e-7

Terms = dict[int, float]


class Dice:
    """Numbers of one seed; in some problems they are round, which makes ties and degenerate vertices."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([5, seed])
        self.steps = int(self.rng.integers(1, 9))
        self._round = self.chance(0.4)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def number(self, low: float, high: float) -> float:
        value = float(self.rng.uniform(low, high))
        return round(value, 1 if high > 2 else 2) if self._round else value

    def series(self, low: float, high: float) -> Any:
        """Return a constant or one value per step."""
        if self.chance(0.4):
            return self.number(low, high)
        return [self.number(low, high) for _ in range(self.steps)]


def document(seed: int) -> dict[str, Any]:
    """Return the problem of this seed: one to eight steps, one to nine resources, any of the fields and limits."""
    dice = Dice(seed)
    resources = [
        _resource(dice, index, str(kind))
        for index, kind in enumerate(dice.rng.choice(KINDS, size=int(dice.rng.integers(1, 10))))
    ]
    total = sum(each["capacity"] for each in resources)
    constraints: dict[str, Any] = {}
    if dice.chance(0.4):
        constraints["minRenewable"] = dice.number(0, 0.9)
    if dice.chance(0.3):
        constraints["maxCost"] = dice.number(0.02, 0.3)
    if dice.chance(0.3):
        constraints["maxGridImport"] = dice.series(0, 80)
    if dice.chance(0.3):
        constraints["maxEmissions"] = dice.number(0.02, 0.3) * total * dice.steps
    if dice.chance(0.35):
        sides = ("up", "down") if dice.chance(0.5) else ("up",) if dice.chance(0.5) else ("down",)
        constraints["reserve"] = {side: dice.series(0, 0.1 * total) for side in sides}
    return {
        "demand": [dice.number(0, 0.8 * total) for _ in range(dice.steps)],
        "stepMinutes": int(dice.rng.choice([5, 15, 30, 60])),
        "constraints": constraints,
        "resources": resources,
        "strict": dice.chance(0.2),
    }


def _resource(dice: Dice, index: int, kind: str) -> dict[str, Any]:
    resource: dict[str, Any] = {"id": f"{kind}-{index}", "type": kind, "capacity": dice.number(10, 100)}
    resource["costPerKWh"] = dice.series(0, 0.4)
    if dice.chance(0.3):
        resource["priority"] = int(dice.rng.integers(-2, 3))
    if kind in GENERATORS:
        return resource | _generator(dice, kind, resource["capacity"])
    if kind == "storage":
        return resource | _store(dice, resource["capacity"])
    if kind == "grid":
        resource["costPerKWh"] = dice.series(-0.1 if dice.chance(0.4) else 0.05, 0.4)
        if dice.chance(0.6):
            resource["exportPrice"] = dice.series(-0.1, 0.3)
        if dice.chance(0.4):
            resource["emissionsPerKWh"] = dice.series(0, 0.6)
        return resource
    resource["capacity"] = dice.number(1, 20)
    if dice.chance(0.3):
        resource["availability"] = dice.series(0, 1)
    return resource


def _generator(dice: Dice, kind: str, size: float) -> dict[str, Any]:
    fuelled, fields = kind == "chp", dict[str, Any]()
    if dice.chance(0.2 if fuelled else 1):
        fields["availability"] = dice.series(0, 1)
    if dice.chance(0.15):
        fields["costPerKWh"] = dice.series(-0.1, 0.2)
    if dice.chance(0.6 if fuelled else 0.15):
        fields["minPower"] = dice.number(0.1, 0.6) * size if dice.chance(0.7) else dice.series(0, 0.6 * size)
    if dice.chance(0.5 if fuelled else 0.1):
        fields["rampRate"] = dice.number(0.4, 1.0) * size if dice.chance(0.7) else dice.series(0.3 * size, size)
    if dice.chance(0.2):
        fields["initialOutput"] = dice.number(0, size) if dice.chance(0.5) else 0.0
    if dice.chance(0.5):
        fields["emissionsPerKWh"] = dice.series(0, 0.9)
    return fields


def _store(dice: Dice, size: float) -> dict[str, Any]:
    fields: dict[str, Any] = {"energyCapacity": size * dice.number(0.5, 4), "soc": dice.number(0.2, 0.8)}
    fields["costPerKWh"] = dice.number(0, 0.05)
    for name, share, low, high in (
        ("efficiency", 0.6, 0.5, 1),
        ("minSoc", 0.3, 0, 0.2),
        ("maxSoc", 0.3, 0.8, 1),
        ("endSoc", 0.4, 0, 0.6),
    ):
        if dice.chance(share):
            fields[name] = dice.number(low, high)
    return fields


@dataclass
class Rows:
    """Columns and rows as they are thought of; HiGHS gets them at the end."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    rows: list[tuple[Terms, float, float]] = field(default_factory=list)

    def column(self, lower: float, upper: float) -> int:
        self.lower.append(lower)
        self.upper.append(upper)
        return len(self.lower) - 1

    def choice(self, most: float = 1) -> int:
        """Return a column that is 0 or 1."""
        self.whole.append(self.column(0, most))
        return self.whole[-1]

    def row(self, terms: Terms, least: float = -inf, most: float = inf) -> None:
        self.rows.append((terms, least, most))

    def least(self, goal: Terms) -> float | None:
        """Return the least value of ``goal``, ``None`` where nothing satisfies the rows."""
        solver = highspy.Highs()
        options = {"output_flag": False, "mip_rel_gap": 0.0, "mip_abs_gap": 1e-10, "mip_feasibility_tolerance": 1e-9}
        options |= {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9}
        for name, value in options.items():
            solver.setOptionValue(name, value)
        for index, (lower, upper) in enumerate(zip(self.lower, self.upper, strict=True)):
            solver.addCol(goal.get(index, 0.0), lower, upper, 0, [], [])
        for index in self.whole:
            solver.changeColIntegrality(index, highspy.HighsVarType.kInteger)
        for terms, least, most in self.rows:
            solver.addRow(
                least, most, len(terms), np.array(list(terms), dtype=np.int32), np.array(list(terms.values()))
            )
        solver.run()
        status = solver.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return None
        if status != highspy.HighsModelStatus.kOptimal:
            raise SystemExit(f"the reference stopped without an answer: {status}")
        return float(solver.getObjectiveValue())


class Programme(Rows):
    """The rows of one document."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__()
        self.plan, self.limits = plan, plan["constraints"]
        self.steps, self.hours = len(plan["demand"]), plan["stepMinutes"] / 60
        self.reserve = self.limits.get("reserve") or {}
        self.asked_share = self.limits.get("minRenewable") or 0.0
        self.balance, self.imports, self.net, self.up, self.down = (
            [Terms() for _ in range(self.steps)] for _ in range(5)
        )
        self.cost, self.shed, self.share, self.emitted = Terms(), Terms(), Terms(), Terms()
        #: By priority: what is shed less what is generated, kW over all steps.
        self.wishes: dict[int, Terms] = {}
        add = {"storage": self.add_store, "grid": self.add_tie, "load": self.add_load}
        for each in plan["resources"]:
            add.get(each["type"], self.add_generator)(each)
        self.unmet = {self.column(0, demand): self.hours for demand in plan["demand"]}
        self.short, self.over = self.column(0, inf), self.column(0, inf)
        self.add_steps()
        self.add_totals()

    def series(self, value: Any, default: float = 0.0) -> list[float]:
        value = default if value is None else value
        return value if isinstance(value, list) else [value] * self.steps

    def headroom(self, side: str, step: int, *caps: tuple[float, Terms]) -> int | None:
        """Add a reserve that, with the terms of each cap, stays below it; nothing where none is asked for."""
        if self.reserve.get(side) is None:
            return None
        reserve = self.column(0, inf)
        (self.up if side == "up" else self.down)[step][reserve] = 1.0
        for most, terms in caps:
            self.row({reserve: 1.0, **terms}, most=most)
        return reserve

    def either(self, one: int, other: int, most: float) -> None:
        """Let only one of two flows run."""
        first = self.choice()
        self.row({one: 1.0, first: -most}, most=0)
        self.row({other: 1.0, first: most}, most=most)

    def add_generator(self, each: dict[str, Any]) -> None:
        capacity, available = self.series(each["capacity"]), self.series(each.get("availability"), 1.0)
        price, emissions = self.series(each.get("costPerKWh")), self.series(each.get("emissionsPerKWh"))
        ramp, least = self.series(each.get("rampRate"), inf), self.series(each.get("minPower"))
        wish = self.wishes.setdefault(each.get("priority", 0), Terms())
        last: int | None = None
        for step in range(self.steps):
            limit = capacity[step] * available[step]
            output = self.column(0, limit)
            top: tuple[float, Terms] = (limit, {output: 1.0})
            bottom: tuple[float, Terms] = (0.0, {output: -1.0})
            if least[step] > 0:
                on = self.choice(1 if least[step] <= limit else 0)
                self.row({output: 1.0, on: -limit}, most=0)
                self.row({output: 1.0, on: -least[step]}, least=0)
                top, bottom = (0.0, {output: 1.0, on: -limit}), (0.0, {output: -1.0, on: least[step]})
            if ramp[step] < inf and last is not None:
                self.row({output: 1.0, last: -1.0}, -ramp[step], ramp[step])
            elif ramp[step] < inf and each.get("initialOutput") is not None:
                self.row({output: 1.0}, each["initialOutput"] - ramp[step], each["initialOutput"] + ramp[step])
            self.headroom("up", step, top, (ramp[step], {}))
            self.headroom("down", step, bottom, (ramp[step], {}))
            self.balance[step][output] = 1.0
            self.cost[output] = price[step] * self.hours
            self.share[output] = ((each["type"] in RENEWABLE) - self.asked_share) * self.hours
            self.emitted[output] = emissions[step] * self.hours
            wish[output] = -1.0
            last = output

    def add_store(self, each: dict[str, Any]) -> None:
        size, one_way, soc = each["energyCapacity"], sqrt(each.get("efficiency", 0.9)), each.get("soc", 0.5)
        low, high = self.series(each.get("minSoc")), self.series(each.get("maxSoc"), 1.0)
        power, price = self.series(each["capacity"]), self.series(each.get("costPerKWh"))
        end = each.get("endSoc", min(soc, high[-1]))
        before: int | None = None
        for step in range(self.steps):
            least = max(low[step], end) if step == self.steps - 1 else low[step]
            charge, discharge = self.column(0, power[step]), self.column(0, power[step])
            stored = self.column(least * size, high[step] * size)
            self.either(discharge, charge, power[step])
            content = {stored: 1.0, charge: -one_way * self.hours, discharge: self.hours / one_way}
            if before is not None:
                content[before] = -1.0
            start = soc * size if before is None else 0.0
            self.row(content, start, start)
            above, below = one_way / self.hours, 1 / one_way / self.hours
            power_up = (power[step], {discharge: 1.0, charge: -1.0})
            power_down = (power[step], {discharge: -1.0, charge: 1.0})
            self.headroom("up", step, power_up, (-low[step] * size * above, {stored: -above}))
            self.headroom("down", step, power_down, (high[step] * size * below, {stored: below}))
            self.balance[step] |= {discharge: 1.0, charge: -1.0}
            self.cost[discharge] = price[step] * self.hours
            before = stored

    def add_tie(self, each: dict[str, Any]) -> None:
        capacity, price = self.series(each["capacity"]), self.series(each.get("costPerKWh"))
        sells, sale = each.get("exportPrice") is not None, self.series(each.get("exportPrice"))
        emissions = self.series(each.get("emissionsPerKWh"))
        for step, most in enumerate(capacity):
            bought, sold = self.column(0, most), self.column(0, most if sells else 0)
            self.either(bought, sold, most)
            reserve = self.headroom("up", step, (most, {bought: 1.0, sold: -1.0}))
            self.headroom("down", step, (most if sells else 0.0, {bought: -1.0, sold: 1.0}))
            self.net[step] |= {bought: 1.0, sold: -1.0} | ({} if reserve is None else {reserve: 1.0})
            self.balance[step] |= {bought: 1.0, sold: -1.0}
            self.imports[step][bought] = 1.0
            self.cost |= {bought: price[step] * self.hours, sold: -sale[step] * self.hours}
            self.share[bought] = -self.asked_share * self.hours
            self.emitted[bought] = emissions[step] * self.hours

    def add_load(self, each: dict[str, Any]) -> None:
        capacity, available = self.series(each["capacity"]), self.series(each.get("availability"), 1.0)
        for step, price in enumerate(self.series(each.get("costPerKWh"))):
            cut = self.column(0, capacity[step] * available[step])
            self.balance[step][cut] = 1.0
            self.cost[cut], self.shed[cut] = price * self.hours, self.hours
            self.wishes.setdefault(each.get("priority", 0), Terms())[cut] = 1.0

    def add_steps(self) -> None:
        imports = self.limits.get("maxGridImport")
        for step, gap in enumerate(self.unmet):
            demand = self.plan["demand"][step]
            self.row({**self.balance[step], gap: 1.0}, demand, demand)
            if imports is not None:
                self.row(self.imports[step], most=self.series(imports)[step])
                self.row(self.net[step], most=self.series(imports)[step])
            for side, held in (("up", self.up[step]), ("down", self.down[step])):
                if self.reserve.get(side) is not None:
                    self.row(held, least=self.series(self.reserve[side])[step])

    def add_totals(self) -> None:
        if self.limits.get("maxEmissions") is not None:
            self.row(self.emitted, most=self.limits["maxEmissions"])
        if self.limits.get("minRenewable") is not None:
            self.row({**self.share, self.short: 1.0}, least=0)
        cap = self.limits.get("maxCost")
        if cap is not None:
            # served is the demand less what is unmet and shed
            money = {**self.cost, self.over: -1.0}
            for column, factor in (self.unmet | self.shed).items():
                money[column] = money.get(column, 0.0) + cap * factor
            self.row(money, most=cap * sum(self.plan["demand"]) * self.hours)


class Best(NamedTuple):
    """Each the least that the ones before it leave possible: kWh, kWh, money, money with the penalty, kW by priority.

    ``wishes`` is what is shed less what is generated, summed over the steps, from the highest priority.
    """

    unmet: float
    short: float
    over: float
    cost: float
    wishes: dict[int, float]


def best(plan: dict[str, Any]) -> Best | None:
    """Return what the best plan reaches.

    ``None`` where there is no plan, or none that meets a strict problem's goals.
    """
    programme = Programme(plan)
    found = []
    for goal in (programme.unmet, {programme.short: 1.0}, {programme.over: 1.0}, programme.cost):
        least = programme.least(goal)
        if least is None or (plan["strict"] and len(found) < 3 and least > 1e-6):
            return None
        found.append(least)
        hair = HAIR if goal is not programme.cost else WISH_HAIR
        programme.row(goal, most=least + hair * max(1.0, abs(least)))
    wishes = {}
    for level in sorted(programme.wishes, reverse=True) if len(programme.wishes) > 1 else ():
        wish = programme.wishes[level]
        least = programme.least(wish)
        if least is None:
            break  # a plan of equal cost was lost to rounding
        wishes[level] = least
        programme.row(wish, most=least + WISH_HAIR * max(1.0, abs(least)))
    return Best(found[0], found[1], found[2], found[3] + PENALTY * found[0], wishes)
