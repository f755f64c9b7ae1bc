"""The embedded chain: the same chain again after any end, and one clear sentence where it cannot run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from energy_cloud_dagster.adapters.chain import (
    ANVIL_CHAIN_ID,
    DEVELOPMENT_KEYS,
    ETH_TESTER_CHAIN_ID,
    ChainClient,
)
from energy_cloud_dagster.domain.errors import ChainUnavailable, Conflict, Misconfigured
from energy_cloud_dagster.embedded import chain as chain_module
from energy_cloud_dagster.embedded.chain import EmbeddedChain, Kind, anvil_binary
from energy_cloud_dagster.embedded.chain_engines import PyEvmEngine
from energy_cloud_dagster.embedded.chain_journal import JOURNAL, Entry, Genesis, Journal, JournalBroken
from energy_cloud_dagster.embedded.chain_node import Node

NOBODY = "0x" + "00" * 20


def ask(chain: EmbeddedChain, method: str, *params: Any) -> dict[str, Any]:
    """Return the whole JSON-RPC answer."""
    return post(chain, json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}).encode())


def post(chain: EmbeddedChain, body: bytes) -> Any:
    request = urllib.request.Request(chain.rpc_url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)


def result(chain: EmbeddedChain, method: str, *params: Any) -> Any:
    answer = ask(chain, method, *params)
    assert "error" not in answer, answer
    return answer["result"]


def history(chain: EmbeddedChain) -> list[Any]:
    """Return every block with its transactions, and every receipt."""
    height = int(result(chain, "eth_blockNumber"), 16)
    blocks = [result(chain, "eth_getBlockByNumber", hex(number), True) for number in range(height + 1)]
    hashes = [each["hash"] for block in blocks for each in block["transactions"]]
    return [*blocks, *(result(chain, "eth_getTransactionReceipt", each) for each in hashes)]


def client_of(chain: EmbeddedChain) -> ChainClient:
    return ChainClient(chain.rpc_url, chain.private_key)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < end, f"process {pid} outlived its parent"
        time.sleep(0.01)


@pytest.fixture(params=["eth-tester", "anvil"])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "anvil" and anvil_binary() is None:
        pytest.skip("anvil is not on PATH (npm install -g @foundry-rs/anvil)")
    return request.param  # type: ignore[no-any-return]


@contextlib.contextmanager
def running(folder: Path, kind: Kind | None = None, port: int | None = None) -> Iterator[EmbeddedChain]:
    chain = EmbeddedChain(folder, port, prefer=kind)
    chain.start()
    try:
        yield chain
    finally:
        chain.stop()


def test_a_killed_node_comes_back_with_contract_receipts_and_hashes(tmp_path: Path, kind: Kind) -> None:
    with running(tmp_path, kind) as chain:
        contract = client_of(chain).ensure_contract()
        result(chain, "evm_mine")
        before = history(chain)
        code = result(chain, "eth_getCode", contract, "latest")
        pids = [int(each.read_text().split()[0]) for each in tmp_path.glob("*.pid")]
        assert chain.pid in pids
        os.kill(chain.pid, signal.SIGKILL)
        for pid in pids:
            wait_until_gone(pid)
    with running(tmp_path) as chain:
        assert chain.kind == kind
        assert history(chain) == before
        assert result(chain, "eth_getCode", contract, "latest") == code
        assert client_of(chain).ensure_contract() == contract
        assert client_of(chain).chain_id == (ANVIL_CHAIN_ID if kind == "anvil" else ETH_TESTER_CHAIN_ID)
    assert all(gone(pid) for pid in pids)


def test_a_killed_parent_takes_the_node_along_and_the_chain_comes_back(tmp_path: Path, kind: Kind) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from energy_cloud_dagster.embedded.chain import EmbeddedChain\n"
        "from energy_cloud_dagster.adapters.chain import ChainClient\n"
        f"chain = EmbeddedChain(Path(sys.argv[1]), int(sys.argv[2]), prefer={kind!r}); chain.start()\n"
        "print(chain.pid, ChainClient(chain.rpc_url, chain.private_key).deploy(), flush=True); time.sleep(600)\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", program, str(tmp_path), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, contract = parent.stdout.readline().split()
        parent.kill()
    # at once, on the same port: the start waits for what is left of the first
    with running(tmp_path, port=port) as chain:
        wait_until_gone(int(pid))
        assert client_of(chain).ensure_contract() == contract
        assert len(result(chain, "eth_getCode", contract, "latest")) > 1000


def test_a_stopped_chain_goes_on_where_it_was(tmp_path: Path) -> None:
    with running(tmp_path, "eth-tester") as chain:
        chain.start()  # a second start of a running chain changes nothing
        contract = client_of(chain).deploy()
    with running(tmp_path) as chain:
        assert client_of(chain).deploy() != contract
        times = [int(each["timestamp"], 16) for each in history(chain) if "parentHash" in each]
        assert times == sorted(set(times))


def mine(folder: Path, blocks: int = 0) -> str:
    """Replay the journal in ``folder`` in this process, append empty blocks, and return the last block's hash."""
    with Journal(folder / JOURNAL, Genesis("eth-tester", 1_700_000_000, NOBODY)) as journal:
        engine = PyEvmEngine(journal.genesis)
        node = Node(engine, journal, clock=lambda: 1_700_000_001.5)
        for _ in range(blocks):
            assert b'"result"' in node.answer(b'{"id": 1, "method": "evm_mine"}')
        return str(engine.read("eth_getBlockByNumber", ["latest", False])["hash"])


