"""`energy-cloud dispatch solve` on files, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import highspy
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
        ("[" * 100_000, "is nested too deeply"),
        ('{"demand": 1' + "0" * 5000 + "}", "thousands of digits"),
        ('{"\\ud800": 1}', "is not known here"),
        ('{"demand": 1, "resources": [{"type": "wind", "capacity": 1, "id": "\\ud800"}]}', "/resources/0/id"),
    ],
)
def test_a_bad_file_is_one_sentence_and_exit_1(tmp_path: Path, document: Any, says: str) -> None:
    result = run(saved(tmp_path, document))
    assert result.exit_code == 1
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_file_of_an_editor_that_marks_its_encoding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"demand": 1, "resources": []}', encoding="utf-8-sig")
    assert run(str(path)).exit_code == 0


def test_an_option_replaces_what_the_file_says(tmp_path: Path) -> None:
    path = saved(tmp_path, {"demand": 2000, "resources": RESOURCES, "solver": "milp", "timeLimit": -1})
    assert "/solver" in run(path).stderr
    assert "/timeLimit: must be above 0" in run(path, "--solver", "lp").stderr
    assert run(path, "--solver", "lp", "--time-limit", "60").exit_code == 0
    assert run(path, "--solver", "gurobi").exit_code == 2


def test_a_time_limit_without_a_plan_is_one_sentence(tmp_path: Path) -> None:
    result = run(saved(tmp_path, {"demand": [2000, 3000], "resources": RESOURCES}), "--time-limit", "1e-9")
    assert result.exit_code == 1
    assert "no plan was found within 1e-09 seconds" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_genetic_algorithm_says_how_far_it_is_from_the_optimum(tmp_path: Path) -> None:
    path = saved(tmp_path, {"demand": 2000, "resources": RESOURCES})
    answer = json.loads(run(path, "--solver", "ga", "--json").stdout)
    assert (answer["solver"], answer["optimal"]) == ("ga", False)
    assert 0 <= answer["gap"] < 0.02
    assert "Gap       " in run(path, "--solver", "ga").stdout


def test_the_model_is_written_for_other_solvers(tmp_path: Path) -> None:
    tie = {**RESOURCES[2], "exportPrice": 0.01}
    document = {"demand": [2000, 3000], "resources": [*RESOURCES[:2], tie], "constraints": {"minRenewable": 0.7}}
    path, model = saved(tmp_path, document), tmp_path / "plan.lp"
    answer = json.loads(run(path, "--json", "--write-lp", str(model)).stdout)
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    assert solver.readModel(str(model)) == highspy.HighsStatus.kOk
    solver.run()
    assert solver.getObjectiveValue() == pytest.approx(answer["cost"])
    assert "generation_WIND_001_0" in model.read_text()
    nowhere = run(path, "--write-lp", str(tmp_path / "none" / "plan.lp"))
    assert (nowhere.exit_code, "cannot be written" in nowhere.stderr) == (1, True)


def test_many_resources_and_steps_stay_readable(tmp_path: Path) -> None:
    resources = [
        *({"id": f"PV-{n}", "type": "solar", "capacity": 1 + n % 7, "availability": 0.5} for n in range(300)),
        {"id": "W", "type": "wind", "capacity": 300, "costPerKWh": 0.3},
        {"id": "TIE", "type": "grid", "capacity": 5000, "costPerKWh": 0.2},
    ]
    document = {"demand": 1000, "horizon": 60, "resources": resources, "constraints": {"minRenewable": 0.7}}
    lines = run(saved(tmp_path, document)).stdout.splitlines()
    assert len(lines) < 130
    assert max(map(len, lines)) < 400
    text = "\n".join(lines)
    assert text.count("minRenewable") < 5
    for words in ("minRenewable in every step", "300 solar", "1 grid", "292 more", "and 12 more steps", "300 capacity"):
        assert words in text


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = run(str(tmp_path / "none.json"))
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (1, True)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in run(str(binary)).stderr
