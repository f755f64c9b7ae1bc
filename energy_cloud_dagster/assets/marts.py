"""The marts: dbt's models as assets and dbt's tests as asset checks, built in this process for the hours of the run."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster_dbt import DagsterDbtTranslator, dbt_assets
from dagster_dbt.asset_utils import get_asset_check_key_for_test, get_asset_keys_to_resource_props

from energy_cloud_dagster.adapters import marts
from energy_cloud_dagster.assets.report import HOURLY_FRESHNESS, OWNER, Effort
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.partitions import ONE_RUN, hour_key, hourly, hours_in
from energy_cloud_dagster.resources import Database, Dbt
from energy_cloud_dagster.resources.dbt import NodeResult


class Translator(DagsterDbtTranslator):
    """Names dbt's models as this platform names assets: by model, in one group, owned and with a freshness policy."""

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """Return the model's name, and the names that the sources have as assets."""
        if dbt_resource_props["resource_type"] == "source":
            validated = dbt_resource_props["source_name"] == "validated"
            return dg.AssetKey("validated_readings_hourly" if validated else f"registry_{dbt_resource_props['name']}")
        return dg.AssetKey(dbt_resource_props["name"])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Return the one group of the marts."""
        return "3_marts"

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:  # noqa: ARG002
        """Return the owner of every asset."""
        return [OWNER]

    def get_asset_spec(self, *arguments: Any, **named: Any) -> dg.AssetSpec:
        """Add the freshness policy, which the manifest does not know."""
        spec: dg.AssetSpec = super().get_asset_spec(*arguments, **named)
        return spec.replace_attributes(freshness_policy=HOURLY_FRESHNESS)


def build_marts(manifest: Path) -> dg.AssetsDefinition:
    """Return the asset of all models in ``manifest``."""
    translator = Translator()
    parsed = json.loads(manifest.read_text())

    @dbt_assets(
        manifest=parsed,
        name="marts",
        partitions_def=hourly,
        backfill_policy=ONE_RUN,
        dagster_dbt_translator=translator,
    )
    def marts_hourly(context: dg.AssetExecutionContext, database: Database, dbt: Dbt) -> Iterator[Any]:
        """Replace the run's hours in every mart."""
        effort = Effort()
        with effort.importing():
            dbt.prepare()
        window = context.partition_time_window
        built = list(dbt.build({"start_hour": rfc3339(window.start), "end_hour": rfc3339(window.end)}))
        failed = [node for node in built if not node.ok and not node.unique_id.startswith("test.")]
        if failed:
            raise dg.Failure(f"{failed[0].unique_id}: {failed[0].message}")
        # dbt reports models in the order in which it built them, parents first, and Dagster wants them so
        models = {
            properties["unique_id"]: (key, properties)
            for key, properties in get_asset_keys_to_resource_props(parsed, translator).items()
            if key in context.selected_asset_keys
        }
        with database.begin() as connection:
            for node in built:
                if node.unique_id in models:
                    yield _materialized(context, connection, *models[node.unique_id], _effort(effort, node))
        yield from _checked(context, parsed, translator, built)

    return marts_hourly


def _effort(effort: Effort, node: NodeResult) -> dict[str, float]:
    """Return a model's own seconds as its work, and those of the whole build, which all models share."""
    whole = effort.metadata()
    return whole | {"work_seconds": round(node.seconds, 3), "build_seconds": whole["work_seconds"]}


def _materialized(
    context: dg.AssetExecutionContext,
    connection: sa.Connection,
    key: dg.AssetKey,
    properties: Mapping[str, Any],
    effort: Mapping[str, float],
) -> dg.MaterializeResult[Any]:
    """Return one model's result; tables report rows and a digest for each hour, views have no rows of their own."""
    if properties["config"]["materialized"] == "view":
        return dg.MaterializeResult(
            asset_key=key, metadata=dict(effort), data_version=dg.DataVersion(properties["checksum"]["checksum"][:16])
        )
    window = context.partition_time_window
    found = marts.fingerprints(connection, properties["name"], window.start, window.end)
    empty = marts.Fingerprint(0, digest([]))
    for hour in hours_in(window):
        rows, fingerprint = found.get(hour, empty)
        context.add_asset_metadata(
            {"dagster/partition_row_count": rows, "digest": fingerprint},
            asset_key=key,
            partition_key=hour_key(hour),
        )
    digests = [found.get(hour, empty).digest for hour in hours_in(window)]
    return dg.MaterializeResult(
        asset_key=key,
        metadata=dict(effort),
        data_version=dg.DataVersion(digests[0] if len(digests) == 1 else digest(digests)),
    )


def _checked(
    context: dg.AssetExecutionContext,
    manifest: Mapping[str, Any],
    translator: Translator,
    built: Iterable[NodeResult],
) -> Iterator[dg.AssetCheckResult]:
    """Yield the result of every dbt test that is a check of this asset."""
    for node in built:
        if not node.unique_id.startswith("test."):
            continue
        check = get_asset_check_key_for_test(manifest, translator, node.unique_id, project=None)
        if check is None or check not in context.selected_asset_check_keys:
            continue
        yield dg.AssetCheckResult(
            asset_key=check.asset_key,
            check_name=check.name,
            passed=node.ok,
            severity=dg.AssetCheckSeverity.WARN if node.status == "warn" else dg.AssetCheckSeverity.ERROR,
            metadata={"failed_rows": node.failures, "seconds": round(node.seconds, 3), "message": node.message},
        )
