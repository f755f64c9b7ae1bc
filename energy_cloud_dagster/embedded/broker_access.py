"""Who may do what at mosquitto: its password and access files, written from the registry and kept in step with it.

A device logs in with its id and its newest token, writes below its own id and reads its own commands. A change of a
credential reaches a running broker within seconds: ``BrokerAccess`` hears it, writes the files and has them read again.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from energy_cloud_dagster.adapters import credentials, readings
from energy_cloud_dagster.adapters.credentials import BrokerEntry
from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.domain.readings import RejectRow
from energy_cloud_dagster.domain.readings.names import topic_safe
from energy_cloud_dagster.embedded.broker_log import take_refused
from energy_cloud_dagster.embedded.claims import write_private

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy as sa

log = structlog.get_logger()

PASSWORDS: Final = "passwords"
ACL: Final = "acl"
#: Up to here each device has a section of its own, which lets it read its commands and not write them. mosquitto
#: compares every section with every other when it reads the file: 0.2 s for 5,000 of them, 2.3 s for 20,000.
MOST_SECTIONS: Final = 5_000
#: A change that was not heard is found after so many seconds.
POLL_SECONDS: Final = 2.0
#: Changes that follow each other are one reload: each makes mosquitto check all connected clients again.
SETTLE_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 2.0
REFUSED: Final = "not_authorised"
_MOST_REFUSED: Final = 100
_STEP_SECONDS: Final = 0.25
_JOIN_SECONDS: Final = 5.0

# A reload takes the access of sessions that came back from disk and did not connect since, and what is published
# then would be lost to them. The platform's own keep it through the first pattern, for its user has the name of the
# first level; to a device it opens a tree that nobody writes to.
_BY_PATTERN: Final = """\
pattern read %u/+/+/+/+
pattern write energy-cloud/+/+/%u/+
pattern read energy-cloud/+/+/%u/command
pattern read energy-cloud/+/+/%u/config
"""
# Denials come first whatever the order here, and deny reading too: what is allowed stands in the device's section,
# which comes before the patterns.
_BY_SECTION: Final = """\
pattern read %u/+/+/+/+
pattern deny energy-cloud/+/+/%u/command
pattern deny energy-cloud/+/+/%u/config
pattern write energy-cloud/+/+/%u/+
"""
_SECTION: Final = """
user {device_id}
topic read energy-cloud/+/+/{device_id}/command
topic read energy-cloud/+/+/{device_id}/config
"""


def password_file(platform_user: str, platform_hash: str, entries: Sequence[BrokerEntry]) -> str:
    """Return mosquitto's password file: the platform's own user, and each device with its newest token's hash."""
    lines = [f"{platform_user}:{platform_hash}"]
    lines += [f"{entry.device_id}:{entry.token_hash}" for entry in _usable(platform_user, entries)]
    return "\n".join(lines) + "\n"


def acl_file(platform_user: str, entries: Sequence[BrokerEntry], *, most_sections: int = MOST_SECTIONS) -> str:
    """Return mosquitto's access file: all to the platform's user, its own topics to each device, nothing to others.

    Region and type are left open, for the workers check them against the registry; the id is fixed. ``command`` and
    ``config`` are the cloud's to write. With more than ``most_sections`` devices a device may write to these two below
    its own id: only itself would hear it.
    """
    platform = f"user {platform_user}\ntopic readwrite #\n"
    usable = list(_usable(platform_user, entries))
    if len(usable) > most_sections:
        return f"{platform}\n{_BY_PATTERN}"
    sections = "".join(_SECTION.format(device_id=entry.device_id) for entry in usable)
    return f"{platform}{sections}\n{_BY_SECTION}"


_PRODUCTION: Final = """\
# For mosquitto 2; written by `energy-cloud device broker-files`. Read it with `include_dir {folder}`.
# After each change of a credential write the files again and send SIGHUP (`systemctl reload mosquitto`): clients whose
# password still holds stay connected.

# Devices. The user name takes the place of the client id that a device claims, so that it cannot push another client
# out of its session.
listener 8883
certfile {folder}/server.pem
keyfile {folder}/server.key
tls_version tlsv1.3
use_username_as_clientid true

# The platform's own clients: ENERGY_CLOUD_MQTT_URL=mqtt://127.0.0.1:1883. Keep this listener where devices cannot reach
# it; across machines give it TLS as well, without use_username_as_clientid.
listener 1883 127.0.0.1

allow_anonymous false
password_file {folder}/passwords
acl_file {folder}/acl

persistence true
max_queued_messages 1000000000
max_inflight_messages 4000
message_size_limit 1048576

# Who publishes under another's name is refused either way, and an MQTT 5 device is told (reason 0x87). These lines log
# it, among four lines for every message.
#log_type all
#log_timestamp false
#log_dest syslog
"""


