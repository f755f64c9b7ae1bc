"""JSON-RPC of the embedded chain, on either kind: what web3 needs, and clean errors for the rest."""

from __future__ import annotations

import http.client
import json
import urllib.request
from typing import Any

import pytest
from eth_account import Account
from web3 import Web3
from web3.exceptions import ContractLogicError, Web3RPCError

from energy_cloud_dagster import contracts
from energy_cloud_dagster.adapters.chain import ChainClient, participant_account
from energy_cloud_dagster.embedded.chain import EmbeddedChain

SOMEBODY = participant_account("rpc", "somebody")
GWEI = 10**9


@pytest.fixture(scope="module")
def client(each_chain: EmbeddedChain) -> ChainClient:
    made = ChainClient(each_chain.rpc_url, each_chain.private_key)
    made.ensure_contract()
    return made


@pytest.fixture
def web3(client: ChainClient) -> Web3:
    return client.web3


def post(chain: EmbeddedChain, body: bytes) -> Any:
    with urllib.request.urlopen(urllib.request.Request(chain.rpc_url, body), timeout=20) as response:
        return json.load(response)


def sign(client: ChainClient, **changed: Any) -> Any:
    """Return a signed transfer of one wei with the next nonce, and ``changed`` fields."""
    fields = {
        "chainId": client.chain_id,
        "nonce": client.web3.eth.get_transaction_count(client.account),
        "to": SOMEBODY,
        "value": 1,
        "gas": 21_000,
        "maxFeePerGas": 3 * GWEI,
        "maxPriorityFeePerGas": GWEI,
    }
    return Account.sign_transaction(
        {name: each for name, each in (fields | changed).items() if each is not None}, client._key
    )


def test_a_transfer_moves_coins_and_is_told_everywhere(client: ChainClient, web3: Web3) -> None:
    had = web3.eth.get_balance(SOMEBODY)
    signed = sign(client)
    assert web3.eth.send_raw_transaction(signed.raw_transaction) == signed.hash
    receipt = web3.eth.get_transaction_receipt(signed.hash)
    transaction = web3.eth.get_transaction(signed.hash)
    block = web3.eth.get_block(receipt["blockHash"], full_transactions=True)
    assert (receipt["status"], receipt["gasUsed"], receipt["contractAddress"]) == (1, 21_000, None)
    assert block["transactions"] == [transaction]
    assert block["parentHash"] == web3.eth.get_block(block["number"] - 1)["hash"]
    assert (transaction["from"], transaction["to"], transaction["value"]) == (client.account, SOMEBODY, 1)
    assert receipt["effectiveGasPrice"] == transaction["gasPrice"] == block["baseFeePerGas"] + GWEI
    assert web3.eth.get_balance(SOMEBODY) == had + 1
    assert web3.eth.get_balance(SOMEBODY, block["number"] - 1) == had
    assert web3.eth.block_number == block["number"]


def test_an_old_style_transaction_is_mined(client: ChainClient, web3: Web3) -> None:
    signed = sign(client, maxFeePerGas=None, maxPriorityFeePerGas=None, gasPrice=3 * GWEI)
    web3.eth.send_raw_transaction(signed.raw_transaction)
    assert web3.eth.get_transaction_receipt(signed.hash)["effectiveGasPrice"] == 3 * GWEI
    assert web3.eth.get_transaction(signed.hash)["type"] == 0


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"nonce": 0}, "nonce too low"),
        ({"nonce": 10_000}, "nonce too high"),
        ({"maxFeePerGas": 1, "maxPriorityFeePerGas": 1}, "fee"),
        ({"chainId": 1}, "chain"),
        ({"value": 10**30}, "funds|balance"),
    ],
)
def test_an_invalid_transaction_is_refused_and_changes_nothing(
    client: ChainClient, web3: Web3, changed: dict[str, Any], reason: str
) -> None:
    height = web3.eth.block_number
    with pytest.raises(Web3RPCError, match=f"(?i){reason}"):
        web3.eth.send_raw_transaction(sign(client, **changed).raw_transaction)
    assert web3.eth.block_number == height
    web3.eth.send_raw_transaction(sign(client).raw_transaction)
    assert web3.eth.block_number == height + 1


@pytest.mark.parametrize("raw", ["0x", "0x00", "0x02c0", "0xzz", "no", "0x" + "f8" * 40])
def test_an_undecodable_transaction_is_refused(web3: Web3, raw: str) -> None:
    height = web3.eth.block_number
    answer = web3.provider.make_request("eth_sendRawTransaction", [raw])  # type: ignore[arg-type]
    assert "error" in answer
    assert web3.eth.block_number == height


def test_a_known_transaction_is_not_mined_twice(client: ChainClient, web3: Web3) -> None:
    signed = sign(client)
    web3.eth.send_raw_transaction(signed.raw_transaction)
    height = web3.eth.block_number
    with pytest.raises(Web3RPCError):
        web3.eth.send_raw_transaction(signed.raw_transaction)
    assert web3.eth.block_number == height


def test_a_reverted_transaction_is_mined_with_status_zero(client: ChainClient, web3: Web3) -> None:
    contract = web3.eth.contract(address=client.contract, abi=list(contracts.load().abi))
    data = contract.encode_abi("set_settler", args=["0x" + "00" * 20])
    signed = sign(client, to=client.contract, value=0, data=data, gas=200_000)
    web3.eth.send_raw_transaction(signed.raw_transaction)
    assert web3.eth.get_transaction_receipt(signed.hash)["status"] == 0


