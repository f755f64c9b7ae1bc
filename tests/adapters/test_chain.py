"""Settling through a real node: once, whatever happened before."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from eth_account import Account

from energy_cloud_dagster.adapters import chain_connection
from energy_cloud_dagster.adapters.chain import (
    DEVELOPMENT_KEYS,
    Balances,
    ChainClient,
    Position,
    SettlementBatch,
    address_of,
    participant_account,
)
from energy_cloud_dagster.domain.errors import ChainUnavailable, Conflict, InvalidInput, Misconfigured, NotFound
from energy_cloud_dagster.embedded.chain import EmbeddedChain
from energy_cloud_dagster.embedded.claims import free_port

HOUR = datetime(2026, 3, 1, 12, tzinfo=UTC)
_numbers = count(1)


def make_batch(participants: int = 11, **changed: object) -> SettlementBatch:
    """Return a balanced batch with an id of its own."""
    name = f"{os.getpid()}-{next(_numbers)}"
    digest = "0x" + hashlib.sha256(name.encode()).hexdigest()
    accounts = [participant_account(name, str(number)) for number in range(participants)]
    positions = [Position(each, 1000 + place, -7 * place) for place, each in enumerate(accounts[1:])]
    sums = [-sum(each[field] for each in positions) for field in (1, 2)]
    batch = SettlementBatch(
        batch_id=digest,
        market="KRW-KWH",
        delivery_start=HOUR + timedelta(hours=next(_numbers)),
        revision=0,
        merkle_root=digest[:-1] + "f",
        positions=(Position(accounts[0], sums[0], sums[1]), *positions),
    )
    return replace(batch, **changed)  # type: ignore[arg-type]


def fresh_client(chain: EmbeddedChain) -> ChainClient:
    """Return a client of a new account that has coins and never sent anything."""
    rich = ChainClient(chain.rpc_url, chain.private_key)
    account = Account.create()
    gift = {
        "chainId": rich.chain_id,
        "nonce": rich.web3.eth.get_transaction_count(rich.account),
        "to": account.address,
        "value": 10**18,
        "gas": 21_000,
        "gasPrice": 3 * 10**9,
    }
    signed = Account.sign_transaction(gift, chain.private_key)
    rich.web3.eth.send_raw_transaction(signed.raw_transaction)
    rich.wait("0x" + signed.hash.hex())
    return ChainClient(chain.rpc_url, "0x" + account.key.hex())


@pytest.fixture(scope="module")
def client(each_chain: EmbeddedChain) -> ChainClient:
    made = fresh_client(each_chain)
    made.ensure_contract()
    return made


def test_a_batch_is_settled_and_read_back(client: ChainClient) -> None:
    batch = make_batch()
    assert client.read_batch(batch.batch_id) is None
    assert client.find(batch) is None
    receipt = client.settle(batch)
    kept = client.read_batch(batch.batch_id)
    assert kept is not None
    assert (kept.batch_id, kept.market, kept.delivery_start) == (batch.batch_id, "KRW-KWH", batch.delivery_start)
    assert (kept.revision, kept.merkle_root, kept.settled_at) == (0, batch.merkle_root, receipt.block_time)
    assert set(client.positions(receipt.tx_hash)) == set(batch.positions)
    for account, energy_wh, money_micro in batch.positions:
        assert client.balances(account) == Balances(energy_wh, money_micro)
    # eleven new participants; measured 0.60 M, then 0.25 M for each further hour
    assert receipt.gas_used < 650_000
    again = client.settle(make_batch(positions=batch.positions))
    assert again.gas_used < 260_000
    assert client.balances(batch.positions[1].account) == Balances(2000, 0)


def test_settling_again_returns_the_first_receipt(client: ChainClient) -> None:
    batch = make_batch(2)
    receipt = client.settle(batch)
    height = client.health().block_number
    assert client.settle(batch) == receipt
    assert client.find(batch) == receipt
    assert client.health().block_number == height


def test_a_crash_between_sending_and_recording_is_reconciled(client: ChainClient) -> None:
    batch = make_batch(2)
    signed = client.prepare(batch)
    assert client.receipt(signed.tx_hash) is None
    with pytest.raises(NotFound):
        client.positions(signed.tx_hash)
    client.send(signed)
    after_crash = ChainClient(client.rpc_url, client._key, client.contract)
    assert after_crash.settle(batch).tx_hash == signed.tx_hash
    # as is sending what was recorded but perhaps not sent
    assert after_crash.send(signed) == signed.tx_hash
    assert after_crash.wait(signed.tx_hash) == client.receipt(signed.tx_hash)


def test_another_root_under_the_same_id_is_a_conflict(client: ChainClient) -> None:
    batch = make_batch(2)
    client.settle(batch)
    with pytest.raises(Conflict, match="is on chain with root"):
        client.settle(replace(batch, merkle_root="0x" + "12" * 32))


def test_the_slower_of_two_senders_returns_the_others_receipt(client: ChainClient) -> None:
    class Slow(ChainClient):
        def find(self, batch):  # type: ignore[no-untyped-def]
            found = super().find(batch)
            if found is None:
                client.settle(batch)
            return found

    batch = make_batch(2)
    slow = Slow(client.rpc_url, client._key, client.contract)
    assert slow.settle(batch) == client.find(batch)


def test_a_prepared_transaction_whose_nonce_went_elsewhere_is_a_conflict(client: ChainClient) -> None:
    batch = make_batch(2)
    signed = client.prepare(batch)
    client.settle(make_batch(2))
    with pytest.raises(Conflict, match="nonce"):
        client.send(signed)
    assert client.settle(batch).tx_hash != signed.tx_hash


def test_what_the_contract_refuses_is_a_conflict_with_its_reason(client: ChainClient) -> None:
    account = participant_account("test", "alone")
    with pytest.raises(Conflict, match="exchange: energy does not sum to zero"):
        client.settle(make_batch(positions=(Position(account, 1, 0),)))


def test_positions_of_one_account_are_netted(client: ChainClient) -> None:
    one, other = participant_account("net", "1"), participant_account("net", "2")
    batch = make_batch(positions=(Position(one, 5, 1), Position(other, -7, 2), Position(one, 2, -3)))
    receipt = client.settle(batch)
    assert set(client.positions(receipt.tx_hash)) == {Position(one, 7, -2), Position(other, -7, 2)}


def test_the_largest_batch_fits_a_transaction(client: ChainClient) -> None:
    assert client.settle(make_batch(128)).gas_used < 6_500_000
    with pytest.raises(InvalidInput, match="128 positions at most, this one has 129"):
        client.prepare(make_batch(129))


def test_a_transaction_beyond_the_limit_is_refused(client: ChainClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_connection, "MAX_TRANSACTION_GAS", 50_000)
    with pytest.raises(InvalidInput, match="a chain accepts 50,000"):
        client.prepare(make_batch(2))


@pytest.mark.parametrize("market", ["", "x" * 33])
def test_a_market_must_fit_its_field(client: ChainClient, market: str) -> None:
    with pytest.raises(InvalidInput, match="does not fit"):
        client.prepare(make_batch(2, market=market))


def test_a_reverted_transaction_is_a_conflict(client: ChainClient) -> None:
    nonsense = {"to": client.contract, "value": 0, "data": "0x12345678", "gas": 100_000, "chainId": client.chain_id}
    fees = {"maxFeePerGas": 3 * 10**9, "maxPriorityFeePerGas": 10**9}
    nonce = client.web3.eth.get_transaction_count(client.account)  # type: ignore[arg-type]
    signed = Account.sign_transaction({**nonsense, **fees, "nonce": nonce}, client._key)
    client.web3.eth.send_raw_transaction(signed.raw_transaction)
    with pytest.raises(Conflict, match="was reverted"):
        client.wait("0x" + signed.hash.hex())


def test_confirmations_are_waited_for(client: ChainClient) -> None:
    careful = ChainClient(client.rpc_url, client._key, client.contract, confirmations=2)
    signed = careful.prepare(make_batch(2))
    careful.send(signed)
    with pytest.raises(ChainUnavailable, match="still lacks 2 confirmations"):
        careful.wait(signed.tx_hash, timeout=0)
    for _ in range(2):
        client.web3.provider.make_request("evm_mine", [])  # type: ignore[arg-type]
    assert careful.wait(signed.tx_hash, timeout=0).tx_hash == signed.tx_hash
    with pytest.raises(ChainUnavailable, match="still lacks its receipt"):
        careful.wait("0x" + "ef" * 32, timeout=0.01)


def test_the_contract_is_found_again(each_chain: EmbeddedChain) -> None:
    client = fresh_client(each_chain)
    address = client.ensure_contract()

    def another(contract: str = "") -> ChainClient:
        return ChainClient(client.rpc_url, client._key, contract)

    assert client.ensure_contract() == address
    assert another().ensure_contract() == address  # nobody remembered it: a crash after the deployment
    second = another().deploy()
    assert second != address
    assert another().ensure_contract(second.lower()) == second
    assert another(second).ensure_contract(address) == second
    # a remembered address without code: the chain was reset
    assert another().ensure_contract(participant_account("no", "contract")) == address


def test_a_configured_contract_must_be_ours(each_chain: EmbeddedChain, client: ChainClient) -> None:
    stranger = fresh_client(each_chain)
    stranger.contract = participant_account("no", "contract")
    with pytest.raises(Misconfigured, match="ENERGY_CLOUD_CHAIN_CONTRACT: there is no EnergyExchange"):
        stranger.ensure_contract()
    stranger.contract = client.contract
    with pytest.raises(Misconfigured, match="is not the settler"):
        stranger.ensure_contract()
    stranger.contract = ""
    with pytest.raises(Misconfigured, match="is not the settler"):
        stranger.ensure_contract(client.contract)
    with pytest.raises(Misconfigured, match="no contract is known"):
        fresh_client(each_chain).read_batch("0x" + "00" * 32)


def test_health_tells_of_node_and_account(client: ChainClient) -> None:
    health = client.health()
    assert health.chain_id == client.chain_id
    assert health.account == client.account == address_of(client._key)
    assert 0 < health.balance_wei < 10**18
    assert health.block_number > 0
    assert health.client_version
    assert health.contract == client.contract


def test_a_development_key_is_refused_on_a_foreign_chain(each_chain: EmbeddedChain) -> None:
    for key in (DEVELOPMENT_KEYS[0], DEVELOPMENT_KEYS[0].upper().replace("0X", ""), "0x" + "1".rjust(64, "0")):
        client = ChainClient(each_chain.rpc_url, key)
        client.health()
        foreign = ChainClient(each_chain.rpc_url, key)
        foreign.__dict__["chain_id"] = 1
        with pytest.raises(Misconfigured, match=r"ENERGY_CLOUD_CHAIN_PRIVATE_KEY: .* chain 1 wants a key of your own"):
            foreign.health()


def test_the_development_keys_are_those_of_the_well_known_words() -> None:
    Account.enable_unaudited_hdwallet_features()
    words = "test test test test test test test test test test test junk"
    for place, key in enumerate(DEVELOPMENT_KEYS[:10]):
        assert Account.from_mnemonic(words, account_path=f"m/44'/60'/0'/0/{place}").key.hex() == key[2:]


def test_what_is_no_key_is_named() -> None:
    with pytest.raises(Misconfigured, match="ENERGY_CLOUD_CHAIN_PRIVATE_KEY"):
        _ = ChainClient("http://127.0.0.1:1", "0x1234").account


def test_an_absent_node_is_unavailable_and_its_secrets_stay_untold() -> None:
    port = free_port()
    client = ChainClient(f"http://user:hunter2@127.0.0.1:{port}/v3/s3cret", "0x" + "42" * 32)
    with pytest.raises(ChainUnavailable, match=rf"127.0.0.1:{port} does not answer") as caught:
        client.health()
    assert "hunter2" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_node_killed_between_send_and_wait_settles_once(tmp_path: Path) -> None:
    chain = EmbeddedChain(tmp_path, prefer="eth-tester")
    chain.start()
    try:
        client = ChainClient(chain.rpc_url, chain.private_key)
        client.ensure_contract()
        batch = make_batch(2)
        signed = client.prepare(batch)
        client.send(signed)
        assert chain.pid is not None
        os.kill(chain.pid, signal.SIGKILL)
        chain.stop()
        with pytest.raises(ChainUnavailable):
            client.settle(batch)
        chain.start()
        assert client.settle(batch).tx_hash == signed.tx_hash
        assert client.balances(batch.positions[0].account).energy_wh == batch.positions[0].energy_wh
    finally:
        chain.stop()


def test_accounts_of_participants_are_fixed_and_distinct() -> None:
    assert participant_account("KRW-KWH", "HOME-01") == "0x02e6D0E4A58EA839b8C8daa0666a681a3644FCaa"
    assert len({participant_account(key, each) for key in ("a", "b") for each in ("1", "2")}) == 4