def write_production(
    folder: Path, entries: Sequence[BrokerEntry], platform_user: str, platform_hash: str
) -> tuple[Path, ...]:
    """Write password file, access list and a ``mosquitto.conf`` for a broker of one's own; return their paths.

    A ``mosquitto.conf`` that is there already stays as it is: it may have been changed by hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_access(folder, entries, platform_user, platform_hash)
    config = folder / "mosquitto.conf"
    if not config.exists():
        write_private(config, _PRODUCTION.format(folder=folder))
    return folder / PASSWORDS, folder / ACL, config


def write_access(folder: Path, entries: Sequence[BrokerEntry], platform_user: str, platform_hash: str) -> bool:
    """Write both files to ``folder`` (mode 0600, each whole or not at all); return whether anything changed."""
    changed = False
    for name, text in (
        (PASSWORDS, password_file(platform_user, platform_hash, entries)),
        (ACL, acl_file(platform_user, entries)),
    ):
        path = folder / name
        if not path.exists() or path.read_text() != text:
            write_private(path, text)
            changed = True
    return changed


def _usable(platform_user: str, entries: Sequence[BrokerEntry]) -> Iterator[BrokerEntry]:
    # an id that cannot stand in these files would change what other lines mean
    return (entry for entry in entries if topic_safe(entry.device_id) and entry.device_id != platform_user)


class BrokerAccess:
    """Context manager: a thread that keeps a broker's access in step with the credentials in the database.

    ``apply`` is given the entries at the start and after each change; it returns whether the broker had to be told.
    ``refused`` is the file in which the broker's log notes refused messages (None: it does not): they are logged and
    kept in ``raw.rejected``. A database that does not answer is waited for; what the broker knows stays meanwhile.
    """

    def __init__(
        self, database_url: str, apply: Callable[[Sequence[BrokerEntry]], bool], *, refused: Path | None = None
    ) -> None:
        self._url = database_url
        self._apply = apply
        self._refused = refused
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker-access", daemon=True)
        self.applied = threading.Event()
        """Set once the broker has been told for the first time."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        import psycopg

        from energy_cloud_dagster.adapters.database import make_engine

        try:
            engine = make_engine(self._url, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
        except EnergyCloudError as error:
            log.warning("broker_access_off", reason=str(error))
            return
        failed = False
        while not self._stop.is_set():
            try:
                with engine.connect() as connection:
                    failed = failed and self._resumed()
                    self._follow(connection)
            except Exception as error:  # noqa: BLE001 - the broker goes on with what it knows; say it once
                # at the first start the tables come a moment later
                if not failed and not isinstance(getattr(error, "orig", None), psycopg.errors.UndefinedTable):
                    log.warning("broker_access_waits", reason=" ".join(str(error).split())[:300])
                    failed = True
                self._stop.wait(RETRY_SECONDS)
        engine.dispose()

    def _resumed(self) -> bool:
        log.info("broker_access_resumed")
        return False

    def _follow(self, connection: sa.Connection) -> None:
        """Tell the broker of every change until the end, or until the database is gone."""
        from energy_cloud_dagster.adapters.database import driver

        own = driver(connection)
        own.execute(f"listen {credentials.CHANNEL}")
        while not self._stop.is_set():
            entries = credentials.broker_entries(connection, datetime.now(UTC))
            if self._apply(entries):
                log.info("broker_access_changed", devices=len(entries))
            self.applied.set()
            self._keep_refused(connection)
            if self._heard(own):
                self._stop.wait(SETTLE_SECONDS)

    def _heard(self, own: psycopg.Connection) -> bool:
        """Wait for a change, ``POLL_SECONDS`` at most; return whether one was heard."""
        # in short steps, for the end of this thread is waited for
        for _ in range(int(POLL_SECONDS / _STEP_SECONDS)):
            if any(True for _ in own.notifies(timeout=_STEP_SECONDS, stop_after=1)):
                return True
            if self._stop.is_set():
                break
        return False

    def _keep_refused(self, connection: sa.Connection) -> None:
        if self._refused is None:
            return
        noted = take_refused(self._refused)
        rows = []
        for one in noted[:_MOST_REFUSED]:
            log.warning("publish_refused", **one)
            rows.append(_reject_row(one))
        if len(noted) > _MOST_REFUSED:
            log.warning("publish_refused_more", entries=len(noted) - _MOST_REFUSED)
        readings.reject(connection, rows)


def _reject_row(noted: dict[str, Any]) -> RejectRow:
    received_at = datetime.now(UTC)
    with contextlib.suppress(ValueError):
        received_at = datetime.fromisoformat(noted["at"])
    detail = (
        f"{noted['user'] or 'client ' + noted['client']} may not write here; the broker refused "
        f"{noted['messages']} message(s) and kept no payload"
    )
    return RejectRow(received_at, "mqtt", noted["topic"], json.dumps(noted).encode(), REFUSED, detail)
