"""`energy-cloud simulate`: devices over real MQTT, live and obeying, or a fleet of any size that is replayed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from energy_cloud_dagster.services.fleet_faults import Faults
    from energy_cloud_dagster.services.mqtt_fleet import Published
    from energy_cloud_dagster.services.simulator import Message
    from energy_cloud_dagster.services.synthetic_fleet import SyntheticFleet
    from energy_cloud_dagster.settings import Settings

_TIME: Final = ["%Y-%m-%dT%H:%M:%SZ"]
_HOURS: Final = 24


def simulate(
    plant_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Live: port of the turbines' OPC UA server; none without.")
    ] = None,
    since: Annotated[datetime | None, typer.Option(formats=_TIME, help="Live: where a new fleet begins (UTC).")] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Replay: meters SIM-000001 …; without, the sample community.")
    ] = None,
    speed_up: Annotated[
        str | None, typer.Option(help="Replay: times faster than the wall clock; max: as fast as the broker takes it.")
    ] = None,
    start: Annotated[
        datetime | None, typer.Option(formats=_TIME, help="Replay: first hour (UTC); by default --hours ago.")
    ] = None,
    hours: Annotated[int | None, typer.Option(min=1, help=f"Replay: how many hours ({_HOURS}).")] = None,
    seed: Annotated[int, typer.Option(help="Replay: draws the meters and the faults.")] = 0,
    faults: Annotated[
        str,
        typer.Option(
            help="Replay: shares from 0 to 1 of drop, lose, duplicate, reorder, stuck, spike, reset; skew in seconds. "
            "Such as drop=0.01,duplicate=0.02,skew=5."
        ),
    ] = "",
    registers: Annotated[
        bool, typer.Option("--registers", help="Replay: meters send a cumulative register too.")
    ] = False,
    register: Annotated[
        bool,
        typer.Option("--register", help="Replay: enter the meters in the registry first, so that ingest knows them."),
    ] = False,
    region: Annotated[str, typer.Option(help="Replay: region of the meters.")] = "busan",
    as_json: Annotated[bool, typer.Option("--json", help="Replay: print what was sent as JSON.")] = False,
) -> None:
    """Publish the sample community's measured data as its intervals end, and obey commands, until Ctrl-C.

    Where it reaches the database, it plays the devices of VPP resources that were made without one, too.

    What it could not publish while it was away is sent first when it comes back.

    With --devices, --speed-up, --start, --hours or --faults it replays a span instead, and ends. The loads of the
    meters SIM-000001 … are those of the measured homes, moved by weeks and scaled. It needs ENERGY_CLOUD_MQTT_URL, or
    a platform that `up` runs under the same home.

    Example: energy-cloud simulate --plant-port 4840

    Example: energy-cloud simulate --devices 1000 --hours 24 --register --faults drop=0.01,duplicate=0.02
    """
    from energy_cloud_dagster.cli import logs
    from energy_cloud_dagster.domain.errors import InvalidInput
    from energy_cloud_dagster.services.fleet_faults import Faults
    from energy_cloud_dagster.services.replaying import speed_up_of

    replayed = devices is not None or bool(faults) or any(given is not None for given in (speed_up, start, hours))
    if devices is None and (registers or register):
        raise typer.BadParameter("--registers and --register are about --devices")
    if replayed and (plant_port is not None or since is not None):
        raise typer.BadParameter("--plant-port and --since are for the live fleet; leave them out of a replay")
    try:
        troubles, factor = Faults.parse(faults), speed_up_of(speed_up or "max")
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None
    settings = _reached()
    logs.configure(settings, quiet=replayed)
    if not replayed:
        _live(settings, plant_port, since)
        return
    span = _span(start, hours or _HOURS)
    fleet = _fleet(settings, devices, seed, region, registers=registers, register=register)
    sent = _replay(settings, fleet, span, troubles, seed, factor, quiet=as_json)
    rate = round(sent.messages / sent.seconds) if sent.seconds else 0
    if as_json:
        typer.echo(
            json.dumps({"messages": sent.messages, "seconds": round(sent.seconds, 3), "messagesPerSecond": rate})
        )
    else:
        typer.echo(f"{sent.messages} messages in {sent.seconds:.1f} s ({rate} a second)")


def _reached() -> Settings:
    from energy_cloud_dagster.cli.attached import of_running
    from energy_cloud_dagster.domain.errors import Misconfigured
    from energy_cloud_dagster.settings import load_settings

    settings = load_settings()
    if settings.mqtt_url:
        return settings
    found = of_running(settings)
    if found is None or not found.mqtt_url:
        raise Misconfigured(
            "ENERGY_CLOUD_MQTT_URL is empty; set it to mqtt://host:port of the broker, or run `energy-cloud up`"
        )
    return found


def _live(settings: Settings, plant_port: int | None, since: datetime | None) -> None:
    from datetime import UTC

    from energy_cloud_dagster.services.fleet import FleetOptions, run_live

    options = FleetOptions(
        settings.mqtt_url,
        settings.mqtt_username,
        settings.mqtt_password.get_secret_value(),
        state_file=settings.home / "fleet.json",
        plant_port=plant_port,
        since=since.replace(tzinfo=UTC) if since else None,
        mqtt_ca=settings.mqtt_ca,
        database_url=settings.database_url.get_secret_value(),
    )
    run_live(options, ready=lambda url: typer.echo(f"READY {url or settings.mqtt_url}"))


def _span(start: datetime | None, hours: int) -> tuple[datetime, datetime]:
    """Return the hours to replay; by default they end with the last whole hour, for no reading may be of the future."""
    from datetime import UTC

    from energy_cloud_dagster.domain.intervals import hour_start

    length = timedelta(hours=hours)
    first = hour_start(start.replace(tzinfo=UTC)) if start else hour_start(datetime.now(UTC)) - length
    return first, first + length


def _fleet(
    settings: Settings, size: int | None, seed: int, region: str, *, registers: bool, register: bool
) -> SyntheticFleet | None:
    from datetime import UTC

    from energy_cloud_dagster.adapters import registry
    from energy_cloud_dagster.adapters.database import make_engine
    from energy_cloud_dagster.domain.errors import Misconfigured
    from energy_cloud_dagster.services.synthetic_fleet import SyntheticFleet

    if size is None:
        return None
    if not register:
        return SyntheticFleet(size, seed, region_id=region, registers=registers)
    url = settings.database_url.get_secret_value()
    if not url:
        raise Misconfigured("--register needs ENERGY_CLOUD_DATABASE_URL; set it to postgresql://…")
    engine = make_engine(url, pool_size=1)
    try:
        with engine.begin() as connection:
            known = registry.resolve_region(connection, region)
            fleet = SyntheticFleet(size, seed, region_id=known, registers=registers)
            fleet.register(connection, datetime.now(UTC))
    finally:
        engine.dispose()
    return fleet


def _replay(
    settings: Settings,
    fleet: SyntheticFleet | None,
    span: tuple[datetime, datetime],
    troubles: Faults,
    seed: int,
    factor: float,
    *,
    quiet: bool,
) -> Published:
    import threading

    from energy_cloud_dagster.cli.console import Stages, plain_console
    from energy_cloud_dagster.services.fleet_faults import faulty
    from energy_cloud_dagster.services.mqtt_fleet import FleetClient
    from energy_cloud_dagster.services.processes import stop_on_signals
    from energy_cloud_dagster.services.replaying import play

    first, after = span
    stop = threading.Event()
    stream = faulty(_messages(fleet)(first - troubles.lead, after), troubles, seed, since=first)
    password = settings.mqtt_password.get_secret_value()
    with (
        stop_on_signals(stop),
        FleetClient(settings.mqtt_url, settings.mqtt_username, password, ca=settings.mqtt_ca) as client,
        Stages(plain_console(stderr=quiet)).stage("Replay", _expected(fleet, span)) as progress,
    ):
        return play(
            client,
            stream,
            first,
            speed_up=factor,
            simulated_receipt=settings.replay,
            stop=stop,
            progress=progress,
        )


def _messages(fleet: SyntheticFleet | None) -> Callable[[datetime, datetime], Iterator[Message]]:
    from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
    from energy_cloud_dagster.services.simulator import messages

    if fleet is not None:
        return fleet.messages
    return lambda start, end: messages(SEOUL_COMMUNITY, start, end, frozenset({"mqtt"}))


def _expected(fleet: SyntheticFleet | None, span: tuple[datetime, datetime]) -> int:
    """Return how many messages there are without faults."""
    from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
    from energy_cloud_dagster.services.simulator import count

    return fleet.count(*span) if fleet is not None else count(SEOUL_COMMUNITY, *span, frozenset({"mqtt"}))
