"""Replaying a span of the sample calendar through the real streaming plane: broker, SCADA server, ingest, bridge."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Final

from energy_cloud_dagster.adapters import readings
from energy_cloud_dagster.adapters.database import make_engine
from energy_cloud_dagster.cli.bringup import command
from energy_cloud_dagster.domain.errors import PartUnavailable
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
from energy_cloud_dagster.services import simulator
from energy_cloud_dagster.services.mqtt_fleet import replay_mqtt
from energy_cloud_dagster.services.opcua_plant import PlantThread

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.supervise import Child
    from energy_cloud_dagster.settings import Settings

_PATIENCE_SECONDS: Final = 120.0


def replay(settings: Settings, start: datetime, end: datetime, progress: Callable[[int], None]) -> dict[str, int]:
    """Play ``[start, end)`` and return when every reading is committed: how many over MQTT, OPC UA, and rejected.

    The ingest worker and the SCADA bridge are processes of their own, as in production.
    """
    expected = simulator.count(SEOUL_COMMUNITY, start, end)
    with ExitStack() as stack:
        plant = stack.enter_context(PlantThread())
        engine = make_engine(settings.database_url.get_secret_value(), pool_size=1)
        stack.callback(engine.dispose)
        ingest = command("ingest", settings)
        scada = command("scada", settings, ENERGY_CLOUD_OPCUA_URL=plant.url)
        for child, event in ((ingest, "ingest_ready"), (scada, "")):
            stack.callback(child.stop)
            child.start()
            if event:
                _wait_for(child, event)
        plant.wait_until_watched(_PATIENCE_SECONDS)
        published = replay_mqtt(
            settings.mqtt_url,
            settings.mqtt_username,
            settings.mqtt_password.get_secret_value(),
            start,
            end,
            progress=progress,
        )
        tags = plant.replay(start, end)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while (stored := readings.count_between(connection, start, end)) < expected:
                for child in (ingest, scada):
                    if not child.alive:
                        raise PartUnavailable(f"{child.name} ended: {child.last_line()}")
                if time.monotonic() > deadline:
                    raise PartUnavailable(
                        f"only {stored} of {expected} readings arrived within {_PATIENCE_SECONDS:.0f} s; "
                        f"see {ingest.log} and {scada.log}"
                    )
                readings.wait_for_more(connection, 1.0)
            rejected = sum(readings.rejects_by_reason(connection).values())
    return {"mqtt": published.messages, "opcua": tags, "stored": stored, "rejected": rejected}


def _wait_for(child: Child, event: str) -> None:
    """Wait until a child's log tells of ``event``."""
    child.wait_until_ready(lambda: event in child.tail(50), timeout=_PATIENCE_SECONDS)
