"""Plans on request: the cheapest dispatch of a VPP, explained."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final, Literal

import anyio
import anyio.to_thread
import msgspec
import sqlalchemy as sa
from fastapi import APIRouter, Body, Path
from pydantic import Field, WithJsonSchema
from starlette.responses import Response

from energy_cloud_dagster.adapters import optimizations, vpp_problem
from energy_cloud_dagster.adapters.vpps import VppResource
from energy_cloud_dagster.api.context import Context, Shared
from energy_cloud_dagster.api.errors import problem
from energy_cloud_dagster.api.idempotency import Write, Writing
from energy_cloud_dagster.api.routers.vpp import VppId
from energy_cloud_dagster.api.routers.vpp_answers import find, present
from energy_cloud_dagster.api.security import Caller, Principal, needs, utc_now
from energy_cloud_dagster.api.values import Document, absent, inlined
from energy_cloud_dagster.domain.errors import InvalidInput, NotFound
from energy_cloud_dagster.domain.intervals import rfc3339

router = APIRouter(prefix="/v1/vpp", tags=["vpp"])

OptimizationId = Annotated[str, Path(alias="optimizationId", max_length=64)]
#: Solves of one process at a time; further requests wait without holding a thread or a connection.
_SOLVES: Final = anyio.CapacityLimiter(max(1, os.cpu_count() or 1))
#: Fields of a request that are no part of the problem as such.
_OURS: Final = frozenset({"availability", "resources"})

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")

PerStep = float | list[float]


class Reserve(Document):
    """kW that generators, storage and grid together must be able to add or take."""

    up: PerStep | None = None
    down: PerStep | None = None


class Limits(Document):
    """What the whole plan has to keep."""

    min_renewable: float | None = Field(
        None, description="Least share of sun, wind and water in all generation and import, 0 to 1."
    )
    max_cost: float | None = Field(None, description="Largest cost per kWh served.")
    max_grid_import: PerStep | None = Field(None, description="kW.")
    max_emissions: float | None = Field(None, description="In the unit of the resources' emissionsPerKWh.")
    reserve: Reserve | None = None


class OptimizeRequest(Document):
    """What to plan for; a number holds in every step."""

    demand: PerStep = Field(description="kW.", examples=[8000])
    horizon: int | None = Field(None, description="Steps; by default as many as the arrays have, else 1.")
    step_minutes: float = Field(60, description="Length of a step.")
    start: datetime | None = Field(None, description="Start of the first step; the present one by default.")
    constraints: Limits | None = None
    solver: Literal["lp", "ga"] = Field("lp", description="ga: the genetic algorithm, which says how far it is off.")
    strict: bool = Field(False, description="Demand, minRenewable and maxCost are hard: better no plan than less.")
    time_limit: float | None = Field(
        None, description="Seconds to search; ENERGY_CLOUD_DISPATCH_SECONDS at most, and by default."
    )
    availability: dict[str, PerStep] | None = Field(
        None, description="Share of their capacity that resources can give, by resource id; else the forecast's."
    )
    resources: list[dict[str, Any]] | None = Field(
        None, description="Fields that hold in this plan instead of the registered ones, each with the resource's id."
    )


class Allocated(Document):
    """What one resource does, kW per step (a number for one step); storage and grid: out of the VPP is negative."""

    resource_id: str
    type: str
    output: PerStep = Field(description="Storage: discharge - charge; grid: import - export; load: what is shed.")
    charge: list[float] | None = None
    discharge: list[float] | None = None
    soc: list[float] | None = Field(None, description="Fraction at the end of each step.")


class Step(Document):
    """What decides one step."""

    start: datetime | None = None
    marginal_price: float = Field(description="What one more kWh of demand would cost.")
    binding: list[str]


class Shortfall(Document):
    """A goal that could not be met."""

    constraint: str
    required: float
    achieved: float
    shortfall: float


class Optimization(Document):
    """A plan, or why there is none; energy in kWh, money in the market's currency."""

    id: str
    status: Literal["completed", "infeasible"]
    cost: float | None = Field(description="Unmet energy counts 10 per kWh.")
    unmet_energy: float | None
    average_cost: float | None = Field(description="Per kWh served, without unmet energy.")
    renewable_ratio: float | None
    total_output: PerStep | None
    marginal_price: float | None = Field(None, exclude_if=absent, description="Of a plan with one step.")
    steps: list[Step]
    allocation: list[Allocated]
    violations: list[Shortfall]
    conflict: list[str] | None = Field(None, exclude_if=absent, description="The constraints that conflict.")
    solver: str
    optimal: bool | None = Field(None, exclude_if=absent, description="False where the search ended early, or was ga.")
    gap: float | None = Field(None, exclude_if=absent, description="How much it may cost above the optimum, relative.")
    solve_seconds: float
    explanation: list[str]


