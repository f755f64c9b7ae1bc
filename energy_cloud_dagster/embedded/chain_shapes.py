"""Blocks, transactions, receipts, logs and failures of py-evm in the shapes of Ethereum's JSON-RPC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from energy_cloud_dagster.adapters.chain_types import ETH_TESTER_CHAIN_ID as CHAIN_ID
from energy_cloud_dagster.embedded.chain_journal import RpcError


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction, alone in its block."""

    block: Any
    transaction: Any
    receipt: Any


def quantity(value: int) -> str:
    """Return a JSON-RPC quantity."""
    return hex(value)


def data(value: bytes) -> str:
    """Return JSON-RPC data."""
    return "0x" + value.hex()


def block(block: Any, mined: list[Mined], full: bool) -> dict[str, Any]:
    """Return a block with its transactions in the shape of ``eth_getBlockByNumber``."""
    from rlp import encode  # type: ignore[import-untyped]

    header = block.header
    return {
        "number": quantity(block.number),
        "hash": data(block.hash),
        "parentHash": data(header.parent_hash),
        "nonce": data(header.nonce),
        "sha3Uncles": data(header.uncles_hash),
        "logsBloom": data(header.bloom.to_bytes(256, "big")),
        "transactionsRoot": data(header.transaction_root),
        "receiptsRoot": data(header.receipt_root),
        "stateRoot": data(header.state_root),
        "miner": data(header.coinbase),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "mixHash": data(header.mix_hash),
        "extraData": data(header.extra_data),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "size": quantity(len(encode(block))),
        "uncles": [],
        "withdrawals": [],
        "transactions": [transaction(each) if full else data(each.transaction.hash) for each in mined],
    }


def transaction(mined: Mined) -> dict[str, Any]:
    """Return a mined transaction in the shape of ``eth_getTransactionByHash``."""
    made = mined.transaction
    typed = _type(made)
    block = mined.block
    fields: dict[str, Any] = {
        "hash": data(mined.transaction.hash),
        "type": quantity(typed),
        "nonce": quantity(made.nonce),
        "blockHash": data(block.hash),
        "blockNumber": quantity(block.number),
        "transactionIndex": "0x0",
        "from": data(made.sender),
        "to": data(made.to) if made.to else None,
        "value": quantity(made.value),
        "gas": quantity(made.gas),
        "gasPrice": quantity(_price(mined)),
        "input": data(made.data),
        "chainId": quantity(CHAIN_ID),
        "r": quantity(made.r),
        "s": quantity(made.s),
        "v": quantity(made.y_parity if typed else made.v),
    }
    if typed:
        fields["accessList"] = []
    if typed >= 2:
        fields["maxFeePerGas"] = quantity(made.max_fee_per_gas)
        fields["maxPriorityFeePerGas"] = quantity(made.max_priority_fee_per_gas)
    return fields


def _type(made: Any) -> int:
    return getattr(made, "type_id", None) or 0  # legacy transactions carry None


def _price(mined: Mined) -> int:
    made = mined.transaction
    if _type(made) < 2:
        return int(made.gas_price)
    base = mined.block.header.base_fee_per_gas
    return int(min(made.max_fee_per_gas, made.max_priority_fee_per_gas + base))


def receipt(mined: Mined) -> dict[str, Any]:
    """Return the receipt of a mined transaction in the shape of ``eth_getTransactionReceipt``."""
    from eth_tester.utils.address import generate_contract_address

    made, receipt, block = mined.transaction, mined.receipt, mined.block
    created = None if made.to else data(generate_contract_address(made.sender, made.nonce))
    return {
        "transactionHash": data(mined.transaction.hash),
        "transactionIndex": "0x0",
        "blockHash": data(block.hash),
        "blockNumber": quantity(block.number),
        "from": data(made.sender),
        "to": data(made.to) if made.to else None,
        "contractAddress": created,
        "gasUsed": quantity(receipt.gas_used),
        "cumulativeGasUsed": quantity(receipt.gas_used),
        "effectiveGasPrice": quantity(_price(mined)),
        "status": quantity(int.from_bytes(receipt.state_root, "big")),
        "type": quantity(_type(made)),
        "logsBloom": data(receipt.bloom.to_bytes(256, "big")),
        "logs": list(logs(mined)),
    }


def logs(mined: Mined) -> Iterator[dict[str, Any]]:
    """Yield the log entries of a transaction in the shape of ``eth_getLogs``."""
    block = mined.block
    for index, entry in enumerate(mined.receipt.logs):
        yield {
            "address": data(entry.address),
            "topics": [data(topic.to_bytes(32, "big")) for topic in entry.topics],
            "data": data(entry.data),
            "blockNumber": quantity(block.number),
            "blockHash": data(block.hash),
            "transactionHash": data(mined.transaction.hash),
            "transactionIndex": "0x0",
            "logIndex": quantity(index),
            "removed": False,
        }


def topics_match(have: list[str], want: list[Any]) -> bool:
    """Whether a log's topics fit a filter's: a topic, alternatives, or None for any at each place."""
    if len(want) > len(have):
        return False
    for topic, wanted in zip(have, want, strict=False):
        accepted = [wanted] if isinstance(wanted, str) else wanted
        if accepted and topic not in {each.lower() for each in accepted}:
            return False
    return True


def revert(computation: Any) -> RpcError:
    """Return the error of a failed execution as nodes answer it: code 3 with the output of a revert."""
    from eth.exceptions import Revert
    from eth_abi.abi import decode
    from eth_abi.exceptions import DecodingError

    error = computation.error
    if not isinstance(error, Revert):
        return RpcError(-32000, f"execution failed: {type(error).__name__} {error}".rstrip())
    output = bytes(computation.output)
    message = "execution reverted"
    if output[:4] == bytes.fromhex("08c379a0"):
        with contextlib.suppress(DecodingError):
            message += f": {decode(['string'], output[4:])[0]}"
    return RpcError(3, message, data(output))
