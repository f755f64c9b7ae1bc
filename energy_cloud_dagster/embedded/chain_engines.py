"""The two EVMs that the embedded chain runs on, behind one protocol: py-evm in process, and anvil as a child.

Both give the same blocks, hashes and receipts again for the same genesis and the same (time, raw transaction) one
after the other. That is why a journal of these is all that has to be kept: anvil's own state file is rewritten in
place about once a second, so that a kill loses the last blocks or leaves it torn.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from energy_cloud_dagster.adapters.chain_types import ANVIL_CHAIN_ID
from energy_cloud_dagster.adapters.chain_types import ETH_TESTER_CHAIN_ID as CHAIN_ID
from energy_cloud_dagster.domain.errors import ChainUnavailable
from energy_cloud_dagster.embedded.chain_evm import GAS_LIMIT, Evm
from energy_cloud_dagster.embedded.chain_journal import Genesis, RpcError
from energy_cloud_dagster.embedded.chain_shapes import data, quantity
from energy_cloud_dagster.embedded.claims import accepts, free_port
from energy_cloud_dagster.embedded.supervise import Child

TIP_WEI: Final = 10**9
ANVIL_TIMEOUT_SECONDS: Final = 60.0


class Engine(Protocol):
    """An EVM that is advanced by ``mine`` alone."""

    def mine(self, raw: str, timestamp: int) -> str:
        """Append a block at ``timestamp`` with the transaction ``raw`` alone (empty: none); return the block's hash.

        A transaction that cannot be mined now is an ``RpcError`` and changes nothing.
        """

    def read(self, method: str, params: list[Any]) -> Any:
        """Return the result of a JSON-RPC method that changes nothing; raises ``RpcError``."""

    def head_time(self) -> int:
        """Return the Unix time of the latest block."""

    def close(self) -> None:
        """Let go of what the engine holds."""


class PyEvmEngine:
    """py-evm in this process."""

    def __init__(self, genesis: Genesis) -> None:
        """Start from ``genesis``."""
        self._evm = evm = Evm(genesis.time, bytes.fromhex(genesis.account[2:]))
        self._methods: dict[str, Callable[..., Any]] = {
            "web3_clientVersion": lambda: "EnergyCloud/eth-tester/py-evm",
            "net_version": lambda: str(CHAIN_ID),
            "eth_chainId": lambda: quantity(CHAIN_ID),
            "eth_syncing": lambda: False,
            "eth_accounts": list,
            "eth_blockNumber": lambda: quantity(evm.head.number),
            "eth_gasPrice": lambda: quantity(evm.head.header.base_fee_per_gas + TIP_WEI),
            "eth_maxPriorityFeePerGas": lambda: quantity(TIP_WEI),
            "eth_feeHistory": self._fee_history,
            "eth_getBalance": lambda who, tag="latest": quantity(evm.state(tag).get_balance(_hex(who))),
            "eth_getTransactionCount": lambda who, tag="latest": quantity(evm.state(tag).get_nonce(_hex(who))),
            "eth_getCode": lambda who, tag="latest": data(evm.state(tag).get_code(_hex(who))),
            "eth_getStorageAt": lambda who, slot, tag="latest": data(
                evm.state(tag).get_storage(_hex(who), int(slot, 16)).to_bytes(32, "big")
            ),
            "eth_call": lambda call, tag="latest": data(evm.call(call, tag)),
            "eth_estimateGas": lambda call, tag="latest": quantity(evm.estimate_gas(call, tag)),
            "eth_getTransactionByHash": lambda tx_hash: evm.transaction(_hex(tx_hash)),
            "eth_getTransactionReceipt": lambda tx_hash: evm.receipt(_hex(tx_hash)),
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": self._block_by_hash,
            "eth_getLogs": evm.logs,
        }

    def mine(self, raw: str, timestamp: int) -> str:
        """See ``Engine``."""
        self._evm.mine(self._evm.decode(_hex(raw)) if raw else None, timestamp)
        return data(self._evm.head.hash)

    def read(self, method: str, params: list[Any]) -> Any:
        """See ``Engine``."""
        function = self._methods.get(method)
        if function is None:
            raise RpcError(-32601, f"the method {method} is not served here")
        try:
            return function(*params)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise RpcError(-32602, f"the parameters do not fit {method}: {error}") from None

    def head_time(self) -> int:
        """See ``Engine``."""
        return int(self._evm.head.header.timestamp)

    def close(self) -> None:
        """See ``Engine``."""

    def _fee_history(self, count: Any, newest: str, percentiles: list[float] | None = None) -> dict[str, Any]:
        last = self._evm.block_number(newest)
        wanted = int(count, 16) if isinstance(count, str) else int(count)
        first = max(0, last + 1 - min(max(wanted, 1), 1024))
        blocks = [self._evm.block(number, False) for number in range(first, last + 1)]
        fees = [block["baseFeePerGas"] for block in blocks]
        history: dict[str, Any] = {
            "oldestBlock": quantity(first),
            "baseFeePerGas": [*fees, fees[-1]],
            "gasUsedRatio": [int(block["gasUsed"], 16) / int(block["gasLimit"], 16) for block in blocks],
        }
        if percentiles:
            history["reward"] = [[quantity(TIP_WEI)] * len(percentiles) for _ in blocks]
        return history

    def _block_by_number(self, tag: str, full: bool = False) -> dict[str, Any] | None:
        try:
            return self._evm.block(self._evm.block_number(tag), full)
        except RpcError as error:
            if error.code == -32001:
                return None
            raise

    def _block_by_hash(self, block_hash: str, full: bool = False) -> dict[str, Any] | None:
        number = self._evm.number_of(_hex(block_hash))
        return None if number is None else self._evm.block(number, full)


class AnvilEngine:
    """anvil as a child of this process, on a port of its own, mining when told to."""

    #: Methods that would change the chain behind the journal, or need keys that the node holds.
    REFUSED: Final = ("eth_send", "eth_sign", "eth_fillTransaction")

    def __init__(self, genesis: Genesis, binary: Path, folder: Path) -> None:
        """Start ``binary`` from ``genesis``; its log goes to ``folder``."""
        port = free_port()
        # Pinned, so that another release of anvil replays to the same blocks.
        fixed = ["--hardfork", "prague", "--gas-limit", str(GAS_LIMIT), "--base-fee", str(10**9), "--quiet"]
        where = ["--host", "127.0.0.1", "--port", str(port), "--chain-id", str(ANVIL_CHAIN_ID)]
        argv = [str(binary), *where, "--timestamp", str(genesis.time), "--no-mining", *fixed]
        self._child = Child("anvil", argv, None, folder / "anvil.log", error=ChainUnavailable)
        self._child.start()
        self._child.wait_until_ready(lambda: accepts(port))
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANVIL_TIMEOUT_SECONDS)

    def mine(self, raw: str, timestamp: int) -> str:
        """See ``Engine``."""
        tx_hash = self._submit(raw) if raw else None
        self._call("evm_setNextBlockTimestamp", [timestamp])
        self._call("evm_mine", [])
        block = self._call("eth_getBlockByNumber", ["latest", False])
        if block["transactions"] != ([tx_hash] if raw else []):
            raise RpcError(-32603, f"block {block['number']} does not hold the one transaction that it should")
        return str(block["hash"])

    def _submit(self, raw: str) -> str:
        """Hand ``raw`` to anvil's pool, where it would wait for ever if its turn has not come."""
        try:
            sender, nonce = _sender_and_nonce(_hex(raw))
        except Exception as error:  # noqa: BLE001 - decoders of several packages, each with exceptions of its own
            raise RpcError(-32602, f"the raw transaction cannot be decoded: {error}") from None
        following = int(self._call("eth_getTransactionCount", [sender, "latest"]), 16)
        if nonce > following:
            raise RpcError(-32000, f"nonce too high: the next nonce is {following}, the transaction has {nonce}")
        return str(self._call("eth_sendRawTransaction", [raw]))

    def read(self, method: str, params: list[Any]) -> Any:
        """See ``Engine``."""
        if not method.startswith(("eth_", "net_", "web3_")) or method.startswith(self.REFUSED):
            raise RpcError(-32601, f"the method {method} is not served here")
        return self._call(method, params)

    def head_time(self) -> int:
        """See ``Engine``."""
        return int(self._call("eth_getBlockByNumber", ["latest", False])["timestamp"], 16)

    def close(self) -> None:
        """See ``Engine``."""
        self._connection.close()
        self._child.stop()

    def _call(self, method: str, params: list[Any]) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        try:
            self._connection.request("POST", "/", body, {"Content-Type": "application/json"})
            answer = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise RpcError(-32603, f"anvil does not answer: {error}") from None
        if "error" in answer:
            fault = answer["error"]
            raise RpcError(fault.get("code", -32603), fault.get("message", ""), fault.get("data"))
        return answer["result"]


def _sender_and_nonce(raw: bytes) -> tuple[str, int]:
    """Return who signed a raw transaction, and its nonce."""
    import rlp  # type: ignore[import-untyped]
    from eth_account import Account
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from hexbytes import HexBytes

    sender = str(Account.recover_transaction(HexBytes(raw)))
    if raw[0] <= 0x7F:
        return sender, int(TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["nonce"])
    return sender, int.from_bytes(rlp.decode(raw)[0], "big")


def _hex(value: str) -> bytes:
    if not value.startswith("0x"):
        raise ValueError(f"{value!r} does not start with 0x")
    return bytes.fromhex(value[2:])
