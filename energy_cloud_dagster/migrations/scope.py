"""What Alembic owns: its schemas and tables, neither dbt's nor the day partitions that ingest creates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from energy_cloud_dagster.adapters.tables import SCHEMAS

_DAY_PARTITION = re.compile(r"reading_\d{4}_\d{2}_\d{2}(_left_\d+)?")


def include_name(name: str | None, kind: str, parents: Mapping[Any, str | None]) -> bool:
    """Return whether autogenerate looks at the reflected ``name``; for Alembic's ``include_name``."""
    if kind == "schema":
        return name in SCHEMAS
    if kind == "table":
        partition = parents.get("schema_name") == "raw" and _DAY_PARTITION.fullmatch(name or "") is not None
        return parents.get("schema_name") in SCHEMAS and not partition
    return True
