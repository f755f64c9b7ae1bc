"""``python -m energy_cloud_dagster.contracts.build`` compiles ``EnergyExchange.vy`` into the committed artefact.

Vyper is a development dependency; a test compiles again and compares.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from energy_cloud_dagster.contracts import ARTIFACT, SOURCE


def compile_exchange() -> dict[str, Any]:
    """Return the artefact of the present source as it is written to JSON."""
    import vyper
    from vyper.compiler import compile_code

    source = SOURCE.read_text(encoding="utf-8")
    output = compile_code(source, output_formats=["abi", "bytecode"])
    pragma = next(line for line in source.splitlines() if line.startswith("# pragma evm-version"))
    return {
        "name": SOURCE.stem,
        "compiler": f"vyper {vyper.__version__}",
        "evm_version": pragma.split()[-1],
        "abi": output["abi"],
        "bytecode": output["bytecode"],
    }


def main() -> int:
    """Write the artefact and return the exit status."""
    artifact = compile_exchange()
    ARTIFACT.write_text(json.dumps(artifact, indent=1) + "\n", encoding="utf-8")
    size = len(artifact["bytecode"]) // 2 - 1
    sys.stdout.write(f"{ARTIFACT.name}: {len(artifact['abi'])} ABI entries, {size} bytes of bytecode\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
