"""The plans of the hourly run over HTTP: what stands in the database, in three formats."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from energy_cloud_dagster.adapters import plans
from energy_cloud_dagster.adapters.plans import PlanRow
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339, run_time

from .conftest import T0, Client

if TYPE_CHECKING:
    import sqlalchemy as sa

pytestmark = pytest.mark.usefixtures("tidy")
#: Partitions of the plans that this module adds, past those of the common past.
HOURS = tuple(T0 + (100 + number) * HOUR for number in range(3))


@pytest.fixture(scope="module")
def planned(operator: Client, api_engine: sa.Engine) -> str:
    """A VPP with three hourly plans of two hours each, and one that the hourly run never planned."""
    operator.post("/v1/vpp", {"id": "VPP-PLANS", "name": "Planned", "capacity": 10})
    with api_engine.begin() as connection:
        for number, hour in enumerate(HOURS):
            store = {"id": "BAT", "type": "storage", "capacity": 2, "energyCapacity": 4}
            grid = {"id": "GRID", "type": "grid", "capacity": 9, "costPerKWh": [1, 5]}
            problem = {
                "start": rfc3339(hour + HOUR),
                "demand": [number + 1, number + 2],
                "resources": [store, grid],
            }
            solution = solve(parse_problem(problem)).to_document()
            row = PlanRow(
                "VPP-PLANS",
                run_time(hour),
                hour + HOUR,
                solution["solver"],
                solution["status"],
                solution["cost"],
                solution["unmetEnergy"],
                solution["renewableRatio"],
                problem,
                solution,
                digest([problem, solution]),
            )
            plans.replace_plan(connection, row, [], run_id=f"run-{number}")
    return "VPP-PLANS"


def test_each_plan_says_which_run_made_it_of_what(viewer: Client, planned: str) -> None:
    items = viewer.get(f"/v1/vpp/{planned}/plans").json()["items"]
    assert [each["partition"] for each in items] == [f"{hour:%Y-%m-%d-%H:%M}" for hour in reversed(HOURS)]
    assert [each["runId"] for each in items] == ["run-2", "run-1", "run-0"]
    newest = items[0]
    assert len(newest["dataVersion"]) == 64
    assert datetime.fromisoformat(newest["materializedAt"]) > HOURS[0]
    assert newest["issuedAt"] == rfc3339(run_time(HOURS[2]))
    by_id: dict[str, Any] = {each["resourceId"]: each for each in newest["allocation"]}
    total = [sum(each["output"][step] for each in by_id.values()) for step in range(2)]
    assert total == pytest.approx([3, 4])
    assert len(by_id["BAT"]["soc"]) == len(newest["steps"]) == 2
    assert len(newest["explanation"]) >= 2


def test_plans_are_bounded_by_page_knowledge_and_time(viewer: Client, planned: str) -> None:
    path = f"/v1/vpp/{planned}/plans"
    seen, cursor = [], None
    while True:
        page = viewer.get(path, limit=2, **({"cursor": cursor} if cursor else {})).json()
        seen += [each["runId"] for each in page["items"]]
        if (cursor := page["nextCursor"]) is None:
            break
    assert seen == ["run-2", "run-1", "run-0"]
    known = viewer.get(path, asOf=rfc3339(run_time(HOURS[2]) - timedelta(seconds=1))).json()["items"]
    assert [each["runId"] for each in known] == ["run-1", "run-0"]
    one = viewer.get(path, startDate=rfc3339(HOURS[1]), endDate=rfc3339(HOURS[2])).json()["items"]
    assert [each["runId"] for each in one] == ["run-0"]


def test_the_same_rows_as_csv_and_parquet(viewer: Client, planned: str) -> None:
    path = f"/v1/vpp/{planned}/plans"
    as_csv = viewer("GET", path, params={"limit": 2}, headers={"Accept": "text/csv"})
    assert as_csv.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(as_csv.text)))
    assert len(rows) == 2 * 2 * 2
    assert {row["runId"] for row in rows} == {"run-2", "run-1"}
    following = as_csv.headers["link"].partition(">")[0].removeprefix("<")
    rest = viewer("GET", following, headers={"Accept": "text/csv"})
    assert {row["runId"] for row in csv.DictReader(io.StringIO(rest.text))} == {"run-0"}
    assert "link" not in rest.headers
    as_parquet = viewer(
        "GET", path, params={"limit": 2}, headers={"Accept": "application/vnd.apache.parquet, */*;q=0.1"}
    )
    table = pq.read_table(io.BytesIO(as_parquet.content)).to_pylist()
    assert [float(row["output"]) for row in rows] == [row["output"] for row in table]
    assert [row["timestamp"] for row in rows] == [rfc3339(row["timestamp"]) for row in table]
    assert "timestamp" in viewer("GET", "/v1/vpp/VPP-001/plans", headers={"Accept": "text/csv"}).text


def test_json_is_what_a_caller_gets_that_asks_for_nothing_known(viewer: Client, planned: str) -> None:
    for accept in ("*/*", "image/png", "text/csv;q=0.1, application/json", ""):
        answer = viewer("GET", f"/v1/vpp/{planned}/plans", headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/json", accept


def test_plans_of_no_vpp_are_a_404(viewer: Client) -> None:
    assert viewer.get("/v1/vpp/VPP-404/plans").status_code == 404
