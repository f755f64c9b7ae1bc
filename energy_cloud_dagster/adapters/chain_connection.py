"""One account on one node: connecting, signing, sending, waiting. web3 is imported at the first call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from energy_cloud_dagster.adapters.chain_types import (
    DEVELOPMENT_KEYS,
    EMBEDDED_CHAIN_IDS,
    Receipt,
    SignedTransaction,
    address_of,
)
from energy_cloud_dagster.domain.errors import ChainUnavailable, Conflict, InvalidInput, Misconfigured

if TYPE_CHECKING:
    from web3 import Web3

#: What a transaction may use on today's Ethereum (EIP-7825: 2**24, rounded down).
MAX_TRANSACTION_GAS: Final = 16_700_000
#: Room above the estimate: balances may change from zero between estimate and block.
GAS_MARGIN: Final = 1.2
REQUEST_TIMEOUT_SECONDS: Final = 20.0
FIRST_POLL_SECONDS: Final = 0.005
LAST_POLL_SECONDS: Final = 1.0


class ChainConnection:
    """One account on one node; see ``ChainClient`` for what its calls raise."""

    def __init__(self, rpc_url: str, private_key: str, confirmations: int = 0) -> None:
        """Connect at the first call. ``confirmations``: blocks that must follow a receipt's before it is believed."""
        self.rpc_url = rpc_url
        self.confirmations = confirmations
        self._key = private_key

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
        with self.reaching():
            return int(self._connected().eth.chain_id)

    @cached_property
    def web3(self) -> Web3:
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
            from requests import ConnectionError as Unreachable
            from web3 import Web3
            from web3.providers.rpc.utils import ExceptionRetryConfiguration

            # one quick second try: keep-alive connections die with a restarted node
            retry = ExceptionRetryConfiguration(errors=(Unreachable,), retries=2, backoff_factor=0.05)
            provider = Web3.HTTPProvider(
                self.rpc_url,
                request_kwargs={"timeout": REQUEST_TIMEOUT_SECONDS},
                exception_retry_configuration=retry,
            )
            self.__dict__["_connection"] = Web3(provider)
        connection: Web3 = self.__dict__["_connection"]
        return connection

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Translate what web3 raises within the block into errors of this platform."""
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

    def sign(self, call: Any) -> SignedTransaction:
        """Sign a contract call with the next nonce; InvalidInput when it would use more gas than a chain accepts."""
        eth = self.web3.eth
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

        with self.reaching():
            try:
                self.web3.eth.send_raw_transaction(signed.raw)  # type: ignore[arg-type]
            except Web3RPCError as error:
                try:
                    self.web3.eth.get_transaction(signed.tx_hash)  # type: ignore[arg-type]
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
                with self.reaching():
                    if int(self.web3.eth.block_number) >= receipt.block_number + self.confirmations:
                        return receipt
            if time.monotonic() > end:
                lacks = "its receipt" if receipt is None else f"{self.confirmations} confirmations"
                raise ChainUnavailable(f"transaction {tx_hash} still lacks {lacks} after {timeout:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, LAST_POLL_SECONDS)

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Return the receipt of a mined transaction, None before it is mined; Conflict when it was reverted."""
        from web3.exceptions import TransactionNotFound

        with self.reaching():
            try:
                found = self.web3.eth.get_transaction_receipt(tx_hash)  # type: ignore[arg-type]
            except TransactionNotFound:
                return None
            if found["status"] != 1:
                raise Conflict(f"transaction {tx_hash} was reverted in block {found['blockNumber']}")
            block = self.web3.eth.get_block(found["blockHash"])
        return Receipt(tx_hash, int(found["blockNumber"]), int(found["gasUsed"]), moment(block["timestamp"]))


def moment(timestamp: int) -> datetime:
    """Return a Unix time as UTC."""
    return datetime.fromtimestamp(timestamp, UTC)
