"""`energy-cloud device`: the registry of devices and their credentials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from energy_cloud_dagster.domain.errors import InvalidInput, Misconfigured

if TYPE_CHECKING:
    import sqlalchemy as sa

    from energy_cloud_dagster.adapters.devices import Registered, SeriesSpec
    from energy_cloud_dagster.settings import Settings

app = typer.Typer(help="Register devices and manage their tokens.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable output.")]
DeviceId = Annotated[str, typer.Argument(metavar="ID", help="Id of the device.")]
_PAGE: Final = 1000


@app.command()
def add(
    device_id: DeviceId,
    region: Annotated[str, typer.Option(help="Id or alias of its region.")],
    device_type: Annotated[str, typer.Option("--type", help="smart-meter, solar-panel, battery, wind-turbine …")],
    customer_class: Annotated[
        str | None, typer.Option("--class", help="residential, commercial or industrial.")
    ] = None,
    owner: Annotated[str | None, typer.Option(help="Participant who owns it.")] = None,
    interval: Annotated[int, typer.Option(help="Length of its intervals in minutes.")] = 15,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:UNIT[:ROLE]", help="What it measures; again for more. By default what its type does."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register a device and print its token, once: the only line on standard output.

    It logs in at the broker with its id as user name and client id and the token as password.

    Example: energy-cloud device add SM-002 --region seoul --type smart-meter --metric voltage:V
    """
    from energy_cloud_dagster.adapters import credentials, devices

    measures = [_measure(text) for text in metric or ()]
    with _database() as (connection, _):
        now = datetime.now(UTC)
        devices.add(
            connection,
            device_id,
            region,
            device_type,
            now,
            customer_class=customer_class,
            participant_id=owner,
            interval_minutes=interval,
            measures=measures,
        )
        token = credentials.issue(connection, device_id, now)
        made = devices.get(connection, device_id, now)
    if as_json:
        _print(_document(made) | {"token": token})
        return
    topics = ", ".join(_topic(made, row.metric) for row in made.series)
    typer.echo(f"Device {device_id} publishes to {topics}; its token, shown this once:", err=True)
    typer.echo(token)