class KeptOptimization(Document):
    """A plan as it was asked for and answered."""

    id: str
    vpp_id: str
    requested_by: str
    created_at: datetime
    digest: str = Field(description="SHA-256 of problem and answer in canonical JSON.")
    problem: dict[str, Any] = Field(description="As `energy-cloud dispatch solve` takes it.")
    answer: dict[str, Any]


_SCHEMA: Final = inlined(OptimizeRequest.model_json_schema(by_alias=True))


@router.post("/{id}/optimize", summary="Plan the cheapest dispatch", response_model=Optimization)
@needs("vpp:write")
async def optimize(
    context: Shared,
    caller: Caller,
    vpp_id: VppId,
    writing: Writing,
    body: Annotated[dict[str, Any], Body(), WithJsonSchema(_SCHEMA)],
) -> Response:
    """Return the optimal plan of the VPP's resources for a demand, and keep it under its id.

    Goals in strict order: least unmet demand, then least shortfall of `minRenewable`, of `maxCost`, then least cost.
    A VPP without a `grid` resource has a connection of its own, `{vppId}-GRID`. Grid connections without a price cost
    what the market does (where it has published nothing: ENERGY_CLOUD_GRID_PRICE). Storage starts from its measured
    state of charge, else the registered one, else half full. Sun, wind and water give what their forecast says, else
    their registered availability, else all of their capacity.
    """
    work = partial(_optimize, context, caller, vpp_id, writing, body)
    return await anyio.to_thread.run_sync(work, limiter=_SOLVES)


@router.get("/{id}/optimizations/{optimizationId}", summary="A plan that was asked for")
@needs("vpp:read")
def get_optimization(
    context: Shared, caller: Caller, vpp_id: VppId, optimization_id: OptimizationId
) -> KeptOptimization:
    """Return a plan on request with the problem that it solves."""
    with context.engine.connect() as connection:
        find(connection, caller, vpp_id)
        found = None
        if optimization_id.isprintable():
            found = optimizations.get(connection, vpp_id, optimization_id)
    if found is None:
        raise NotFound(f"VPP {vpp_id} has no optimization {optimization_id}")
    fields = found._asdict()
    return KeptOptimization(id=fields.pop("optimization_id"), **fields)


def _optimize(context: Context, caller: Principal, vpp_id: str, writing: Write, body: dict[str, Any]) -> Response:
    from energy_cloud_dagster.domain.dispatch import solve
    from energy_cloud_dagster.domain.dispatch.solving.lp import SolverFailed

    with context.engine.begin() as connection:
        if (answer := writing.answered(connection)) is not None:
            return answer
        document, stated = _stated(connection, context, caller, vpp_id, body)
    # no transaction is open while the solver runs
    started = time.perf_counter()
    try:
        found = solve(stated).to_document()
    except SolverFailed as error:
        return problem(503, str(error), kind="solver-failed")
    seconds = time.perf_counter() - started
    if stated.steps == 1 and found["status"] == "completed":
        found["marginalPrice"] = found["steps"][0]["marginalPrice"]
    with context.engine.begin() as connection:
        if (answer := writing.answered(connection)) is not None:
            return answer
        kept = optimizations.add(connection, vpp_id, document, found, requested_by=caller.username, now=utc_now())
        given = {"id": kept.optimization_id, **found, "solveSeconds": round(seconds, 6)}
        return writing.keep(connection, 200, msgspec.json.encode(given))


