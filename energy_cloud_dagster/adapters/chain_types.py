"""What the chain adapter takes and gives: batches, receipts, what the contract keeps. No web3 in here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

#: The contract counts 10**18 per kWh and per currency unit.
CHAIN_PER_WH: Final = 10**15
CHAIN_PER_MICRO: Final = 10**12

ANVIL_CHAIN_ID: Final = 31337
ETH_TESTER_CHAIN_ID: Final = 131277322940537
#: The only chains on which a development key is accepted.
EMBEDDED_CHAIN_IDS: Final = frozenset({ANVIL_CHAIN_ID, ETH_TESTER_CHAIN_ID})

#: Keys that everybody knows: those of anvil and Hardhat ("test test … junk"), then those of eth-tester (1 to 10).
DEVELOPMENT_KEYS: Final = (
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    "0x92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
    "0x4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
    "0xdbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
    "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
    *(f"0x{number:064x}" for number in range(1, 11)),
)


class Position(NamedTuple):
    """Net position of one account: injected energy and earned money are positive."""

    account: str
    energy_wh: int
    money_micro: int


@dataclass(frozen=True, slots=True)
class SettlementBatch:
    """One hour of one market at one revision. Hex values are 0x and 64 digits; both sums are zero."""

    batch_id: str
    market: str
    delivery_start: datetime
    revision: int
    merkle_root: str
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction that can be recorded before it is sent; ``raw`` is what is sent, 0x hex."""

    tx_hash: str
    raw: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A successful transaction and its block; ``block_time`` is UTC."""

    tx_hash: str
    block_number: int
    gas_used: int
    block_time: datetime


@dataclass(frozen=True, slots=True)
class OnChainBatch:
    """What the contract keeps of a batch."""

    batch_id: str
    market: str
    delivery_start: datetime
    revision: int
    merkle_root: str
    settled_at: datetime


class Balances(NamedTuple):
    """An account's balances in the contract, over all batches."""

    energy_wh: int
    money_micro: int


@dataclass(frozen=True, slots=True)
class ChainHealth:
    """How the node and our account on it are."""

    chain_id: int
    block_number: int
    client_version: str
    account: str
    balance_wei: int
    contract: str


def participant_account(key: str, participant_id: str) -> str:
    """Return the account of a participant without a wallet of its own: a checksum address that ``key`` and id give.

    Nobody holds a private key for it; it only names the participant's balances in the contract.
    """
    import hashlib

    from eth_utils.address import to_checksum_address

    name = f"energy-cloud participant account\0{key}\0{participant_id}"
    return str(to_checksum_address(hashlib.sha256(name.encode()).digest()[-20:]))


def address_of(private_key: str) -> str:
    """Return the checksum address of a private key (hex); raises ValueError when it is none."""
    from eth_account import Account

    return str(Account.from_key(private_key).address)
