"""`energy-cloud ingest`: one MQTT ingest worker; many may run side by side."""

from __future__ import annotations

from typing import Annotated

import typer


def ingest(
    name: Annotated[
        str | None, typer.Option(help="Name of the worker's session at the broker; by default a free number.")
    ] = None,
) -> None:
    """Store the readings of MQTT devices until Ctrl-C or SIGTERM.

    It needs ENERGY_CLOUD_MQTT_URL and ENERGY_CLOUD_DATABASE_URL. Messages are acknowledged after they are stored; a
    worker that is started again goes on with the messages of the one before.

    Example: energy-cloud ingest --name hall-1
    """
    from energy_cloud_dagster.cli import logs
    from energy_cloud_dagster.services.ingest import run
    from energy_cloud_dagster.settings import load_settings

    settings = load_settings()
    logs.configure(settings)
    run(settings, client_id=name)