def _stated(
    connection: sa.Connection, context: Context, caller: Principal, vpp_id: str, body: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Return the dispatch problem that ``body`` asks for, as a document and as ``Problem``."""
    from energy_cloud_dagster.domain.dispatch import parse_problem

    _require_storable(body)
    plant = find(connection, caller, vpp_id)
    resources = vpp_problem.dispatchable(connection, plant)
    overrides, places = _overrides(body, {each.resource_id: each for each in resources}, vpp_id)
    now = present(connection, context)
    asked: dict[str, Any] = {name: value for name, value in body.items() if name not in _OURS}
    registered = [
        {"id": each.resource_id, "type": each.type, "capacity": each.capacity_kw}
        | each.planned
        | overrides.get(each.resource_id, {})
        for each in resources
    ]
    try:
        # The request is judged before anything is looked up; it says how many steps there are.
        asked_for = parse_problem({**asked, "resources": registered})
        start = asked_for.start or _present_step(now, asked_for.step_minutes)
        steps = vpp_problem.Steps(start, asked_for.step_minutes, asked_for.steps)
        longest = context.settings.dispatch_seconds
        limit = longest if asked_for.time_limit is None else min(asked_for.time_limit, longest)
        documents = vpp_problem.resource_documents(
            connection, plant, resources, overrides, steps, now, grid_price=context.settings.grid_price
        )
        document = {
            **asked,
            "start": rfc3339(start),
            "stepMinutes": asked_for.step_minutes,
            "horizon": asked_for.steps,
            "timeLimit": limit,
            "resources": documents,
        }
        return document, parse_problem(document)
    except OverflowError:
        raise InvalidInput("the steps reach past the year 9999", pointer="/start") from None
    except InvalidInput as error:
        raise _pointed(error, registered, places) from None


def _require_storable(body: Mapping[str, Any]) -> None:
    """Refuse text that no database keeps and no answer carries: NUL, and half of a surrogate pair."""
    left: list[tuple[str, Any]] = [("", body)]
    while left:
        pointer, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}", each) for name, each in value.items()]
        elif isinstance(value, list):
            left += [
                (f"{pointer}/{place}", each) for place, each in enumerate(value) if isinstance(each, str | list | dict)
            ]
        texts: Iterable[Any] = value if isinstance(value, dict) else (value,)
        if any(isinstance(text, str) and _UNSTORABLE.search(text) for text in texts):
            raise InvalidInput("text with a NUL or a lone surrogate cannot be kept", pointer=pointer)


def _overrides(
    body: Mapping[str, Any], known: Mapping[str, VppResource], vpp_id: str
) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], str]]:
    """Return the fields that a request gives resources, by id, and the pointer of each by (id, field)."""
    found: dict[str, dict[str, Any]] = {}
    places: dict[tuple[str, str], str] = {}
    listed = body.get("resources") or []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise InvalidInput("must be an array of objects, each with the id of a resource", pointer="/resources")
    _require_once((each.get("id") for each in listed), "/resources")
    for place, each in enumerate(listed):
        at = f"/resources/{place}"
        name = each.get("id")
        resource = known.get(name) if isinstance(name, str) else None
        if resource is None:
            raise InvalidInput(
                f"VPP {vpp_id} has no resource {name}; add it by POST /v1/vpp/{vpp_id}/resources", pointer=f"{at}/id"
            )
        if each.get("type", resource.type) != resource.type:
            raise InvalidInput(f"{name} is of type {resource.type}", pointer=f"{at}/type")
        found[resource.resource_id] = {field: value for field, value in each.items() if field not in {"id", "type"}}
        places |= {(resource.resource_id, field): f"{at}/{field}" for field in each}
    shares = body.get("availability") or {}
    if not isinstance(shares, dict):
        raise InvalidInput(
            "must be an object of resource ids, each with a number or one for each step", pointer="/availability"
        )
    for name, value in shares.items():
        at = f"/availability/{name.replace('~', '~0').replace('/', '~1')}"
        if name not in known:
            raise InvalidInput(f"VPP {vpp_id} has no resource {name}", pointer=at)
        found.setdefault(name, {})["availability"] = value
        places[name, "availability"] = at
    return found, places


def _require_once(ids: Iterable[Any], pointer: str) -> None:
    counts = Counter(each for each in ids if isinstance(each, str))
    twice = [f"{name} ({count} times)" for name, count in counts.items() if count > 1]
    if twice:
        raise InvalidInput(f"a resource is given once; given more often: {', '.join(twice[:10])}", pointer=pointer)


def _present_step(now: datetime, minutes: float) -> datetime:
    """Return the start of the step that ``now`` lies in, counted from midnight UTC."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    length = timedelta(minutes=minutes)
    return midnight + (now - midnight) // length * length


def _pointed(
    error: InvalidInput, registered: list[dict[str, Any]], places: Mapping[tuple[str, str], str]
) -> InvalidInput:
    """Return a fault of the problem as one of the request; a registered value has no place there but is named."""
    head, _, rest = error.pointer.removeprefix("/resources/").partition("/")
    if not error.pointer.startswith("/resources/") or not head.isdigit():
        return error
    field, _, below = rest.partition("/")
    name = registered[int(head)]["id"]
    place = places.get((name, field), "")
    message = str(error) if place else f"{field} of resource {name}: {error}"
    return InvalidInput(message, pointer=f"{place}/{below}" if place and below else place)
