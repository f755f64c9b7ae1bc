"""Who may do what: bearer tokens, roles and scopes. Every route is closed until it names its scope or is public.

A token carries the scopes that it was issued with; the account's present role can only narrow them, and a disabled
account is refused within a second.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, cast

import jwt
import sqlalchemy as sa
from fastapi import Depends, WebSocketException
from fastapi.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from energy_cloud_dagster.adapters import accounts, credentials
from energy_cloud_dagster.adapters.accounts import Account
from energy_cloud_dagster.api.context import Context, context_of
from energy_cloud_dagster.api.errors import Forbidden, Unauthenticated
from energy_cloud_dagster.domain.errors import Misconfigured
from energy_cloud_dagster.settings import Settings

ACCESS_LIFETIME: Final = timedelta(hours=1)
REFRESH_LIFETIME: Final = timedelta(days=30)
_ISSUER: Final = "energy-cloud"
_ALGORITHM: Final = "HS256"
_SECRET_FILE: Final = "token-secret"  # noqa: S105 - the name of the file
_SECRET_BYTES: Final = 48
_CACHE_SECONDS: Final = 1.0

_READS: Final = frozenset({"energy:read", "forecasts:read", "vpp:read", "devices:read", "trading:read", "audit:read"})
#: What each role may do. Traders and viewers see devices, measurements, trades and evidence of their own participant
#: only.
SCOPES: Final[dict[str, frozenset[str]]] = {
    "admin": _READS
    | {"energy:write", "vpp:write", "devices:write", "trading:write", "accounts:write", "dispatch:approve"},
    "operator": _READS | {"energy:write", "vpp:write", "devices:write"},
    "trader": _READS | {"trading:write"},
    "auditor": _READS,
    "device": frozenset({"energy:write"}),
    "viewer": frozenset({"energy:read", "forecasts:read", "vpp:read", "devices:read"}),
}
_SEE_ALL: Final = frozenset({"admin", "operator", "auditor"})
_PUBLIC: Final = "public"
_MARK: Final = "__energy_cloud_access__"
_POLICY_VIOLATION: Final = 1008


class Principal(NamedTuple):
    """The caller of a request; a device is one by its own token, or by an account of that role under its id."""

    username: str
    role: str
    participant_id: str | None
    scopes: frozenset[str]
    token_id: str
    device_id: str | None = None

    @property
    def sees_all(self) -> bool:
        """Whether it sees every participant's rows; otherwise only those of ``participant_id``."""
        return self.role in _SEE_ALL

    @property
    def idempotency_owner(self) -> str:
        """Whose idempotency keys it uses: an account's and a device's of the same name differ."""
        return f"device:{self.device_id}" if self.device_id is not None else f"account:{self.username}"


class TokenPair(NamedTuple):
    """What a login hands out."""

    access: str
    refresh: str
    expires_in: int


class Tokens:
    """Signs and reads bearer tokens (JWT, HS256) with one secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def issue(self, account: Account, now: datetime) -> TokenPair:
        """Return a new access token and the refresh token that starts its family."""
        common = {"iss": _ISSUER, "sub": account.username, "iat": now}
        access = common | {
            "typ": "access",
            "jti": secrets.token_urlsafe(16),
            "exp": now + ACCESS_LIFETIME,
            "role": account.role,
            "scopes": sorted(SCOPES[account.role]),
        }
        refresh = common | {
            "typ": "refresh",
            "jti": secrets.token_urlsafe(16),
            "fam": secrets.token_urlsafe(16),
            "exp": now + REFRESH_LIFETIME,
        }
        return TokenPair(self._sign(access), self._sign(refresh), int(ACCESS_LIFETIME.total_seconds()))

    def read_access(self, token: str) -> dict[str, Any]:
        """Return the claims of a valid access token; anything else is ``Unauthenticated``."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                options={"require": ["exp", "iat", "sub", "jti"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired; log in again", shown=True) from None
        except jwt.InvalidTokenError:
            raise Unauthenticated("the token is not valid; log in again", shown=True) from None
        if claims.get("typ") != "access" or not isinstance(claims.get("scopes"), list):
            raise Unauthenticated("this is no access token; send the one that login calls `token`", shown=True)
        return claims

    def _sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._secret, algorithm=_ALGORITHM)


class AccountCache:
    """The accounts of recent callers, each at most a second old."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self.clock = clock
        self._kept: dict[str, tuple[float, Account | None]] = {}

    async def find(self, username: str) -> Account | None:
        """Return the account, None where there is none."""
        kept = self._kept.get(username)
        if kept is not None and self.clock() - kept[0] < _CACHE_SECONDS:
            return kept[1]
        asked = self.clock()
        account = await run_in_threadpool(self._load, username)
        self._kept[username] = (asked, account)
        return account

    def _load(self, username: str) -> Account | None:
        with self._engine.connect() as connection:
            return accounts.find(connection, username)


def public[**P, R](endpoint: Callable[P, R]) -> Callable[P, R]:
    """Open a route to everybody. Only login, health and documentation are."""
    setattr(endpoint, _MARK, _PUBLIC)
    return endpoint


def needs[**P, R](scope: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Open a route to callers whose token and role carry ``scope``."""

    def mark(endpoint: Callable[P, R]) -> Callable[P, R]:
        setattr(endpoint, _MARK, scope)
        return endpoint

    return mark


