"""The asset graph as Dagster sees it: nothing changes in it unseen.

``tests/snapshots/asset_graph.json`` holds it. After an intended change write it anew, and look at its diff:

    ENERGY_CLOUD_UPDATE_SNAPSHOTS=1 pytest tests/test_definitions.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

SNAPSHOT = Path(__file__).parent / "snapshots" / "asset_graph.json"
#: In the order of the flow.
GROUPS = (
    "sources",
    "ingest",
    "quality",
    "marts",
    "forecasts",
    "dispatch",
    "market",
    "settlement",
    "evidence",
    "data_life",
)


@pytest.fixture(scope="session")
def definitions(home: Path) -> dg.Definitions:
    """The definitions, loaded as Dagster loads them, with dbt's state in the test's own home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENERGY_CLOUD_HOME", str(home / "p"))
        from energy_cloud_dagster.definitions import defs
    return defs


@pytest.fixture(scope="session")
def graph(definitions: dg.Definitions) -> AssetGraph:
    return definitions.resolve_asset_graph()


def picture(graph: AssetGraph) -> dict[str, Any]:
    """Return what the snapshot holds of every asset, by key."""
    checks: dict[str, list[str]] = {}
    for key in graph.asset_check_keys:
        node = graph.get_check_spec(key)
        checks.setdefault(key.asset_key.to_user_string(), []).append(
            f"{key.name}{' (blocking)' if node.blocking else ''}"
        )
    return {
        node.key.to_user_string(): {
            "group": node.group_name,
            "kind": "asset" if node.is_materializable else "source",
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "owners": sorted(node.owners),
            "described": bool(node.description),
            "kinds": sorted(node.kinds),
            "freshness": _freshness(node.freshness_policy),
            "partitions": _partitions(node.partitions_def),
            "one run for a range": node.backfill_policy == dg.BackfillPolicy.single_run(),
            "table": _table(node.metadata),
            "columns": _columns(node.metadata),
            "checks": sorted(checks.get(node.key.to_user_string(), [])),
        }
        for node in sorted(graph.asset_nodes, key=lambda node: node.key.to_user_string())
    }


def _freshness(policy: Any) -> str | None:
    if policy is None:
        return None
    return f"warns after {policy.warn_window.to_timedelta()}, fails after {policy.fail_window.to_timedelta()}"


def _partitions(partitions: dg.PartitionsDefinition[Any] | None) -> str | None:
    if partitions is None:
        return None
    assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)
    return f"{partitions.schedule_type.value.lower()} from {partitions.start:%Y-%m-%d %H:%M} {partitions.timezone}"


def _table(metadata: Mapping[str, Any]) -> str | None:
    """Return schema and table; dbt adds the database, which is another in each home."""
    name = metadata.get("dagster/table_name")
    return ".".join(name.split(".")[-2:]) if name else None


def _columns(metadata: Mapping[str, Any]) -> dict[str, bool]:
    """Return the documented columns and whether each has a description."""
    schema = metadata.get("dagster/column_schema")
    schema = getattr(schema, "schema", schema)
    return {column.name: bool(column.description) for column in schema.columns} if schema else {}


def test_the_asset_graph_is_the_one_in_the_snapshot(graph: AssetGraph) -> None:
    now = json.dumps(picture(graph), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("ENERGY_CLOUD_UPDATE_SNAPSHOTS") == "1":
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(now)
    assert json.loads(now) == json.loads(SNAPSHOT.read_text()), (
        "the asset graph changed; if that was meant: ENERGY_CLOUD_UPDATE_SNAPSHOTS=1 pytest tests/test_definitions.py"
    )


def test_every_asset_says_what_it_is_and_whose(graph: AssetGraph) -> None:
    for name, asset in picture(graph).items():
        assert asset["described"], name
        assert asset["owners"] == ["team:energy-data"], name
        assert asset["group"].split("_", 1)[-1] in GROUPS, name
        if asset["kind"] == "source":
            continue
        assert asset["freshness"], name
        assert asset["partitions"], name
        assert asset["columns"], name
        assert all(asset["columns"].values()), f"{name}: a column without a description"


def test_every_asset_stands_on_a_source_before_raw(graph: AssetGraph) -> None:
    assets = picture(graph)
    sources = {name for name, asset in assets.items() if asset["kind"] == "source"}
    assert sources == {
        "mqtt_meters",
        "scada_turbines",
        "registry_device",
        "registry_series",
        "price_feed",
        "weather_service",
    }
    assert {"mqtt_meters", "scada_turbines"} <= set(assets["raw_readings_hourly"]["deps"])
    for name in assets.keys() - sources:
        assert graph.get_ancestor_asset_keys(dg.AssetKey(name)) & {dg.AssetKey(source) for source in sources}, name


def test_the_flow_leads_from_the_meter_to_the_proof(graph: AssetGraph) -> None:
    behind = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey("trade_evidence_hourly"))}
    everything = {key.to_user_string() for key in graph.get_all_asset_keys()}
    beside = {
        "fct_region__hourly",
        "forecast_accuracy_daily",
        "dispatch_actual_hourly",
        "reading_partitions",
        "reading_archive",
        "reading_retention",
    }
    assert everything - behind - {"trade_evidence_hourly"} == beside, "only reports and the data's life end beside it"


def test_a_range_of_hours_is_one_run_in_one_process(definitions: dg.Definitions, graph: AssetGraph) -> None:
    for name, asset in picture(graph).items():
        if asset["partitions"] and asset["partitions"].startswith("hourly"):
            assert asset["one run for a range"], name
    for name in ("hourly", "daily_fit", "data_life", "settlement_retry"):
        assert definitions.resolve_job_def(name).executor_def is dg.in_process_executor


def test_dbts_tests_and_the_check_before_settlement_block_and_no_other(graph: AssetGraph) -> None:
    own = {
        key.name: graph.get_check_spec(key).blocking
        for key in graph.asset_check_keys
        if "dagster_dbt/unique_id" not in graph.get_check_spec(key).metadata
    }
    assert {name for name, blocks in own.items() if blocks} == {"delivery_may_be_settled"}
    assert set(own) == {
        "delivery_may_be_settled",
        "few_readings_in_quarantine",
        "every_series_has_readings",
        "readings_are_fresh",
    }


def test_overriding_a_resource_reaches_the_jobs() -> None:
    from energy_cloud_dagster.definitions import build_defs
    from energy_cloud_dagster.resources import Database

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENERGY_CLOUD_HOME", os.environ.get("ENERGY_CLOUD_HOME", ".energy-cloud"))
        found = build_defs({"database": Database(url="postgresql:///other")})
    resource = (found.resources or {})["database"]
    assert resource.resolved_url == "postgresql:///other"
