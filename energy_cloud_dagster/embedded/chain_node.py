"""An EVM node of one machine, for development: py-evm or anvil behind JSON-RPC over HTTP, kept by a journal.

``python -m energy_cloud_dagster.embedded.chain_node --folder FOLDER --port PORT --account ADDRESS [--anvil BINARY]``.
Every transaction is mined at once into a block of its own, and is on disk before its sender hears of it. It is no
production chain: no peers, no mempool, no reorganisations.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any, Final

from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.embedded.chain_engines import AnvilEngine, Engine, PyEvmEngine
from energy_cloud_dagster.embedded.chain_journal import JOURNAL, Entry, Genesis, Journal, JournalBroken, RpcError

MAX_REQUEST_BYTES: Final = 4_000_000
BANNER: Final = "Embedded EVM chain for one machine and development; not a production chain."


class Node:
    """An engine, its journal and the JSON-RPC protocol; one request at a time."""

    def __init__(self, engine: Engine, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        """Replay ``journal``; raises JournalBroken when a block comes out with another hash than it had."""
        self._engine = engine
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        #: Set when a block could not be stored: the chain in memory is ahead of the disk and must not be shown.
        self.broken = threading.Event()
        self.height = 0
        for entry in journal.entries():
            self.height += 1
            try:
                block_hash = engine.mine(entry.raw, entry.time)
            except RpcError as error:
                raise JournalBroken(f"Block {self.height} of {journal.path} cannot be replayed: {error}.") from None
            if block_hash != entry.hash:
                raise JournalBroken(
                    f"Block {self.height} of {journal.path} replays to another hash; "
                    "use the versions of this program and of its EVM that wrote it."
                )

    def _append(self, raw: str) -> None:
        timestamp = max(int(self._clock()), self._engine.head_time() + 1)
        block_hash = self._engine.mine(raw, timestamp)
        try:
            self._journal.append(Entry(timestamp, raw, block_hash))
        except OSError as error:
            self.broken.set()
            raise RpcError(-32603, f"the block could not be stored: {error.strerror}; the node stops") from None
        self.height += 1

    def _result(self, method: str, params: list[Any]) -> Any:
        if self.broken.is_set():
            raise RpcError(-32603, "the node is stopping: a block could not be stored")
        if method == "eth_sendRawTransaction":
            if len(params) != 1 or not re.fullmatch(r"0x([0-9a-fA-F]{2})+", str(params[0])):
                raise RpcError(-32602, "eth_sendRawTransaction takes one raw transaction in hex")
            self._append(params[0])
            return self._engine.read("eth_getBlockByNumber", ["latest", False])["transactions"][0]
        if method == "evm_mine":
            self._append("")
            return "0x0"
        return self._engine.read(method, params)

    def answer(self, body: bytes) -> bytes:
        """Return the JSON-RPC answer to ``body``, a request or a batch of them."""
        try:
            request = json.loads(body)
        except ValueError:
            return json.dumps(_failure(None, RpcError(-32700, "the request is not JSON"))).encode()
        if isinstance(request, list):
            return json.dumps([self._one(each) for each in request]).encode()
        return json.dumps(self._one(request)).encode()

    def _one(self, request: Any) -> dict[str, Any]:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return _failure(None, RpcError(-32600, "the request names no method"))
        number, params = request.get("id"), request.get("params") or []
        if not isinstance(params, list):
            return _failure(number, RpcError(-32602, "parameters come as an array"))
        try:
            with self._lock:
                return {"jsonrpc": "2.0", "id": number, "result": self._result(request["method"], params)}
        except RpcError as error:
            return _failure(number, error)
        except Exception as error:  # noqa: BLE001 - whatever an EVM makes of a strange call, its caller gets an answer
            sys.stderr.write(f"{request['method']} failed: {error!r}\n")
            return _failure(number, RpcError(-32603, f"internal error: {type(error).__name__}"))


def _failure(number: Any, error: RpcError) -> dict[str, Any]:
    fields: dict[str, Any] = {"code": error.code, "message": str(error)}
    if error.data is not None:
        fields["data"] = error.data
    return {"jsonrpc": "2.0", "id": number, "error": fields}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_REQUEST_BYTES:
            self.close_connection = True
            error = RpcError(-32600, f"a request has a length, of {MAX_REQUEST_BYTES} bytes at most")
            self._reply(413, json.dumps(_failure(None, error)).encode())
            return
        self._reply(200, self.server.node.answer(self.rfile.read(int(length))))
        if self.server.node.broken.is_set():
            threading.Thread(target=self.server.shutdown).start()

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing for each request."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    node: Node


def _stop(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # kernel and guardian may both tell us that the parent is gone
    raise KeyboardInterrupt


def _serve(options: argparse.Namespace) -> int:
    kind = "anvil" if options.anvil else "eth-tester"
    with (
        # The port is taken before the journal is read and listened on after: who connects sees the whole chain.
        _Server(("127.0.0.1", options.port), _Handler, bind_and_activate=False) as server,
        Journal(options.folder / JOURNAL, Genesis(kind, int(time.time()), options.account)) as journal,
    ):
        server.server_bind()
        if journal.cut_bytes:
            sys.stderr.write(f"Cut a torn last line of {journal.cut_bytes} bytes off {journal.path}.\n")
        engine: Engine
        if options.anvil:
            engine = AnvilEngine(journal.genesis, options.anvil, options.folder)
        else:
            engine = PyEvmEngine(journal.genesis)
        try:
            server.node = Node(engine, journal)
            server.server_activate()
            sys.stderr.write(f"{BANNER} {kind} at block {server.node.height}, http://127.0.0.1:{options.port}\n")
            server.serve_forever()
        finally:
            engine.close()
        return 1


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m energy_cloud_dagster.embedded.chain_node", description=BANNER)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the journal")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--account", required=True, help="address that owns the coins of a new chain")
    parser.add_argument("--anvil", type=Path, help="native anvil binary to run on; without it py-evm")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _serve(options)
    except KeyboardInterrupt:
        return 0
    except (JournalBroken, EnergyCloudError) as error:
        sys.stderr.write(f"The chain cannot start: {error}\n")
    except OSError as error:
        sys.stderr.write(f"The chain cannot run on 127.0.0.1:{options.port}, {options.folder}: {error.strerror}.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
