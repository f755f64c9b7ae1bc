"""`energy-cloud audit verify`: every trade of a demo is proved, and one changed byte is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from energy_cloud_dagster.cli import app, report
from energy_cloud_dagster.cli.attached import remember
from energy_cloud_dagster.cli.demo import FIRST_DELIVERY
from energy_cloud_dagster.domain.audit.verify import VERIFIED_STEPS
from energy_cloud_dagster.domain.intervals import HOUR
from energy_cloud_dagster.embedded.parts import EmbeddedParts
from energy_cloud_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from .conftest import Demo, Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Running:
    """The parts of a demo's home, run by this process, and its trades."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.settings = settings
        self.url = settings.database_url.get_secret_value()
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("select trade_id, batch_id from settlement.trade order by trade_id").fetchall()
            row = connection.execute(
                """select t.trade_id, t.buyer_id, t.delivery_start, s.series_id
                   from market.trade t join settlement.trade using (trade_id)
                   join registry.device d on d.participant_id = t.buyer_id join registry.series s using (device_id)
                   where s.role = 'load' order by 1 limit 1"""
            ).fetchone()
        self.batch_of = dict(rows)
        assert row is not None
        self.trade, self.buyer, self.hour, self.series = row

    def verify(self, *arguments: str) -> Result:
        """Run the command in this process: a start costs more than a proof."""
        return CliRunner(env={"ENERGY_CLOUD_DATABASE_URL": ""} | self.environment()).invoke(
            app, ["audit", "verify", *arguments]
        )

    def environment(self) -> dict[str, str]:
        return {"ENERGY_CLOUD_HOME": str(self.home.folder), "ENERGY_CLOUD_PORT_BASE": str(self.home.ports)}


@pytest.fixture(scope="module")
def running(demo: Demo) -> Iterator[Running]:
    assert demo.report["trades"] > 0
    # A proof needs no broker, and a database that is copied nobody else's connection.
    given = load_settings(home=demo.home.folder, port_base=demo.home.ports, mqtt_url="mqtt://127.0.0.1:9")
    with EmbeddedParts(given) as settings:
        remembered = remember(settings)
        yield Running(demo.home, settings)
        remembered.unlink()


@pytest.fixture
def tampered(running: Running) -> Iterator[Callable[[str], str]]:
    """Hands out the URL of a copy of the database in which one statement was run."""
    server = running.settings.database_url.get_secret_value()

    def tamper(statement: str) -> str:
        _copy(server, "create database tampered template energy_cloud")
        url = server.replace("/energy_cloud?", "/tampered?")
        assert url != server
        with psycopg.connect(url) as connection:
            values = {"trade": running.trade, "hour": running.hour, "series": running.series, "buyer": running.buyer}
            changed = connection.execute(sql.SQL(statement), values)  # type: ignore[arg-type]
            assert changed.rowcount == 1
        return url

    yield tamper
    _copy(server, "drop database if exists tampered (force)")


