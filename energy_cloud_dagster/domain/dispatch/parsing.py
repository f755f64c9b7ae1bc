"""From a JSON document to a :class:`Problem`: whole columns at once, and a word on the first fault where there is one.

The tables below say what a resource may carry. :func:`parse_problem` reads every field of every resource of a family as
one array; only where that does not work are the resources looked at one by one, to name the fault and its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from math import inf, nan
from typing import Any, Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.fields import MOST, UNREADABLE, Fields, at, listing, shape_of
from energy_cloud_dagster.domain.dispatch.problem import (
    DEFAULT_EFFICIENCY,
    DEFAULT_SOC,
    DEFAULT_STEP_MINUTES,
    GENERATOR_TYPES,
    MAX_CELLS,
    MAX_STEPS,
    RENEWABLE_TYPES,
    TYPES,
    Constraints,
    Floats,
    Generators,
    IntArray,
    Loads,
    Problem,
    Stores,
    Ties,
)
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.units import MINUTES_PER_HOUR

#: Priorities are compared level by level, so that a bound costs nobody anything.
MAX_PRIORITY: Final = 1_000_000
#: Clashing ids that a message names; the rest is counted.
_NAMED: Final = 10

_DESCRIPTIVE: Final = frozenset(
    {"name", "description", "location", "current", "unit", "status", "lastUpdate", "metadata"}
    | {"deviceId", "vppId", "resourceId", "owner"}
)
_PLAN_FIELDS: Final = _DESCRIPTIVE | frozenset(
    {"demand", "resources", "constraints", "horizon", "stepMinutes", "start", "solver", "strict", "timeLimit"}
    | {"id", "market", "currency"}
)
_CONSTRAINT_FIELDS: Final = frozenset({"minRenewable", "maxCost", "maxGridImport", "maxEmissions", "reserve"})
_SOLVERS: Final = ("lp", "ga")


@dataclass(frozen=True, slots=True)
class _Column:
    """One field of a family: its value where it is absent (``None``: it must be there) and its range.

    ``series`` may be a number or one value per step; ``above`` means more than ``low``, not at least.
    """

    field: str
    default: float | None
    low: float | None = 0.0
    high: float | None = None
    series: bool = True
    above: bool = False


_FAMILIES: Final[dict[str, tuple[_Column, ...]]] = {
    "generator": (
        _Column("capacity", None),
        _Column("availability", 1.0, high=1.0),
        # a subsidy is a negative cost
        _Column("costPerKWh", 0.0, low=None),
        _Column("minPower", 0.0),
        _Column("rampRate", inf),
        _Column("initialOutput", nan, series=False),
        _Column("emissionsPerKWh", 0.0),
    ),
    "storage": (
        _Column("capacity", None),
        _Column("energyCapacity", None, series=False, above=True),
        _Column("costPerKWh", 0.0),
        _Column("soc", DEFAULT_SOC, high=1.0, series=False),
        _Column("efficiency", DEFAULT_EFFICIENCY, high=1.0, series=False, above=True),
        _Column("minSoc", 0.0, high=1.0),
        _Column("maxSoc", 1.0, high=1.0),
        _Column("endSoc", nan, high=1.0, series=False),
    ),
    "grid": (
        _Column("capacity", None),
        # wholesale prices do go below zero
        _Column("costPerKWh", 0.0, low=None),
        _Column("exportPrice", nan, low=None),
        _Column("emissionsPerKWh", 0.0),
    ),
    "load": (
        _Column("capacity", None),
        _Column("availability", 1.0, high=1.0),
        _Column("costPerKWh", 0.0),
    ),
}
#: Only generators are units that have a least power.
_NO_MIN_POWER: Final = _Column("minPower", 0.0, high=0.0)
_FAMILY: Final = {kind: "generator" if kind in GENERATOR_TYPES else kind for kind in TYPES}
#: A panel's or turbine's own efficiency is part of its availability, so it is accepted and says nothing here.
_KNOWN: Final = {
    family: _DESCRIPTIVE
    | {"id", "type", "minPower", "priority"}
    | {column.field for column in columns}
    | ({"efficiency"} if family == "generator" else set())
    for family, columns in _FAMILIES.items()
}
_KNOWN_TO: Final = {kind: _KNOWN[family] for kind, family in _FAMILY.items()}
#: Fields of a resource that may be arrays; a location may be one too, but says nothing about the number of steps.
_SERIES_FIELDS: Final = tuple(
    dict.fromkeys(column.field for columns in _FAMILIES.values() for column in columns if column.series)
)


class _Faulty(Exception):
    """Something is wrong somewhere; reading the resources one by one finds out what and where."""


def parse_problem(document: Any) -> Problem:
    """Return the problem that ``document`` (the body of ``optimize`` plus ``resources``) states.

    Demand, availability, prices and limits may be a number or an array of one value per step. The number of steps is
    ``horizon``, else the length of the arrays, else 1. Raises :class:`InvalidInput` with the JSON pointer of the first
    fault; a field that is not known is a fault, so that a misspelt limit is never ignored.
    """
    plan = Fields(document, "", _PLAN_FIELDS)
    solver = plan.get("solver", "lp")
    if solver not in _SOLVERS:
        raise InvalidInput(f'solver must be "lp" or "ga", not {solver!r}', pointer="/solver")
    items = listing(plan.required("resources"), "/resources")
    limits = Fields(plan.get("constraints", {}), "/constraints", _CONSTRAINT_FIELDS)
    reserve = Fields(limits.get("reserve", {}), "/constraints/reserve", ("up", "down"))
    steps = _steps(plan, items, limits, reserve)
    if steps * max(1, len(items)) > MAX_CELLS:
        many = f"{steps:,} steps of {len(items):,} resources are {steps * len(items):,} decisions"
        raise InvalidInput(f"{many}, and a plan takes {MAX_CELLS:,}; give longer steps, or fewer", pointer="/resources")
    minutes = plan.number("stepMinutes", DEFAULT_STEP_MINUTES, low=None, high=24 * MINUTES_PER_HOUR)
    time_limit = plan.optional_number("timeLimit", low=None)
    for key, value in (("stepMinutes", minutes), ("timeLimit", time_limit)):
        if value is not None and value <= 0:
            raise InvalidInput("must be above 0", pointer=at("", key))
    demand = _column(plan, _Column("demand", None), steps)
    try:
        ids, types, members = _roll(items)
        tables = {family: _table([items[i] for i in places], family, steps) for family, places in members.items()}
        priority = _priorities(items)
    except (_Faulty, TypeError, KeyError, ValueError, OverflowError) as fault:
        _name_the_fault(items, steps)
        raise InvalidInput("cannot be read", pointer="/resources") from fault
    places = {family: np.array(rows, dtype=np.int64) for family, rows in members.items()}
    return Problem(
        demand=demand,
        ids=ids,
        types=types,
        priority=priority,
        generators=_generators(tables["generator"], places["generator"], types),
        stores=_stores(tables["storage"], places["storage"]),
        ties=_ties(tables["grid"], places["grid"]),
        loads=_loads(tables["load"], places["load"]),
        constraints=Constraints(
            min_renewable=limits.optional_number("minRenewable", high=1),
            max_cost=limits.optional_number("maxCost"),
            max_grid_import=_optional(limits, "maxGridImport", steps),
            max_emissions=limits.optional_number("maxEmissions"),
            reserve_up=_optional(reserve, "up", steps),
            reserve_down=_optional(reserve, "down", steps),
        ),
        step_minutes=minutes,
        strict=plan.flag("strict"),
        start=_start(plan, minutes * steps),
        solver=solver,
        time_limit=time_limit,
    )


def _steps(plan: Fields, items: list[Any], limits: Fields, reserve: Fields) -> int:
    steps = plan.whole("horizon", low=1) or next(
        (length for each in _series_in(plan, items, limits, reserve) if (length := shape_of(each)) is not None), 1
    )
    if not 1 <= steps <= MAX_STEPS:
        pointer = "/horizon" if plan.get("horizon") is not None else "/demand"
        raise InvalidInput(f"a plan has 1 to {MAX_STEPS:,} steps, not {steps:,}", pointer=pointer)
    return steps


def _start(plan: Fields, minutes: float) -> datetime | None:
    start = plan.moment("start")
    try:
        if start is not None:
            start + timedelta(minutes=minutes)
    except OverflowError:
        raise InvalidInput("the plan would end after the year 9999", pointer="/start") from None
    return start


def _series_in(plan: Fields, items: list[Any], limits: Fields, reserve: Fields) -> Iterable[Any]:
    yield plan.get("demand")
    for item in items:
        if isinstance(item, dict):
            yield from (item.get(name) for name in _SERIES_FIELDS)
    yield limits.get("maxGridImport")
    yield from (reserve.get("up"), reserve.get("down"))


# -- the fast way: columns


def _roll(items: list[Any]) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, list[int]]]:
    """Return ids, types, and the places of each family's resources."""
    ids: list[str] = []
    types: list[str] = []
    members: dict[str, list[int]] = {family: [] for family in _FAMILIES}
    for index, item in enumerate(items):
        kind = item["type"]
        if not item.keys() <= _KNOWN_TO[kind]:
            raise _Faulty
        name = item.get("id")
        if name is None:
            name = _default_id(kind, index)
        elif not isinstance(name, str) or not name.strip():
            raise _Faulty
        ids.append(name)
        types.append(kind)
        members[_FAMILY[kind]].append(index)
    if len(set(ids)) != len(ids) or UNREADABLE.search("".join(ids)):
        raise _Faulty
    return tuple(ids), tuple(types), members


