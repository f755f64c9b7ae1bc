"""A write under an Idempotency-Key is done once, whatever happens between its caller and the platform."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import requests
from energy_cloud_dagster.adapters.tables import reading, request, series
from energy_cloud_dagster.domain.errors import InvalidInput
from tests.api.conftest import HOUR, Client

from .conftest import NOW, PATH

if TYPE_CHECKING:
    from fastapi import FastAPI


def post(client: Client, key: str, document: Any) -> Any:
    return client("POST", PATH, json=document, headers={"Idempotency-Key": key})


def revisions(engine: sa.Engine, device_id: str) -> list[tuple[int, float]]:
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(reading.c.revision, reading.c.value)
            .join_from(reading, series, series.c.series_id == reading.c.series_id)
            .where(series.c.device_id == device_id)
            .order_by(reading.c.ts, reading.c.revision)
        )
        return [(row.revision, row.value) for row in rows]


def record(device_id: str, value: float = 1.0) -> dict[str, Any]:
    return {"meterId": device_id, "timestamp": NOW.isoformat(), "consumption": value}


def test_a_repetition_gets_the_first_answer_and_writes_nothing(
    operator: Client, meter: str, api_engine: sa.Engine
) -> None:
    key = str(uuid4())
    first = post(operator, key, record(meter))
    assert first.status_code == 201
    assert "Idempotency-Replayed" not in first.headers
    # Without the key this correction and return would be two more revisions.
    assert operator.post(PATH, record(meter, 2.0)).status_code == 201
    again = post(operator, key, record(meter))
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert revisions(api_engine, meter) == [(1, 1.0), (2, 2.0)]


def test_a_key_belongs_to_one_request_of_one_caller(
    operator: Client, anyone: Client, meter: str, api_engine: sa.Engine
) -> None:
    key = str(uuid4())
    assert post(operator, key, record(meter)).status_code == 201
    other = post(operator, key, record(meter, 5.0))
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["detail"]
    admin = post(anyone.as_("admin"), key, record(meter, 7.0))
    assert admin.status_code == 201
    assert revisions(api_engine, meter) == [(1, 1.0), (2, 7.0)]


def test_a_refusal_is_not_kept(operator: Client, meter: str, api_engine: sa.Engine) -> None:
    key = str(uuid4())
    assert post(operator, key, record(meter) | {"consumption": "many"}).status_code == 422
    assert post(operator, key, record(meter)).status_code == 201
    assert revisions(api_engine, meter) == [(1, 1.0)]


def test_of_concurrent_repetitions_one_writes_and_all_are_answered_alike(
    app: FastAPI, operator: Client, meter: str, api_engine: sa.Engine
) -> None:
    key, token = str(uuid4()), operator._headers["Authorization"].partition(" ")[2]
    clients = [Client(app, token) for _ in range(4)]
    start = threading.Barrier(4)

    def call(client: Client) -> Any:
        start.wait()
        return post(client, key, record(meter))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(call, clients))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 3
    assert revisions(api_engine, meter) == [(1, 1.0)]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_one_to_255_characters(operator: Client, meter: str, key: str) -> None:
    answer = post(operator, key, record(meter))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["in"] == "header"


@pytest.fixture
def connection(api_engine: sa.Engine) -> Iterator[sa.Connection]:
    with api_engine.connect() as opened:
        transaction = opened.begin()
        yield opened
        transaction.rollback()


def test_an_answer_is_forgotten_after_a_day(connection: sa.Connection) -> None:
    assert requests.claim(connection, "a", "k", "d", NOW) is None
    requests.keep(connection, "a", "k", "d", status=201, body=b"{}", now=NOW)
    nearly = NOW + requests.KEPT - timedelta(seconds=1)
    assert requests.claim(connection, "a", "k", "d", nearly) == (201, b"{}")
    with pytest.raises(InvalidInput):
        requests.claim(connection, "a", "k", "e", nearly)
    assert requests.claim(connection, "b", "k", "e", nearly) is None
    assert requests.claim(connection, "a", "k", "e", NOW + requests.KEPT) is None
    requests.keep(connection, "a", "k", "e", status=202, body=b"[]", now=NOW + requests.KEPT)
    assert requests.claim(connection, "a", "k", "e", NOW + requests.KEPT) == (202, b"[]")


def test_each_answer_clears_old_ones_away(connection: sa.Connection) -> None:
    for number in range(30):
        requests.keep(connection, "old", str(number), "d", status=201, body=b"", now=NOW)
    mine = sa.select(sa.func.count()).select_from(request).where(request.c.caller == "old")
    for left in (10, 0):
        requests.keep(connection, "new", str(left), "d", status=201, body=b"", now=NOW + requests.KEPT + HOUR)
        # Answers of other tests are older still and go first.
        assert connection.execute(mine).scalar_one() <= left + 20
    requests.keep(connection, "new", "last", "d", status=201, body=b"", now=NOW + requests.KEPT + HOUR)
    assert connection.execute(mine).scalar_one() == 0
