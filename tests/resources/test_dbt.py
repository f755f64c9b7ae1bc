"""dbt in this process: parsed only when its sources are newer, and one clear failure where it cannot run."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from energy_cloud_dagster.domain.intervals import HOUR, rfc3339
from energy_cloud_dagster.resources import dbt
from energy_cloud_dagster.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Pipeline


def test_the_project_is_parsed_only_when_it_is_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(dbt.project_dir(), project, ignore=shutil.ignore_patterns("logs", "target"))
    monkeypatch.setattr(dbt, "project_dir", lambda: project)
    settings = Settings(home=tmp_path / "home")
    manifest = dbt.manifest_path(settings)
    assert manifest == tmp_path / "home" / "dbt" / "manifest.json"
    parsed = manifest.stat().st_mtime_ns

    assert dbt.manifest_path(settings) == manifest
    assert manifest.stat().st_mtime_ns == parsed

    later = time.time() + 5
    os.utime(project / "models" / "marts" / "marts.yml", (later, later))
    dbt.manifest_path(settings)
    assert manifest.stat().st_mtime_ns > parsed


def test_a_project_that_does_not_parse_is_one_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(dbt.project_dir(), project, ignore=shutil.ignore_patterns("logs", "target"))
    (project / "models" / "broken.sql").write_text("select * from {{ ref('nothing_of_that_name') }}")
    monkeypatch.setattr(dbt, "project_dir", lambda: project)
    with pytest.raises(dg.Failure, match=r"(?s)dbt parse did not run.*nothing_of_that_name") as caught:
        dbt.manifest_path(Settings(home=tmp_path / "home"))
    assert caught.value.__cause__ is not None


def test_a_server_that_does_not_answer_is_one_failure(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGY_CLOUD_DATABASE_URL", "postgresql://nobody:nothing@127.0.0.1:9/pipeline")
    with pytest.raises(dg.Failure, match="dbt build did not run") as caught:
        list(dbt.Dbt().build({"start_hour": rfc3339(pipeline.first), "end_hour": rfc3339(pipeline.first + HOUR)}))
    assert "127.0.0.1" in str(caught.value)


def test_a_model_that_fails_is_a_result_and_fails_the_asset_by_its_name(altered: Pipeline) -> None:
    import sqlalchemy as sa

    with altered.begin() as connection:
        connection.execute(sa.text("alter table marts.fct_region__hourly rename column solar_kwh to sun_kwh"))
    hours = {"start_hour": rfc3339(altered.last), "end_hour": rfc3339(altered.last + HOUR)}
    built = {node.unique_id: node for node in dbt.Dbt().build(hours, select="fct_region__hourly")}
    broken = built["model.energy_cloud.fct_region__hourly"]
    assert not broken.ok
    assert broken.status == "error"
    assert broken.message

    outcome = altered.job("hourly", altered.last, asset_selection=[dg.AssetKey("fct_region__hourly")])
    assert not outcome.success
    failure = next(event for event in outcome.all_events if event.is_step_failure)
    description = failure.step_failure_data.user_failure_data.description
    assert "fct_region__hourly" in str(description)


def test_the_environment_is_as_it_was_after_a_build(pipeline: Pipeline) -> None:
    before = {name: value for name, value in os.environ.items() if name.startswith("ENERGY_CLOUD_DBT")}
    with dbt._environment(pipeline.settings):
        assert os.environ["ENERGY_CLOUD_DBT_DATABASE"] == "pipeline"
        assert os.environ["ENERGY_CLOUD_DBT_HOST"].startswith("/")
    assert {name: value for name, value in os.environ.items() if name.startswith("ENERGY_CLOUD_DBT")} == before


def test_an_address_over_tcp_is_handed_on() -> None:
    url = "postgresql://us%40er:p%2Fw@db.example:6543/energy"
    with dbt._environment(Settings(database_url=url)):
        found = {
            name.removeprefix("ENERGY_CLOUD_DBT_"): value
            for name, value in os.environ.items()
            if name.startswith("ENERGY_CLOUD_DBT_")
        }
    assert found == {"HOST": "db.example", "PORT": "6543", "USER": "us@er", "PASSWORD": "p/w", "DATABASE": "energy"}


def test_an_interrupt_ends_the_build_and_is_no_failure_of_it(pipeline: Pipeline) -> None:
    """Ctrl-C while dbt is at work, by a signal as the terminal sends it."""
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            _build_until_interrupted(pipeline)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


def _build_until_interrupted(pipeline: Pipeline) -> None:
    nothing = {"start_hour": rfc3339(pipeline.first), "end_hour": rfc3339(pipeline.first)}
    while True:
        list(dbt.Dbt().build(nothing))
