"""`energy-cloud dispatch solve` on files, good and bad."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pulp
import pytest
from typer.testing import CliRunner

from energy_cloud_dagster.cli.dispatch import app

RESOURCES = [
    {"id": "SOLAR-001", "type": "solar", "capacity": 1000, "costPerKWh": 0.05},
    {"id": "WIND-001", "type": "wind", "capacity": 1500, "costPerKWh": 0.06},
    {"id": "GRID-001", "type": "grid", "capacity": 5000, "costPerKWh": 0.12},
]


def run(*arguments: str, text: str | None = None) -> Any:
    return CliRunner().invoke(app, ["solve", *arguments], input=text)


def saved(folder: Path, document: Any) -> str:
    path = folder / "plan.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def test_json_is_the_answer_of_optimize(tmp_path: Path) -> None:
    result = run(saved(tmp_path, {"demand": 2000, "resources": RESOURCES}), "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert (answer["status"], answer["cost"], answer["solver"]) == ("completed", 110, "lp")
    assert answer["solveSeconds"] > 0
    assert set(answer) == {
        *("status", "cost", "unmetEnergy", "averageCost", "renewableRatio", "totalOutput", "steps", "allocation"),
        *("violations", "solver", "solveSeconds", "explanation"),
    }


def test_a_person_reads_the_plan_its_price_and_what_fell_short(tmp_path: Path) -> None:
    document = {"demand": [2000, 9000], "resources": RESOURCES, "constraints": {"minRenewable": 0.7}}
    result = run(saved(tmp_path, document))
    assert result.exit_code == 0
    for words in (
        "completed",
        "SOLAR-001",
        "Not met",
        "unmetDemand: 0 required, 1,500 achieved",
        "Step 1: for 2,000 kW",
    ):
        assert words in result.stdout


def test_an_impossible_plan_is_an_answer(tmp_path: Path) -> None:
    result = run(saved(tmp_path, {"demand": 9000, "resources": RESOURCES, "strict": True}))
    assert result.exit_code == 0
    assert "infeasible" in result.stdout
    assert "No plan can keep demand" in result.stdout


def test_a_plan_may_come_from_standard_input() -> None:
    result = run("-", "--json", text='{"demand": 1, "resources": []}')
    assert json.loads(result.stdout)["unmetEnergy"] == 1


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"demand": 1, "resources": [{"type": "solar", "capacity": -1}]}, "/resources/0/capacity: must be at least 0"),
        ('{"demand": NaN, "resources": []}', "/demand: must be finite"),
        ("{", "is not JSON"),
        ("[]", "/: must be an object"),
    ],
)
def test_a_bad_file_is_one_sentence_and_exit_1(tmp_path: Path, document: Any, says: str) -> None:
    result = run(saved(tmp_path, document))
    assert result.exit_code == 1
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_solver_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulp, "HiGHS", partial(pulp.HiGHS, timeLimit=0))
    result = run(saved(tmp_path, {"demand": [2000, 3000], "resources": RESOURCES}))
    assert (result.exit_code, "without an answer" in result.stderr) == (1, True)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = run(str(tmp_path / "none.json"))
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (1, True)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in run(str(binary)).stderr
