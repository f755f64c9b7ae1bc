"""Logging in."""

from __future__ import annotations

from typing import Annotated, Literal

import structlog
from fastapi import APIRouter
from pydantic import Field

from energy_cloud_dagster.adapters import accounts
from energy_cloud_dagster.adapters.accounts import MAX_PASSWORD_LENGTH, MAX_USERNAME_LENGTH
from energy_cloud_dagster.api.context import Shared
from energy_cloud_dagster.api.errors import Unauthenticated
from energy_cloud_dagster.api.security import public, utc_now
from energy_cloud_dagster.api.values import Document

router = APIRouter(prefix="/v1/auth", tags=["auth"])
log = structlog.get_logger()


class Credentials(Document):
    """A user name and its password."""

    username: Annotated[str, Field(min_length=1, max_length=MAX_USERNAME_LENGTH, examples=["admin"])]
    password: Annotated[str, Field(min_length=1, max_length=MAX_PASSWORD_LENGTH)]


class Login(Document):
    """Tokens of a login; send ``token`` as `Authorization: Bearer …`."""

    token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the kind of token
    expires_in: int = Field(description="Seconds until `token` expires.")


@router.post("/login", summary="Exchange a user name and a password for tokens")
@public
def login(credentials: Credentials, context: Shared) -> Login:
    """Return a bearer token for an hour; 401 when name and password do not fit."""
    with context.engine.begin() as connection:
        account = accounts.authenticate(connection, credentials.username, credentials.password)
    if account is None:
        log.info("login_refused", username=credentials.username)
        raise Unauthenticated("user name or password is wrong")
    pair = context.tokens.issue(account, utc_now())
    log.info("login", username=account.username, role=account.role)
    return Login(token=pair.access, refresh_token=pair.refresh, expires_in=pair.expires_in)