@pytest.mark.parametrize("tear", [b'{"time":17', b'{"time":1700000000,"raw":"","hash":"0x', b"\0" * 40 + b"\n"])
def test_however_the_last_line_is_torn_the_blocks_before_it_stay(tmp_path: Path, tear: bytes) -> None:
    last = mine(tmp_path, blocks=2)
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(tear)
    assert mine(tmp_path) == last
    assert mine(tmp_path, blocks=1) != last
    assert len((tmp_path / JOURNAL).read_text().splitlines()) == 4


def test_a_cut_line_is_said_in_the_log(tmp_path: Path) -> None:
    last = mine(tmp_path, blocks=2)
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"time":17')
    with running(tmp_path) as chain:
        assert result(chain, "eth_getBlockByNumber", "latest", False)["hash"] == last
    assert "torn last line of 10 bytes" in (tmp_path / "chain.log").read_text()


def test_block_times_rise_although_the_clock_stands(tmp_path: Path) -> None:
    mine(tmp_path, blocks=3)
    lines = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert [line["time"] - 1_700_000_000 for line in lines] == [0, 1, 2, 3]


def other_time(line: str) -> str:
    entry = json.loads(line)
    return json.dumps(entry | {"time": entry["time"] + 1})


@pytest.mark.parametrize(
    ("number", "change", "sentence"),
    [
        (1, lambda line: line[:-9], "damaged at line 2"),
        (3, other_time, "Block 3 of .* replays to another hash"),
        (0, lambda line: line.replace("1700000000", "1699999999"), "Block 1 of .* replays to another hash"),
        (2, lambda line: json.dumps(json.loads(line) | {"raw": "0x02ff"}), "Block 2 of .* cannot be replayed"),
        (0, lambda _line: '{"kind": "eth-tester"}', "is no journal of a chain"),
        (0, lambda line: json.dumps(json.loads(line) | {"version": 99}), "has format 99"),
    ],
)
def test_a_damaged_journal_is_refused(tmp_path: Path, number: int, change: Any, sentence: str) -> None:
    mine(tmp_path, blocks=3)
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    lines[number] = change(lines[number])
    (tmp_path / JOURNAL).write_text("\n".join(lines) + "\n")
    with pytest.raises(JournalBroken, match=sentence):
        mine(tmp_path)


def test_a_node_that_cannot_start_says_why_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"kind": "eth-tester"}\n')
    with pytest.raises(ChainUnavailable, match="is no journal of a chain; move it away") as caught:
        EmbeddedChain(tmp_path).start()
    assert "Traceback" not in (tmp_path / "chain.log").read_text()
    assert "\n" not in str(caught.value)


