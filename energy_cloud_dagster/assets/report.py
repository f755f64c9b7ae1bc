"""What every asset reports besides its rows: how long it took, what start-up cost, and a plot where it helps."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.partitions import ONE_RUN, hour_key, hourly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWNER: Final = "team:energy-data"

#: An hour's results are late when they are older than two ticks and fail after a day.
HOURLY_FRESHNESS: Final = dg.FreshnessPolicy.time_window(
    warn_window=timedelta(hours=3), fail_window=timedelta(hours=26)
)
DAILY_FRESHNESS: Final = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(days=3))


def hourly_asset(
    group: str, kinds: set[str], table: str, schema: dg.TableSchema, *, deps: Sequence[Any]
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator of an hourly asset: its place in the flow, its table, and how fresh it must be."""
    return dg.asset(
        group_name=group,
        deps=deps,
        kinds=kinds,
        partitions_def=hourly,
        backfill_policy=ONE_RUN,
        owners=[OWNER],
        freshness_policy=HOURLY_FRESHNESS,
        metadata={"dagster/table_name": table, "dagster/column_schema": schema},
    )


class Effort:
    """Seconds of an asset, the imports of heavy packages apart from the work itself."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._cpu_at_start = time.process_time()
        self._imports = 0.0

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Count the block as start-up: the first import of a package in this process."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._imports += time.perf_counter() - started

    def metadata(self) -> dict[str, float]:
        """Return ``work_seconds``, ``import_seconds`` and the CPU seconds that the process had used before."""
        total = time.perf_counter() - self._started
        return {
            "work_seconds": round(total - self._imports, 3),
            "import_seconds": round(self._imports, 3),
            "process_cpu_seconds_before": round(self._cpu_at_start, 3),
        }


def result(
    context: dg.AssetExecutionContext,
    effort: Effort,
    hours: Mapping[datetime, Mapping[str, Any]],
    whole: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult[Any]:
    """Return the result of an hourly asset.

    ``hours`` maps each hour of the run to its own metadata, ``digest`` among it: the metadata goes to that partition,
    the digests together are the data version. ``whole`` is repeated on every partition.
    """
    for hour, found in hours.items():
        context.add_asset_metadata(dict(found), partition_key=hour_key(hour))
    digests = [found["digest"] for _, found in sorted(hours.items())]
    version = digests[0] if len(digests) == 1 else digest(digests)
    return dg.MaterializeResult(metadata={**effort.metadata(), **(whole or {})}, data_version=dg.DataVersion(version))


def columns(**described: str) -> dg.TableSchema:
    """Return the column documentation of an asset's table: ``name="what it holds"``."""
    return dg.TableSchema(columns=[dg.TableColumn(name, description=text) for name, text in described.items()])


def load_plotting() -> None:
    """Import what draws, and draw once: the first figure of a process looks for fonts."""
    picture(new_figure(1.0, 1.0))


def new_figure(width: float = 8.0, height: float = 3.2) -> Figure:
    """Return an empty figure of matplotlib's non-interactive kind."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def picture(figure: Figure) -> dg.MarkdownMetadataValue:
    """Return a figure as metadata that the Dagster UI shows."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")
