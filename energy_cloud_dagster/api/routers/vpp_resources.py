"""The resources of a VPP: what it plans with and commands."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Body, Path
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError, WithJsonSchema
from starlette.responses import Response

from energy_cloud_dagster.adapters import vpp_document, vpp_registry
from energy_cloud_dagster.adapters.vpp_registry import NewResource
from energy_cloud_dagster.api.context import Shared
from energy_cloud_dagster.api.idempotency import Writing
from energy_cloud_dagster.api.paging import Paged
from energy_cloud_dagster.api.routers.vpp import AsOf, Label, VppId
from energy_cloud_dagster.api.routers.vpp_answers import (
    Kind,
    Location,
    Number,
    Parameters,
    Resource,
    find,
    present,
    resources,
)
from energy_cloud_dagster.api.security import Caller, needs, utc_now
from energy_cloud_dagster.api.values import Page, inlined
from energy_cloud_dagster.domain.errors import InvalidInput

router = APIRouter(prefix="/v1/vpp", tags=["vpp"])

ResourceId = Annotated[str, Path(alias="resourceId", max_length=128)]
#: Resources of one call.
MOST = 10_000
_APART = {"id", "type", "capacity", "location", "device_id"}


class ResourceRequest(Parameters):
    """A resource to add; all but type and capacity may be left out."""

    id: Label | None = Field(None, examples=["SOLAR-001"], description="The next free one of its type where absent.")
    type: Kind
    capacity: Number = Field(examples=[5000], description="kW; of storage and grid in both directions.")
    name: Label | None = None
    location: Location | None = None
    device_id: Label | None = Field(
        None, description="The registered device that measures and obeys. Absent: a simulated one where there are such."
    )


_ONE: TypeAdapter[ResourceRequest] = TypeAdapter(ResourceRequest)
_MANY: TypeAdapter[list[ResourceRequest]] = TypeAdapter(Annotated[list[ResourceRequest], Field(max_length=MOST)])
_SCHEMA = inlined(_ONE.json_schema(by_alias=True))
_BODY = {"oneOf": [_SCHEMA, {"type": "array", "items": _SCHEMA, "maxItems": MOST}]}


@router.get("/{id}/resources", summary="The resources of a VPP")
@needs("vpp:read")
def list_resources(context: Shared, caller: Caller, vpp_id: VppId, paging: Paged, as_of: AsOf = None) -> Page[Resource]:
    """Return the resources in the order of their ids, with what each last measured."""
    after = paging.after(str)
    with context.engine.connect() as connection:
        found = find(connection, caller, vpp_id)
        now = present(connection, context) if as_of is None else as_of
        (state,) = vpp_document.describe(connection, [found], now, as_of)
    listed = sorted(resources(state), key=lambda each: each.id)
    left = [each for each in listed if after is None or each.id > after[0]]
    kept, cursor = paging.page(left[: paging.fetch], lambda each: (each.id,))
    return Page(items=list(kept), next_cursor=cursor)


@router.post("/{id}/resources", summary="Add resources", status_code=201, response_model=Resource | list[Resource])
@needs("vpp:write")
def add_resources(
    context: Shared,
    caller: Caller,
    vpp_id: VppId,
    writing: Writing,
    body: Annotated[Any, Body(), WithJsonSchema(_BODY)],
) -> Response:
    """Add a resource, or an array of up to 10,000: all of them or none."""
    many = isinstance(body, list)
    wanted = _read(body, many=many)
    with context.engine.begin() as connection:
        if (answer := writing.answered(connection)) is not None:
            return answer
        found = find(connection, caller, vpp_id)
        try:
            made = vpp_registry.create_resources(
                connection,
                vpp_id,
                [_new(each) for each in wanted],
                actor=caller.username,
                now=utc_now(),
                simulated=context.settings.simulate_resources,
            )
        except InvalidInput as error:
            raise InvalidInput(
                str(error), pointer=error.pointer if many else error.pointer.removeprefix("/0")
            ) from None
        (state,) = vpp_document.describe(connection, [found], present(connection, context), None)
        by_id = {each.id: each for each in resources(state)}
        added = [by_id[each.resource_id] for each in made]
        answer = writing.keep(connection, 201, _json(added if many else added[0]))
    if not many:
        answer.headers["Location"] = f"{router.prefix}/{quote(vpp_id)}/resources/{quote(added[0].id)}"
    return answer


@router.delete("/{id}/resources/{resourceId}", summary="Remove a resource", status_code=204)
@needs("vpp:write")
def remove_resource(
    context: Shared, caller: Caller, vpp_id: VppId, resource_id: ResourceId, writing: Writing
) -> Response:
    """Remove a resource from its VPP; a device of its own stays registered."""
    with context.engine.begin() as connection:
        if (answer := writing.answered(connection)) is not None:
            return answer
        find(connection, caller, vpp_id)
        vpp_registry.delete_resource(
            connection,
            vpp_id,
            resource_id,
            actor=caller.username,
            now=utc_now(),
            simulated=context.settings.simulate_resources,
        )
        return writing.keep(connection, 204, b"")


def _read(body: Any, *, many: bool) -> list[ResourceRequest]:
    try:
        found = _MANY.validate_python(body) if many else [_ONE.validate_python(body)]
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]
        raise RequestValidationError(faults, body=body) from None
    if not found:
        raise InvalidInput("an empty array adds nothing; send a resource, or an array of them")
    return found


def _new(wanted: ResourceRequest) -> NewResource:
    parameters = wanted.model_dump(by_alias=True, exclude=_APART, exclude_none=True)
    if "priority" in parameters and parameters["priority"].is_integer():
        parameters["priority"] = int(parameters["priority"])
    if wanted.type == "storage":
        parameters.setdefault("energyCapacity", wanted.capacity)
    return NewResource(
        wanted.type,
        wanted.capacity,
        parameters,
        wanted.id,
        wanted.device_id,
        None if wanted.location is None else wanted.location.model_dump(),
    )


def _json(added: Resource | list[Resource]) -> bytes:
    if isinstance(added, list):
        return b"[" + b",".join(_json(each) for each in added) + b"]"
    return added.model_dump_json(by_alias=True).encode()
