"""A real EVM over JSON-RPC as a supervised child: on anvil where it is on PATH, else on py-evm.

A folder keeps the kind of EVM that first wrote to it, so that its contract and receipts stay.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from energy_cloud_dagster.adapters.chain_types import DEVELOPMENT_KEYS, address_of
from energy_cloud_dagster.domain.errors import ChainUnavailable, Misconfigured
from energy_cloud_dagster.embedded.chain_journal import Journal
from energy_cloud_dagster.embedded.claims import FolderLock, free_port, require_free_port, secret
from energy_cloud_dagster.embedded.supervise import Child

Kind = Literal["anvil", "eth-tester"]


class EmbeddedChain:
    """One node on 127.0.0.1 whose chain lies in ``folder`` and survives a kill of the node or of this process."""

    def __init__(self, folder: Path, port: int | None = None, prefer: Kind | None = None) -> None:
        """Choose the node; ``port`` None takes a free one. Raises Misconfigured when the kind cannot be had."""
        self.folder = folder.absolute()
        self.kind: Kind = self._choose(prefer)
        self._port = port
        self._lock = FolderLock(self.folder)
        self._child: Child | None = None

    def _choose(self, prefer: Kind | None) -> Kind:
        kept = Journal.kind_in(self.folder)
        if prefer and kept and prefer != kept:
            raise Misconfigured(f"{self.folder} keeps a chain of {kept}; choose another folder to use {prefer}.")
        chosen: Kind = "anvil" if (prefer or kept or ("anvil" if anvil_binary() else "")) == "anvil" else "eth-tester"
        if chosen == "anvil" and anvil_binary() is None:
            raise Misconfigured(
                f"The chain in {self.folder} needs anvil, which is not on PATH; "
                "install it (npm install -g @foundry-rs/anvil) or move that folder away to start a new chain."
            )
        return chosen

    @property
    def port(self) -> int:
        """The port; chosen at the first start where none was given."""
        if self._port is None:
            self._port = free_port()
        return self._port

    @property
    def version(self) -> str:
        """Version of the node: anvil's own, else py-evm's; empty where it cannot be told."""
        if self.kind == "anvil":
            told = subprocess.run(
                [str(anvil_binary()), "--version"], capture_output=True, text=True, check=False
            ).stdout
            return told.partition("Version:")[2].split("\n")[0].strip()
        try:
            return version("py-evm")
        except PackageNotFoundError:
            return ""

    @property
    def rpc_url(self) -> str:
        """JSON-RPC over HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def private_key(self) -> str:
        """Hex key of the settlement account: anvil's first well-known one, else one generated for this folder."""
        if self.kind == "anvil":
            return DEVELOPMENT_KEYS[0]
        return secret(self.folder / "key", lambda: "0x" + os.urandom(32).hex())

    @property
    def pid(self) -> int | None:
        """Process id of the node while it runs."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the node and wait until it answers; raises one clear sentence where it cannot."""
        if self._child and self._child.alive:
            return
        self._lock.acquire()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        child = Child("chain", self._command(), None, self.folder / "chain.log", error=ChainUnavailable)
        self._child = child
        child.end_predecessor()
        require_free_port("The embedded chain", self.port, "ENERGY_CLOUD_CHAIN_PORT")
        child.start()
        child.wait_until_ready(self._answers, timeout=300)

    def _command(self) -> list[str]:
        account = address_of(self.private_key)
        options = ["--folder", str(self.folder), "--port", str(self.port), "--account", account]
        if self.kind == "anvil":
            options += ["--anvil", str(anvil_binary())]
        return [sys.executable, "-m", "energy_cloud_dagster.embedded.chain_node", *options]

    def _answers(self) -> bool:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}).encode()
        request = urllib.request.Request(self.rpc_url, body, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310 - our own node
                return "result" in json.load(response)
        except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
            return False

    def stop(self) -> None:
        """End the node; its chain stays in the folder."""
        if self._child:
            self._child.stop()
            self._child = None
        self._lock.release()


def anvil_binary() -> Path | None:
    """Return the native anvil that PATH leads to, or None.

    npm puts a node.js wrapper on PATH that would outlive or be outlived by the node it starts; the binary lies in the
    package of the platform beside it.
    """
    found = shutil.which("anvil")
    if found is None:
        return None
    resolved = Path(found).resolve()
    if resolved.suffix != ".mjs":
        return resolved
    for scope in (resolved.parents[1], resolved.parent / "node_modules" / "@foundry-rs"):
        for binary in sorted(scope.glob("anvil-*/bin/anvil")):
            if os.access(binary, os.X_OK):
                return binary
    return None
