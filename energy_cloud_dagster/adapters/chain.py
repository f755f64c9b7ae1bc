"""Settlement on an EVM chain: one idempotent transaction a batch through the contract EnergyExchange.

A caller that must survive a crash asks ``find`` first, then records ``prepare(batch).tx_hash`` before ``send`` and
``wait``. ``settle`` is the three in one. web3 is imported at the first call to the node.
"""

from __future__ import annotations

from typing import Any, Final

from energy_cloud_dagster import contracts
from energy_cloud_dagster.adapters.chain_connection import ChainConnection, moment
from energy_cloud_dagster.adapters.chain_types import (
    ANVIL_CHAIN_ID,
    CHAIN_PER_MICRO,
    CHAIN_PER_WH,
    DEVELOPMENT_KEYS,
    EMBEDDED_CHAIN_IDS,
    ETH_TESTER_CHAIN_ID,
    Balances,
    ChainHealth,
    OnChainBatch,
    Position,
    Receipt,
    SettlementBatch,
    SignedTransaction,
    address_of,
    participant_account,
)
from energy_cloud_dagster.domain.errors import ChainUnavailable, Conflict, InvalidInput, Misconfigured, NotFound
from energy_cloud_dagster.domain.intervals import utc

__all__ = [
    "ANVIL_CHAIN_ID",
    "CHAIN_PER_MICRO",
    "CHAIN_PER_WH",
    "DEVELOPMENT_KEYS",
    "EMBEDDED_CHAIN_IDS",
    "ETH_TESTER_CHAIN_ID",
    "Balances",
    "ChainClient",
    "ChainHealth",
    "OnChainBatch",
    "Position",
    "Receipt",
    "SettlementBatch",
    "SignedTransaction",
    "address_of",
    "participant_account",
]

MAX_PARTICIPANTS: Final = 128