def _default_id(kind: str, index: int) -> str:
    return f"{kind.upper()}-{index + 1:03d}"


def _table(items: list[Any], family: str, steps: int) -> dict[str, Floats]:
    """Return each field of a family as an array: (n, steps) for series, (n,) for the rest."""
    if family != "generator" and (least := [v for item in items if (v := item.get("minPower")) is not None]):
        _values(least, _NO_MIN_POWER, steps)
    return {
        column.field: _values([item.get(column.field) for item in items], column, steps) for column in _FAMILIES[family]
    }


def _values(raw: list[Any], column: _Column, steps: int) -> Floats:
    """Return the values of one field, one row per resource; raises where any of them cannot be meant."""
    forms = {kind: _form(kind) for kind in set(map(type, raw))}
    found = set(forms.values())
    if found <= {"number"}:
        values = _checked(np.array(raw, dtype=np.float64), column)
        return values.repeat(steps).reshape(-1, steps) if column.series else values
    if ("absent" in found and column.default is None) or ("series" in found and not column.series):
        raise _Faulty
    if found == {"series"}:
        return _checked(_block(raw, steps), column)
    table = np.empty((len(raw), steps) if column.series else len(raw))
    table.fill(nan if column.default is None else column.default)
    for form in found - {"absent"}:
        rows = [row for row, each in enumerate(raw) if forms[type(each)] == form]
        chosen = [raw[row] for row in rows]
        if form == "series":
            table[rows] = _checked(_block(chosen, steps), column)
        else:
            numbers = _checked(np.array(chosen, dtype=np.float64), column)
            table[rows] = numbers[:, None] if column.series else numbers
    return table


