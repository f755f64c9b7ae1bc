"""All parts of one machine at once: what the settings leave empty runs here, under their home."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog
from pydantic import SecretStr

from energy_cloud_dagster.domain.errors import Misconfigured
from energy_cloud_dagster.embedded.broker import EmbeddedBroker
from energy_cloud_dagster.embedded.broker_access import BrokerAccess
from energy_cloud_dagster.embedded.claims import FolderLock
from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
from energy_cloud_dagster.settings import ENV_PREFIX, Settings

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.chain import EmbeddedChain

log = structlog.get_logger()


class RunningPart(NamedTuple):
    """One line of the banner. ``url`` carries no password."""

    part: str
    kind: str
    version: str
    url: str


class EmbeddedParts:
    """Context manager: starts PostgreSQL, broker and chain unless ``settings`` name real ones.

    It yields settings in which every URL and credential is filled in, and holds a lock on ``settings.home`` so that
    a second process is told. Whatever started is stopped again when a later part does not come up.
    """

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home.absolute()
        self.given = settings
        self.running: list[RunningPart] = []
        self.postgres: EmbeddedPostgres | None = None
        self.broker: EmbeddedBroker | None = None
        self.chain: EmbeddedChain | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Settings:
        """Start the parts; raises Misconfigured, Conflict or a PartUnavailable, each one clear sentence."""
        with ExitStack() as stack:
            stack.enter_context(FolderLock(self.home))
            filled: dict[str, object] = {"home": self.home}
            filled |= self._start_postgres(stack)
            filled |= self._start_broker(stack, filled.get("database_url", self.given.database_url))
            filled |= self._start_chain(stack)
            self._stack = stack.pop_all()
        return self.given.model_copy(update=filled)

    def __exit__(self, *_: object) -> None:
        self.running.clear()
        self._stack.close()

    def _start_postgres(self, stack: ExitStack) -> dict[str, object]:
        wanted = {"database_url": "energy_cloud", "dagster_database_url": "dagster"}
        wanted = {
            name: database for name, database in wanted.items() if not getattr(self.given, name).get_secret_value()
        }
        if not wanted:
            return {}
        server = EmbeddedPostgres(self.home / "postgres", log=self.home / "logs" / "postgres.log")
        stack.callback(server.stop)
        server.start()
        for database in wanted.values():
            server.ensure_database(database)
        self.postgres = server
        self._note(RunningPart("database", "postgresql", server.version, server.display_url))
        return {name: SecretStr(server.url(database)) for name, database in wanted.items()}

    def _start_broker(self, stack: ExitStack, database_url: object) -> dict[str, object]:
        if self.given.mqtt_url:
            return {}
        broker = EmbeddedBroker(
            self.home / "broker",
            self.given.port("mqtt"),
            log=self.home / "logs" / "broker.log",
            mqtts_port=self.given.port("mqtts"),
            mqtt5_port=self.given.port("mqtt5"),
            note_refused=True,
        )
        stack.callback(broker.stop)
        broker.start()
        self.broker = broker
        self._note(RunningPart("broker", broker.kind, broker.version, _addresses(broker)))
        if broker.kind == "mosquitto" and isinstance(database_url, SecretStr):
            # the database may lack its tables yet, or be somebody else's that is down: the thread waits for them
            url = database_url.get_secret_value()
            stack.enter_context(BrokerAccess(url, broker.grant, refused=broker.refused))
        return {
            "mqtt_url": broker.url,
            "mqtt_username": broker.username,
            "mqtt_password": SecretStr(broker.password),
            # iotcore's router ends when the last worker of a share leaves with messages unacknowledged, and mosquitto
            # forgets shares when it restarts: what comes before the workers are back would be lost.
            "mqtt_shared": broker.kind == "mosquitto" and self.given.ingest_workers > 1,
        }

    def _start_chain(self, stack: ExitStack) -> dict[str, object]:
        if self.given.chain_rpc_url:
            if not self.given.chain_private_key.get_secret_value():
                raise Misconfigured(
                    "ENERGY_CLOUD_CHAIN_RPC_URL names a chain: set ENERGY_CLOUD_CHAIN_PRIVATE_KEY too, the hex key of "
                    "the settlement account."
                )
            return {}
        from energy_cloud_dagster.embedded.chain import EmbeddedChain

        chain = EmbeddedChain(self.home / "chain", self.given.port("chain"))
        stack.callback(chain.stop)
        chain.start()
        self.chain = chain
        self._note(RunningPart("chain", chain.kind, chain.version, chain.rpc_url))
        return {"chain_rpc_url": chain.rpc_url, "chain_private_key": SecretStr(chain.private_key)}

    def _note(self, part: RunningPart) -> None:
        self.running.append(part)
        log.info("part_started", **part._asdict())


def _addresses(broker: EmbeddedBroker) -> str:
    if broker.mqtts_port is not None:
        return f"{broker.url} mqtts://localhost:{broker.mqtts_port} (TLS 1.3, CA {broker.ca})"
    if broker.mqtt5_port is not None and broker.mqtt5_port != broker.port:
        return f"{broker.url} (3.1.1) mqtt://127.0.0.1:{broker.mqtt5_port} (MQTT 5)"
    return broker.url


def child_environment(settings: Settings) -> dict[str, str]:
    """Return ``settings`` as ``ENERGY_CLOUD_*`` variables for a child process; unset ones are left out."""
    variables = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        elif isinstance(value, Path):
            value = value.absolute()
        variables[f"{ENV_PREFIX}{name.upper()}"] = str(value)
    return variables
