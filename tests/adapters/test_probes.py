"""Reachability of real parts, and of ports where nobody or somebody else answers."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import probes
from energy_cloud_dagster.adapters.database import make_engine
from energy_cloud_dagster.domain.errors import BrokerUnavailable, ChainUnavailable, DatabaseUnavailable

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from energy_cloud_dagster.embedded.chain import EmbeddedChain


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound and not listened on, so that nobody else takes it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_real_parts_answer(engine: sa.Engine, broker: EmbeddedBroker, chain: EmbeddedChain) -> None:
    probes.database(engine)
    probes.broker(broker.url)
    assert probes.chain(chain.rpc_url) > 0


def test_a_closed_port_is_named_as_the_part_that_is_missing(closed_port: int) -> None:
    with pytest.raises(DatabaseUnavailable):
        probes.database(make_engine(f"postgresql://nobody@127.0.0.1:{closed_port}/none"))
    with pytest.raises(BrokerUnavailable, match="ENERGY_CLOUD_MQTT_URL"):
        probes.broker(f"mqtt://127.0.0.1:{closed_port}")
    with pytest.raises(ChainUnavailable, match="ENERGY_CLOUD_CHAIN_RPC_URL"):
        probes.chain(f"http://127.0.0.1:{closed_port}")


@pytest.mark.parametrize("url", ["", "mqtt://", "mqtt://127.0.0.1:99999"])
def test_a_wrong_broker_url_is_unreachable(url: str) -> None:
    with pytest.raises(BrokerUnavailable):
        probes.broker(url)


@pytest.mark.parametrize("url", ["", "file:///etc/hostname", "http://127.0.0.1:99999"])
def test_a_wrong_chain_url_is_unreachable(url: str) -> None:
    with pytest.raises(ChainUnavailable):
        probes.chain(url)


@pytest.mark.parametrize("body", [b"hello", b"[]", b'{"error": {}}', b'{"result": "x"}'])
def test_something_else_on_the_port_is_no_chain(body: bytes) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(ChainUnavailable):
            probes.chain(f"http://127.0.0.1:{server.server_port}")
        thread.join()
