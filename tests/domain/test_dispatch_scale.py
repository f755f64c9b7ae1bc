"""Merged, reduced and whole problems have one optimum; best replies and proofs against a plain solver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.dispatch.feasibility import violations_of
from energy_cloud_dagster.domain.dispatch.flows import Outcome, cost_of
from energy_cloud_dagster.domain.dispatch.problem import Floats
from energy_cloud_dagster.domain.dispatch.scaling import aggregate, chains, reduce
from energy_cloud_dagster.domain.dispatch.solving import goals, lp
from energy_cloud_dagster.domain.dispatch.solving.lp import Raw
from energy_cloud_dagster.domain.dispatch.solving.matrices import Matrices, Switches, build

seeds = st.integers(0, 10**6)
modest = settings(max_examples=40, deadline=None, derandomize=True)
SIZES = ("capacity", "rampRate", "initialOutput", "energyCapacity")


# -- random problems


def document(rng: np.random.Generator, count: int, *, wide: bool = True) -> dict[str, Any]:
    """A problem of ``count`` resources and one tie, all features of linear programmes mixed."""
    steps = int(rng.integers(2, 9))

    def series(low: float, high: float, share: float = 0.5) -> Any:
        return rng.uniform(low, high, steps).tolist() if rng.random() < share else float(rng.uniform(low, high))

    def sometimes(share: float, **fields: Any) -> dict[str, Any]:
        return fields if rng.random() < share else {}

    resources: list[dict[str, Any]] = []
    for kind in rng.choice(["solar", "wind", "chp", "storage", "load"], count, p=[0.3, 0.1, 0.25, 0.25, 0.1]).tolist():
        resource: dict[str, Any] = {"type": kind, "capacity": series(1, 20, 0.2)}
        if kind == "storage":
            resource |= {"energyCapacity": float(rng.uniform(2, 60)), "soc": float(rng.uniform(0.3, 0.7))}
            resource |= {"efficiency": float(rng.choice([0.81, 1.0])), "costPerKWh": float(rng.uniform(0, 0.02))}
            resource |= sometimes(0.3, minSoc=0.2) | sometimes(0.3, maxSoc=series(0.8, 1)) | sometimes(0.3, endSoc=0.4)
        elif kind == "load":
            resource |= {"costPerKWh": series(0.3, 2)}
        else:
            resource |= {"availability": series(0, 1), "costPerKWh": series(-0.02, 0.3, 0.3)}
            resource |= sometimes(0.4, emissionsPerKWh=float(rng.uniform(0, 1)))
        if kind == "chp":
            resource |= {"rampRate": series(1, 10, 0.3)} | sometimes(0.3, initialOutput=float(rng.uniform(0, 1)))
        resources.append(resource)
    resources.append(
        {"type": "grid", "capacity": 2.0 * count, "costPerKWh": series(0, 0.4, 0.9), "emissionsPerKWh": 0.4}
        | sometimes(0.5, exportPrice=series(-0.05, 0))
    )
    limits = sometimes(0.3, minRenewable=float(rng.uniform(0, 0.7))) | sometimes(0.3, maxGridImport=0.8 * count)
    limits |= sometimes(0.2, maxEmissions=0.4 * count * steps) | sometimes(0.2, maxCost=float(rng.uniform(0.05, 0.3)))
    if wide:
        limits |= sometimes(0.2, reserve={"up": 0.3 * count, "down": 0.1 * count})
    demand = rng.uniform(0.5, 3 * count, steps).tolist()
    return {"demand": demand, "resources": resources, "constraints": limits, "stepMinutes": int(rng.choice([15, 60]))}


def split(rng: np.random.Generator, document: dict[str, Any]) -> dict[str, Any]:
    """The same problem with up to four resources in place of each, in the proportion of random sizes."""
    resources: list[dict[str, Any]] = []
    for resource in document["resources"]:
        parts = 1 if resource["type"] == "grid" else int(rng.integers(1, 5))
        for share in rng.dirichlet(np.full(parts, 2.0)).tolist():
            scaled = {name: np.multiply(resource[name], share).tolist() for name in SIZES if name in resource}
            resources.append(resource | scaled)
    return document | {"resources": resources}


def day(count: int, seed: int = 1) -> dict[str, Any]:
    """A day of ``count`` solar plants, ramping gas engines and batteries, no two alike, behind one tie."""
    rng, hours = np.random.default_rng(seed), np.arange(24)
    sun = np.sin((hours - 6) / 12 * np.pi).clip(0, None)
    resources: list[dict[str, Any]] = []
    for kind in ["solar"] * (count * 6 // 10) + ["chp"] * (count // 5) + ["storage"] * (count // 5):
        resource = {"type": kind, "capacity": rng.uniform(5, 20), "costPerKWh": rng.uniform(0.005, 0.02)}
        if kind == "solar":
            resource["availability"] = (sun * rng.uniform(0.3, 1, 24)).tolist()
        elif kind == "chp":
            resource |= {"costPerKWh": rng.uniform(0.08, 0.25), "rampRate": rng.uniform(2, 6)}
        else:
            resource |= {"energyCapacity": rng.uniform(10, 60), "soc": rng.uniform(0.2, 0.7)}
        resources.append(resource)
    price = 0.16 + 0.1 * np.exp(-(((hours - 19) / 2.5) ** 2)) - 0.1 * np.exp(-(((hours - 12) / 2.5) ** 2))
    resources.append({"type": "grid", "capacity": 3 * count, "costPerKWh": price.tolist(), "exportPrice": 0.02})
    demand = count * (3 + np.exp(-(((hours - 19) / 3) ** 2)))
    return {"demand": demand.tolist(), "resources": resources}


def small_steps(matrices: Matrices, *, basis: Any = None) -> Raw:
    return lp.run(matrices, basis=basis, presolve=True, primal=True)


def whole_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "LEAST_RESOURCES", 10**9)
    monkeypatch.setattr(reduce, "LEAST_RESOURCES", 10**9)


def proven_bound(matrices: Matrices, rows: Floats) -> float:
    """The bound that any row duals prove, by weak duality."""
    reduced = matrices.cost.copy()
    for row, dual in enumerate(rows.tolist()):
        cells = slice(matrices.start[row], matrices.start[row + 1])
        np.subtract.at(reduced, matrices.index[cells], dual * matrices.value[cells])
    total = 0.0
    for duals, lower, upper in ((reduced, matrices.lower, matrices.upper), (rows, *sides(matrices))):
        side = np.where(duals > 0, lower, upper)
        # the solver takes a dual up to this for zero
        small = np.abs(duals) < 1e-7
        total += float((duals * np.where(small & ~np.isfinite(side), 0.0, side))[duals != 0].sum())
    return total


def sides(matrices: Matrices) -> tuple[Floats, Floats]:
    return matrices.row_lower, matrices.row_upper


# -- identical resources


@modest
@given(seeds)
def test_resources_split_in_parts_cost_what_they_did_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = document(rng, int(rng.integers(1, 8)))
    problem = parse_problem(split(rng, first))
    merged = aggregate.exact(problem)
    assert merged.problem.size <= len(first["resources"])
    whole, small = goals.optimise(problem), goals.optimise(merged.problem)
    assert isinstance(whole, Outcome) == isinstance(small, Outcome)
    if not (isinstance(whole, Outcome) and isinstance(small, Outcome)):
        return
    assert small.cost == pytest.approx(whole.cost, rel=1e-6, abs=1e-6)
    assert small.shortfalls == pytest.approx(whole.shortfalls, rel=1e-6, abs=1e-5)
    flows = merged.spread(small.flows)
    assert cost_of(problem, flows) == pytest.approx(small.cost, rel=1e-9, abs=1e-9)
    for name in ("generation", "charge", "discharge", "stored", "shed"):
        before, after = getattr(small.flows, name), getattr(flows, name)
        assert after.sum(axis=0) == pytest.approx(before.sum(axis=0), rel=1e-9, abs=1e-9)


def test_many_identical_resources_are_planned_as_few_and_the_plan_passes_the_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    kinds = day(12)
    shares = rng.dirichlet(np.full(25, 2.0))
    resources = [
        each | {name: each[name] * share * 25 for name in SIZES if name in each}
        for each in kinds["resources"][:-1]
        for share in shares.tolist()
    ]
    demand = (np.asarray(kinds["demand"]) * 25).tolist()
    tie = kinds["resources"][-1] | {"capacity": 900}
    problem = parse_problem({"demand": demand, "resources": [*resources, tie]})
    sizes = recorded(monkeypatch)
    merged = solve(problem)
    assert sizes
    assert max(sizes) < 24 * 50
    assert violations_of(problem, merged) == []
    whole_only(monkeypatch)
    whole = solve(problem)
    assert merged.cost == pytest.approx(whole.cost, rel=1e-9)
    assert merged.marginal_price == pytest.approx(whole.marginal_price, abs=1e-7)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of columns of each programme that is solved."""
    sizes: list[int] = []
    plain = lp.run

    def run(matrices: Matrices, **options: Any) -> Raw:
        sizes.append(matrices.cost.size)
        return plain(matrices, **options)

    monkeypatch.setattr(lp, "run", run)
    return sizes