def test_a_block_that_cannot_be_stored_is_told_to_nobody(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: both fail the write after the block was made in memory."""
    chain = EmbeddedChain(tmp_path, prefer="eth-tester")
    arguments = f"--folder {tmp_path} --port {chain.port} --account {NOBODY}"
    command = f"ulimit -f 2; exec {sys.executable} -m energy_cloud_dagster.embedded.chain_node {arguments}"
    # the limit would tear the data file of a coverage measurement too
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    with subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE, text=True, env=environment) as node:
        assert node.stderr is not None
        assert "not a production chain" in node.stderr.readline()
        told = []
        while "error" not in (answer := ask(chain, "evm_mine")):
            told.append(result(chain, "eth_getBlockByNumber", "latest", False)["hash"])
        assert "could not be stored: File too large" in answer["error"]["message"]
        assert node.wait(20) == 1
    assert len(told) > 3
    assert mine(tmp_path) == told[-1]


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=rf"127.0.0.1:{port} .*ENERGY_CLOUD_CHAIN_PORT"):
            EmbeddedChain(tmp_path, port).start()
        command = [sys.executable, "-m", "energy_cloud_dagster.embedded.chain_node"]
        command += ["--folder", str(tmp_path), "--port", str(port), "--account", NOBODY]
        node = subprocess.run(command, capture_output=True, text=True, check=False)
        assert node.returncode == 1
        assert "address already in use" in node.stderr.lower()
        assert len(node.stderr.splitlines()) == 1
    with running(tmp_path, port=port) as chain:  # what failed left no lock behind
        assert chain.rpc_url == f"http://127.0.0.1:{port}"


def test_a_folder_has_one_chain_at_a_time(tmp_path: Path) -> None:
    with running(tmp_path, "eth-tester"):
        with pytest.raises(Conflict, match="in use"):
            EmbeddedChain(tmp_path).start()
        with pytest.raises(JournalBroken, match="in use by another node"):
            Journal(tmp_path / JOURNAL, Genesis("eth-tester", 1, NOBODY))


def test_a_folder_keeps_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path / JOURNAL, Genesis("anvil", 1, NOBODY)):
        pass
    with pytest.raises(Misconfigured, match="keeps a chain of anvil"):
        EmbeddedChain(tmp_path, prefer="eth-tester")
    monkeypatch.setattr(chain_module.shutil, "which", lambda _name: None)
    with pytest.raises(Misconfigured, match="needs anvil"):
        EmbeddedChain(tmp_path)
    assert EmbeddedChain(tmp_path / "new").kind == "eth-tester"


def test_anvil_is_found_behind_its_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = tmp_path / "node_modules" / "@foundry-rs"
    for each in ("anvil/bin.mjs", "anvil-linux-amd64/bin/anvil"):
        (scope / each).parent.mkdir(parents=True)
        (scope / each).touch(mode=0o755)
    (tmp_path / "anvil").symlink_to(scope / "anvil/bin.mjs")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert anvil_binary() == (scope / "anvil-linux-amd64/bin/anvil").resolve()
    shutil.rmtree(scope / "anvil-linux-amd64")
    assert anvil_binary() is None
    (tmp_path / "anvil").unlink()
    assert anvil_binary() is None
    (tmp_path / "anvil").touch(mode=0o755)
    assert anvil_binary() == (tmp_path / "anvil").resolve()


def test_the_key_is_anvils_first_or_one_of_the_folder(tmp_path: Path, kind: Kind) -> None:
    chain = EmbeddedChain(tmp_path, prefer=kind)
    if kind == "anvil":
        assert chain.private_key == DEVELOPMENT_KEYS[0]
    else:
        assert chain.private_key not in DEVELOPMENT_KEYS
        assert chain.private_key == EmbeddedChain(tmp_path, prefer=kind).private_key
        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_the_journal_reads_what_it_wrote(tmp_path: Path) -> None:
    entries = [Entry(2, "0x01", "0xaa"), Entry(3, "", "0xbb")]
    with Journal(tmp_path / JOURNAL, Genesis("eth-tester", 1, NOBODY)) as journal:
        for entry in entries:
            journal.append(entry)
    with Journal(tmp_path / JOURNAL, Genesis("anvil", 9, NOBODY)) as journal:
        assert journal.genesis == Genesis("eth-tester", 1, NOBODY)
        assert list(journal.entries()) == entries
        assert journal.cut_bytes == 0
    assert Journal.kind_in(tmp_path) == "eth-tester"
    assert Journal.kind_in(tmp_path / "nowhere") is None
