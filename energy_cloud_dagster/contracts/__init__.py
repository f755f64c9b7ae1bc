"""The contracts of the platform, as committed artefacts: running needs no compiler.

``EnergyExchange.json`` is made from ``EnergyExchange.vy`` by ``python -m energy_cloud_dagster.contracts.build``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

SOURCE: Final = Path(__file__).with_name("EnergyExchange.vy")
ARTIFACT: Final = SOURCE.with_suffix(".json")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract: its name, ABI entries, creation bytecode (0x and hex digits) and compiler."""

    name: str
    abi: tuple[dict[str, Any], ...]
    bytecode: str
    compiler: str
    evm_version: str


@cache
def load() -> Artifact:
    """Return the committed artefact of ``EnergyExchange``."""
    fields = json.loads(ARTIFACT.read_text(encoding="utf-8"))
    return Artifact(**{**fields, "abi": tuple(fields["abi"])})
