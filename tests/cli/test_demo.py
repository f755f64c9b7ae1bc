"""`energy-cloud demo`: from an empty home to the report, twice, and killed in between."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from energy_cloud_dagster.adapters.tables import metadata
from energy_cloud_dagster.cli import demo as module
from energy_cloud_dagster.cli.bringup import HISTORY

if TYPE_CHECKING:
    from .conftest import Demo, Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

#: What another run of the same hours may change: ids of runs, and how long something took.
_OF_ONE_RUN = {"run_id", "materialized_at"}


def contents(url: str) -> dict[str, tuple[int, str]]:
    """Rows and a digest of every table, without what belongs to one run alone."""
    found = {}
    with psycopg.connect(url) as connection:
        for table in metadata.sorted_tables:
            names = ", ".join(f'"{one.name}"' for one in table.columns if one.name not in _OF_ONE_RUN)
            rows = connection.execute(
                f'select row({names})::text from "{table.schema}"."{table.name}" order by 1'  # type: ignore[arg-type]
            ).fetchall()
            found[table.fullname] = (len(rows), hashlib.sha256(repr(rows).encode()).hexdigest())
    return found


def transactions(home: Home) -> list[str]:
    """Every transaction that the chain of a home has accepted."""
    lines = (home.folder / "chain" / "journal.jsonl").read_text().splitlines()
    return [record["raw"] for record in map(json.loads, lines) if "raw" in record]


def test_it_reports_everything_as_json_and_nothing_else(demo: Demo) -> None:
    report = demo.report
    assert report["hours"] == 2
    assert report["replayed"]["mqtt"] > 100
    assert report["replayed"]["opcua"] == 96
    assert report["replayed"]["stored"] == report["replayed"]["mqtt"] + report["replayed"]["opcua"]
    assert report["history_rows"] > HISTORY.days * 24 * 50
    assert report["rejects"] == {}
    assert report["incomplete_hours"] == []
    assert report["rows_validated"] > 0
    assert {"published", "seasonal_naive"} <= set(report["forecast"])
    assert 0 < report["forecast"]["published"]["mape"] < 30
    assert report["plan"]["unmet_kwh"] == 0
    assert isinstance(report["plan"]["cost_first_hour_sum"], float)
    assert report["trades"] > 0
    assert report["settled_hours"] == 2
    assert report["gas"] > 0
    assert report["audit"] == {"verified": report["trades"], "broken": []}
    assert set(report["digests"]) == {"readings", "plans", "trades", "roots"}
    # energy has one price for who gives and who takes: all accounts together earn nothing
    assert sum(round(float(amount) * 10**6) for amount in report["net"].values()) == 0


def test_it_says_on_stderr_what_goes_on_and_how_long_it_took(demo: Demo) -> None:
    said, report = demo.finished.stderr, demo.report
    for stage, seconds in report["seconds"].items():
        assert seconds > 0
        assert stage == "Whole demo" or f"✓ {stage}" in said
    assert report["seconds"]["Whole demo"] >= sum(
        seconds for stage, seconds in report["seconds"].items() if stage != "Whole demo"
    )
    assert "Embedded parts are for one machine" in said
    for noise in ("part_started", "Traceback", "Warning", "plotly"):
        assert noise not in said, said


def test_nothing_runs_afterwards(demo: Demo) -> None:
    demo.home.await_no_process(seconds=5)


def test_the_same_command_again_changes_nothing(demo: Demo) -> None:
    first = demo.report
    with demo.home.database() as url:
        before = contents(url)
    sent = transactions(demo.home)
    again = replace(demo.home, measured=False).run("demo", "--hours", "2", "--json")
    assert again.returncode == 0, again.stderr
    second = json.loads(again.stdout)
    assert second["digests"] == first["digests"]
    assert (second["history_rows"], second["rejects"]) == (0, {})
    same = ("trades", "volume_kwh", "prices", "gas", "net", "plan", "forecast", "audit", "settled_hours")
    assert {name: second[name] for name in same} == {name: first[name] for name in same}
    assert transactions(demo.home) == sent
    with demo.home.database() as url:
        after = contents(url)
    assert {name: rows for name, rows in after.items() if rows != before[name]} == {}


def test_killed_twice_and_run_again_it_ends_as_if_nothing_had_happened(demo: Demo, disturbed: Future[Demo]) -> None:
    home, report = disturbed.result().home, disturbed.result().report
    assert report["digests"] == demo.report["digests"]
    assert report["audit"] == demo.report["audit"]
    assert report["net"] == demo.report["net"]
    # the contract is deployed once, and every hour settled once
    assert len(transactions(home)) == len(transactions(demo.home)) == 1 + 2
    with home.database() as url:
        disturbed_rows = {name: rows for name, (rows, _) in contents(url).items()}
    with demo.home.database() as url:
        rows = {name: rows for name, (rows, _) in contents(url).items()}
    assert disturbed_rows == rows
    home.await_no_process(seconds=5)


def test_the_first_hour_is_a_midnight_in_seoul() -> None:
    assert (module.FIRST_DELIVERY.hour, module.FIRST_DELIVERY.minute) == (15, 0)