def test_only_what_is_identical_is_merged() -> None:
    solar = {"type": "solar", "capacity": 10, "costPerKWh": 0.3, "availability": 0.5}
    battery = {"type": "storage", "capacity": 5, "energyCapacity": 10}

    def merged(*resources: dict[str, Any]) -> int:
        return aggregate.exact(parse_problem({"demand": [5, 5], "resources": list(resources)})).problem.size

    assert merged(solar, solar | {"capacity": 3, "availability": [0.1, 0.9]}) == 1
    # one number that was computed in two ways
    assert merged(solar, solar | {"costPerKWh": 0.1 + 0.2}) == 1
    assert merged(solar, solar | {"priority": 1}) == 2
    assert merged(solar, solar | {"type": "chp"}) == 2
    assert merged(solar, solar | {"emissionsPerKWh": 0.1}) == 2
    assert merged(solar, solar | {"minPower": 1}, solar | {"minPower": 1}) == 3
    assert merged(battery, battery | {"capacity": 10, "energyCapacity": 20}) == 1
    assert merged(battery, battery | {"capacity": 10}) == 2
    assert merged(battery, battery | {"soc": 0.4}) == 2
    engine = {"type": "chp", "capacity": 10, "rampRate": 2}
    assert merged(engine, engine | {"capacity": 20, "rampRate": 4}) == 1
    assert merged(engine, engine | {"capacity": 20}) == 2
    assert merged(*[{"type": "grid", "capacity": 5}] * 2) == 2


