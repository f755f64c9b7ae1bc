"""Drawn dispatch problems, as documents and as arrays, and what a bare HiGHS makes of those arrays: the floor.

A draw is a virtual power plant of N resources beside one grid connection: 40 % sun, 25 % wind, 20 % storage, 10 % gas
with a ramp limit, the rest firm renewables (run of river), every figure from one seeded generator. A day has a morning
and an evening peak, the price a hollow at noon, and renewables could supply 72 % of the demand where 60 % is asked.

The floor is written by hand for this one shape of problem: it knows no ids, no goals and no units, and checks nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import highspy
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EFFICIENCY = 0.9
#: What exporting earns less than importing costs, per kWh.
SPREAD = 0.03
PENALTY = 10.0


@dataclass(frozen=True)
class Draw:
    """One problem in hourly steps: G generators, S stores, one tie; kW, kWh and money per kWh."""

    types: tuple[str, ...]
    capacity: Floats  # (G,)
    limit: Floats  # (G, T), what the sun and the wind leave of the capacity
    cost: Floats  # (G,)
    ramp: Floats  # (G,) per step, inf where there is none
    power: Floats  # (S,)
    energy: Floats  # (S,)
    charge: Floats  # (S,) kWh at the start, and at least as much at the end
    wear: Floats  # (S,) per kWh discharged
    price: Floats  # (T,)
    tie: float
    demand: Floats  # (T,)
    min_renewable: float | None = 0.6
    least: float = 0.0  # what share of its capacity a unit with a ramp gives at least, where it runs

    @property
    def renewable(self) -> NDArray[np.bool_]:
        """Whose energy counts towards the share."""
        return np.array([each != "chp" for each in self.types], dtype=bool)

    def document(self) -> dict[str, Any]:
        """Return the problem as ``energy-cloud dispatch solve`` reads it."""
        resources: list[dict[str, Any]] = []
        share = (self.limit / self.capacity[:, None]).clip(0, 1)
        for index, kind in enumerate(self.types):
            resource = {"id": f"{kind}-{index}", "type": kind, "capacity": float(self.capacity[index])}
            resource["costPerKWh"] = float(self.cost[index])
            if (share[index] < 1).any():
                resource["availability"] = share[index].tolist()
            if np.isfinite(self.ramp[index]):
                resource["rampRate"] = float(self.ramp[index])
                if self.least:
                    resource["minPower"] = self.least * resource["capacity"]
            resources.append(resource)
        resources += [
            {
                "id": f"storage-{index}",
                "type": "storage",
                "capacity": float(self.power[index]),
                "energyCapacity": float(self.energy[index]),
                "soc": float(self.charge[index] / self.energy[index]),
                "efficiency": EFFICIENCY,
                "costPerKWh": float(self.wear[index]),
            }
            for index in range(self.power.size)
        ]
        tie = {"id": "grid", "type": "grid", "capacity": self.tie, "costPerKWh": self.price.tolist()}
        resources.append({**tie, "exportPrice": (self.price - SPREAD).tolist()})
        constraints = {} if self.min_renewable is None else {"minRenewable": self.min_renewable}
        return {"demand": self.demand.tolist(), "constraints": constraints, "resources": resources}

    def hours(self, first: int, last: int) -> Draw:
        """Return the steps from ``first`` up to ``last`` alone."""
        chosen = slice(first, last)
        return replace(self, limit=self.limit[:, chosen], price=self.price[chosen], demand=self.demand[chosen])

    def times(self, copies: int) -> Draw:
        """Return the problem with every resource there so many times, and as many times the demand."""
        many = {name: np.repeat(getattr(self, name), copies, axis=0) for name in _BY_RESOURCE}
        types = tuple(kind for kind in self.types for _ in range(copies))
        return replace(self, types=types, tie=self.tie * copies, demand=self.demand * copies, **many)


_BY_RESOURCE = ("capacity", "limit", "cost", "ramp", "power", "energy", "charge", "wear")


def draw(resources: int, steps: int = 24, seed: int = 1) -> Draw:
    """Return the problem of this seed; the order in which numbers are drawn is part of it."""
    rng = np.random.default_rng([seed, resources, steps])
    hour = np.arange(steps) % 24
    suns, winds, stores, gases = (round(share * resources) for share in (0.40, 0.25, 0.20, 0.10))
    firms = max(0, resources - suns - winds - stores - gases)

    day = np.sin((hour - 6) / 12 * np.pi).clip(0, None) ** 1.3
    clouds = rng.beta(6, 2, size=(suns, steps)).clip(0.05, 1)
    sun_capacity = rng.uniform(2, 12, suns)
    weather = rng.normal(size=steps)
    level, path = np.zeros(winds), np.zeros((winds, steps))
    for step in range(steps):
        gust = 0.6 * weather[step] + 0.8 * rng.normal(size=winds)
        level = 0.85 * level + 0.53 * gust if step else gust
        path[:, step] = level
    wind_capacity = rng.uniform(5, 25, winds)
    firm_capacity, gas_capacity = rng.uniform(3, 10, firms), rng.uniform(10, 40, gases)
    capacity = np.concatenate([sun_capacity, wind_capacity, firm_capacity, gas_capacity])
    share = np.vstack([day * clouds, 1 / (1 + np.exp(0.4 - path)), np.ones((firms + gases, steps))])
    limit = share * capacity[:, None]
    ranges = ((0.005, 0.03, suns), (0.01, 0.04, winds), (0.05, 0.09, firms), (0.10, 0.22, gases))
    cost = np.concatenate([rng.uniform(*each) for each in ranges])

    power = rng.uniform(2, 10, stores)
    energy = power * rng.uniform(1.5, 4, stores)
    charge = energy * rng.uniform(0.2, 0.7, stores)

    def bump(middle: float, width: float) -> Floats:
        return np.exp(-(((hour - middle) / width) ** 2))

    shape = (0.7 + 0.25 * bump(8, 2.5) + 0.5 * bump(19, 3.0)) * rng.uniform(0.95, 1.05, steps)
    demand = shape / shape.mean() * limit[: suns + winds + firms].sum() / steps / 0.72
    price = 0.16 + 0.10 * bump(19, 2.5) + 0.04 * bump(8, 2.0) - 0.17 * bump(12.5, 2.5) + rng.normal(0, 0.01, steps)
    ramp = np.full(capacity.size, np.inf)
    ramp[capacity.size - gases :] = gas_capacity * rng.uniform(0.15, 0.4, gases)
    types = ("solar",) * suns + ("wind",) * winds + ("hydro",) * firms + ("chp",) * gases
    wear = rng.uniform(0.005, 0.02, stores)
    return Draw(
        types, capacity, limit, cost, ramp, power, energy, charge, wear, price, float(0.6 * demand.max()), demand
    )


def home(seed: int = 1) -> Draw:
    """Return a day of one home: a roof, a battery, a load and a tariff of three prices."""
    rng = np.random.default_rng(seed)
    hour = np.arange(24)
    sun = (np.sin((hour - 6) / 12 * np.pi).clip(0, None) ** 1.3 * rng.uniform(0.6, 1.0, 24))[None]
    demand = 0.4 + 0.8 * np.exp(-(((hour - 8) / 1.5) ** 2)) + 1.6 * np.exp(-(((hour - 19) / 2.0) ** 2))
    price = np.where(hour < 6, 0.12, np.where((hour >= 17) & (hour < 21), 0.38, 0.24))
    one = np.ones(1)
    return Draw(
        types=("solar",),
        capacity=5 * one,
        limit=5 * sun,
        cost=0 * one,
        ramp=np.inf * one,
        power=3.3 * one,
        energy=10 * one,
        charge=5 * one,
        wear=0.01 * one,
        price=price,
        tie=10.0,
        demand=demand * rng.uniform(0.9, 1.1, 24),
        min_renewable=None,
    )


@dataclass(frozen=True)
class Floor:
    """What a bare HiGHS answers, and the CPU seconds of building, solving and reading it."""

    cost: float
    columns: Floats
    #: Duals of the balance by step: none where there are integers.
    prices: list[float]
    build: float
    solve: float
    read: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.build + self.solve + self.read


def floor(problem: Draw) -> Floor:
    """Build, solve and read the problem by hand."""
    began = time.process_time()
    model = _model(problem)
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("mip_rel_gap", 0.0)  # to the optimum, as ours
    solver.passModel(model)
    built = time.process_time()
    solver.run()
    solved = time.process_time()
    answer = solver.getSolution()
    columns, duals = np.array(answer.col_value), np.array(answer.row_dual)
    read = time.process_time()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise SystemExit("the floor found no optimum")
    prices = [] if problem.least else duals[: problem.demand.size].tolist()
    return Floor(solver.getObjectiveValue(), columns, prices, built - began, solved - built, read - solved)


def _model(problem: Draw) -> highspy.HighsLp:
    count, steps = problem.limit.shape
    stores, ramps = problem.power.size, np.flatnonzero(np.isfinite(problem.ramp))
    units = ramps.size if problem.least else 0
    # columns: output, charge, discharge and stored by resource, import, export and unmet, and which units run
    edges = np.cumsum([0, count * steps, *[stores * steps] * 3, *[steps] * 3, units * steps])
    columns = [np.arange(low, high, dtype=np.int32).reshape(-1, steps) for low, high in pairwise(edges)]
    output, charge, discharge, stored, bought, sold, unmet, runs = columns
    lower, upper, cost = np.zeros(edges[-1]), np.empty(edges[-1]), np.zeros(edges[-1])
    cost[output], cost[discharge], cost[unmet] = problem.cost[:, None], problem.wear[:, None], PENALTY
    cost[bought], cost[sold] = problem.price, SPREAD - problem.price
    lower[stored[:, -1]] = problem.charge
    upper[output], upper[unmet] = problem.limit, problem.demand
    upper[charge] = upper[discharge] = problem.power[:, None]
    upper[stored] = problem.energy[:, None]
    upper[bought] = upper[sold] = problem.tie
    upper[runs] = 1.0

    flows = np.vstack([output, discharge, charge, bought, sold, unmet])
    signs = np.repeat([1.0, 1.0, -1.0, 1.0, -1.0, 1.0], [count, stores, stores, 1, 1, 1])
    blocks = [
        _Block(flows.T.ravel(), np.tile(signs, steps), np.full(steps, signs.size), problem.demand, problem.demand),
        _contents(problem, charge, discharge, stored),
        _ramps(problem, output[ramps], problem.ramp[ramps]),
    ]
    if problem.min_renewable is not None:
        shares = np.append(np.repeat(problem.renewable, steps), np.zeros(steps)) - problem.min_renewable
        sources = np.concatenate([output.ravel(), bought.ravel()])
        blocks.append(_Block(sources, shares, np.array([shares.size]), np.zeros(1), np.full(1, highspy.kHighsInf)))
    if units:
        blocks.append(_choices(problem, ramps, output[ramps], runs))

    model = highspy.HighsLp()
    index, value, lengths, least, most = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    model.num_col_, model.num_row_ = int(edges[-1]), lengths.size
    model.col_cost_, model.col_lower_, model.col_upper_ = cost, lower, upper
    model.row_lower_, model.row_upper_ = least, most
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    model.a_matrix_.index_, model.a_matrix_.value_ = index, value
    if units:
        real, whole = highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger
        model.integrality_ = [real] * int(edges[-2]) + [whole] * runs.size
    return model


class _Block(NamedTuple):
    """Rows: the columns and factors of all of them, how many each has, and their bounds."""

    index: NDArray[np.int32]
    value: Floats
    lengths: NDArray[np.int64]
    least: Floats
    most: Floats


def _contents(
    problem: Draw, charge: NDArray[np.int32], discharge: NDArray[np.int32], stored: NDArray[np.int32]
) -> _Block:
    """What a store holds is what it held before, and what came in, less what went out."""
    eta = EFFICIENCY**0.5
    before = np.hstack([stored[:, :1], stored[:, :-1]])
    terms = np.stack([before, stored, charge, discharge], axis=2)
    factors = np.broadcast_to([-1.0, 1.0, -eta, 1 / eta], terms.shape)
    there = np.ones(terms.shape, dtype=bool)
    there[:, 0, 0] = False  # nothing is before the first step
    start = np.zeros(stored.shape)
    start[:, 0] = problem.charge
    return _Block(terms[there], factors[there], there.sum(2).ravel(), start.ravel(), start.ravel())


def _ramps(problem: Draw, output: NDArray[np.int32], ramp: Floats) -> _Block:
    """The output changes no faster than by the ramp."""
    rates = np.repeat(ramp, problem.demand.size - 1)
    changes = np.stack([output[:, 1:], output[:, :-1]], axis=2)
    return _Block(changes.ravel(), np.tile([1.0, -1.0], rates.size), np.full(rates.size, 2), -rates, rates)


def _choices(problem: Draw, units: NDArray[np.int64], output: NDArray[np.int32], runs: NDArray[np.int32]) -> _Block:
    """A unit is off, or between its least output and its limit."""
    pairs = np.tile(np.stack([output.ravel(), runs.ravel()], axis=1), (2, 1))
    least = problem.least * np.repeat(problem.capacity[units], problem.demand.size)
    limits = np.concatenate([problem.limit[units].ravel(), least])
    factors = np.stack([np.ones(limits.size), -limits], axis=1)
    bounds = np.repeat([highspy.kHighsInf, 0.0], runs.size)
    return _Block(pairs.ravel(), factors.ravel(), np.full(limits.size, 2), -bounds, bounds[::-1])
