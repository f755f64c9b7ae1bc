"""Deny by default: walk every route of the application."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from energy_cloud_dagster.adapters import accounts
from energy_cloud_dagster.adapters.accounts import ROLES
from energy_cloud_dagster.api.app import create_app
from energy_cloud_dagster.api.security import SCOPES, access_of, is_public, needs, signing_secret

from .conftest import PASSWORD, Client

if TYPE_CHECKING:
    import sqlalchemy as sa
    from fastapi import FastAPI

    from energy_cloud_dagster.settings import Settings

PUBLIC = {"POST /v1/auth/login", "GET /health/live", "GET /health/ready"}
EXPECTED = PUBLIC | {
    "GET /v1/energy/consumption",
    "POST /v1/energy/consumption",
    "GET /v1/energy/generation",
    "POST /v1/energy/forecast",
    "GET /v1/vpp",
    "POST /v1/vpp",
    "GET /v1/vpp/{id}",
    "PUT /v1/vpp/{id}",
    "DELETE /v1/vpp/{id}",
    "GET /v1/vpp/{id}/resources",
    "POST /v1/vpp/{id}/resources",
    "DELETE /v1/vpp/{id}/resources/{resourceId}",
    "POST /v1/vpp/{id}/optimize",
    "GET /v1/vpp/{id}/plans",
    "GET /v1/vpp/{id}/optimizations/{optimizationId}",
    "POST /v1/vpp/{id}/allocation",
    "GET /v1/vpp/{id}/allocations",
    "GET /v1/vpp/{id}/allocations/{allocationId}",
    "POST /v1/vpp/{id}/allocations/{allocationId}/approve",
    "GET /v1/vpp/{id}/status",
    "GET /v1/devices",
    "POST /v1/devices",
    "GET /v1/devices/{id}",
    "DELETE /v1/devices/{id}",
    "POST /v1/devices/{id}/token",
    "DELETE /v1/devices/{id}/token",
    "GET /v1/devices/{id}/commands",
    "GET /v1/devices/{id}/commands/{commandId}",
    "POST /v1/devices/{id}/commands",
    "POST /v1/devices/{id}/config",
    "GET /v1/trading/history",
    "GET /v1/audit/trades/{id}",
}


def routes(app: FastAPI) -> dict[str, Any]:
    """Every route of the application by "METHOD path", with its endpoint; documentation aside."""
    return {
        f"{method} {context.path_format}": context.endpoint
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIRoute)
        for method in context.methods or ()
    }


def call(client: Client, route: str, **parts: Any) -> Any:
    method, path = route.split(" ")
    return client(method, path.replace("{id}", "x"), **parts)


def test_these_are_the_routes(app: FastAPI) -> None:
    assert set(routes(app)) == EXPECTED
    assert {route for route, endpoint in routes(app).items() if is_public(endpoint)} == PUBLIC


def test_every_other_route_refuses_a_caller_without_token(app: FastAPI, anyone: Client) -> None:
    for route in routes(app).keys() - PUBLIC:
        for parts in ({}, {"content": b"{", "headers": {"content-type": "application/json"}}):
            answer = call(anyone, route, **parts)
            assert answer.status_code == 401, route
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"] == 'Bearer realm="energy-cloud"'
            assert answer.json()["status"] == 401


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_just_the_routes_of_its_scopes(app: FastAPI, anyone: Client, role: str) -> None:
    client = anyone.as_(role)
    for route, endpoint in routes(app).items():
        if not is_public(endpoint):
            allowed = access_of(endpoint) in SCOPES[role]
            assert (call(client, route).status_code != 403) is allowed, route


def test_every_scope_that_a_route_needs_is_some_role_s(app: FastAPI) -> None:
    needed = {access_of(endpoint) for endpoint in routes(app).values()} - {"public"}
    assert needed <= SCOPES["admin"]


def test_a_refusal_says_which_scope_is_missing(anyone: Client) -> None:
    answer = anyone.as_("viewer").get("/v1/trading/history")
    assert answer.status_code == 403
    assert answer.json()["title"] == "Forbidden"
    assert "trading:read" in answer.json()["detail"]


def test_a_route_that_names_no_scope_stays_closed_to_everybody(api_settings: Settings) -> None:
    app = create_app(api_settings)

    @app.get("/v1/forgotten")
    def forgotten() -> str:
        return "open"

    @app.get("/v1/remembered")
    @needs("energy:read")
    def remembered() -> str:
        return "open"

    anyone = Client(app)
    assert anyone.get("/v1/forgotten").status_code == 401
    assert anyone.as_("admin").get("/v1/forgotten").status_code == 403
    assert anyone.as_("admin").get("/v1/remembered").json() == "open"


def test_login_hands_out_both_tokens(anyone: Client) -> None:
    answer = anyone.post("/v1/auth/login", {"username": "admin", "password": PASSWORD})
    assert answer.status_code == 200
    document = answer.json()
    assert document.keys() == {"token", "refreshToken", "tokenType", "expiresIn"}
    assert (document["tokenType"], document["expiresIn"]) == ("Bearer", 3600)
    claims = jwt.decode(document["token"], options={"verify_signature": False})
    assert claims.keys() == {"iss", "sub", "iat", "exp", "typ", "jti", "role", "scopes"}
    assert (claims["sub"], claims["role"], claims["exp"] - claims["iat"]) == ("admin", "admin", 3600)


@pytest.mark.parametrize(
    ("username", "password"), [("admin", "wrong"), ("nobody", PASSWORD), ("admin", PASSWORD + " ")]
)
def test_a_wrong_login_says_the_same_whatever_was_wrong(anyone: Client, username: str, password: str) -> None:
    answer = anyone.post("/v1/auth/login", {"username": username, "password": password})
    assert answer.status_code == 401
    assert answer.json()["detail"] == "user name or password is wrong"


def test_a_login_s_faults_are_pointed_at(anyone: Client) -> None:
    answer = anyone.post("/v1/auth/login", {"username": "", "extra": 1})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert {(fault["pointer"], fault["in"]) for fault in answer.json()["errors"]} == {
        ("/username", "body"),
        ("/password", "body"),
        ("/extra", "body"),
    }


def test_a_body_that_is_no_json_is_named(anyone: Client) -> None:
    answer = anyone("POST", "/v1/auth/login", content=b'{"a":', headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["detail"]


def test_a_huge_body_is_refused(anyone: Client) -> None:
    answer = anyone("POST", "/v1/auth/login", content=b" " * 9_000_000, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 413


def forged(settings: Settings, **changes: Any) -> str:
    now = datetime.now(UTC)
    claims = {
        "iss": "energy-cloud",
        "sub": "admin",
        "iat": now,
        "exp": now + timedelta(hours=1),
        "jti": "1",
        "typ": "access",
        "role": "admin",
        "scopes": ["vpp:read"],
    } | changes
    secret = changes.pop("secret", None) or signing_secret(settings)
    algorithm = changes.pop("algorithm", "HS256")
    claims = {
        name: value for name, value in claims.items() if name not in {"secret", "algorithm"} and value is not None
    }
    return jwt.encode(claims, "" if algorithm == "none" else secret, algorithm=algorithm)


def test_a_token_of_ours_opens_what_its_scopes_name_and_no_more(app: FastAPI, api_settings: Settings) -> None:
    narrow = Client(app, forged(api_settings))
    assert narrow.get("/v1/vpp").status_code == 200
    assert narrow.get("/v1/trading/history").status_code == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": "x" * 40},
        {"algorithm": "none"},
        {"exp": datetime.now(UTC) - timedelta(seconds=5)},
        {"typ": "refresh"},
        {"typ": None},
        {"iss": "elsewhere"},
        {"jti": None},
        {"scopes": "vpp:read"},
        {"sub": "ghost"},
    ],
    ids=["secret", "algorithm", "expired", "refresh", "untyped", "issuer", "unnamed", "scopes", "nobody"],
)
def test_no_other_token_opens_anything(app: FastAPI, api_settings: Settings, changes: dict[str, Any]) -> None:
    answer = Client(app, forged(api_settings, **changes)).get("/v1/vpp")
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_another_scheme_is_no_token(anyone: Client) -> None:
    assert anyone("GET", "/v1/vpp", headers={"Authorization": "Basic abc"}).status_code == 401


def test_a_disabled_account_is_refused_within_a_second(api_settings: Settings, api_engine: sa.Engine) -> None:
    with api_engine.begin() as connection:
        accounts.add(connection, "leaver", PASSWORD, "viewer")
    app = create_app(api_settings)
    leaver = Client(app).as_("leaver")
    assert leaver.get("/v1/vpp").status_code == 200
    with api_engine.begin() as connection:
        accounts.set_disabled(connection, "leaver")
    later = time.monotonic() + 1.0
    app.state.context.accounts.clock = lambda: later
    assert leaver.get("/v1/vpp").status_code == 401
    assert Client(app).post("/v1/auth/login", {"username": "leaver", "password": PASSWORD}).status_code == 401


def test_the_secret_is_made_once_and_kept_private(api_settings: Settings) -> None:
    secret = signing_secret(api_settings)
    file = api_settings.home / "token-secret"
    assert len(secret) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert signing_secret(api_settings) == secret
    assert [path.name for path in api_settings.home.iterdir()] == ["token-secret"]