def _form(kind: type) -> str:
    if issubclass(kind, int | float) and kind is not bool:
        return "number"
    if issubclass(kind, list | tuple):
        return "series"
    if kind is type(None):
        return "absent"
    raise _Faulty


def _block(rows: list[Sequence[Any]], steps: int) -> Floats:
    """Return arrays of numbers as one array, (rows, steps)."""
    if set(map(len, rows)) != {steps}:
        raise _Faulty
    if any(_form(kind) != "number" for kind in set(map(type, chain.from_iterable(rows)))):
        raise _Faulty
    return np.fromiter(chain.from_iterable(rows), dtype=np.float64, count=len(rows) * steps).reshape(-1, steps)


def _checked(values: Floats, column: _Column) -> Floats:
    """Return ``values`` without negative zeros if all are finite and within the column's range."""
    if values.size == 0:
        return values
    least, most = values.min(), values.max()
    # a nan makes both of them nan, and every comparison false
    inside = (least >= (-MOST if column.low is None else column.low)) and (
        most <= (MOST if column.high is None else column.high)
    )
    if not inside or (column.above and least <= 0):
        raise _Faulty
    if least <= 0:
        values += 0.0
    return values


def _priorities(items: list[Any]) -> IntArray:
    raw = [0 if (value := item.get("priority")) is None else value for item in items]
    if any(_form(kind) != "number" for kind in set(map(type, raw))):
        raise _Faulty
    values = np.array(raw, dtype=np.float64)
    if not (values == np.rint(values)).all() or not (np.abs(values) <= MAX_PRIORITY).all():
        raise _Faulty
    return values.astype(np.int64)


def _column(fields: Fields, column: _Column, steps: int) -> Floats:
    """Return one series of the plan itself as (steps,)."""
    try:
        table = _values([fields.get(column.field)], column, steps)
    except (_Faulty, TypeError, ValueError, OverflowError):
        return np.array(fields.series(column.field, steps, required=True, low=column.low, high=column.high))
    return table.ravel()


def _optional(fields: Fields, key: str, steps: int) -> Floats | None:
    return None if fields.get(key) is None else _column(fields, _Column(key, None), steps)


# -- from tables to what a problem holds


