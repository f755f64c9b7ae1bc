"""The chain that settles, as a Dagster resource."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.chain import ChainClient


class Chain(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A client of the EVM node that the settings name (``ENERGY_CLOUD_CHAIN_RPC_URL`` and the key)."""

    def client(self, contract: str = "") -> ChainClient:
        """Return a client of ``contract``, a batch's own; empty: that of the settings, else found or deployed."""
        from energy_cloud_dagster.adapters.chain import ChainClient

        settings = load_settings()
        return ChainClient(
            settings.chain_rpc_url,
            settings.chain_private_key.get_secret_value(),
            contract or settings.chain_contract,
            settings.chain_confirmations,
        )
