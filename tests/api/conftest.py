"""The real application on a real database of its own, with a small hand-made past of known sums."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import accounts, readings, registry, tables
from energy_cloud_dagster.adapters.database import make_engine, upgrade
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.api.app import create_app
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
from energy_cloud_dagster.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

#: Midnight in Seoul.
T0 = datetime(2026, 3, 1, 15, tzinfo=UTC)
HOUR = timedelta(hours=1)
PASSWORD = "correct horse battery"
TRADES = 5
BATCH = "0x" + "ab" * 32
ROOT = "0x" + "cd" * 32
TX = "0x" + "ef" * 32


class Client:
    """A synchronous caller of an ASGI application, whose routes run as they do behind a server."""

    def __init__(self, app: FastAPI, token: str | None = None, runner: asyncio.Runner | None = None) -> None:
        self.app = app
        self._runner = runner or asyncio.Runner()
        self._transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, **parts: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url="http://api.test", headers=self._headers
            ) as client:
                return await client.request(method, path, **parts)

        return self.run(call())

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Run what is asynchronous where this client's requests run."""
        return self._runner.run(work)

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self("GET", path, params=query or None)

    def post(self, path: str, document: Any) -> httpx.Response:
        return self("POST", path, json=document)

    def as_(self, username: str, password: str = PASSWORD) -> Client:
        answer = self.post("/v1/auth/login", {"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        return Client(self.app, answer.json()["token"], self._runner)


@pytest.fixture(scope="session")
def api_url(postgres: EmbeddedPostgres) -> str:
    postgres.ensure_database("energy_cloud_api")
    url = postgres.url("energy_cloud_api")
    upgrade(url)
    return url


@pytest.fixture(scope="session")
def api_engine(api_url: str) -> Iterator[sa.Engine]:
    engine = make_engine(api_url)
    with engine.begin() as connection:
        fill(connection)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def api_settings(api_url: str, api_engine: sa.Engine, home: Path) -> Settings:
    return Settings(_env_file=None, home=home / "api", database_url=api_url)


@pytest.fixture(scope="session")
def app(api_settings: Settings) -> FastAPI:
    return create_app(api_settings)


@pytest.fixture(scope="session")
def anyone(app: FastAPI) -> Client:
    return Client(app)


@pytest.fixture(scope="session")
def operator(anyone: Client) -> Client:
    return anyone.as_("operator")


@pytest.fixture(scope="session")
def trader(anyone: Client) -> Client:
    """Sees what HOME-01 may see."""
    return anyone.as_("trader")


@pytest.fixture(scope="session")
def viewer(anyone: Client) -> Client:
    return anyone.as_("viewer")


@pytest.fixture(scope="module")
def tidy(operator: Client) -> Iterator[None]:
    """Take the VPPs that a module made out of service."""
    yield
    for item in operator.get("/v1/vpp").json()["items"]:
        if item["id"] != "VPP-001":
            assert operator("DELETE", f"/v1/vpp/{item['id']}").status_code == 204


def fill(connection: sa.Connection) -> None:
    registry.seed(connection, SEOUL_COMMUNITY, T0, demo_key="test")
    for role in accounts.ROLES:
        accounts.add(connection, role, PASSWORD, role, participant_id="HOME-01" if role == "trader" else None)
    _measure(connection)
    _forecast(connection)
    _plan(connection)
    _trade(connection)


def _measure(connection: sa.Connection) -> None:
    """Store 24 hours of two homes, the panels, one turbine and the battery; HOME-02 misses its last hour."""
    series = readings.series_ids(connection)

    def row(device: str, metric: str, ts: datetime, value: float, quality: str = "high", late: int = 5) -> ReadingRow:
        info = series[device, metric]
        received = ts + timedelta(minutes=info.interval_minutes, seconds=late)
        return ReadingRow(info.series_id, ts, value, quality, received, "mqtt")

    rows = []
    for hour in range(24):
        ts = T0 + hour * HOUR
        rows += [row("SM-H01", "consumption", ts, 1.0), row("PV-H01", "generation", ts, 0.25)]
        rows += [row("PV-VPP-001", "generation", ts, 100.0)]
        if hour < 23:
            rows += [row("SM-H02", "consumption", ts, 2.0, "medium")]
        rows += [row("WT-R80711", "output", ts + step * timedelta(minutes=10), 600.0) for step in range(6)]
        for step in range(4):
            quarter = ts + step * timedelta(minutes=15)
            rows += [row("BAT-001", "output", quarter, -40.0), row("BAT-001", "soc", quarter, 0.5 + hour / 100)]
    readings.store(connection, rows)
    # A day later the first hour of HOME-01's meter is corrected.
    readings.store(connection, [row("SM-H01", "consumption", T0, 1.5, late=86_400)])
    # And one absurd value waits in quarantine.
    absurd = row("SM-001", "consumption", T0, 9_999.0)
    readings.store(connection, [absurd])
    held = absurd._asdict() | {"revision": 1, "rule": "plausible", "detail": "too much"}
    held.pop("source")
    connection.execute(sa.insert(tables.quarantine), held)


def _forecast(connection: sa.Connection) -> None:
    for issue, level in ((T0 + 23 * HOUR, 500.0), (T0 + 24 * HOUR, 600.0)):
        connection.execute(
            sa.insert(tables.forecast_point),
            [
                {
                    "series_key": "region/seoul/load",
                    "issued_at": issue,
                    "model": model,
                    "ts": issue + ahead * HOUR,
                    "p10": level - 50,
                    "p50": level + ahead,
                    "p90": level + 50,
                    "chosen": model == "prophet",
                    "rung": "champion",
                }
                for model in ("prophet", "seasonal_naive")
                for ahead in range(48)
            ],
        )
    connection.execute(
        sa.insert(tables.model),
        {
            "series_key": "region/seoul/load",
            "model": "prophet",
            "fitted_at": T0,
            "train_start": T0 - 1000 * HOUR,
            "train_end": T0,
            "artifact": "{}",
            "digest": "00",
            "metrics": {"mape": 4.9, "mase": 0.62},
        },
    )
    scores = {"hours": 672, "mape": 2.5, "mae": 12.0, "rmse": 15.0, "mase": 0.3, "bias": 1.0, "pinball": 4.0}
    naive = {"hours": 672, "mape": 8.0, "mae": 40.0, "rmse": 50.0, "mase": 1.0, "bias": 0.0, "pinball": 13.0}
    scored = {"prophet": scores | {"coverage": 0.79}, "seasonal_naive": naive | {"coverage": 0.8}}
    # the second decision is of the issue's own moment: what was issued then still used the one before
    for decided, document in ((T0 + 23.5 * HOUR, {"scores": scored}), (T0 + 24 * HOUR, {"scores": {}})):
        connection.execute(
            sa.insert(tables.selection),
            {"series_key": "region/seoul/load", "decided_at": decided, "champion": "prophet", "document": document},
        )
    for model, day, hours, figures, known in (
        ("published", 0, 24, scores | {"mape": 2.0, "coverage": 0.75}, T0),
        ("published", 1, 12, scores | {"mape": 5.0, "coverage": 1.0}, T0),
        ("seasonal_naive", 0, 24, naive | {"coverage": None}, T0),
        ("published", 2, 24, naive | {"coverage": 0.1}, T0 + 25 * HOUR),
    ):
        row = {"series_key": "region/seoul/load", "lead": "day_ahead", "model": model, "rungs": {}, "scored_at": known}
        day_of = (T0 - day * 24 * HOUR).date()
        connection.execute(sa.insert(tables.forecast_accuracy), row | figures | {"day": day_of, "hours": hours})


def _plan(connection: sa.Connection) -> None:
    for issue, cost in ((T0 + 23 * HOUR, 10.0), (T0 + 24 * HOUR, 12.5)):
        connection.execute(
            sa.insert(tables.plan),
            {
                "vpp_id": "VPP-001",
                "issued_at": issue,
                "plan_start": issue,
                "solver": "lp",
                "status": "completed",
                "cost": cost,
                "unmet_kwh": 0.0,
                "renewable_ratio": 0.75,
                "problem": {},
                "solution": {},
                "digest": "00",
            },
        )


def _trade(connection: sa.Connection) -> None:
    """TRADES trades in consecutive hours; the first is settled and proven. Buyers alternate between two homes."""
    for number in range(TRADES):
        delivery = T0 + number * HOUR
        connection.execute(
            sa.insert(tables.clearing),
            {
                "market_id": "KRW-KWH",
                "delivery_start": delivery,
                "gate_closure": delivery - timedelta(minutes=55),
                "price_micro": 120_500_000,
                "volume_wh": 1_500,
                "import_price_micro": 150_000_000,
                "export_price_micro": 90_000_000,
                "digest": "00",
            },
        )
        connection.execute(
            sa.insert(tables.trade),
            {
                "trade_id": f"T-{number}",
                "market_id": "KRW-KWH",
                "delivery_start": delivery,
                "buy_order_id": f"B-{number}",
                "sell_order_id": f"S-{number}",
                "buyer_id": "HOME-01" if number % 2 == 0 else "HOME-02",
                "seller_id": "VPP-001",
                "quantity_wh": 1_500,
                "price_micro": 120_500_000,
                "value_micro": 180_750_000,
            },
        )
    connection.execute(
        sa.insert(tables.batch),
        {
            "batch_id": BATCH,
            "market_id": "KRW-KWH",
            "delivery_start": T0,
            "revision": 1,
            "known_at": T0 + timedelta(minutes=61),
            "merkle_root": ROOT,
            "trades": 1,
            "digest": "00",
            "state": "confirmed",
            "contract": "0x" + "11" * 20,
            "chain_id": 31337,
            "tx_hash": TX,
            "block_number": 7,
            "gas_used": 123_456,
            "confirmed_at": T0 + timedelta(minutes=66),
        },
    )
    connection.execute(
        sa.insert(tables.settled_trade),
        {
            "batch_id": BATCH,
            "trade_id": "T-0",
            "delivered_wh": 1_200,
            "shortfall_wh": 300,
            "value_micro": 180_750_000,
        },
    )
    connection.execute(
        sa.insert(tables.evidence),
        {
            "batch_id": BATCH,
            "trade_id": "T-0",
            "leaf_index": 0,
            "document": {"trade": {"id": "T-0"}},
            "leaf": "0x" + "22" * 32,
            "proof": ["0x" + "33" * 32],
        },
    )
