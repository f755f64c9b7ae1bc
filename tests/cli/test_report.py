"""The report for people and for programs, and the stages that lead to it."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from energy_cloud_dagster.cli import app, bringup, demo, report
from energy_cloud_dagster.cli.console import Stages, plain_console
from energy_cloud_dagster.embedded.parts import RunningPart
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator


def found(**changes: Any) -> dict[str, Any]:
    """What a small demo found."""
    return {
        "hours": 2,
        "market": "KRW-KWH",
        "rejects": {},
        "rows_validated": 228,
        "rows_quarantined": 0,
        "incomplete_hours": [],
        "forecast": {
            "seasonal_naive": {"mape": 8.96, "coverage": 0.5},
            "prophet": {"mape": 3.37, "coverage": 1.0},
            "published": {"mape": 3.4, "coverage": 1.0},
        },
        "plan": {"cost_first_hour_sum": -83502.68, "unmet_kwh": 0.0},
        "trades": 10,
        "volume_kwh": 4.427,
        "prices": [88.304307, 121.2],
        "settled_hours": 2,
        "gas": 916538,
        "net": {"GRID": "-25405.052518", "HOME-01": "-984.213865", "VPP-001": "26389.266383"},
        "digests": {"readings": "a" * 64, "plans": "b" * 64, "trades": "c" * 64, "roots": "d" * 64},
        "history_rows": 76556,
        "replayed": {"mqtt": 132, "opcua": 96, "stored": 228, "rejected": 0},
        "audit": {"verified": 10, "broken": []},
        "run": "run-1",
        "efforts": {"marts (dbt build)": {"work_seconds": 3.25}, "market_clearing_hourly": {"work_seconds": 0.5}},
        "passwords": {},
        "seconds": {"Fit the load model": 2.04, "Whole demo": 61.5},
    } | changes


def shown(**changes: Any) -> str:
    console = Console(file=io.StringIO(), width=140, highlight=False)
    report.show(console, found(**changes))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_person_reads_every_figure() -> None:
    text = shown()
    for words in (
        "2 hours, from meter to chain",
        "132 over MQTT, 96 over OPC UA, 76,556 new of history",
        "none   quarantined: 0   incomplete hours: 0",
        "-83,503 KRW",
        "0.0 kWh unmet",
        "10 trades, 4.4 kWh at 88 to 121 KRW/kWh",
        "2 transactions, 916,538 gas",
        "10 of 10 trades proved",
        "readings aaaaaaaaaaaa",
        "Fit the load model",
        "61.5 s",
        "marts (dbt build) 3.2 s",
    ):
        assert words in text
    assert text.index("published: MAPE 3.4 %") < text.index("prophet: MAPE 3.37 %"), "what was used comes first"
    assert text.index("prophet: MAPE 3.37 %") < text.index("seasonal_naive: MAPE 8.96 %")
    assert "100 % within" in text
    assert "password" not in text


def test_money_adds_up_to_nothing_on_paper_too() -> None:
    text = shown()
    for name, amount in (("GRID", "-25,405"), ("HOME-01", "-984"), ("VPP-001", "26,389")):
        assert f"{name}" in text
        assert amount in text


def test_a_broken_audit_is_said_first_of_all_trades() -> None:
    broken = [{"trade": "T-1", "step": "proof", "detail": "2 hashes do not lead to the root"}]
    text = shown(audit={"verified": 9, "broken": broken})
    assert "1 trades fail" in text
    assert "T-1" in text
    assert "proof" in text
    assert "proved" not in text


def test_rejects_are_counted_by_reason_and_held_rows_named() -> None:
    text = shown(
        rejects={"wrong_unit": 3, "not_json": 1}, rows_quarantined=4, incomplete_hours=["2026-05-05T15:00:00Z"]
    )
    assert "3 wrong_unit, 1 not_json   quarantined: 4   incomplete hours: 1" in text


def test_hours_without_trades_have_no_price() -> None:
    text = shown(trades=0, volume_kwh=0.0, prices=[])
    assert "0 trades, 0.0 kWh" in text
    assert " at " not in text.split("Market", 1)[1].splitlines()[0]


def test_generated_passwords_are_for_people_only() -> None:
    made = {"admin": "s3cret", "operator": "4lso-s3cret"}
    text = shown(passwords=made)
    lines = [line.split() for line in text.splitlines()]
    assert ["admin", "s3cret"] in lines
    assert ["operator", "4lso-s3cret"] in lines
    printed = report.as_json(found(passwords=made))
    assert "s3cret" not in printed
    assert json.loads(printed)["audit"] == {"verified": 10, "broken": []}


def test_the_banner_names_the_parts_and_what_they_are_for() -> None:
    console = Console(file=io.StringIO(), width=60, highlight=False)
    report.banner(console, [])
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
    report.banner(console, [RunningPart("broker", "iotcore", "1.0", "mqtt://127.0.0.1:1883")])
    first, *rest = console.file.getvalue().splitlines()
    assert first.split() == ["broker", "iotcore", "1.0", "mqtt://127.0.0.1:1883"]
    assert "for one machine" in " ".join(rest)


def test_piped_stages_are_plain_lines() -> None:
    stages = Stages(Console(file=io.StringIO(), highlight=False, width=110))
    with stages.stage("Load", 7) as progress:
        progress(3)
    assert isinstance(stages.console.file, io.StringIO)
    first, second = stages.console.file.getvalue().splitlines()
    assert first == "Load ..."
    assert second.startswith("✓ Load 0.")
    assert list(stages.seconds) == ["Load"]


def test_on_a_terminal_stages_show_how_far_they_are() -> None:
    stages = Stages(Console(file=io.StringIO(), force_terminal=True, width=110, legacy_windows=False))
    with stages.stage("Load", 7) as progress:
        progress(3)
    with stages.stage("Fit"):
        pass
    assert isinstance(stages.console.file, io.StringIO)
    text = stages.console.file.getvalue()
    assert "3/7" in text
    assert "Load ..." not in text
    assert list(stages.seconds) == ["Load", "Fit"]


def test_a_stage_that_fails_is_not_ticked_off() -> None:
    stages = Stages(Console(file=io.StringIO(), width=110))
    with pytest.raises(ZeroDivisionError), stages.stage("Divide"):
        raise ZeroDivisionError
    assert isinstance(stages.console.file, io.StringIO)
    assert stages.console.file.getvalue() == "Divide ...\n"
    assert stages.seconds == {}


def test_what_is_piped_is_wide_enough_for_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    console = plain_console(stderr=True)
    assert console.width == 110
    console.print("x" * 100)
    assert capsys.readouterr() == ("", "x" * 100 + "\n")


@pytest.mark.parametrize(("broken", "status"), [([], 0), ([{"trade": "T-1", "step": "root", "detail": "no"}], 1)])
def test_the_demo_fails_when_a_trade_is_not_proved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: list[dict[str, str]], status: int
) -> None:
    class Parts:
        running: tuple[()] = ()

    @contextmanager
    def nothing(settings: Any) -> Iterator[Any]:
        yield settings, Parts()

    monkeypatch.setattr(bringup, "running", nothing)
    monkeypatch.setattr(demo, "_run", lambda *_: found(audit={"verified": 0, "broken": broken}))
    result = CliRunner(env={"ENERGY_CLOUD_HOME": str(tmp_path)}).invoke(app, ["demo", "--json"])
    assert result.exit_code == status
    assert json.loads(result.stdout)["audit"]["broken"] == broken
    assert load_settings(home=tmp_path).automation == "stopped"
    people = CliRunner(env={"ENERGY_CLOUD_HOME": str(tmp_path)}).invoke(app, ["demo"])
    assert people.exit_code == status
    assert "from meter to chain" in people.stdout
