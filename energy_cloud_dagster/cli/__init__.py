"""Entry of people: one program, one small module per noun."""

from __future__ import annotations

import sys

import typer

from energy_cloud_dagster.cli import (
    audit,
    db,
    demo,
    device,
    dispatch,
    forecast,
    ingest,
    logs,
    outbox,
    scada,
    schema,
    serve,
    simulate,
    up,
    user,
)
from energy_cloud_dagster.domain.errors import EnergyCloudError

app = typer.Typer(
    name="energy-cloud",
    help="From the meter that measured a kilowatt-hour to the payment that settles it, with proof.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(demo.demo)
app.command()(up.up)
app.command()(ingest.ingest)
app.command()(scada.scada)
app.command()(simulate.simulate)
app.command()(outbox.outbox)
app.command()(serve.serve)
app.add_typer(audit.app, name="audit")
app.add_typer(schema.app, name="schema")
app.add_typer(dispatch.app, name="dispatch")
app.add_typer(forecast.app, name="forecast")
app.add_typer(db.app, name="db")
app.add_typer(user.app, name="user")
app.add_typer(device.app, name="device")


def main() -> None:
    """Run the program; what went wrong is one sentence on stderr and exit status 1 (2 for wrong usage)."""
    logs.before_settings()
    try:
        app()
    except EnergyCloudError as error:
        typer.echo(f"energy-cloud: {error}", err=True)
        sys.exit(1)
