"""`energy-cloud forecast backtest|run` on small files, as a person or a program meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from energy_cloud_dagster.cli import app, charts

ZONE = "Europe/Paris"
CHEAP = "seasonal_naive,daily_naive,similar_day"


def load(days: int = 35, start: str = "2024-03-10", seed: int = 4) -> pd.DataFrame:
    """A load with a day, a week and noise, in wall time over the day of 23 hours; and its temperature."""
    index = pd.date_range(start, periods=24 * days, freq="h", tz=ZONE)
    rng = np.random.default_rng(seed)
    shape = 100 + 30 * np.sin(2 * np.pi * (index.hour - 7) / 24) - 15 * (index.day_of_week >= 5)
    return pd.DataFrame(
        {
            "time": index.strftime("%Y-%m-%d %H:%M"),
            "kw": np.round(shape + rng.normal(0, 4, len(index)), 2),
            "temp": np.round(12 + 5 * np.sin(2 * np.pi * (index.hour - 9) / 24), 1),
        }
    )


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    def save(frame: pd.DataFrame) -> str:
        path = tmp_path / "load.csv"
        frame.to_csv(path, index=False)
        return str(path)

    return save


def forecast(command: str, path: str, *options: str) -> Any:
    basics = ["--time", "time", "--target", "kw", "--tz", ZONE, "--models", CHEAP]
    return CliRunner().invoke(app, ["forecast", command, path, *basics, *options])


def answer(command: str, path: str, *options: str) -> Any:
    result = forecast(command, path, *options, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_json_of_a_backtest_has_the_documented_figures(saved: Callable[..., str]) -> None:
    found = answer("backtest", saved(load()), "--origins", "5")
    assert (found["horizon"], found["origins"]) == (24, 5)
    names = [one["name"] for one in found["models"]]
    assert set(names) == {*CHEAP.split(","), "ensemble"}
    assert found["champion"] in names
    keys = {"name", "mape", "mae", "rmse", "mase", "bias", "pinball", "coverage", "fitSeconds", "predictSeconds"}
    assert all(set(one) == keys for one in found["models"])
    by_name = {one["name"]: one for one in found["models"]}
    assert by_name["similar_day"]["mase"] < by_name["seasonal_naive"]["mase"]
    assert all(0 <= one["coverage"] <= 100 and one["mae"] <= one["rmse"] for one in found["models"])
    assert sum(found["weights"].values()) == pytest.approx(1, abs=1e-5)


def test_the_naive_figures_are_those_of_last_weeks_values(saved: Callable[..., str]) -> None:
    frame = load(days=60, start="2024-01-10")
    found = answer("backtest", saved(frame))
    naive = next(one for one in found["models"] if one["name"] == "seasonal_naive")
    kw = frame["kw"].to_numpy()
    judged = kw[-24 * found["origins"] :]
    missed = np.abs(kw[-24 * found["origins"] - 168 : -168] - judged)
    before = kw[: -24 * found["origins"]]
    assert found["origins"] == 12
    assert naive["mae"] == pytest.approx(missed.mean(), rel=1e-4)
    assert naive["mape"] == pytest.approx(100 * (missed / judged).mean(), rel=1e-4)
    assert naive["mase"] == pytest.approx(naive["mae"] / np.abs(before[168:] - before[:-168]).mean(), rel=1e-4)


def test_a_person_reads_a_verdict_a_table_and_what_was_done_to_the_file(saved: Callable[..., str]) -> None:
    frame = load().drop(index=range(200, 260))
    result = forecast("backtest", saved(frame), "--origins", "4")
    assert result.exit_code == 0
    for words in ("The model to use here is", "MASE", "* ", "The ensemble is", "60 of 840 hours are missing, in 1 gap"):
        assert words in result.stdout
    for model in CHEAP.split(","):
        assert model in result.stderr  # plain lines of progress, for nobody watches a bar in a pipe


def test_regressors_of_a_backtest_are_said_to_be_measured(saved: Callable[..., str]) -> None:
    notes = answer("backtest", saved(load()), "--origins", "3", "--regressors", "temp")["notes"]
    assert "column 'temp' is used as temperature" in notes
    assert any("measured values stand in for a perfect forecast" in note for note in notes)


def test_the_next_hours_come_as_csv_and_as_json(saved: Callable[..., str]) -> None:
    path = saved(load())
    printed = forecast("run", path, "--horizon", "30")
    assert printed.exit_code == 0
    header, *rows = printed.stdout.split()
    assert header == "timestamp,p10,p50,p90"
    found = answer("run", path, "--horizon", "30")
    assert [row.split(",")[0] for row in rows] == [one["timestamp"] for one in found["points"]]
    assert [float(row.split(",")[2]) for row in rows] == [one["p50"] for one in found["points"]]
    stamps = pd.DatetimeIndex([one["timestamp"] for one in found["points"]])
    assert stamps.equals(pd.date_range(found["origin"], periods=30, freq="h"))
    assert stamps[0] == pd.Timestamp("2024-03-10", tz=ZONE) + pd.Timedelta(hours=35 * 24)
    assert all(one["p10"] <= one["p50"] <= one["p90"] for one in found["points"])
    assert (found["rung"], found["horizon"], found["accuracy"]["days"]) == ("champion", 30, 11)


def test_nothing_after_the_origin_moves_a_forecast(saved: Callable[..., str]) -> None:
    frame = load()
    origin = ("--origin", "2024-04-01 00:00")
    path = saved(frame)
    before = forecast("run", path, *origin).stdout
    spiked = frame.assign(kw=frame["kw"].where(frame["time"] < "2024-04-01", 1e6))
    assert forecast("run", saved(spiked), *origin).stdout == before != ""


def test_a_planted_spike_moves_no_forecast_of_a_backtest_before_it(
    saved: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from energy_cloud_dagster.domain.forecasting.judging import backtest

    seen: list[backtest.Backtest] = []
    real = backtest.run_backtest

    def watched(*arguments: Any, **options: Any) -> backtest.Backtest:
        seen.append(real(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(backtest, "run_backtest", watched)
    frame = load()
    for kw in (frame["kw"], frame["kw"].mask(frame.index == len(frame) - 5, 1e6)):
        answer("backtest", saved(frame.assign(kw=kw)))
    clean, spiked = seen
    for name, one in clean.models.items():
        for before, after in zip(one.forecasts, spiked.models[name].forecasts, strict=True):
            pd.testing.assert_frame_equal(before.frame(), after.frame())
    assert spiked.models["seasonal_naive"].accuracy.rmse > 100 * clean.models["seasonal_naive"].accuracy.rmse


@pytest.mark.parametrize(
    ("spoil", "rung", "says"),
    [
        pytest.param(lambda frame: frame.drop(index=range(500, 700)), "champion", "gap", id="gap of a week"),
        pytest.param(lambda frame: frame.assign(kw=5.0), "similar_day", "constant series", id="constant"),
        pytest.param(lambda frame: frame.iloc[: 24 * 7], "champion", "judged on", id="one week"),
        pytest.param(lambda frame: frame.iloc[:5], None, "nothing could be judged", id="five hours"),
        pytest.param(lambda frame: frame.assign(kw=frame["kw"] - 110), "champion", "", id="negative loads"),
        pytest.param(
            lambda frame: frame.assign(kw=frame["kw"].clip(lower=110) - 110), "champion", "", id="zeros by night"
        ),
        pytest.param(
            lambda frame: frame.assign(kw=frame["kw"].mask(frame.index == 700, 1e9)), "champion", "", id="spike"
        ),
        pytest.param(lambda frame: pd.concat([frame, frame.iloc[50:60]]), "champion", "10 rows repeated", id="repeats"),
    ],
)
def test_bad_series_get_a_forecast_anyway(
    saved: Callable[..., str], spoil: Callable[[pd.DataFrame], pd.DataFrame], rung: str | None, says: str
) -> None:
    found = answer("run", saved(spoil(load())))
    values = np.array([[one["p10"], one["p50"], one["p90"]] for one in found["points"]])
    assert values.shape == (24, 3)
    assert np.isfinite(values).all()
    assert (np.diff(values, axis=1) >= 0).all()
    assert rung is None or found["rung"] == rung
    assert says in " ".join(found["notes"])


def test_a_regressor_is_used_where_it_is_known_ahead_and_left_out_where_not(saved: Callable[..., str]) -> None:
    frame = load()
    frame.loc[frame.index[-24:], "kw"] = np.nan
    known = answer("run", saved(frame), "--regressors", "temp")
    origin = pd.Timestamp("2024-03-10", tz=ZONE).tz_convert("UTC") + pd.Timedelta(hours=34 * 24)
    assert pd.Timestamp(known["origin"]) == origin
    assert not any("temperature is not known" in note for note in known["notes"])
    cut = frame.assign(temp=frame["temp"].where(frame.index < len(frame) - 24))
    missing = answer("run", saved(cut), "--regressors", "temp")
    assert "temperature is not known in any of the 24 hours ahead: the models do without it" in missing["notes"]
    holed = frame.assign(temp=frame["temp"].mask(frame.index == len(frame) - 10))
    filled = answer("run", saved(holed), "--regressors", "temp")
    assert "temperature of 1 hour ahead is taken from the hours around" in filled["notes"]


class Page(HTMLParser):
    """What a page holds: its tags, its text, and whatever it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert attrs
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_pages_need_nothing_else_and_say_what_the_command_said(saved: Callable[..., str], tmp_path: Path) -> None:
    frame = load().rename(columns={"kw": "<b>kw & co"})
    path, page = saved(frame), tmp_path / "page.html"
    basics = ["--time", "time", "--target", "<b>kw & co", "--tz", ZONE, "--models", CHEAP, "--report", str(page)]
    for command, plots in (("backtest", 7), ("run", 1)):
        result = CliRunner().invoke(app, ["forecast", command, path, *basics, "--json"])
        assert result.exit_code == 0, result.stderr
        document, text = json.loads(result.stdout), page.read_text()
        read = Page(text)
        assert read.loads == []
        assert "script" not in read.tags
        assert read.open == []
        assert "<b>kw & co" in read.text  # shown as it is called, not obeyed
        assert text.count('class="plot') >= plots
        assert "NaN" not in text
        assert all(note in read.text for note in document["notes"])
        for one in document.get("models", []):
            assert one["name"] in read.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tz", "Mars/Base"], "'Mars/Base' is not an IANA time zone"),
        (["--models", "oracle"], "no model is called 'oracle'"),
        (["--models", ","], "name at least one model"),
        (["--horizon", "0"], "Invalid value for '--horizon'"),
        (["--country", "XX"], "no holidays are known of XX"),
        (["--aggregate", "max"], "'max' is not one of"),
    ],
)
@pytest.mark.parametrize("command", ["backtest", "run"])
def test_wrong_options_are_usage(saved: Callable[..., str], command: str, options: list[str], says: str) -> None:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(
        app, ["forecast", command, saved(load(days=2)), "--time", "time", "--target", "kw", *options]
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


@pytest.mark.parametrize("command", ["backtest", "run"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--target", "load"], "no column 'load' in the header, which has time, kw, temp (separator comma)"),
        (["--regressors", "wind"], "no column 'wind'"),
        (["--time", "kw"], "is not a time"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(
    saved: Callable[..., str], command: str, options: list[str], says: str
) -> None:
    result = forecast(command, saved(load(days=2)), *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_too_short_a_series_cannot_be_judged_and_says_how_long_it_must_be(saved: Callable[..., str]) -> None:
    result = forecast("backtest", saved(load(days=6)))
    assert result.exit_code == 1
    assert "a backtest needs" in result.stderr.splitlines()[-1]


def test_round_ticks_lie_inside_and_figures_stand_below_each_other() -> None:
    assert charts.nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert charts.nice_ticks(-0.03, 0.02) == pytest.approx([-0.03, -0.02, -0.01, 0, 0.01, 0.02])
    assert charts.nice_ticks(5, 5) == [5]
    assert charts.column([0.7621, 1.06, None, -0.0001]) == ["0.762", "1.060", "-", "0.000"]
    assert charts.number(12345.6) == "12,346"
