"""The application: every router, one rule of access, one shape of errors."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from energy_cloud_dagster.adapters.database import make_engine
from energy_cloud_dagster.adapters.logs import configure_logging
from energy_cloud_dagster.api import errors
from energy_cloud_dagster.api.context import Context
from energy_cloud_dagster.api.device_callers import DeviceCallers
from energy_cloud_dagster.api.routers import (
    allocation,
    audit,
    auth,
    commands,
    consumption,
    consumption_schema,
    devices,
    energy,
    health,
    optimize,
    real_time,
    trading,
    vpp,
    vpp_plans,
    vpp_resources,
)
from energy_cloud_dagster.api.security import AccountCache, Tokens, access_of, admit, is_public, signing_secret
from energy_cloud_dagster.api.stream import Hub
from energy_cloud_dagster.settings import Settings, load_settings

#: Larger bodies are refused before they are read.
MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_PARENT_SECONDS: Final = 0.5
_FAULT: Final[dict[str, Any]] = {
    "description": "What went wrong (RFC 9457).",
    "content": {errors.PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_DESCRIPTION: Final = """
Energy data from the meter that measured a kilowatt-hour to the payment that settles it.

Times are RFC 3339 in UTC; callers may write any offset, or epoch seconds or milliseconds. Energy is in kWh, power in
kW, money in decimal strings. Lists are paged by `limit` and `cursor`. Errors are `application/problem+json`.
"""


def create_app(settings: Settings) -> FastAPI:
    """Build the API over the database, broker and chain that ``settings`` name.

    An empty or wrong database URL and a token secret that cannot be kept are ``Misconfigured``. No part is asked for
    an answer yet: the API starts while its database is down and says so under /health/ready.
    """
    engine = make_engine(settings.database_url.get_secret_value())
    context = Context(settings, engine, Tokens(signing_secret(settings)), AccountCache(engine), DeviceCallers(engine))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with app.state.streams.running():
            yield
        engine.dispose()

    app = FastAPI(
        title="Energy Cloud",
        version="1.0",
        summary="An open energy data platform",
        description=_DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(admit)],
        responses={"default": _FAULT},
        max_body_size=MAX_BODY_BYTES,
        redirect_slashes=False,
    )
    app.state.context = context
    app.state.streams = Hub(engine, settings.database_url.get_secret_value(), replay=settings.replay)
    errors.install(app)
    for section in (
        auth,
        health,
        consumption,
        energy,
        real_time,
        vpp,
        vpp_resources,
        optimize,
        vpp_plans,
        allocation,
        devices,
        commands,
        trading,
        audit,
    ):
        app.include_router(section.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def from_environment() -> FastAPI:
    """Build the API from ``ENERGY_CLOUD_*``: what each worker process of the server calls."""
    threading.Thread(target=_end_with, args=(os.getppid(),), name="parent-watch", daemon=True).start()
    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    return create_app(settings)


def _end_with(server: int) -> None:
    """End this worker once its server is gone: one that was killed cannot stop its workers, which keep the port."""
    while os.getppid() == server:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document: bearer tokens on every route that is not public, problems as errors."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        components = schema.setdefault("components", {})
        problem = errors.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        components.setdefault("schemas", {}).update({**problem.pop("$defs", {}), "Problem": problem})
        components["schemas"].update(consumption_schema.COMPONENTS)
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        for context in iter_route_contexts(app.routes):
            for method in context.methods or ():
                operation = schema["paths"].get(context.path_format, {}).get(method.lower())
                if operation is not None:
                    operation["security"] = [] if is_public(context.endpoint) else [{"bearer": []}]
                    if not is_public(context.endpoint):
                        operation["description"] += f"\n\nNeeds the scope `{access_of(context.endpoint)}`."
        app.openapi_schema = schema
    return app.openapi_schema
