"""The rows of ``reserve``: the kW that generators, storage and grid together can still add or take in each step.

Headroom that is one linear term stands in the reserve row itself; where it is the least of several, a column stands
for it below each of them. Loads give none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import Floats, IntArray, Problem

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.solving.matrices import Builder, Matrices

#: (columns, factor) that stand in the reserve row of each step; the columns are (any number, T).
_Terms = list[tuple[IntArray, float]]


def add_reserve(build: Builder) -> None:
    """Add the rows for the reserve that the problem of ``build`` asks for, ``reserveUp`` and ``reserveDown`` (T,).

    Up: a generator min(limit - output, ramp), nothing from a unit that is off; a store min(power - discharge + charge,
    energy above its least * √efficiency / hours); a tie capacity - import + export, and all ties no more than
    ``maxGridImport`` leaves. Down: a generator min(output - least power, ramp); a store min(power + discharge - charge,
    room below its most / √efficiency / hours); a tie import, and capacity - export where it may export.
    """
    limits = build.problem.constraints
    if limits.reserve_up is not None:
        _close(build, "reserveUp", limits.reserve_up, *_up(build))
    if limits.reserve_down is not None:
        _close(build, "reserveDown", limits.reserve_down, *_down(build))


def _close(build: Builder, name: str, asked: Floats, fixed: Floats, terms: _Terms) -> None:
    index = np.concatenate([columns for columns, _ in terms], axis=0).T
    value = np.repeat([factor for _, factor in terms], [columns.shape[0] for columns, _ in terms])
    if index.size:
        build.rule(name, index, value, asked - fixed, np.inf)
    else:
        build.bare(name, asked - fixed, np.full(build.steps, np.inf))


def _up(build: Builder) -> tuple[Floats, _Terms]:
    stores, ties = build.problem.stores, build.problem.ties
    fixed, terms = _generators(build, "up", build.problem.generators.limit, -1.0)
    per_kilowatt = (np.sqrt(stores.efficiency) / build.hours)[:, None]
    _stores(build, "up", terms, 1.0, -per_kilowatt, -build.empty * per_kilowatt)
    most = build.problem.constraints.max_grid_import
    if most is None or not build.wanted("maxGridImport") or not build.imported.size:
        return fixed + ties.capacity.sum(axis=0), [*terms, (build.imported, -1.0), (build.exported, 1.0)]
    head = build.add("up_ties", 0.0, np.full((1, build.steps), np.inf))
    net = np.concatenate([head, build.imported, build.exported], axis=0).T
    sign = np.repeat([1.0, 1.0, -1.0], [1, build.imported.shape[0], build.exported.shape[0]])
    build.rule("up_ties_capacity", net, sign, -np.inf, ties.capacity.sum(axis=0))
    build.rule("up_ties_import", net, sign, -np.inf, most)
    return fixed, [*terms, (head, 1.0)]


def _down(build: Builder) -> tuple[Floats, _Terms]:
    stores, ties = build.problem.stores, build.problem.ties
    fixed, terms = _generators(build, "down", -build.least, 1.0)
    per_kilowatt = (1.0 / (np.sqrt(stores.efficiency) * build.hours))[:, None]
    _stores(build, "down", terms, -1.0, per_kilowatt, build.full * per_kilowatt)
    fixed = fixed + ties.capacity[build.exporting].sum(axis=0)
    return fixed, [*terms, (build.imported, 1.0), (build.exported, -1.0)]


def _generators(build: Builder, way: str, edge: Floats, sign: float) -> tuple[Floats, _Terms]:
    """Headroom is edge * on + sign * output; the edge of a unit is its limit, or minus its least power."""
    output, ramp = build.generation, build.problem.generators.ramp
    single = ~build.ramped & ~(build.least > 0).any(axis=1)
    terms: _Terms = [(output[single], sign)]
    several = np.flatnonzero(~single)
    build.cells[f"{way}_generation"] = several
    if several.size:
        rate = np.where(build.ramped[:, None], ramp, np.inf)[several]
        head = build.add(f"{way}_generation", 0.0, rate)
        terms.append((head, 1.0))
        if build.switches.on is not None:
            edge = np.where((build.least > 0) & ~build.switches.on, 0.0, edge)
        on = np.full(output.shape, -1) if build.on is None else build.on
        chosen, most, own = on[several], edge[several], output[several]
        free, bound = chosen < 0, chosen >= 0
        pairs = np.stack([head[free], own[free]], axis=1)
        build.rule(f"{way}_generation", pairs, np.array([1.0, -sign]), -np.inf, most[free])
        if bound.any():
            value = np.ones((int(bound.sum()), 3))
            value[:, 1], value[:, 2] = -sign, -most[bound]
            triples = np.stack([head[bound], own[bound], chosen[bound]], axis=1)
            build.rule(f"{way}_units", triples, value, -np.inf, 0.0)
    fixed: Floats = edge[single].sum(axis=0)
    return fixed, terms


def _stores(build: Builder, way: str, terms: _Terms, sign: float, per_energy: Floats, bound: Floats) -> None:
    """Below power - sign * (discharge - charge), and below what the energy at the end of the step leaves."""
    if not build.stored.size:
        return
    power = build.problem.stores.power
    head = build.add(f"{way}_stores", 0.0, np.full(power.shape, np.inf))
    flows = np.stack([head, build.discharge, build.charge], axis=2)
    build.rule(f"{way}_stores_power", flows, np.array([1.0, sign, -sign]), -np.inf, power)
    value = np.ones((*power.shape, 2))
    value[..., 1] = per_energy
    build.rule(f"{way}_stores_energy", np.stack([head, build.stored], axis=2), value, -np.inf, bound)
    terms.append((head, 1.0))


def add_reserve_values(
    problem: Problem, matrices: Matrices, limits: dict[str, Floats], rows: Floats, columns: Floats
) -> None:
    """Add to the value of each limit what one more unit of it saves as headroom; ``limits`` are changed in place."""
    root = np.sqrt(problem.stores.efficiency)[:, None]
    ways = (
        ("up", "reserveUp", ("generation", "discharge", "empty", "import"), root / problem.step_hours),
        ("down", "reserveDown", ("minPower", "charge", "full", "export"), 1.0 / (root * problem.step_hours)),
    )
    for way, name, (unit, power, energy, tie), per_kilowatt in ways:
        if name not in limits:
            continue
        if f"{way}_generation" in matrices.columns:
            several = matrices.cells[f"{way}_generation"]
            if unit in limits:
                own = np.abs(matrices.row(f"{way}_generation", rows)).reshape(several.size, -1)
                limits[unit] = _added(limits[unit], several, own)
            if "ramp" in limits:
                slow = np.maximum(-matrices.column(f"{way}_generation", columns), 0.0)
                limits["ramp"] = _added(limits["ramp"], several, slow)
        if way == "up" and "generation" in limits:
            single = np.setdiff1d(np.arange(problem.generators.place.size), matrices.cells["up_generation"])
            limits[unit] = _added(limits[unit], single, limits[name])
        if problem.stores.place.size:
            limits[power] = limits[power] + np.abs(matrices.row(f"{way}_stores_power", rows))
            limits[energy] = limits[energy] + np.abs(matrices.row(f"{way}_stores_energy", rows)) * per_kilowatt
        if problem.ties.place.size:
            headroom = limits[name]
            if f"{way}_ties" in matrices.columns:
                headroom = np.abs(matrices.row("up_ties_capacity", rows))
                limits["maxGridImport"] = limits["maxGridImport"] + np.abs(matrices.row("up_ties_import", rows))
            able = slice(None) if way == "up" else np.flatnonzero(problem.ties.exports)
            limits[tie] = _added(limits[tie], able, headroom)


def _added(values: Floats, chosen: IntArray | slice, more: Floats) -> Floats:
    total = values.copy()
    total[chosen] += more
    return total
