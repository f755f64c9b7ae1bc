"""`energy-cloud simulate`: the sample fleet, live: meters over MQTT, turbines as an OPC UA server."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer


def simulate(
    plant_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the OPC UA server of the turbines; none without.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%SZ"], help="Where a new fleet begins (UTC).")
    ] = None,
) -> None:
    """Publish the sample community's measured data as its intervals end, until Ctrl-C.

    What it could not publish while it was away is sent first when it comes back.

    Example: energy-cloud simulate --plant-port 4840
    """
    from datetime import UTC

    from energy_cloud_dagster.cli import logs
    from energy_cloud_dagster.domain.errors import Misconfigured
    from energy_cloud_dagster.services.fleet import FleetOptions, run_live
    from energy_cloud_dagster.settings import load_settings

    settings = load_settings()
    logs.configure(settings)
    if not settings.mqtt_url:
        raise Misconfigured("ENERGY_CLOUD_MQTT_URL is empty; set it to mqtt://host:port of the broker")
    options = FleetOptions(
        settings.mqtt_url,
        settings.mqtt_username,
        settings.mqtt_password.get_secret_value(),
        state_file=settings.home / "fleet.json",
        plant_port=plant_port,
        since=since.replace(tzinfo=UTC) if since else None,
    )
    run_live(options, ready=lambda url: typer.echo(f"READY {url or settings.mqtt_url}"))