def test_a_merged_store_whose_flows_integers_part_gives_way_to_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    # paid to take energy, but with room for little: one battery may empty while the other fills
    battery = {"type": "storage", "capacity": 10, "energyCapacity": 10, "soc": 0.95, "efficiency": 0.5}
    tie = {"type": "grid", "capacity": 30, "costPerKWh": -0.5}
    problem = parse_problem({"demand": [4, 4], "resources": [battery, battery, battery, tie]})
    whole = solve(problem)
    monkeypatch.setattr(aggregate, "LEAST_RESOURCES", 2)
    merged = solve(problem)
    assert merged.cost == pytest.approx(whole.cost, rel=1e-7)
    assert violations_of(problem, merged) == []


# -- best replies


@modest
@given(seeds)
def test_the_reply_of_a_store_is_the_optimum_of_its_programme_with_its_duals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stores, steps = 4, int(rng.integers(1, 8))
    hours, eta = float(rng.choice([0.25, 1.0])), np.sqrt(rng.uniform(0.5, 1.0, stores))
    # few values, so that ties are common
    pay, earn = rng.integers(-3, 9, (2, stores, steps)) / 10.0
    into, out = rng.integers(0, 6, (2, stores, steps)).astype(float)
    least, most = rng.integers(0, 3, (stores, steps)).astype(float), rng.integers(3, 9, (stores, steps)).astype(float)
    initial = rng.integers(0, 9, stores).astype(float)
    reply = chains.reply_of_stores(pay, -earn, into, out, least, most, initial, eta, hours)
    balance = np.zeros((steps, 3 * steps))
    for step in range(steps):
        balance[step, 2 * steps + step] = 1.0
        if step:
            balance[step, 2 * steps + step - 1] = -1.0
    for store in range(stores):
        balance[:, :steps] = -np.eye(steps) * eta[store] * hours
        balance[:, steps : 2 * steps] = np.eye(steps) * hours / eta[store]
        cost = np.concatenate([pay[store], -earn[store], np.zeros(steps)])
        lower = np.concatenate([np.zeros(2 * steps), least[store]])
        upper = np.concatenate([into[store], out[store], most[store]])
        begin = np.zeros(steps)
        begin[0] = initial[store]
        best = linprog(cost, A_eq=balance, b_eq=begin, bounds=np.stack([lower, upper], axis=1))
        if reply is None:
            if best.status == 2:
                return
            continue
        assert best.status == 0
        flows = np.concatenate([reply.charge[store], reply.discharge[store], reply.stored[store]])
        assert cost @ flows == pytest.approx(best.fun, abs=1e-9)
        assert balance @ flows == pytest.approx(begin, abs=1e-9)
        assert (flows >= lower - 1e-9).all()
        assert (flows <= upper + 1e-9).all()
        reduced = cost - reply.dual[store] @ balance
        bound = reply.dual[store] @ begin + np.minimum(reduced * lower, reduced * upper).sum()
        assert bound == pytest.approx(best.fun, abs=1e-9)
    assert reply is not None


