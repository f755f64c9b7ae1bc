"""A py-evm chain with one transaction a block, its indexes, and what JSON-RPC asks of it.

The same genesis and the same sequence of (time, raw transaction) give the same blocks, hashes and receipts: nothing
here reads a clock or draws a random number.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from energy_cloud_dagster.adapters.chain_types import ETH_TESTER_CHAIN_ID as CHAIN_ID
from energy_cloud_dagster.embedded import chain_shapes as shapes
from energy_cloud_dagster.embedded.chain_journal import RpcError
from energy_cloud_dagster.embedded.chain_shapes import Mined

GENESIS_BALANCE_WEI: Final = 1_000_000 * 10**18
GAS_LIMIT: Final = 30_000_000


def _bytes(value: str | None) -> bytes:
    return bytes.fromhex(value[2:]) if value else b""


class Evm:
    """The chain, advanced by ``mine`` alone."""

    def __init__(self, genesis_time: int, account: bytes) -> None:
        """Make the genesis block at ``genesis_time`` (Unix seconds) with ``account`` (20 bytes) as the rich one."""
        from eth_tester import PyEVMBackend

        parameters = PyEVMBackend.generate_genesis_params({"timestamp": genesis_time, "gas_limit": GAS_LIMIT})
        state = {account: {"balance": GENESIS_BALANCE_WEI, "nonce": 0, "code": b"", "storage": {}}}
        backend = PyEVMBackend(genesis_parameters=parameters, genesis_state=state)
        self._chain = backend.chain
        if self._chain.chain_id != CHAIN_ID:  # pragma: no cover - a new release of eth-tester
            raise RuntimeError(f"eth-tester's chain id is {self._chain.chain_id}, not {CHAIN_ID}")
        genesis = self._chain.get_canonical_block_by_number(0)
        self._blocks: list[Any] = [genesis]
        self._numbers: dict[bytes, int] = {genesis.hash: 0}
        self._mined: dict[bytes, Mined] = {}
        self._with_logs: list[Mined] = []

    # -- writing

    @property
    def head(self) -> Any:
        """The latest block."""
        return self._blocks[-1]

    def next_time(self, now: int) -> int:
        """Return the time of the next block: ``now``, or a second after the latest block where that is later."""
        return max(now, int(self.head.header.timestamp) + 1)

    def decode(self, raw: bytes) -> Any:
        """Return the transaction in ``raw``; a malformed or foreign one is an ``RpcError``."""
        from eth.exceptions import PyEVMError
        from eth_utils.exceptions import ValidationError
        from rlp.exceptions import RLPException  # type: ignore[import-untyped]

        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            chain_id = transaction.chain_id
            transaction.sender  # noqa: B018 - recovers the signature
        except (PyEVMError, ValidationError, RLPException, ValueError, TypeError, IndexError) as error:
            raise RpcError(-32602, f"the raw transaction cannot be decoded: {error}") from None
        if chain_id is not None and chain_id != CHAIN_ID:
            raise RpcError(-32000, f"the transaction is for chain {chain_id}, this is chain {CHAIN_ID}")
        if transaction.hash in self._mined:
            raise RpcError(-32000, "already known")
        return transaction

    def mine(self, transaction: Any | None, timestamp: int) -> None:
        """Append a block at ``timestamp`` with ``transaction`` alone (or empty); an invalid one changes nothing."""
        from eth.exceptions import PyEVMError
        from eth_utils.exceptions import ValidationError

        chain = self._chain
        pending = chain.header
        # The source of randomness of a block follows from its parent, so that a replay gives the same hashes.
        mix = hashlib.sha256(self.head.hash + timestamp.to_bytes(8, "big")).digest()
        chain.header = pending.copy(timestamp=timestamp, mix_hash=mix)
        try:
            if transaction is not None:
                chain.apply_transaction(transaction)
            block = chain.mine_block(coinbase=b"\x00" * 20, mix_hash=mix, blob_gas_used=0)
        except (PyEVMError, ValidationError) as error:
            chain.header = pending
            raise RpcError(-32000, self._why_invalid(transaction, error)) from None
        self._blocks.append(block)
        self._numbers[block.hash] = block.number
        if transaction is not None:
            (receipt,) = block.get_receipts(chain.chaindb)
            mined = Mined(block, transaction, receipt)
            self._mined[transaction.hash] = mined
            if receipt.logs:
                self._with_logs.append(mined)

    def _why_invalid(self, transaction: Any, error: Exception) -> str:
        if transaction is not None:
            nonce = self.state().get_nonce(transaction.sender)
            if transaction.nonce != nonce:
                side = "low" if transaction.nonce < nonce else "high"
                return f"nonce too {side}: the next nonce is {nonce}, the transaction has {transaction.nonce}"
        return f"invalid transaction: {error}"

    # -- reading

    def block_number(self, tag: str) -> int:
        """Return the number that a JSON-RPC block tag or quantity names; an unknown block is an ``RpcError``."""
        if tag in {"latest", "pending", "safe", "finalized"}:
            return int(self.head.number)
        try:
            number = 0 if tag == "earliest" else int(tag, 16)
        except (TypeError, ValueError):
            raise RpcError(-32602, f"{tag!r} is no block number or tag") from None
        if not 0 <= number < len(self._blocks):
            raise RpcError(-32001, f"block not found: {number}")
        return number

    def state(self, tag: str = "latest") -> Any:
        """Return the state after the block that ``tag`` names."""
        return self._chain.get_vm(at_header=self._blocks[self.block_number(tag)].header).state

    def _unsigned(self, call: dict[str, Any], gas: int) -> Any:
        return self._chain.create_unsigned_transaction(
            nonce=0,
            gas_price=0,
            gas=gas,
            to=_bytes(call.get("to")),
            value=int(call.get("value") or "0x0", 16),
            data=_bytes(call.get("input") or call.get("data")),
        )

    def _computation(self, call: dict[str, Any], tag: str, gas: int) -> Any:
        from eth.exceptions import PyEVMError
        from eth.vm.spoof import SpoofTransaction
        from eth_utils.exceptions import ValidationError

        sender = _bytes(call.get("from")) or b"\x00" * 20
        vm = self._chain.get_vm(at_header=self._blocks[self.block_number(tag)].header)
        spoof = SpoofTransaction(self._unsigned(call, gas), from_=sender, nonce=vm.state.get_nonce(sender))
        try:
            with vm.in_costless_state() as state:
                return state.apply_transaction(spoof)
        except (PyEVMError, ValidationError) as error:
            raise RpcError(-32000, f"the call cannot be executed: {error}") from None

    def call(self, call: dict[str, Any], tag: str = "latest") -> bytes:
        """Execute without a trace and return the output; a revert is an ``RpcError`` with its data."""
        computation = self._computation(call, tag, min(int(call.get("gas") or hex(GAS_LIMIT), 16), GAS_LIMIT))
        if computation.is_error:
            raise shapes.revert(computation)
        return bytes(computation.output)

    def estimate_gas(self, call: dict[str, Any], tag: str = "latest") -> int:
        """Return gas that suffices for ``call``: what it uses before refunds, raised until it passes."""
        full = self._computation(call, tag, GAS_LIMIT)
        if full.is_error:
            raise shapes.revert(full)
        gas = int(full.get_gas_used()) + int(self._unsigned(call, GAS_LIMIT).intrinsic_gas)
        while gas < GAS_LIMIT:
            try:
                if not self._computation(call, tag, gas).is_error:
                    return gas
            except RpcError:  # less than call data costs at least
                pass
            gas = gas * 17 // 16
        return GAS_LIMIT

    def block(self, number: int, full: bool) -> dict[str, Any]:
        """Return block ``number`` in the shape of ``eth_getBlockByNumber``."""
        block = self._blocks[number]
        return shapes.block(block, [self._mined[each.hash] for each in block.transactions], full)

    def number_of(self, block_hash: bytes) -> int | None:
        """Return the number of the block with this hash."""
        return self._numbers.get(block_hash)

    def transaction(self, tx_hash: bytes) -> dict[str, Any] | None:
        """Return a mined transaction in the shape of ``eth_getTransactionByHash``."""
        mined = self._mined.get(tx_hash)
        return shapes.transaction(mined) if mined else None

    def receipt(self, tx_hash: bytes) -> dict[str, Any] | None:
        """Return the receipt of a mined transaction in the shape of ``eth_getTransactionReceipt``."""
        mined = self._mined.get(tx_hash)
        return shapes.receipt(mined) if mined else None

    def logs(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the log entries that a filter of ``eth_getLogs`` names, oldest first."""
        if "blockHash" in query:
            number = self.number_of(bytes.fromhex(query["blockHash"][2:]))
            if number is None:
                raise RpcError(-32001, "block not found")
            first = last = number
        else:
            first = self.block_number(query.get("fromBlock") or "latest")
            last_tag = query.get("toBlock") or "latest"
            beyond = last_tag.startswith("0x") and int(last_tag, 16) >= len(self._blocks)
            last = len(self._blocks) - 1 if beyond else self.block_number(last_tag)
        wanted = query.get("address")
        addresses = {each.lower() for each in ([wanted] if isinstance(wanted, str) else wanted or [])}
        topics = query.get("topics") or []
        return [
            entry
            for mined in self._with_logs
            if first <= mined.block.number <= last
            for entry in shapes.logs(mined)
            if (not addresses or entry["address"] in addresses) and shapes.topics_match(entry["topics"], topics)
        ]
