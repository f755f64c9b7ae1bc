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
        """Return a client; ``contract`` is the known address, that of the settings comes first."""
        from energy_cloud_dagster.adapters.chain import ChainClient

        settings = load_settings()
        return ChainClient(
            settings.chain_rpc_url,
            settings.chain_private_key.get_secret_value(),
            settings.chain_contract or contract,
            settings.chain_confirmations,
        )
