"""Every fault as RFC 9457 ``application/problem+json``: one translation of the error tree for all routes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import sqlalchemy as sa
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from energy_cloud_dagster.domain.errors import Conflict, EnergyCloudError, InvalidInput, NotFound, PartUnavailable

PROBLEM_JSON: Final = "application/problem+json"
_RETRY_AFTER: Final = {"Retry-After": "5"}

log = structlog.get_logger()


class Fault(BaseModel):
    """One faulty value of a request."""

    detail: str = Field(description="What is wrong with it and what would be right.")
    pointer: str = Field(description="JSON pointer (RFC 6901) to it, such as /horizon.")
    location: str = Field("body", alias="in", description="body, query, path or header.")


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(description="Names the kind of problem.")
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = Field(None, description="Every faulty value of a bad request.")


class Unauthenticated(Exception):
    """The caller showed no valid token."""

    def __init__(self, detail: str, *, shown: bool = False) -> None:
        super().__init__(detail)
        self.shown = shown


class Forbidden(Exception):
    """The caller is known and lacks the right."""


class ProblemResponse(JSONResponse):
    """A JSON response that says it is a problem."""

    media_type = PROBLEM_JSON

    def render(self, content: Any) -> bytes:
        """Return the document as UTF-8; a lone surrogate that a caller sent is shown as a question mark."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


class _Oversized:
    """Makes a problem document of the plain text with which a body that is too large is refused."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def told(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                replaced = not Headers(raw=message["headers"]).get("content-type", "").startswith(PROBLEM_JSON)
                if replaced:
                    await problem(413, "the body is too large; send less at a time")(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, told)


def problem(
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    errors: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
    **extension: Any,
) -> ProblemResponse:
    """Return the problem document of ``status``; ``kind`` names its type, ``extension`` adds members."""
    title = HTTPStatus(status).phrase
    body: dict[str, Any] = {
        "type": f"urn:energy-cloud:problem:{kind or title.lower().replace(' ', '-')}",
        "title": title,
        "status": status,
        "detail": detail,
        **extension,
    }
    if errors:
        body["errors"] = list(errors)
    return ProblemResponse(body, status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem document, unknown routes and unexpected failures included."""
    # The limit is kept outside of all middleware that can be added.
    limited = app.build_middleware_stack
    app.build_middleware_stack = lambda: _Oversized(limited())  # type: ignore[method-assign]
    app.add_exception_handler(EnergyCloudError, _known)
    app.add_exception_handler(sa.exc.TimeoutError, _busy)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Unauthenticated, _unauthenticated)
    app.add_exception_handler(Forbidden, _forbidden)
    app.add_exception_handler(Exception, _unexpected)


async def _known(request: Request, error: Exception) -> ProblemResponse:
    match error:
        case InvalidInput():
            place = [{"detail": str(error), "pointer": error.pointer, "in": _side(request)}] if error.pointer else []
            return problem(422, str(error), kind="invalid-input", errors=place)
        case NotFound():
            return problem(404, str(error))
        case Conflict():
            return problem(409, str(error))
        case PartUnavailable():
            # The sentence names hosts, which is for the operator's log and not for callers.
            log.warning("part_unavailable", path=request.url.path, error=str(error), part=type(error).__name__)
            part = type(error).__name__.removesuffix("Unavailable").lower()
            return problem(503, f"the {part} does not answer; try again later", headers=_RETRY_AFTER)
    return await _unexpected(request, error)


async def _busy(request: Request, error: Exception) -> ProblemResponse:
    log.warning("database_pool_exhausted", path=request.url.path, error=str(error))
    return problem(503, "too many requests are waiting for the database; try again later", headers=_RETRY_AFTER)


async def _invalid(request: Request, error: Exception) -> ProblemResponse:
    # The body is read before any dependency runs: a caller without a token must not learn what a route accepts.
    from energy_cloud_dagster.api import security

    try:
        await security.admit(request)
    except Unauthenticated as refusal:
        return await _unauthenticated(request, refusal)
    except Forbidden as refusal:
        return await _forbidden(request, refusal)
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    if any(fault["type"] == "json_invalid" for fault in faults):
        fault = faults[0]
        return problem(400, f"the body is not JSON: {fault['ctx']['error']} at character {fault['loc'][-1]}")
    listed = [_fault(fault) for fault in faults]
    detail = "; ".join(f"{fault['pointer'] or 'the body'}: {fault['detail']}" for fault in listed[:5])
    return problem(422, detail, kind="invalid-input", errors=listed)


async def _http(_request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - says the type; the handler is registered for it
    detail = {404: "there is no such route; /v1/openapi.json lists all", 405: "this route has no such method"}
    plain = error.detail == HTTPStatus(error.status_code).phrase
    return problem(
        error.status_code,
        detail.get(error.status_code, error.detail) if plain else error.detail,
        headers=error.headers,
    )


async def _unauthenticated(_request: Request, error: Exception) -> ProblemResponse:
    # RFC 6750: a caller that showed no token gets the bare challenge.
    shown = isinstance(error, Unauthenticated) and error.shown
    challenge = 'Bearer realm="energy-cloud"' + (', error="invalid_token"' if shown else "")
    return problem(401, str(error), headers={"WWW-Authenticate": challenge})


async def _forbidden(_request: Request, error: Exception) -> ProblemResponse:
    return problem(403, str(error))


async def _unexpected(request: Request, error: Exception) -> ProblemResponse:
    log.error("request_failed", path=request.url.path, method=request.method, exc_info=error)
    return problem(500, "something went wrong here; the log says what")


def _side(request: Request) -> str:
    return "query" if request.method in {"GET", "DELETE"} else "body"


def _fault(fault: Mapping[str, Any]) -> dict[str, str]:
    side, *steps = (str(step) for step in fault["loc"])
    pointer = "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)
    return {"detail": str(fault["msg"]).removeprefix("Value error, "), "pointer": pointer, "in": side}
