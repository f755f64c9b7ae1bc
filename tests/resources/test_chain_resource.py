from __future__ import annotations

import pytest

from energy_cloud_dagster.embedded.chain import EmbeddedChain
from energy_cloud_dagster.resources.chain import Chain


def test_a_batch_is_proved_by_the_contract_that_took_it(chain: EmbeddedChain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contract that is replaced in the settings leaves the proofs of earlier batches as they are."""
    monkeypatch.setenv("ENERGY_CLOUD_CHAIN_RPC_URL", chain.rpc_url)
    monkeypatch.setenv("ENERGY_CLOUD_CHAIN_PRIVATE_KEY", chain.private_key)
    first = Chain().client()
    old, new = first.deploy(), first.deploy()
    assert old != new
    monkeypatch.setenv("ENERGY_CLOUD_CHAIN_CONTRACT", new)
    assert Chain().client().contract == new
    assert Chain().client(old).contract == old
