"""Whether the parts answer: the database, the broker and the chain, each asked for a second at most."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Final
from urllib.parse import urlsplit

import sqlalchemy as sa

from energy_cloud_dagster.domain.errors import BrokerUnavailable, ChainUnavailable

SECONDS: Final = 1.0
_MQTT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


def database(engine: sa.Engine) -> None:
    """Ask the database for a constant; ``DatabaseUnavailable`` when it does not answer."""
    with engine.connect() as connection:
        connection.execute(sa.select(sa.literal(1)))


def broker(url: str) -> None:
    """Open and close a connection to the broker's port; ``BrokerUnavailable`` when nobody listens."""
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or _MQTT_PORTS.get(parts.scheme, 1883))
        socket.create_connection(address, timeout=SECONDS).close()
    except (OSError, ValueError) as error:
        raise BrokerUnavailable(
            f"the MQTT broker does not answer ({error}); start it or correct ENERGY_CLOUD_MQTT_URL"
        ) from error


def chain(url: str) -> int:
    """Return the chain id that the node answers; ``ChainUnavailable`` when it answers nothing of the kind."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}).encode()
    if urlsplit(url).scheme not in {"http", "https"}:
        raise ChainUnavailable("ENERGY_CLOUD_CHAIN_RPC_URL is no http:// or https:// URL; correct it")
    try:
        request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310 - the scheme was checked
            return int(json.load(response)["result"], 16)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ChainUnavailable(
            f"the EVM node does not answer ({error}); start it or correct ENERGY_CLOUD_CHAIN_RPC_URL"
        ) from error
