"""`energy-cloud outbox`: the process that sends commands to devices."""

from __future__ import annotations

from typing import Annotated

import typer


def outbox(
    name: Annotated[
        str | None, typer.Option(help="Name of its session at the broker; by default a free number.")
    ] = None,
) -> None:
    """Send queued commands and configuration to devices until Ctrl-C or SIGTERM, and hear what they answer.

    It needs ENERGY_CLOUD_MQTT_URL and ENERGY_CLOUD_DATABASE_URL. A command is published again every
    ENERGY_CLOUD_COMMAND_RETRY_SECONDS until its device acknowledges it, and expires at its validUntil. Many may run
    side by side.

    Example: energy-cloud outbox --name hall-1
    """
    from energy_cloud_dagster.cli import logs
    from energy_cloud_dagster.services.outbox import run
    from energy_cloud_dagster.settings import load_settings

    settings = load_settings()
    logs.configure(settings)
    run(settings, client_id=name)
