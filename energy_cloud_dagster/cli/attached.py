"""The running platform of a home, or its parts started for the length of one command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from energy_cloud_dagster.domain.errors import Conflict
from energy_cloud_dagster.embedded.claims import FolderLock
from energy_cloud_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

_FILE: Final = "running.json"
#: What another command needs to reach the parts; nothing else of the settings is written down.
_FIELDS: Final = (
    "database_url",
    "dagster_database_url",
    "mqtt_url",
    "mqtt_username",
    "mqtt_password",
    "chain_rpc_url",
    "chain_private_key",
)


def remember(settings: Settings) -> Path:
    """Write down, for this user only, how other commands reach the parts that run under ``settings.home``."""
    from energy_cloud_dagster.embedded.parts import child_environment

    everything = child_environment(settings)
    found = {name: everything[f"ENERGY_CLOUD_{name.upper()}"] for name in _FIELDS}
    path = settings.home / _FILE
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(json.dumps(found))
    return path


@contextmanager
def attached() -> Iterator[Settings]:
    """Yield settings whose parts answer: those that run under the home already, else started until the block ends."""
    from energy_cloud_dagster.cli import logs
    from energy_cloud_dagster.cli.bringup import running

    given = load_settings()
    logs.configure(given, quiet=True)
    if _free(given):
        with running(given) as (settings, _):
            yield settings
        return
    found = of_running(given)
    if found is None:
        raise Conflict(f"another process holds {given.home}; wait for it to end, or name the parts by their URLs")
    yield found


def of_running(given: Settings) -> Settings | None:
    """Return ``given`` with what it leaves open as the platform that runs under its home has it; None without one."""
    path = given.home.absolute() / _FILE
    if not path.exists():
        return None
    known = json.loads(path.read_text())
    missing = {name: value for name, value in known.items() if not _plain(getattr(given, name))}
    return load_settings(**missing, home=given.home.absolute())


def _free(given: Settings) -> bool:
    try:
        with FolderLock(given.home.absolute()):
            return True
    except Conflict:
        return False


def _plain(value: object) -> str:
    reveal = getattr(value, "get_secret_value", None)
    return str(reveal()) if reveal else str(value)
