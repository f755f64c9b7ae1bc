"""The simulated plant, started once: an OPC UA server takes seconds to start, ten times as many under coverage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from energy_cloud_dagster.services.opcua_plant import PlantThread


@pytest.fixture(scope="session")
def plant() -> Iterator[PlantThread]:
    with PlantThread() as started:
        yield started
