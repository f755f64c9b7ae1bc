"""Bringing the platform up on one machine: what `demo` and `up` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from energy_cloud_dagster.adapters import accounts, readings, registry
from energy_cloud_dagster.adapters.chain_types import participant_account
from energy_cloud_dagster.adapters.database import make_engine, upgrade
from energy_cloud_dagster.embedded.dagster_home import write_dagster_home
from energy_cloud_dagster.embedded.parts import EmbeddedParts, child_environment
from energy_cloud_dagster.embedded.supervise import Child
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
from energy_cloud_dagster.services.simulator import history_rows
from energy_cloud_dagster.settings import Settings

#: The sample community's ids, accounts and salts derive from it, so that two demos agree. It guards nothing.
DEMO_KEY: Final = "energy-cloud-sample-community"
HISTORY: Final = timedelta(weeks=8)
_HISTORY_CHUNK: Final = timedelta(days=7)
#: Beside ``admin``, an account for each of the other roles: name, role, participant. A device's name is its id.
SAMPLE_ACCOUNTS: Final = (
    ("operator", "operator", None),
    ("trader", "trader", "HOME-01"),
    ("auditor", "auditor", None),
    ("viewer", "viewer", "HOME-02"),
    ("SM-001", "device", None),
)


def prepare(settings: Settings, now: datetime) -> dict[str, str]:
    """Migrate the database, seed the sample community and an account for each role.

    Returns the passwords that were generated for new accounts, by account, to be shown once; they are kept nowhere.
    """
    url = settings.database_url.get_secret_value()
    upgrade(url)
    engine = make_engine(url, pool_size=1)
    try:
        with engine.begin() as connection:
            registry.seed(
                connection,
                SEOUL_COMMUNITY,
                now,
                account_of=lambda participant: participant_account(DEMO_KEY, participant),
                demo_key=DEMO_KEY,
            )
            made = {"admin": accounts.bootstrap_admin(connection, settings.admin_password.get_secret_value())}
            for name, role, participant in SAMPLE_ACCOUNTS:
                made[name] = accounts.ensure(connection, name, "", role, participant_id=participant)
            return {name: password for name, password in made.items() if password is not None}
    finally:
        engine.dispose()


def load_history(settings: Settings, start: datetime, end: datetime, progress: Callable[[int], None]) -> int:
    """Store the sample's readings of ``[start, end)`` in bulk, received when they would have been; return how many."""
    engine = make_engine(settings.database_url.get_secret_value(), pool_size=1)
    stored = days = 0
    try:
        with engine.begin() as connection:
            ids = readings.series_ids(connection)
        first = start
        while first < end:
            last = min(first + _HISTORY_CHUNK, end)
            with engine.begin() as connection:
                stored += readings.store(connection, history_rows(ids, first, last)).inserted
            first = last
            days += _HISTORY_CHUNK.days
            progress(days)
    finally:
        engine.dispose()
    return stored


def use(settings: Settings) -> Path:
    """Make ``settings`` those of this process and of its children, Dagster's among them; return DAGSTER_HOME."""
    os.environ.update(child_environment(settings))
    os.environ["DAGSTER_HOME"] = str(
        write_dagster_home(settings.home, settings.dagster_database_url.get_secret_value())
    )
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
    return Path(os.environ["DAGSTER_HOME"])


def command(name: str, settings: Settings, *arguments: str, log: str = "", **variables: str) -> Child:
    """Return one of this program's own commands as a supervised child; ``log`` names it where there are several."""
    level = "debug" if settings.log_level == "debug" else "info"
    return Child(
        log or name,
        [sys.executable, "-m", "energy_cloud_dagster.cli", name, *arguments],
        # readiness is read from the log: a higher level would hide it
        env={**os.environ, **child_environment(settings), "ENERGY_CLOUD_LOG_LEVEL": level, **variables},
        log=settings.home / "logs" / f"{log or name}.log",
    )


@contextmanager
def running(settings: Settings) -> Iterator[tuple[Settings, EmbeddedParts]]:
    """Start the embedded parts that the settings leave open; yield complete settings and what runs."""
    parts = EmbeddedParts(settings)
    with parts as complete:
        use(complete)
        yield complete, parts


def module(name: str, settings: Settings, program: str, *arguments: str) -> Child:
    """Return ``python -m program`` as a supervised child."""
    return Child(
        name,
        [sys.executable, "-m", program, *arguments],
        env={**os.environ, **child_environment(settings)},
        log=settings.home / "logs" / f"{name}.log",
        cwd=settings.home,
    )


def plant_port(settings: Settings) -> int:
    """Return the port of the simulated SCADA server: the fifth from the port base, else OPC UA's own."""
    return 4840 if settings.port_base is None else settings.port_base + 4


def code_port(settings: Settings) -> int:
    """Return the port of Dagster's code server: the sixth from the port base."""
    return 4266 if settings.port_base is None else settings.port_base + 5


def write_workspace(settings: Settings, port: int) -> Path:
    """Write the workspace that points webserver and daemon at the one code server, and return it."""
    path = settings.home / "dagster" / "workspace.yaml"
    path.write_text(f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: energy_cloud}}\n")
    return path
