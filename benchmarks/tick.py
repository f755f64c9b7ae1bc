"""What a run pays before it works: CPU seconds of loading the definitions, as a multiple of a bare `import dagster`.

Each figure is the least of several fresh processes, user and system time together, so that a busy machine or a cold
disk does not count. The ratio travels between machines better than the seconds.

    python benchmarks/tick.py [--repeat 3]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = "import dagster"
DEFINITIONS = "import energy_cloud_dagster.definitions"


def cpu_seconds(code: str, home: Path) -> float:
    """Return the CPU seconds of a fresh interpreter that runs ``code``, its own children included."""
    environment = {**os.environ, "ENERGY_CLOUD_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=home, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU seconds of loading the definitions.")
    parser.add_argument("--repeat", type=int, default=3, help="Processes for each figure; the least counts.")
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory(prefix="ec-") as folder:
        home = Path(folder)
        first = cpu_seconds(DEFINITIONS, home)  # parses the dbt project, which later loads find parsed
        bare = min(cpu_seconds(BARE, home) for _ in range(repeat))
        warm = min(cpu_seconds(DEFINITIONS, home) for _ in range(repeat))
    print("Start-up of a run, CPU seconds")
    print(f"  import dagster                  {bare:6.2f}")
    print(f"  load the definitions            {warm:6.2f}   {warm / bare:.2f} times the bare import")
    print(f"  the first time (dbt is parsed)  {first:6.2f}   {first / bare:.2f} times")


if __name__ == "__main__":
    main()