@modest
@given(seeds)
def test_the_reply_of_a_ramp_is_the_optimum_of_its_programme_with_its_duals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units, steps = 4, int(rng.integers(1, 8))
    cost = rng.integers(-4, 5, (units, steps)) / 10.0
    most = rng.integers(1, 9, (units, steps)).astype(float)
    ramp = np.where(rng.random((units, steps - 1)) < 0.2, np.inf, rng.integers(0, 6, (units, steps - 1)))
    reply = chains.reply_of_ramps(cost, np.zeros(cost.shape), most, ramp)
    assert reply is not None
    change = np.eye(steps)[1:] - np.eye(steps)[:-1]
    for unit in range(units):
        finite = np.isfinite(ramp[unit])
        rows, limit = np.concatenate([change[finite], -change[finite]]), np.tile(ramp[unit][finite], 2)
        bounds = np.stack([np.zeros(steps), most[unit]], axis=1)
        best = linprog(cost[unit], A_ub=rows if limit.size else None, b_ub=limit if limit.size else None, bounds=bounds)
        output, dual = reply.output[unit], reply.dual[unit, 1:]
        assert cost[unit] @ output == pytest.approx(best.fun, abs=1e-9)
        assert (np.abs(np.diff(output)) <= ramp[unit] + 1e-9).all()
        assert ((output >= -1e-9) & (output <= most[unit] + 1e-9)).all()
        assert (dual[~finite] == 0.0).all()
        reduced = cost[unit] - dual @ change
        bound = np.minimum(reduced * most[unit], 0.0).sum() - np.abs(dual[finite]) @ ramp[unit][finite]
        assert bound == pytest.approx(best.fun, abs=1e-9)


# -- large programmes by way of small ones


@modest
@given(seeds, st.booleans())
def test_a_reduced_solve_is_the_optimum_and_its_duals_prove_it(seed: int, short: bool) -> None:
    rng = np.random.default_rng(seed)
    problem = parse_problem(document(rng, int(rng.integers(5, 50))))
    switches = Switches(goals=short)
    matrices = build(problem, switches)
    plain = lp.run(matrices)
    raw = reduce.run(problem, switches, matrices, small_steps)
    if raw is None or raw.status == "infeasible":
        # without goals' columns it may be a guess; with them it is a proof
        assert raw is None or plain.status == "infeasible" or not short
        return
    assert raw.status == plain.status == "optimal"
    assert raw.objective == pytest.approx(plain.objective, rel=1e-8, abs=1e-8)
    assert proven_bound(matrices, raw.row_duals) == pytest.approx(plain.objective, rel=1e-7, abs=1e-7)
    acts = np.array([raw.x[matrices.index[a:b]] @ matrices.value[a:b] for a, b in pairs(matrices.start)])
    assert (acts >= matrices.row_lower - 1e-6).all()
    assert (acts <= matrices.row_upper + 1e-6).all()


def pairs(start: Any) -> list[tuple[int, int]]:
    return list(zip(start[:-1].tolist(), start[1:].tolist(), strict=True))


