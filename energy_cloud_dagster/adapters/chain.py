"""Settlement on an EVM chain: one idempotent transaction a batch through the contract EnergyExchange.

A caller that must survive a crash asks ``find`` first, then records ``prepare(batch).tx_hash`` before ``send`` and
``wait``. ``settle`` is the three in one. web3 is imported at the first call to the node.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from energy_cloud_dagster import contracts
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

if TYPE_CHECKING:
    from web3 import Web3

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

#: What a transaction may use on today's Ethereum (EIP-7825: 2**24, rounded down).
MAX_TRANSACTION_GAS: Final = 16_700_000
#: Room above the estimate: balances may change from zero between estimate and block.
GAS_MARGIN: Final = 1.2
MAX_PARTICIPANTS: Final = 128
REQUEST_TIMEOUT_SECONDS: Final = 20.0
FIRST_POLL_SECONDS: Final = 0.005
LAST_POLL_SECONDS: Final = 1.0


class ChainClient:
    """One settlement account on one node. Use it from one thread: the nonce is read from the node for each send.

    All calls raise ChainUnavailable when the node does not answer, and Misconfigured when a development key meets a
    chain that is not embedded.
    """

    def __init__(self, rpc_url: str, private_key: str, contract: str = "", confirmations: int = 0) -> None:
        """``contract`` empty: ``ensure_contract`` finds or deploys it. ``confirmations``: blocks after a receipt's."""
        self.rpc_url = rpc_url
        self.contract = contract
        self.confirmations = confirmations
        self._key = private_key

    # -- the node

    @cached_property
    def account(self) -> str:
        """Checksum address of the settlement account."""
        try:
            return address_of(self._key)
        except ValueError:
            raise Misconfigured("ENERGY_CLOUD_CHAIN_PRIVATE_KEY: is no private key (32 bytes in hex)") from None

    @cached_property
    def chain_id(self) -> int:
        """Id of the node's chain."""
        with self._reaching():
            return int(self._connected().eth.chain_id)

    @cached_property
    def _web3(self) -> Web3:
        """The connection, after the key was found fit for the chain."""
        known = self._key.lower().removeprefix("0x").rjust(64, "0")
        if self.chain_id not in EMBEDDED_CHAIN_IDS and any(known == each[2:] for each in DEVELOPMENT_KEYS):
            raise Misconfigured(
                "ENERGY_CLOUD_CHAIN_PRIVATE_KEY: is a development key that everybody knows; "
                f"chain {self.chain_id} wants a key of your own"
            )
        return self._connected()

    def _connected(self) -> Web3:
        if "_connection" not in self.__dict__:
            from web3 import Web3
            from web3.providers.rpc.utils import ExceptionRetryConfiguration

            # one quick second try: keep-alive connections die with a restarted node
            retry = ExceptionRetryConfiguration(errors=(ConnectionError,), retries=2, backoff_factor=0.05)
            provider = Web3.HTTPProvider(
                self.rpc_url,
                request_kwargs={"timeout": REQUEST_TIMEOUT_SECONDS},
                exception_retry_configuration=retry,
            )
            self.__dict__["_connection"] = Web3(provider)
        connection: Web3 = self.__dict__["_connection"]
        return connection

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        import requests
        from web3.exceptions import ContractLogicError, Web3Exception

        host = urlsplit(self.rpc_url).netloc.rpartition("@")[2]  # paths and users of providers carry secrets
        try:
            yield
        except ContractLogicError as error:
            raise Conflict(f"the contract refused: {error.message or error}") from error
        except (requests.RequestException, OSError) as error:
            raise ChainUnavailable(f"The chain at {host} does not answer ({type(error).__name__}).") from error
        except (Web3Exception, ValueError) as error:
            raise ChainUnavailable(f"The chain at {host} answered with an error: {error}") from error

    def health(self) -> ChainHealth:
        """Ask the node for its state and the balance that pays for gas."""
        with self._reaching():
            eth = self._web3.eth
            return ChainHealth(
                chain_id=self.chain_id,
                block_number=int(eth.block_number),
                client_version=str(self._web3.client_version),
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
        with self._reaching():
            code = bytes(self._web3.eth.get_code(address))  # type: ignore[arg-type]
        return bool(code) and code.hex() in contracts.load().bytecode

    def _require_settler(self, configured: bool) -> None:
        with self._reaching():
            settler = self._exchange().functions.settler().call()
        if settler != self.account:
            where = "ENERGY_CLOUD_CHAIN_CONTRACT" if configured else "ENERGY_CLOUD_CHAIN_PRIVATE_KEY"
            raise Misconfigured(
                f"{where}: {self.account} is not the settler of {self.contract}; its settler is {settler}"
            )

    def deploy(self) -> str:
        """Deploy a new contract with this account as owner and settler; return its address and use it from now on."""
        artifact = contracts.load()
        with self._reaching():
            factory = self._web3.eth.contract(abi=list(artifact.abi), bytecode=artifact.bytecode)
            signed = self._sign(factory.constructor(self.account))
        self.send(signed)
        self.wait(signed.tx_hash)
        with self._reaching():
            receipt = self._web3.eth.get_transaction_receipt(signed.tx_hash)  # type: ignore[arg-type]
        self.contract = str(receipt["contractAddress"])
        return self.contract

    def _exchange(self) -> Any:
        if not self.contract:
            raise Misconfigured("ENERGY_CLOUD_CHAIN_CONTRACT: no contract is known yet; call ensure_contract first")
        return self._web3.eth.contract(address=self.contract, abi=list(contracts.load().abi))  # type: ignore[call-overload]

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
        with self._reaching():
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
            return self._sign(call)

    def _sign(self, call: Any) -> SignedTransaction:
        eth = self._web3.eth
        gas = int(call.estimate_gas({"from": self.account}))
        if gas > MAX_TRANSACTION_GAS:
            raise InvalidInput(f"the transaction would use {gas:,} gas; a chain accepts {MAX_TRANSACTION_GAS:,}")
        tip = int(eth.max_priority_fee)
        fields = {
            "from": self.account,
            "chainId": self.chain_id,
            "nonce": eth.get_transaction_count(self.account, "pending"),  # type: ignore[arg-type]
            "gas": min(int(gas * GAS_MARGIN), MAX_TRANSACTION_GAS),
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": 2 * int(eth.get_block("latest")["baseFeePerGas"]) + tip,
        }
        signed = eth.account.sign_transaction(call.build_transaction(fields), self._key)
        return SignedTransaction("0x" + signed.hash.hex(), "0x" + signed.raw_transaction.hex())

    def send(self, signed: SignedTransaction) -> str:
        """Send a signed transaction and return its hash; sending it again is harmless.

        Raises Conflict when the node refuses it, because its nonce was used by another transaction for example.
        """
        from web3.exceptions import TransactionNotFound, Web3RPCError

        with self._reaching():
            try:
                self._web3.eth.send_raw_transaction(signed.raw)  # type: ignore[arg-type]
            except Web3RPCError as error:
                try:
                    self._web3.eth.get_transaction(signed.tx_hash)  # type: ignore[arg-type]
                except TransactionNotFound:
                    raise Conflict(f"the chain refused transaction {signed.tx_hash}: {error}") from error
        return signed.tx_hash

    def wait(self, tx_hash: str, timeout: float = 120.0) -> Receipt:
        """Wait for the receipt of ``tx_hash`` and its confirmations; a reorganised block starts the wait anew.

        Raises Conflict when the transaction was reverted, ChainUnavailable after ``timeout`` seconds.
        """
        end, pause = time.monotonic() + timeout, FIRST_POLL_SECONDS
        while True:
            receipt = self.receipt(tx_hash)
            if receipt is not None:
                with self._reaching():
                    if int(self._web3.eth.block_number) >= receipt.block_number + self.confirmations:
                        return receipt
            if time.monotonic() > end:
                lacks = "its receipt" if receipt is None else f"{self.confirmations} confirmations"
                raise ChainUnavailable(f"transaction {tx_hash} still lacks {lacks} after {timeout:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, LAST_POLL_SECONDS)

    # -- reading

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Return the receipt of a mined transaction, None before it is mined; Conflict when it was reverted."""
        from web3.exceptions import TransactionNotFound

        with self._reaching():
            try:
                found = self._web3.eth.get_transaction_receipt(tx_hash)  # type: ignore[arg-type]
            except TransactionNotFound:
                return None
            if found["status"] != 1:
                raise Conflict(f"transaction {tx_hash} was reverted in block {found['blockNumber']}")
            block = self._web3.eth.get_block(found["blockHash"])
        return Receipt(tx_hash, int(found["blockNumber"]), int(found["gasUsed"]), _moment(block["timestamp"]))

    def read_batch(self, batch_id: str) -> OnChainBatch | None:
        """Return what the contract keeps under ``batch_id``, None where it knows nothing."""
        with self._reaching():
            root, market, start, revision, settled_at = self._exchange().functions.batches(batch_id).call()
        if not any(root):
            return None
        name = bytes(market).rstrip(b"\0").decode(errors="replace")
        return OnChainBatch(batch_id, name, _moment(start), revision, "0x" + root.hex(), _moment(settled_at))

    def positions(self, tx_hash: str) -> tuple[Position, ...]:
        """Return the positions that a settlement's events tell, in the contract's order; NotFound without receipt."""
        from web3.exceptions import TransactionNotFound
        from web3.logs import DISCARD

        with self._reaching():
            try:
                found = self._web3.eth.get_transaction_receipt(tx_hash)  # type: ignore[arg-type]
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
        with self._reaching():
            functions = self._exchange().functions
            energy, money = functions.energy_balance(address).call(), functions.money_balance(address).call()
        return Balances(energy // CHAIN_PER_WH, money // CHAIN_PER_MICRO)

    def _settling_transaction(self, kept: OnChainBatch) -> str:
        """Return the hash of the transaction that settled ``kept``, from its event in the blocks of its time."""
        time_of_block = int(kept.settled_at.timestamp())
        with self._reaching():
            first, last = self._first_block_at(time_of_block), self._first_block_at(time_of_block + 1) - 1
            entries = self._exchange().events.BatchSettled.get_logs(
                argument_filters={"batch_id": kept.batch_id}, from_block=first, to_block=last
            )
        if not entries:
            raise ChainUnavailable(f"the node does not show the event of batch {kept.batch_id}; it may be catching up")
        return "0x" + bytes(entries[0]["transactionHash"]).hex()

    def _first_block_at(self, timestamp: int) -> int:
        """Return the first block at or after a Unix time: many providers refuse to search logs over a whole chain."""
        low, high = 0, int(self._web3.eth.block_number) + 1
        while low < high:
            middle = (low + high) // 2
            if int(self._web3.eth.get_block(middle)["timestamp"]) < timestamp:
                low = middle + 1
            else:
                high = middle
        return low


def _market_bytes(market: str) -> bytes:
    name = market.encode()
    if not 0 < len(name) <= 32:
        raise InvalidInput(f"market {market!r} does not fit 32 bytes")
    return name.ljust(32, b"\0")


def _moment(timestamp: int) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)
