"""``Idempotency-Key``: a write that is repeated under the same key is done once and answered alike.

A route takes ``Writing`` as a parameter, asks ``answered`` first inside the transaction of its work and passes its
answer through ``keep`` in the same transaction:

    with context.engine.begin() as connection:
        if (earlier := writing.answered(connection)) is not None:
            return earlier
        ...
        return writing.keep(connection, 201, body)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa
from fastapi import Depends, Header, Request
from starlette.responses import Response

from energy_cloud_dagster.adapters import requests
from energy_cloud_dagster.api.security import Caller, utc_now
from energy_cloud_dagster.domain.errors import InvalidInput

REPLAYED: Final = "Idempotency-Replayed"


@dataclass(frozen=True, slots=True)
class Write:
    """One write: who, under which key (None: each call is a new one), and the digest and bytes of the request."""

    caller: str
    key: str | None
    digest: str
    body: bytes

    def answered(self, connection: sa.Connection) -> Response | None:
        """Return the earlier answer to this very request, None where it is the first; the key is held until the commit.

        A key that belongs to another request is ``InvalidInput``.
        """
        if self.key is None:
            return None
        earlier = requests.claim(connection, self.caller, self.key, self.digest, utc_now())
        return None if earlier is None else _json(earlier.status, earlier.body, {REPLAYED: "true"})

    def keep(self, connection: sa.Connection, status: int, body: bytes) -> Response:
        """Return the answer, a JSON ``body``, once it is kept for a repetition of the request."""
        if self.key is not None:
            requests.keep(connection, self.caller, self.key, self.digest, status=status, body=body, now=utc_now())
        return _json(status, body)


async def _write(
    request: Request,
    caller: Caller,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="Any text that is new for each write. The same request under the same key within 24 hours is "
            "done once: its repetitions get the first answer, with `Idempotency-Replayed: true`.",
        ),
    ] = None,
) -> Write:
    if key is not None and not key.isprintable():
        raise InvalidInput("Idempotency-Key must be printable text")
    body = await request.body()
    digest = "" if key is None else _digest(request, body)
    return Write(caller.idempotency_owner, key, digest, body)


def _digest(request: Request, body: bytes) -> str:
    line = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    return hashlib.sha256(line + body).hexdigest()


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


Writing = Annotated[Write, Depends(_write)]
"""The write that a request asks for, as a parameter of its route."""
