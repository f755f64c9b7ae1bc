"""What the routes of one application share; built by ``create_app`` and reached through ``Shared``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import sqlalchemy as sa
from fastapi import Depends
from starlette.requests import HTTPConnection

from energy_cloud_dagster.settings import Settings

if TYPE_CHECKING:
    from energy_cloud_dagster.api.device_callers import DeviceCallers
    from energy_cloud_dagster.api.security import AccountCache, Tokens


@dataclass(frozen=True, slots=True)
class Context:
    """The settings, the database and the keys of one application."""

    settings: Settings
    engine: sa.Engine
    tokens: Tokens
    accounts: AccountCache
    devices: DeviceCallers


async def context_of(request: HTTPConnection) -> Context:
    """Return the context of the application that serves ``request``."""
    context: Context = request.app.state.context
    return context


Shared = Annotated[Context, Depends(context_of)]
"""The context, as a parameter of a route."""