def _copy(server: str, statement: str) -> None:
    with psycopg.connect(server.replace("/energy_cloud?", "/postgres?"), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


def steps(result: Result) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(result.stdout)
    return found


def broken(result: Result, trade: str) -> list[str]:
    return [step["step"] for step in steps(result)[trade] if not step["ok"]]


def test_every_trade_of_the_demo_is_proved(running: Running, demo: Demo) -> None:
    assert len(running.batch_of) == demo.report["trades"]
    for trade in running.batch_of:
        result = running.verify("trade", trade, "--json")
        assert result.exit_code == 0, result.output
        assert [step["step"] for step in steps(result)[trade]] == list(VERIFIED_STEPS)
        assert broken(result, trade) == []


def test_every_batch_is_proved_with_all_its_trades(running: Running) -> None:
    proved = {}
    for batch in sorted(set(running.batch_of.values())):
        result = running.verify("batch", batch, "--json")
        assert result.exit_code == 0, result.output
        proved |= dict.fromkeys(steps(result), batch)
    assert proved == running.batch_of


def test_a_person_reads_every_step(running: Running) -> None:
    finished = running.home.run("audit", "verify", "trade", running.trade)
    assert (finished.returncode, finished.stderr) == (0, "")
    first, *lines = finished.stdout.splitlines()
    assert first == f"{running.trade} proved"
    assert [line.split()[:2] for line in lines] == [["✓", step] for step in VERIFIED_STEPS]


LOAD = "series_id = %(series)s and ts = %(hour)s"
OF_TRADE = "trade_id = %(trade)s"
GATE = "(select gate_closure from market.clearing where delivery_start = %(hour)s)"


@pytest.mark.parametrize(
    ("statement", "step"),
    [
        (f"update raw.reading set value = value + 0.001 where {LOAD}", "readings"),
        (f"update raw.reading set quality = 'loww' where {LOAD}", "readings"),
        (f"delete from raw.reading where {LOAD}", "readings"),
        (f"update validated.reading set value = value + 0.001 where {LOAD}", "validated"),
        (
            f"""update forecast.point set p50 = p50 + 0.001 where ts = %(hour)s and chosen
                and series_key = 'site/' || %(buyer)s || '/load' and issued_at = {GATE}""",
            "forecast",
        ),
        (
            f"""update dispatch.setpoint set output_kw = output_kw + 0.001
                where ts = %(hour)s and type = 'solar' and issued_at = {GATE}""",
            "plan",
        ),
        (
            f"""update market.order set price_micro = price_micro + 1
                where order_id = (select buy_order_id from market.trade where {OF_TRADE})""",
            "orders",
        ),
        ("update market.clearing set price_micro = price_micro + 1 where delivery_start = %(hour)s", "clearing"),
        (f"update market.trade set quantity_wh = quantity_wh + 1 where {OF_TRADE}", "trade"),
        (f"update settlement.trade set value_micro = value_micro + 1 where {OF_TRADE}", "settlement"),
        (
            f"update audit.evidence set document = jsonb_set(document, '{{trade,quantityWh}}', '1') where {OF_TRADE}",
            "trade",
        ),
        (f"update audit.evidence set document = '[]' where {OF_TRADE}", "readings"),
        (
            f"""update audit.evidence set proof = jsonb_set(
                proof, '{{0}}', to_jsonb(translate(proof ->> 0, '0123456789', '1234567890'))) where {OF_TRADE}""",
            "proof",
        ),
        (f"update audit.evidence set proof = '[\"0xzz\"]' where {OF_TRADE}", "proof"),
        ("update settlement.batch set merkle_root = reverse(merkle_root) where delivery_start = %(hour)s", "root"),
        ("update settlement.batch set block_number = block_number + 1 where delivery_start = %(hour)s", "transaction"),
    ],
)
def test_one_changed_byte_is_found_and_named(
    running: Running, tampered: Callable[[str], str], statement: str, step: str
) -> None:
    url = tampered(statement)
    result = CliRunner(env=running.environment() | {"ENERGY_CLOUD_DATABASE_URL": url}).invoke(
        app, ["audit", "verify", "trade", running.trade, "--json"]
    )
    assert result.exit_code == 1, result.output
    assert broken(result, running.trade)[0] == step


def test_the_broken_step_is_named_to_a_person_and_the_rest_still_holds(
    running: Running, tampered: Callable[[str], str]
) -> None:
    url = tampered(f"update raw.reading set value = value + 0.001 where {LOAD}")
    finished = running.home.run("audit", "verify", "trade", running.trade, ENERGY_CLOUD_DATABASE_URL=url)
    assert (finished.returncode, finished.stderr) == (1, "")
    first, *lines = finished.stdout.splitlines()
    assert first == f"{running.trade} broken at readings"
    assert [line.split()[1] for line in lines if line.split()[0] == "✗"] == ["readings"]
    # a batch fails as soon as one of its trades does, and says which
    batch = CliRunner(env=running.environment() | {"ENERGY_CLOUD_DATABASE_URL": url}).invoke(
        app, ["audit", "verify", "batch", running.batch_of[running.trade], "--json"]
    )
    assert batch.exit_code == 1
    assert {trade for trade in steps(batch) if broken(batch, trade)} == {running.trade}


def test_the_demo_counts_what_is_proved_and_names_what_is_not(
    running: Running, tampered: Callable[[str], str], demo: Demo
) -> None:
    end = FIRST_DELIVERY + demo.report["hours"] * HOUR
    assert report.audit(running.settings, FIRST_DELIVERY, end) == demo.report["audit"]
    url = tampered(f"update market.trade set quantity_wh = quantity_wh + 1 where {OF_TRADE}")
    found = report.audit(running.settings.model_copy(update={"database_url": SecretStr(url)}), FIRST_DELIVERY, end)
    assert found["verified"] == len(running.batch_of) - 1
    assert [(one["trade"], one["step"]) for one in found["broken"]] == [(running.trade, "trade")]


def test_without_its_chain_a_trade_is_not_proved(running: Running) -> None:
    environment = running.environment() | {"ENERGY_CLOUD_CHAIN_RPC_URL": "http://127.0.0.1:9"}
    result = CliRunner(env=environment).invoke(app, ["audit", "verify", "trade", running.trade, "--json"])
    assert result.exit_code == 1
    assert broken(result, running.trade) == ["transaction"]


@pytest.mark.parametrize(("kind", "name"), [("trade", "T-0"), ("batch", "0x0")])
def test_an_unknown_id_is_one_sentence(running: Running, kind: str, name: str) -> None:
    finished = running.home.run("audit", "verify", kind, name)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith("energy-cloud: no ")
    assert name in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_a_wrong_kind_is_wrong_usage(running: Running) -> None:
    result = running.verify("tarde", "T-0")
    assert result.exit_code == 2
    assert "trade" in result.stderr
    assert "batch" in result.stderr
