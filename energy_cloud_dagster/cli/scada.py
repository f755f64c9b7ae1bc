"""`energy-cloud scada`: the SCADA bridge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def scada(
    tag_map: Annotated[
        Path | None, typer.Option(help="Tag-map file (TOML); by default ENERGY_CLOUD_TAG_MAP, else the sample's.")
    ] = None,
) -> None:
    """Store the tags of an OPC UA server until Ctrl-C or SIGTERM.

    It needs ENERGY_CLOUD_OPCUA_URL and ENERGY_CLOUD_DATABASE_URL. Each [[tag]] of the map has node, device, metric and
    unit.

    Example: energy-cloud scada --tag-map plant.toml
    """
    from energy_cloud_dagster.cli import logs
    from energy_cloud_dagster.services.scada_bridge import run
    from energy_cloud_dagster.settings import load_settings

    settings = load_settings(**({} if tag_map is None else {"tag_map": tag_map}))
    logs.configure(settings)
    run(settings)
