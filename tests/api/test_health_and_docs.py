"""Health, documentation, and what callers are told when a part is missing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from energy_cloud_dagster.api.app import create_app
from energy_cloud_dagster.api.security import needs, public, signing_secret
from energy_cloud_dagster.domain.errors import Conflict, EvidenceBroken, InvalidInput, Misconfigured
from energy_cloud_dagster.settings import Settings

from .conftest import Client

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from energy_cloud_dagster.embedded.chain import EmbeddedChain


@pytest.fixture
def without_database(api_settings: Settings) -> Client:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = SecretStr(f"postgresql://someone:secret@127.0.0.1:{taken.getsockname()[1]}/none")
        return Client(create_app(api_settings.model_copy(update={"database_url": url})))


def test_a_process_that_answers_is_live(anyone: Client, without_database: Client) -> None:
    assert anyone.get("/health/live").json() == {"status": "live"}
    assert without_database.get("/health/live").status_code == 200


def test_every_part_is_named_when_all_are_up(
    api_settings: Settings, broker: EmbeddedBroker, chain: EmbeddedChain
) -> None:
    parts = {"mqtt_url": broker.url, "chain_rpc_url": chain.rpc_url}
    answer = Client(create_app(api_settings.model_copy(update=parts))).get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "parts": {"database": "up", "broker": "up", "chain": "up"}}


def test_reads_are_ready_without_broker_and_chain(api_settings: Settings, anyone: Client) -> None:
    assert anyone.get("/health/ready").json()["parts"] == {"database": "up", "broker": "unset", "chain": "unset"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        parts = {"mqtt_url": f"mqtt://127.0.0.1:{port}", "chain_rpc_url": f"http://127.0.0.1:{port}"}
        answer = Client(create_app(api_settings.model_copy(update=parts))).get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["parts"] == {"database": "up", "broker": "down", "chain": "down"}


def test_without_database_nothing_is_ready_and_nobody_learns_where_it_is(without_database: Client) -> None:
    answer = without_database.get("/health/ready")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["parts"]["database"] == "down"
    login = without_database.post("/v1/auth/login", {"username": "admin", "password": "something"})
    assert login.status_code == 503
    assert login.headers["retry-after"] == "5"
    assert login.json()["detail"] == "the database does not answer; try again later"
    assert "127.0.0.1" not in login.text + answer.text


def test_the_openapi_document_covers_every_route(anyone: Client, app: FastAPI) -> None:
    answer = anyone.get("/v1/openapi.json")
    assert answer.status_code == 200
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    described = {
        (path, method): operation for path, item in document["paths"].items() for method, operation in item.items()
    }
    assert ("/v1/vpp/{id}", "get") in described
    assert described["/v1/auth/login", "post"]["security"] == []
    assert described["/v1/vpp", "get"]["security"] == [{"bearer": []}]
    assert "vpp:read" in described["/v1/vpp", "get"]["description"]
    for operation in described.values():
        assert operation["summary"]
        assert "application/problem+json" in operation["responses"]["default"]["content"]
        assert "HTTPValidationError" not in str(operation)
    assert {"Problem", "Fault", "VppDocument"} <= document["components"]["schemas"].keys()
    paths = {context.path_format for context in iter_route_contexts(app.routes) if context.methods}  # no WebSocket
    assert set(document["paths"]) == paths - {"/docs", "/docs/oauth2-redirect", "/v1/openapi.json"}
    assert anyone.get("/v1/openapi.json").json() == document


def test_the_documentation_is_public(anyone: Client) -> None:
    answer = anyone.get("/docs")
    assert answer.status_code == 200
    assert "/v1/openapi.json" in answer.text


def test_every_error_of_the_platform_is_a_problem(api_settings: Settings) -> None:
    app = create_app(api_settings)
    errors: dict[str, Exception] = {
        "conflict": Conflict("it is closed"),
        "plain": InvalidInput("no good"),
        "pointed": InvalidInput("no good", pointer="/a"),
        "known": EvidenceBroken("leaf", "does not hold"),
        "unknown": ZeroDivisionError("secret detail"),
        "busy": sa.exc.TimeoutError("pool"),
    }

    @app.post("/v1/fail/{name}")
    @public
    def fail(name: str) -> None:
        raise errors[name]

    def post(name: str) -> tuple[int, dict[str, Any]]:
        answer = Client(app).post(f"/v1/fail/{name}", {})
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, answer.json()

    assert post("conflict") == (
        409,
        {
            "type": "urn:energy-cloud:problem:conflict",
            "title": "Conflict",
            "status": 409,
            "detail": "it is closed",
        },
    )
    assert "errors" not in post("plain")[1]
    assert post("pointed")[1]["errors"] == [{"detail": "no good", "pointer": "/a", "in": "body"}]
    assert post("busy")[0] == 503
    for name in ("known", "unknown"):
        status, document = post(name)
        assert status == 500
        assert document["detail"] == "something went wrong here; the log says what"


def test_a_bad_body_from_a_caller_without_the_right_is_403(api_settings: Settings) -> None:
    app = create_app(api_settings)

    @app.post("/v1/strict")
    @needs("accounts:write")
    def strict(body: dict[str, int]) -> dict[str, int]:
        return body

    answer = Client(app).as_("viewer")("POST", "/v1/strict", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 403
    faults = Client(app).as_("admin").post("/v1/strict", {"a/b~c": "x"}).json()["errors"]
    assert [fault["pointer"] for fault in faults] == ["/a~1b~0c"]


def test_a_secret_that_cannot_be_kept_is_said_so(tmp_path: Path, api_settings: Settings) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(Misconfigured, match="ENERGY_CLOUD_TOKEN_SECRET"):
        signing_secret(api_settings.model_copy(update={"home": blocked / "home"}))
    (tmp_path / "token-secret").write_text("short")
    with pytest.raises(Misconfigured, match="token-secret"):
        signing_secret(api_settings.model_copy(update={"home": tmp_path}))
    given = api_settings.model_copy(update={"home": blocked, "token_secret": SecretStr("g" * 32)})
    assert signing_secret(given) == "g" * 32


def test_without_a_database_url_there_is_no_application() -> None:
    with pytest.raises(Misconfigured, match="ENERGY_CLOUD_DATABASE_URL"):
        create_app(Settings(_env_file=None))