def access_of(endpoint: Callable[..., Any] | None) -> str | None:
    """Return the scope that a route needs, ``public``, or None for a route that says nothing and so stays closed."""
    return cast("str | None", getattr(endpoint, _MARK, None))


def is_public(endpoint: Callable[..., Any] | None) -> bool:
    """Whether a route is open to everybody."""
    return access_of(endpoint) == _PUBLIC


async def admit(request: HTTPConnection) -> Principal | None:
    """Let the caller of ``request`` through to its route, or raise ``Unauthenticated`` or ``Forbidden``.

    Returns None on public routes. Every route has this as a dependency through the application. A WebSocket gets
    through where its route names a scope; it authenticates its caller itself, by ``session_of``, for a browser can show
    its token only once the connection is open.
    """
    needed = access_of(request.scope.get("endpoint"))
    if needed == _PUBLIC:
        return None
    if request.scope["type"] == "websocket":
        if needed is None:
            raise WebSocketException(_POLICY_VIOLATION, "this route is closed")
        return None
    known: Principal | None = getattr(request.state, "principal", None)
    principal = known or await _authenticate(request, await context_of(request))
    request.state.principal = principal
    if needed is None or needed not in principal.scopes:
        raise Forbidden(f"the role {principal.role} does not allow this" + (f"; it needs {needed}" if needed else ""))
    return principal


def bearer_token(request: HTTPConnection) -> str | None:
    """Return the bearer token of the Authorization header, None where it shows none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


async def session_of(context: Context, token: str) -> tuple[Principal, datetime]:
    """Return the account that shows ``token`` and when the token expires; another token is ``Unauthenticated``."""
    claims = context.tokens.read_access(token)
    account = await context.accounts.find(claims["sub"])
    if account is None or account.disabled:
        raise Unauthenticated("the token's account is closed", shown=True)
    scopes = SCOPES[account.role].intersection(claims["scopes"])
    device_id = account.username if account.role == "device" else None
    principal = Principal(account.username, account.role, account.participant_id, scopes, claims["jti"], device_id)
    return principal, datetime.fromtimestamp(claims["exp"], UTC)


async def _authenticate(request: HTTPConnection, context: Context) -> Principal:
    token = bearer_token(request)
    if token is None:
        raise Unauthenticated("send `Authorization: Bearer <token>`; POST /v1/auth/login hands out tokens")
    if token.startswith(credentials.PREFIX):
        return await _device_of(context, token)
    return (await session_of(context, token))[0]


async def _device_of(context: Context, token: str) -> Principal:
    device_id = await context.devices.find(token)
    if device_id is None:
        raise Unauthenticated("the device token is not valid; an operator hands out new ones", shown=True)
    # The public part of the token names it; the secret stays out.
    credential_id = token.removeprefix(credentials.PREFIX).partition("_")[0]
    return Principal(device_id, "device", None, SCOPES["device"], credential_id, device_id)


async def _caller(principal: Annotated[Principal | None, Depends(admit)]) -> Principal:
    if principal is None:  # a public route has no caller to ask for
        raise Unauthenticated("this needs a token")
    return principal


Caller = Annotated[Principal, Depends(_caller)]
"""The caller, as a parameter of a route that is not public."""


def signing_secret(settings: Settings) -> str:
    """Return the secret that signs tokens: the setting, else one generated once and kept (0600) under ``home``."""
    given = settings.token_secret.get_secret_value()
    if given:
        return given
    file = settings.home / _SECRET_FILE
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            _write_once(file, secrets.token_urlsafe(_SECRET_BYTES))
        file.chmod(0o600)
        kept = file.read_text().strip()
    except OSError as error:
        raise Misconfigured(
            f"the token secret cannot be kept in {file} ({error.strerror}); set ENERGY_CLOUD_TOKEN_SECRET"
        ) from error
    if len(kept) < 32:
        raise Misconfigured(f"{file} holds no token secret; delete it, or set ENERGY_CLOUD_TOKEN_SECRET")
    return kept


def _write_once(file: Path, text: str) -> None:
    """Write ``file`` whole or not at all; of several processes the first wins."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    draft.touch(mode=0o600)
    try:
        draft.write_text(text)
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def utc_now() -> datetime:
    """Return the present moment; the API's one clock."""
    return datetime.now(UTC)