def test_a_revert_carries_its_reason_in_calls_and_estimates(client: ChainClient, web3: Web3) -> None:
    contract = web3.eth.contract(address=client.contract, abi=list(contracts.load().abi))
    call = contract.functions.set_settler("0x" + "00" * 20)
    for attempt in (call.call, call.estimate_gas):
        with pytest.raises(ContractLogicError, match="exchange: settler is empty") as caught:
            attempt({"from": client.account})
        assert str(caught.value.data).startswith("0x08c379a0")


def test_an_estimate_suffices(client: ChainClient, web3: Web3) -> None:
    assert web3.eth.estimate_gas({"from": client.account, "to": SOMEBODY, "value": 1}) >= 21_000
    contract = web3.eth.contract(address=client.contract, abi=list(contracts.load().abi))
    call = contract.functions.set_settler(client.account)
    gas = call.estimate_gas({"from": client.account})
    signed = sign(client, to=client.contract, value=0, data=call._encode_transaction_data(), gas=gas)
    web3.eth.send_raw_transaction(signed.raw_transaction)
    receipt = web3.eth.get_transaction_receipt(signed.hash)
    assert receipt["status"] == 1
    assert receipt["gasUsed"] <= gas <= 1.2 * receipt["gasUsed"]


def test_logs_are_found_by_block_address_and_topic(client: ChainClient, web3: Web3) -> None:
    start = web3.eth.block_number + 1
    address = client.deploy()
    settler_changed = Web3.to_hex(Web3.keccak(text="SettlerChanged(address)"))
    owner_changed = Web3.to_hex(Web3.keccak(text="OwnerChanged(address)"))
    ours = "0x" + client.account[2:].lower().rjust(64, "0")
    filters: list[tuple[Any, int]] = [
        ({"address": address}, 2),
        ({"address": [address, SOMEBODY], "topics": [settler_changed]}, 1),
        ({"topics": [[settler_changed, owner_changed], ours]}, 2),
        ({"topics": [None, ours]}, 2),
        ({"topics": [None, None, ours]}, 0),
        ({"topics": [ours]}, 0),
        ({"address": SOMEBODY}, 0),
        ({"toBlock": hex(start - 1), "fromBlock": "0x0", "address": address}, 0),
    ]
    for query, expected in filters:
        found = web3.eth.get_logs({"fromBlock": hex(start), "toBlock": "latest"} | query)
        assert len(found) == expected, query
    block = web3.eth.get_block(start)
    in_block = web3.eth.get_logs({"blockHash": block["hash"]})
    assert [entry["logIndex"] for entry in in_block] == [0, 1]
    assert [entry["logIndex"] for entry in web3.eth.get_transaction_receipt(block["transactions"][0])["logs"]] == [0, 1]


def test_the_small_questions_have_answers(client: ChainClient, web3: Web3) -> None:
    assert web3.net.version == str(client.chain_id)
    assert web3.client_version
    assert web3.eth.syncing is False
    assert web3.eth.gas_price > 0
    assert web3.eth.max_priority_fee > 0
    history = web3.eth.fee_history(3, "latest", [10.0, 50.0])
    assert len(history["baseFeePerGas"]) == len(history["gasUsedRatio"]) + 1
    assert web3.eth.get_code(SOMEBODY) == b""
    slot = web3.eth.get_storage_at(client.contract, 0)
    assert slot[-20:].hex() == client.account[2:].lower()
    for tag in ("latest", "pending", "safe", "finalized", "earliest"):
        assert web3.provider.make_request("eth_getBlockByNumber", [tag, False])["result"]  # type: ignore[arg-type]


def test_what_does_not_exist_is_null(web3: Web3) -> None:
    nothing = "0x" + "ab" * 32
    for method, params in (
        ("eth_getTransactionByHash", [nothing]),
        ("eth_getTransactionReceipt", [nothing]),
        ("eth_getBlockByHash", [nothing, False]),
        ("eth_getBlockByNumber", ["0xffffff", False]),
    ):
        assert web3.provider.make_request(method, params)["result"] is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("eth_sendTransaction", [{}], -32601),
        ("anvil_setBalance", [SOMEBODY, "0x1"], -32601),
        ("nonsense", [], -32601),
        ("eth_getBalance", [], -32602),
        ("eth_getBalance", ["not hex", "latest"], -32602),
        ("eth_getBlockByNumber", ["soon", False], -32602),
        ("eth_sendRawTransaction", [], -32602),
        ("eth_getLogs", [{"blockHash": "0x" + "cd" * 32}], None),
        ("eth_getBalance", [SOMEBODY, "0xffffff"], None),
    ],
)
def test_a_wrong_question_gets_a_clean_error(
    each_chain: EmbeddedChain, method: str, params: list[Any], code: int | None
) -> None:
    answer = post(each_chain, json.dumps({"jsonrpc": "2.0", "id": 5, "method": method, "params": params}).encode())
    assert answer["id"] == 5
    assert answer["error"]["message"]
    assert code is None or answer["error"]["code"] == code


def test_what_is_no_request_gets_a_clean_error(each_chain: EmbeddedChain) -> None:
    assert post(each_chain, b"{nonsense")["error"]["code"] == -32700
    assert post(each_chain, b"42")["error"]["code"] == -32600
    assert post(each_chain, b'{"id": 1, "method": "eth_chainId", "params": {"a": 1}}')["error"]["code"] == -32602
    batch = post(each_chain, b'[{"id": 1, "method": "eth_chainId"}, {"id": 2, "method": "nonsense"}]')
    assert [("result" in each, each["id"]) for each in batch] == [(True, 1), (False, 2)]
    connection = http.client.HTTPConnection("127.0.0.1", each_chain.port, timeout=20)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "99999999")
    connection.endheaders()
    assert connection.getresponse().status == 413