def test_most_problems_need_no_solve_of_the_whole() -> None:
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        problem = parse_problem(document(rng, 40, wide=False))
        switches = Switches(goals=True)
        found += reduce.run(problem, switches, build(problem, switches), small_steps) is not None
    assert found >= 15


def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "LEAST_RESOURCES", 100)
    monkeypatch.setattr(reduce, "LEAST_CELLS", 1000)


@pytest.mark.parametrize("limits", [{}, {"minRenewable": 0.97}, {"maxGridImport": 150}, {"maxCost": 0.01}])
def test_a_large_day_is_solved_in_parts_to_the_same_optimum_and_prices(
    limits: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = parse_problem(day(300) | {"constraints": limits})
    whole = goals.optimise(problem)
    lowered(monkeypatch)
    sizes = recorded(monkeypatch)
    solution = solve(problem)
    assert isinstance(whole, Outcome)
    assert max(sizes) < 0.8 * build(problem).cost.size
    assert solution.cost == pytest.approx(whole.cost + 10 * whole.flows.unmet.sum(), rel=1e-8)
    found = {violation.constraint: violation.shortfall for violation in solution.violations}
    assert found == pytest.approx({goal: short for goal, short in whole.shortfalls.items() if short > 1e-3}, rel=1e-7)
    assert violations_of(problem, solution) == []
    assert solution.marginal_price == pytest.approx(whole.duals.price, abs=1e-6)


def test_a_reduced_solve_is_the_same_to_the_last_bit_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered(monkeypatch)
    problem = parse_problem(day(150))
    first, second = (solve(problem).to_document(solve_seconds=0) for _ in range(2))
    assert first == second


def test_when_the_time_is_over_the_plan_at_hand_comes_with_a_bound() -> None:
    problem = parse_problem(day(150))
    matrices = build(problem)
    best = lp.run(matrices)
    calls = 0

    def interrupted(matrices: Matrices, *, basis: Any = None) -> Raw:
        nonlocal calls
        calls += 1
        raw = small_steps(matrices, basis=basis)
        return raw if calls == 1 else replace(raw, status="stopped", basis=None)

    raw = reduce.run(problem, Switches(), matrices, interrupted)
    assert raw is not None
    assert raw.status == "stopped"
    assert raw.bound <= best.objective + 1e-9 <= raw.objective + 2e-9
    assert raw.bound > 0.9 * best.objective


@pytest.mark.parametrize(("reserve", "shortcut"), [(100, True), (300, False)])
def test_a_reserve_is_held_whether_or_not_the_plan_without_it_does(reserve: float, shortcut: bool) -> None:
    problem = parse_problem(day(100) | {"constraints": {"reserve": {"up": reserve}}})
    matrices = build(problem)
    sizes: list[int] = []

    def counted(matrices: Matrices, *, basis: Any = None) -> Raw:
        sizes.append(matrices.cost.size)
        return small_steps(matrices, basis=basis)

    raw = reduce.run(problem, Switches(), matrices, counted)
    assert raw is not None
    assert raw.objective == pytest.approx(lp.run(matrices).objective, rel=1e-9)
    assert (matrices.row("reserveUp", raw.row_duals).any()) != shortcut
    assert proven_bound(matrices, raw.row_duals) == pytest.approx(raw.objective, rel=1e-8)
    acts = np.array([raw.x[matrices.index[a:b]] @ matrices.value[a:b] for a, b in pairs(matrices.start)])
    assert (acts >= matrices.row_lower - 1e-6).all()
    assert (acts <= matrices.row_upper + 1e-6).all()
    assert (raw.x >= matrices.lower).all()
    assert (raw.x <= matrices.upper).all()


def test_what_is_impossible_for_the_sum_is_impossible_for_the_whole() -> None:
    problem = parse_problem(day(150) | {"constraints": {"maxGridImport": 0}, "strict": True, "demand": 10**6})
    sizes: list[int] = []

    def counted(matrices: Matrices, *, basis: Any = None) -> Raw:
        sizes.append(matrices.cost.size)
        return small_steps(matrices, basis=basis)

    matrices = build(problem)
    raw = reduce.run(problem, Switches(), matrices, counted)
    assert raw is not None
    assert raw.status == "infeasible"
    assert len(sizes) == 1
    assert sizes[0] < matrices.cost.size / 2
