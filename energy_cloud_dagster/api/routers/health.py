"""Whether the process lives and whether the parts that it needs answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from energy_cloud_dagster.adapters import probes
from energy_cloud_dagster.api.context import Context, Shared
from energy_cloud_dagster.api.errors import problem
from energy_cloud_dagster.api.security import public
from energy_cloud_dagster.api.values import Document
from energy_cloud_dagster.domain.errors import PartUnavailable

router = APIRouter(prefix="/health", tags=["health"])


class Live(Document):
    """The process answers."""

    status: Literal["live"] = "live"


class Ready(Document):
    """Each part: up, down, or unset where no address is configured."""

    status: Literal["ready"]
    parts: dict[str, Literal["up", "down", "unset"]]


@router.get("/live", summary="Whether the process answers")
@public
async def live() -> Live:
    """Answer 200 as long as the process runs."""
    return Live()


@router.get("/ready", response_model=Ready, summary="Whether the parts answer")
@public
def ready(context: Shared) -> Response:
    """Name the state of the database, the broker and the chain; 503 while the database does not answer.

    Reads need the database alone, so a broker or a chain that is down is named and does not make the API unready.
    """
    parts = _parts(context)
    if parts["database"] != "up":
        return problem(503, "the database does not answer", headers={"Retry-After": "5"}, parts=parts)
    return JSONResponse({"status": "ready", "parts": parts})


def _parts(context: Context) -> dict[str, str]:
    settings = context.settings
    return {
        "database": _state(lambda: probes.database(context.engine)),
        "broker": _state(lambda: probes.broker(settings.mqtt_url)) if settings.mqtt_url else "unset",
        "chain": _state(lambda: probes.chain(settings.chain_rpc_url)) if settings.chain_rpc_url else "unset",
    }


def _state(probe: Callable[[], object]) -> str:
    try:
        probe()
    except PartUnavailable:
        return "down"
    return "up"