def _generators(table: dict[str, Floats], place: IntArray, types: tuple[str, ...]) -> Generators:
    return Generators(
        place=place,
        renewable=np.array([types[index] in RENEWABLE_TYPES for index in place.tolist()], dtype=np.bool_),
        capacity=table["capacity"],
        availability=table["availability"],
        limit=table["capacity"] * table["availability"],
        cost=table["costPerKWh"],
        emissions=table["emissionsPerKWh"],
        min_power=table["minPower"],
        ramp=table["rampRate"],
        initial=table["initialOutput"],
    )


def _stores(table: dict[str, Floats], place: IntArray) -> Stores:
    if (clash := (table["minSoc"] > table["maxSoc"]).any(axis=1)).any():
        pointer = at(at("/resources", int(place[clash.argmax()])), "minSoc")
        raise InvalidInput("minSoc must not be above maxSoc", pointer=pointer)
    end = table["endSoc"]
    return Stores(
        place=place,
        power=table["capacity"],
        energy=table["energyCapacity"],
        soc=table["soc"],
        efficiency=table["efficiency"],
        cost=table["costPerKWh"],
        min_soc=table["minSoc"],
        max_soc=table["maxSoc"],
        # without endSoc a store is left as full as it was found, or as full as it may be
        end_soc=np.where(np.isnan(end), np.minimum(table["soc"], table["maxSoc"][:, -1]), end),
    )


def _ties(table: dict[str, Floats], place: IntArray) -> Ties:
    return Ties(
        place=place,
        capacity=table["capacity"],
        cost=table["costPerKWh"],
        export_price=table["exportPrice"],
        exports=~np.isnan(table["exportPrice"][:, 0]),
        emissions=table["emissionsPerKWh"],
    )


def _loads(table: dict[str, Floats], place: IntArray) -> Loads:
    return Loads(
        place=place,
        capacity=table["capacity"],
        availability=table["availability"],
        limit=table["capacity"] * table["availability"],
        cost=table["costPerKWh"],
    )


# -- the slow way: one resource at a time, to say what is wrong


def _name_the_fault(items: list[Any], steps: int) -> None:
    """Raise :class:`InvalidInput` for the first fault of the resources in the document's order."""
    holders: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        pointer = at("/resources", index)
        if not isinstance(item, dict):
            raise InvalidInput("must be an object", pointer=pointer)
        kind = item.get("type")
        if not isinstance(kind, str) or kind not in TYPES:
            raise InvalidInput(f"type must be one of {', '.join(TYPES)}, not {kind!r}", pointer=f"{pointer}/type")
        family = _FAMILY[kind]
        fields = Fields(item, pointer, _KNOWN[family])
        name = fields.text("id", _default_id(kind, index))
        if UNREADABLE.search(name):
            raise InvalidInput("must have no control characters and no half characters", pointer=f"{pointer}/id")
        holders.setdefault(name, []).append(index)
        if abs(fields.whole("priority", low=None) or 0) > MAX_PRIORITY:
            raise InvalidInput(f"must be within ±{MAX_PRIORITY:,}", pointer=f"{pointer}/priority")
        if family != "generator" and any(fields.series("minPower", steps)):
            raise InvalidInput(
                f"only {', '.join(sorted(GENERATOR_TYPES))} have a minPower, not {kind}", pointer=f"{pointer}/minPower"
            )
        for column in _FAMILIES[family]:
            _name_the_column(fields, column, steps)
    if clashes := {name: places for name, places in holders.items() if len(places) > 1}:
        first = min(clashes.values(), key=lambda places: places[1])
        raise InvalidInput("; ".join(_clashes(clashes)), pointer=f"/resources/{first[1]}/id")


def _name_the_column(fields: Fields, column: _Column, steps: int) -> None:
    if column.default is not None and fields.get(column.field) is None:
        return
    if column.series:
        fields.series(column.field, steps, required=True, low=column.low, high=column.high)
    elif fields.number(column.field, low=column.low, high=column.high) == 0 and column.above:
        raise InvalidInput("must be above 0", pointer=at(fields.pointer, column.field))


def _clashes(clashes: dict[str, list[int]]) -> Iterable[str]:
    """Yield which resources share an id, id by id."""
    for name, places in list(clashes.items())[:_NAMED]:
        holders = ", ".join(f"/resources/{place}" for place in places[:_NAMED])
        more = f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
        yield f"{name!r} is the id of {holders}{more}"
    if len(clashes) > _NAMED:
        yield f"and {len(clashes) - _NAMED:,} more ids are given twice"