class ChainClient(ChainConnection):
    """The settlement account and its contract on one node.

    All calls raise ChainUnavailable when the node does not answer, and Misconfigured when a development key meets a
    chain that is not embedded. Use it from one thread: the nonce is read from the node for each transaction.
    """

    def __init__(self, rpc_url: str, private_key: str, contract: str = "", confirmations: int = 0) -> None:
        """``contract`` empty: ``ensure_contract`` finds or deploys it. ``confirmations``: blocks after a receipt's."""
        super().__init__(rpc_url, private_key, confirmations)
        self.contract = contract

    def health(self) -> ChainHealth:
        """Ask the node for its state and the balance that pays for gas."""
        with self.reaching():
            eth = self.web3.eth
            return ChainHealth(
                chain_id=self.chain_id,
                block_number=int(eth.block_number),
                client_version=str(self.web3.client_version),
                account=self.account,
                balance_wei=int(eth.get_balance(self.account)),  # type: ignore[arg-type]
                contract=self.contract,
            )

    # -- the contract

    def ensure_contract(self, known: str = "") -> str:
        """Return the address of a usable contract and use it from now on, deploying one where there is none.

        The address of the constructor wins and must hold a contract; ``known`` is a remembered one that a reset chain
        may have lost. Last comes what this account deployed as its first transaction: a crash may have come before
        anybody remembered it. Raises Misconfigured for a contract that this account may not settle on.
        """
        from eth_utils.address import is_address, to_checksum_address

        configured = self.contract
        if configured and not (is_address(configured) and self._is_exchange(to_checksum_address(configured))):
            raise Misconfigured(f"ENERGY_CLOUD_CHAIN_CONTRACT: there is no EnergyExchange at {configured}")
        for candidate in (configured, known, self._first_deployment()):
            if is_address(candidate) and self._is_exchange(to_checksum_address(candidate)):
                self.contract = str(to_checksum_address(candidate))
                self._require_settler(configured=bool(configured))
                return self.contract
        return self.deploy()

    def _first_deployment(self) -> str:
        from web3.utils.address import get_create_address

        return str(get_create_address(self.account, 0))  # type: ignore[arg-type]

    def _is_exchange(self, address: str) -> bool:
        with self.reaching():
            code = bytes(self.web3.eth.get_code(address))  # type: ignore[arg-type]
        return bool(code) and code.hex() in contracts.load().bytecode

    def _require_settler(self, configured: bool) -> None:
        with self.reaching():
            settler = self._exchange().functions.settler().call()
        if settler != self.account:
            where = "ENERGY_CLOUD_CHAIN_CONTRACT" if configured else "ENERGY_CLOUD_CHAIN_PRIVATE_KEY"
            raise Misconfigured(
                f"{where}: {self.account} is not the settler of {self.contract}; its settler is {settler}"
            )

    def deploy(self) -> str:
        """Deploy a new contract with this account as owner and settler; return its address and use it from now on."""
        artifact = contracts.load()
        with self.reaching():
            factory = self.web3.eth.contract(abi=list(artifact.abi), bytecode=artifact.bytecode)
            signed = self.sign(factory.constructor(self.account))
        self.send(signed)
        self.wait(signed.tx_hash)
        with self.reaching():
            receipt = self.web3.eth.get_transaction_receipt(signed.tx_hash)  # type: ignore[arg-type]
        self.contract = str(receipt["contractAddress"])
        return self.contract

    def _exchange(self) -> Any:
        if not self.contract:
            raise Misconfigured("ENERGY_CLOUD_CHAIN_CONTRACT: no contract is known yet; call ensure_contract first")
        return self.web3.eth.contract(address=self.contract, abi=list(contracts.load().abi))  # type: ignore[call-overload]

    # -- settling

    def settle(self, batch: SettlementBatch) -> Receipt:
        """Settle ``batch`` once, whatever happened before, and return the receipt of the transaction that did it.

        Raises Conflict when another root was settled under its id, or when the contract refuses.
        """
        found = self.find(batch)
        if found is not None:
            return found
        try:
            signed = self.prepare(batch)
            self.send(signed)
            return self.wait(signed.tx_hash)
        except Conflict:
            # another sender of the same batch may have been faster
            found = self.find(batch)
            if found is None:
                raise
            return found

    def find(self, batch: SettlementBatch) -> Receipt | None:
        """Return the receipt of ``batch`` where it is on chain already; Conflict when its root there is another."""
        kept = self.read_batch(batch.batch_id)
        if kept is None:
            return None
        if kept.merkle_root != batch.merkle_root.lower():
            raise Conflict(f"batch {batch.batch_id} is on chain with root {kept.merkle_root}, not {batch.merkle_root}")
        return self.wait(self._settling_transaction(kept))

    def prepare(self, batch: SettlementBatch) -> SignedTransaction:
        """Sign the transaction of ``batch`` without sending it.

        Raises InvalidInput for a batch that cannot fit, Conflict with the contract's reason for one that it refuses.
        """
        if len(batch.positions) > MAX_PARTICIPANTS:
            raise InvalidInput(
                f"a batch holds {MAX_PARTICIPANTS} positions at most, this one has {len(batch.positions)}"
            )
        # the contract wants accounts once and ascending
        net: dict[str, tuple[int, int]] = {}
        for account, energy_wh, money_micro in batch.positions:
            energy, money = net.get(account, (0, 0))
            net[account] = energy + energy_wh, money + money_micro
        accounts = sorted(net, key=lambda account: int(account, 16))
        with self.reaching():
            call = self._exchange().functions.settle(
                bytes.fromhex(batch.batch_id[2:]),
                _market_bytes(batch.market),
                int(utc(batch.delivery_start).timestamp()),
                batch.revision,
                bytes.fromhex(batch.merkle_root[2:]),
                accounts,
                [net[account][0] * CHAIN_PER_WH for account in accounts],
                [net[account][1] * CHAIN_PER_MICRO for account in accounts],
            )
            return self.sign(call)

    # -- reading

    def read_batch(self, batch_id: str) -> OnChainBatch | None:
        """Return what the contract keeps under ``batch_id``, None where it knows nothing."""
        with self.reaching():
            root, market, start, revision, settled_at = self._exchange().functions.batches(batch_id).call()
        if not any(root):
            return None
        name = bytes(market).rstrip(b"\0").decode(errors="replace")
        return OnChainBatch(batch_id, name, moment(start), revision, "0x" + root.hex(), moment(settled_at))

    def positions(self, tx_hash: str) -> tuple[Position, ...]:
        """Return the positions that a settlement's events tell, in the contract's order; NotFound without receipt."""
        from web3.exceptions import TransactionNotFound
        from web3.logs import DISCARD

        with self.reaching():
            try:
                found = self.web3.eth.get_transaction_receipt(tx_hash)  # type: ignore[arg-type]
            except TransactionNotFound:
                raise NotFound(f"transaction {tx_hash} is not on chain") from None
            entries = self._exchange().events.PositionSettled().process_receipt(found, errors=DISCARD)
        return tuple(
            Position(
                str(entry["args"]["participant"]),
                entry["args"]["energy"] // CHAIN_PER_WH,
                entry["args"]["money"] // CHAIN_PER_MICRO,
            )
            for entry in entries
            if entry["address"] == self.contract
        )

    def balances(self, address: str) -> Balances:
        """Return the balances of ``address`` over all settled batches."""
        with self.reaching():
            functions = self._exchange().functions
            energy, money = functions.energy_balance(address).call(), functions.money_balance(address).call()
        return Balances(energy // CHAIN_PER_WH, money // CHAIN_PER_MICRO)

    def _settling_transaction(self, kept: OnChainBatch) -> str:
        """Return the hash of the transaction that settled ``kept``, from its event in the blocks of its time."""
        time_of_block = int(kept.settled_at.timestamp())
        with self.reaching():
            first, last = self._first_block_at(time_of_block), self._first_block_at(time_of_block + 1) - 1
            entries = self._exchange().events.BatchSettled.get_logs(
                argument_filters={"batch_id": kept.batch_id}, from_block=first, to_block=last
            )
        if not entries:
            raise ChainUnavailable(f"the node does not show the event of batch {kept.batch_id}; it may be catching up")
        return "0x" + bytes(entries[0]["transactionHash"]).hex()

    def _first_block_at(self, timestamp: int) -> int:
        """Return the first block at or after a Unix time: many providers refuse to search logs over a whole chain."""
        low, high = 0, int(self.web3.eth.block_number) + 1
        while low < high:
            middle = (low + high) // 2
            if int(self.web3.eth.get_block(middle)["timestamp"]) < timestamp:
                low = middle + 1
            else:
                high = middle
        return low


def _market_bytes(market: str) -> bytes:
    name = market.encode()
    if not 0 < len(name) <= 32:
        raise InvalidInput(f"market {market!r} does not fit 32 bytes")
    return name.ljust(32, b"\0")
