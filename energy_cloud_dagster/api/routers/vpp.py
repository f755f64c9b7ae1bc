"""Virtual power plants as they stand, and as operators make and change them."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator, Field
from starlette.responses import Response

from energy_cloud_dagster.adapters import registry, vpp_registry, vpps
from energy_cloud_dagster.api.context import Shared
from energy_cloud_dagster.api.idempotency import Writing
from energy_cloud_dagster.api.paging import Paged
from energy_cloud_dagster.api.routers.vpp_answers import Location, Number, VppDocument, documents, find
from energy_cloud_dagster.api.security import Caller, needs, utc_now
from energy_cloud_dagster.api.values import Document, Moment, Page
from energy_cloud_dagster.domain.dispatch.fields import MOST
from energy_cloud_dagster.domain.errors import InvalidInput, NotFound

router = APIRouter(prefix="/v1/vpp", tags=["vpp"])

VppId = Annotated[str, Path(alias="id", max_length=128)]
AsOf = Annotated[Moment | None, Query(alias="asOf", description="Answer with what was known then.")]


def _printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must be printable text that is not blank")
    return text


Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


class NewVpp(Document):
    """A VPP to make, or what is to be said of one from now on."""

    id: Label | None = Field(None, description="Chosen where absent; it is part of topics and stays for good.")
    name: Label = Field(examples=["Test VPP"])
    capacity: Number = Field(
        ge=0, le=MOST, examples=[10000], description="Nominal power, and that of its grid connection."
    )
    unit: Literal["kW"] = "kW"
    location: Location | None = None
    region: Label | None = Field(None, description="Id or alias; ENERGY_CLOUD_REGION where absent.")
    participant_id: Label | None = Field(
        None, description="Who trades with it: the hourly run plans it for the region's load. Absent: on request only."
    )


@router.get("", summary="All VPPs")
@needs("vpp:read")
def list_vpps(context: Shared, caller: Caller, paging: Paged, as_of: AsOf = None) -> Page[VppDocument]:
    """Return the VPPs in the order of their ids; those of other prosumers are left out for traders and viewers."""
    after = paging.after(str)
    with context.engine.connect() as connection:
        found = vpps.page(
            connection,
            limit=paging.fetch,
            after=None if after is None else after[0],
            participant_id=caller.participant_id,
            everyone=caller.sees_all,
        )
        kept, cursor = paging.page(found, lambda vpp: (vpp.vpp_id,))
        items = documents(connection, context, list(kept), as_of)
    return Page(items=items, next_cursor=cursor)


@router.post("", summary="Make a VPP", status_code=201, response_model=VppDocument)
@needs("vpp:write")
def create_vpp(wanted: NewVpp, context: Shared, caller: Caller, writing: Writing) -> Response:
    """Make a VPP without resources: until it has a `grid`, it has a grid connection of its own of its capacity."""
    with context.engine.begin() as connection:
        if (answer := writing.answered(connection)) is not None:
            return answer
        made = vpp_registry.create(
            connection,
            wanted.name,
            wanted.capacity,
            _region(connection, wanted.region or context.settings.region),
            actor=caller.username,
            now=utc_now(),
            vpp_id=wanted.id,
            location=None if wanted.location is None else wanted.location.model_dump(),
            participant_id=wanted.participant_id,
            simulated=context.settings.simulate_resources,
        )
        (document,) = documents(connection, context, [made])
        answer = writing.keep(connection, 201, document.model_dump_json(by_alias=True).encode())
    answer.headers["Location"] = f"{router.prefix}/{quote(made.vpp_id)}"
    return answer


@router.get("/{id}", summary="One VPP")
@needs("vpp:read")
def get_vpp(context: Shared, caller: Caller, vpp_id: VppId, as_of: AsOf = None) -> VppDocument:
    """Return the VPP with the latest measured state of each resource."""
    with context.engine.connect() as connection:
        return documents(connection, context, [find(connection, caller, vpp_id)], as_of)[0]


@router.put("/{id}", summary="Change a VPP", response_model=VppDocument)
@needs("vpp:write")
def change_vpp(wanted: NewVpp, context: Shared, caller: Caller, vpp_id: VppId, writing: Writing) -> Response:
    """Replace name, capacity, location and participant; id and region stay, resources have routes of their own."""
    with context.engine.begin() as connection:
        if (answer := writing.answered(connection)) is not None:
            return answer
        held = find(connection, caller, vpp_id)
        if wanted.id not in (None, vpp_id):
            raise InvalidInput(f"this is {vpp_id}; an id cannot be changed", pointer="/id")
        if wanted.region is not None and _region(connection, wanted.region) != held.region_id:
            raise InvalidInput(f"{vpp_id} is in {held.region_id}; make another VPP there", pointer="/region")
        changed = vpp_registry.change(
            connection,
            vpp_id,
            wanted.name,
            wanted.capacity,
            actor=caller.username,
            now=utc_now(),
            location=None if wanted.location is None else wanted.location.model_dump(),
            participant_id=wanted.participant_id,
        )
        (document,) = documents(connection, context, [changed])
        return writing.keep(connection, 200, document.model_dump_json(by_alias=True).encode())


@router.delete("/{id}", summary="Take a VPP out of service", status_code=204)
@needs("vpp:write")
def delete_vpp(context: Shared, caller: Caller, vpp_id: VppId, writing: Writing) -> Response:
    """End a VPP: its plans, trades and evidence stay provable, its devices are free, its id is not used again."""
    with context.engine.begin() as connection:
        if (answer := writing.answered(connection)) is not None:
            return answer
        find(connection, caller, vpp_id)
        vpp_registry.delete(connection, vpp_id, actor=caller.username, now=utc_now())
        return writing.keep(connection, 204, b"")


def _region(connection: sa.Connection, text: str) -> str:
    try:
        return registry.find_region(connection, text).region_id
    except NotFound as error:
        raise InvalidInput(str(error), pointer="/region") from None