@app.command("list")
def list_(
    region: Annotated[str | None, typer.Option(help="Only this region's.")] = None,
    device_type: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only this participant's.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the devices.

    Example: energy-cloud device list --type smart-meter --json
    """
    from energy_cloud_dagster.adapters import devices, registry

    found: list[Registered] = []
    with _database() as (connection, _):
        region_id = registry.find_region(connection, region).region_id if region else None
        while True:
            page = devices.page(
                connection,
                datetime.now(UTC),
                limit=_PAGE,
                after=found[-1].device.device_id if found else None,
                region_id=region_id,
                device_type=device_type,
                owner=owner,
            )
            found += page
            if len(page) < _PAGE:
                break
    if as_json:
        _print([_document(each) for each in found])
        return
    for each in found:
        row, metrics = each.device, ",".join(f"{one.metric}:{one.unit}" for one in each.series)
        seen = "" if row.verified else " unverified"
        tokens = f"{each.tokens} token{'' if each.tokens == 1 else 's'}"
        typer.echo(
            f"{row.device_id:<20} {row.region_id:<8} {row.device_type:<16} {row.participant_id or '-':<10} "
            f"{tokens:<9} {metrics}{seen}"
        )


@app.command("rotate-token")
def rotate_token(device_id: DeviceId, as_json: AsJson = False) -> None:
    """Print a new token, once: the only line on standard output.

    Over HTTP the older tokens stay valid for ENERGY_CLOUD_TOKEN_GRACE_SECONDS. The broker of a running platform
    accepts the new one within five seconds, and then it alone.

    Example: energy-cloud device rotate-token SM-002
    """
    from energy_cloud_dagster.adapters import credentials

    with _database() as (connection, settings):
        grace = settings.token_grace_seconds
        token = credentials.rotate(connection, device_id, datetime.now(UTC), grace)
    if as_json:
        _print({"id": device_id, "token": token, "graceSeconds": grace})
        return
    typer.echo(f"Device {device_id}: older tokens end in {grace} s; the new one, shown this once:", err=True)
    typer.echo(token)


@app.command()
def revoke(device_id: DeviceId, as_json: AsJson = False) -> None:
    """End all tokens of a device at once; a running broker cuts it off within five seconds.

    Example: energy-cloud device revoke SM-002
    """
    from energy_cloud_dagster.adapters import credentials

    with _database() as (connection, _):
        ended = credentials.revoke(connection, device_id, datetime.now(UTC))
    if as_json:
        _print({"id": device_id, "revoked": ended})
    else:
        typer.echo(f"Device {device_id}: {ended} token{'' if ended == 1 else 's'} revoked")


@app.command()
def remove(device_id: DeviceId, as_json: AsJson = False) -> None:
    """Delete a device, its series and its tokens; refused where readings, a VPP or commands rest on it.

    Example: energy-cloud device remove SM-002
    """
    from energy_cloud_dagster.adapters import devices

    with _database() as (connection, _):
        devices.remove(connection, device_id)
    if as_json:
        _print({"id": device_id, "removed": True})
    else:
        typer.echo(f"Device {device_id} is removed")


@app.command("broker-files")
def broker_files(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if missing.")],
    as_json: AsJson = False,
) -> None:
    """Write mosquitto's password file, access list and a configuration for a broker of your own.

    ENERGY_CLOUD_MQTT_PASSWORD is the password of the platform's own clients there. Write the files again after each
    change of a credential and have mosquitto read them again: it keeps the connections of all others.

    Example: energy-cloud device broker-files /etc/mosquitto/energy-cloud
    """
    from energy_cloud_dagster.adapters import credentials
    from energy_cloud_dagster.domain.readings.names import PLATFORM_USER
    from energy_cloud_dagster.embedded import broker_access

    with _database() as (connection, settings):
        entries = credentials.broker_entries(connection, datetime.now(UTC))
    user, password = settings.mqtt_username or PLATFORM_USER, settings.mqtt_password.get_secret_value()
    if not password:
        raise Misconfigured("set ENERGY_CLOUD_MQTT_PASSWORD: the platform's own clients log in with it at that broker")
    try:
        files = broker_access.write_production(folder.absolute(), entries, user, credentials.hash_password(password))
    except OSError as error:
        raise Misconfigured(f"{folder} cannot be written: {(error.strerror or str(error)).lower()}") from error
    if as_json:
        _print({"devices": len(entries), "files": [str(file) for file in files]})
        return
    for file in files:
        typer.echo(file)
    typer.echo(
        f"{len(entries)} devices. Give the files to the user mosquitto, put server.pem and server.key beside them, and "
        f"`include_dir {folder}` into its configuration. After each change write them again and reload: "
        "`systemctl reload mosquitto` (or SIGHUP).",
        err=True,
    )


@contextmanager
def _database() -> Iterator[tuple[sa.Connection, Settings]]:
    """Yield a connection whose work is committed at the end, and the settings."""
    from energy_cloud_dagster.adapters.database import make_engine
    from energy_cloud_dagster.cli.home_database import home_database
    from energy_cloud_dagster.settings import load_settings

    with home_database(load_settings()) as settings:
        engine = make_engine(settings.database_url.get_secret_value(), pool_size=1)
        try:
            with engine.begin() as connection:
                yield connection, settings
        finally:
            engine.dispose()


def _measure(text: str) -> SeriesSpec:
    from energy_cloud_dagster.adapters.devices import SeriesSpec

    parts = text.split(":")
    if len(parts) not in {2, 3} or not all(parts):
        raise InvalidInput(f"--metric {text!r} is not NAME:UNIT or NAME:UNIT:ROLE, such as consumption:kWh")
    return SeriesSpec(*parts)


def _topic(found: Registered, metric: str) -> str:
    row = found.device
    return f"energy-cloud/{row.region_id}/{row.device_type}/{row.device_id}/{metric}"


def _document(found: Registered) -> dict[str, Any]:
    from energy_cloud_dagster.domain.intervals import rfc3339

    row = found.device
    return {
        "id": row.device_id,
        "type": row.device_type,
        "region": row.region_id,
        "customerClass": row.customer_class,
        "participantId": row.participant_id,
        "intervalMinutes": row.interval_minutes,
        "verified": row.verified,
        "createdAt": rfc3339(row.created_at),
        "topic": _topic(found, "+"),
        "tokens": found.tokens,
        "series": [one._asdict() for one in found.series],
    }


def _print(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))
