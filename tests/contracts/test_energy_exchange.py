"""The contract on a real chain: who may settle, what is refused, and that nothing is made or lost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web3.exceptions import ContractLogicError

from energy_cloud_dagster import contracts
from energy_cloud_dagster.adapters.chain import ChainClient, participant_account
from energy_cloud_dagster.contracts.build import compile_exchange, main
from energy_cloud_dagster.embedded.chain import EmbeddedChain

ROOT = b"\x11" * 32
MARKET = b"KRW-KWH".ljust(32, b"\0")
ACCOUNTS = sorted((participant_account("test", str(number)) for number in range(12)), key=lambda each: int(each, 16))
STRANGER = "0x" + "42" * 32
_numbers = count(1)


@dataclass
class Exchange:
    """A deployed contract, called by its settler."""

    client: ChainClient
    contract: Any

    def settle(self, energy: list[int], money: list[int], **changed: Any) -> Any:
        """Return the call of a batch of its own over the first accounts, with ``changed`` arguments."""
        arguments = {
            "batch_id": next(_numbers).to_bytes(32, "big"),
            "market": MARKET,
            "delivery_start": 1_700_000_000,
            "revision": 0,
            "merkle_root": ROOT,
            "participants": ACCOUNTS[: len(energy)],
            "energy": energy,
            "money": money,
        }
        return self.contract.functions.settle(**(arguments | changed))

    def send(self, call: Any) -> Any:
        """Send ``call`` as the settler and return its receipt."""
        signed = self.client.sign(call)
        self.client.send(signed)
        self.client.wait(signed.tx_hash)
        return self.client.web3.eth.get_transaction_receipt(signed.tx_hash)

    def refusal(self, call: Any, sender: str | None = None) -> str:
        """Return the reason with which the contract refuses ``call``."""
        with pytest.raises(ContractLogicError) as caught:
            call.call({"from": sender or self.client.account})
        return str(caught.value.message)


@pytest.fixture(scope="module")
def exchange(each_chain: EmbeddedChain) -> Exchange:
    client = ChainClient(each_chain.rpc_url, each_chain.private_key)
    address = client.deploy()
    return Exchange(client, client.web3.eth.contract(address=address, abi=list(contracts.load().abi)))


def test_the_committed_artefact_is_what_the_source_compiles_to() -> None:
    assert json.loads(contracts.ARTIFACT.read_text()) == json.loads(json.dumps(compile_exchange()))
    assert contracts.load().compiler == "vyper 0.4.3"


def test_the_build_command_writes_the_artefact(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("energy_cloud_dagster.contracts.build.ARTIFACT", tmp_path / "EnergyExchange.json")
    assert main() == 0
    assert (tmp_path / "EnergyExchange.json").read_text() == contracts.ARTIFACT.read_text()
    assert "bytes of bytecode" in capsys.readouterr().out


def test_a_batch_is_kept_and_told(exchange: Exchange) -> None:
    batch_id = b"\xaa" * 32
    receipt = exchange.send(exchange.settle([5, -3, -2], [-50, 30, 20], batch_id=batch_id, revision=7))
    root, market, start, revision, settled_at = exchange.contract.functions.batches(batch_id).call()
    assert (root, market, start, revision) == (ROOT, MARKET, 1_700_000_000, 7)
    assert settled_at == exchange.client.web3.eth.get_block(receipt["blockNumber"])["timestamp"]
    (told,) = exchange.contract.events.BatchSettled().process_receipt(receipt, errors=_discard())
    assert told["args"]["batch_id"] == batch_id
    assert told["args"]["participants"] == 3
    positions = exchange.contract.events.PositionSettled().process_receipt(receipt, errors=_discard())
    assert [(each["args"]["energy"], each["args"]["money"]) for each in positions] == [(5, -50), (-3, 30), (-2, 20)]


def test_the_widest_values_survive_the_packed_stamp(exchange: Exchange) -> None:
    batch_id = b"\xab" * 32
    exchange.send(exchange.settle([], [], batch_id=batch_id, delivery_start=2**64 - 1, revision=2**32 - 1))
    _, _, start, revision, settled_at = exchange.contract.functions.batches(batch_id).call()
    assert (start, revision) == (2**64 - 1, 2**32 - 1)
    assert settled_at > 1_700_000_000


def test_an_unknown_batch_is_empty(exchange: Exchange) -> None:
    assert exchange.contract.functions.batches(b"\xfe" * 32).call() == (bytes(32), bytes(32), 0, 0, 0)


def test_a_batch_is_accepted_once(exchange: Exchange) -> None:
    batch_id = b"\xac" * 32
    exchange.send(exchange.settle([1, -1], [0, 0], batch_id=batch_id))
    again = exchange.settle([1, -1], [0, 0], batch_id=batch_id, merkle_root=b"\x22" * 32)
    assert "exchange: batch is already settled" in exchange.refusal(again)


@pytest.mark.parametrize(
    ("energy", "money", "changed", "reason"),
    [
        ([1, -2], [0, 0], {}, "energy does not sum to zero"),
        ([1, -1], [3, -4], {}, "money does not sum to zero"),
        ([1, -1], [0, 0], {"merkle_root": bytes(32)}, "root is empty"),
        ([1, -1, 0], [0, 0], {"participants": ACCOUNTS[:2]}, "lengths differ"),
        ([1, -1], [0, 0, 0], {}, "lengths differ"),
        ([1, -1], [0, 0], {"participants": [ACCOUNTS[1], ACCOUNTS[0]]}, "participants not ascending"),
        ([1, -1], [0, 0], {"participants": [ACCOUNTS[0], ACCOUNTS[0]]}, "participants not ascending"),
        ([1, -1], [0, 0], {"participants": ["0x" + "00" * 20, ACCOUNTS[0]]}, "participants not ascending"),
    ],
)
def test_a_faulty_batch_is_refused_with_its_reason(
    exchange: Exchange, energy: list[int], money: list[int], changed: dict[str, Any], reason: str
) -> None:
    assert f"exchange: {reason}" in exchange.refusal(exchange.settle(energy, money, **changed))


def test_sums_cannot_overflow_into_zero(exchange: Exchange) -> None:
    top = 2**255 - 1
    assert exchange.refusal(exchange.settle([top, top, 2], [0, 0, 0])) == "execution reverted"


def test_only_the_settler_settles(exchange: Exchange) -> None:
    assert "caller is not the settler" in exchange.refusal(exchange.settle([1, -1], [0, 0]), sender=ACCOUNTS[0])


def test_only_the_owner_names_settler_and_owner(exchange: Exchange) -> None:
    functions = exchange.contract.functions
    for call in (functions.set_settler(ACCOUNTS[0]), functions.transfer_ownership(ACCOUNTS[0])):
        assert "caller is not the owner" in exchange.refusal(call, sender=ACCOUNTS[0])
    nobody = "0x" + "00" * 20
    assert "settler is empty" in exchange.refusal(functions.set_settler(nobody))
    assert "owner is empty" in exchange.refusal(functions.transfer_ownership(nobody))


def test_a_new_settler_takes_over(exchange: Exchange) -> None:
    client = ChainClient(exchange.client.rpc_url, exchange.client._key)
    address = client.deploy()
    contract = client.web3.eth.contract(address=address, abi=list(contracts.load().abi))
    own = Exchange(client, contract)
    own.send(contract.functions.set_settler(ACCOUNTS[3]))
    assert "caller is not the settler" in own.refusal(own.settle([1, -1], [0, 0]))
    own.settle([1, -1], [0, 0]).call({"from": ACCOUNTS[3]})
    own.send(contract.functions.transfer_ownership(ACCOUNTS[4]))
    assert contract.functions.owner().call() == ACCOUNTS[4]
    assert "caller is not the owner" in own.refusal(contract.functions.set_settler(client.account))


_amounts = st.lists(st.integers(-(10**24), 10**24), min_size=2, max_size=10)


def _balanced(values: list[int]) -> list[int]:
    return [*values, -sum(values)]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(energy=_amounts, money=_amounts)
def test_balances_are_the_sums_of_positions_and_sum_to_zero(
    exchange: Exchange, energy: list[int], money: list[int]
) -> None:
    size = min(len(energy), len(money))
    energy, money = _balanced(energy[:size]), _balanced(money[:size])
    before = _balances(exchange)
    exchange.send(exchange.settle(energy, money))
    after = _balances(exchange)
    padded = zip(energy + [0] * 12, money + [0] * 12, before, after, strict=False)
    for one_energy, one_money, old, new in padded:
        assert new == (old[0] + one_energy, old[1] + one_money)
    assert [sum(column) for column in zip(*after, strict=True)] == [0, 0]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=_amounts, fault=st.integers(-(10**24), 10**24).filter(bool), of_money=st.booleans())
def test_an_unbalanced_batch_is_refused(exchange: Exchange, values: list[int], fault: int, of_money: bool) -> None:
    right = _balanced(values)
    wrong = [right[0] + fault, *right[1:]]
    call = exchange.settle(right, wrong) if of_money else exchange.settle(wrong, right)
    assert "does not sum to zero" in exchange.refusal(call)


def _balances(exchange: Exchange) -> list[tuple[int, int]]:
    functions = exchange.contract.functions
    return [
        (functions.energy_balance(account).call(), functions.money_balance(account).call()) for account in ACCOUNTS[:11]
    ]


def _discard() -> Any:
    from web3.logs import DISCARD

    return DISCARD
