"""A real MQTT broker of one machine: mosquitto where it is installed, else iotcore (rumqttd), as a child of ours.

mosquitto keeps what was queued for durable sessions on disk, knows each device (``grant``) and speaks TLS. iotcore
keeps sessions in memory, has no access lists and one credential for all: it is for quick start and development.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from energy_cloud_dagster.adapters.credentials import BrokerEntry, hash_password
from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured
from energy_cloud_dagster.domain.readings.names import ANY_DEVICE_USER, PLATFORM_USER
from energy_cloud_dagster.embedded import broker_log
from energy_cloud_dagster.embedded.broker_access import write_access
from energy_cloud_dagster.embedded.certificates import Certificates, ensure_certificates
from energy_cloud_dagster.embedded.claims import free_port, require_free_port, secret, usable, write_private
from energy_cloud_dagster.embedded.supervise import Child, unprivileged

USERNAME: Final = PLATFORM_USER
MAX_PAYLOAD_BYTES: Final = 1_048_576
START_SECONDS: Final = 30.0
SBIN: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"  # where Debian puts it, outside a user's PATH

# -c and not -m: the package's own server would follow its stdin, ours is /dev/null. -P keeps the folder off the path.
_SERVE = (
    "import sys, logging; logging.basicConfig(level='WARNING'); logging.getLogger('rumqttd').setLevel('CRITICAL'); "
    "from iotcore.iotcore import IotCoreBroker; IotCoreBroker(config_path=sys.argv[1]).run_forever()"
)

_IOTCORE = """\
id = 0

[router]
id = 0
max_connections = 1010
max_outgoing_packet_count = 200
max_segment_size = 10485760
max_segment_count = 5

{servers}"""

_IOTCORE_SERVER: Final = """\
[{version}.1]
name = "{name}"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[{version}.1.connections]
connection_timeout_ms = 60000
max_payload_size = {payload}
max_inflight_count = 200
dynamic_filters = true

[{version}.1.connections.auth]
{username} = "{password}"
{any_device} = "{password}"
"""

# Not 0 for no limit: 2.0.11 then cuts off who is refused a publish, and 2.0.16 delivers nothing.
_MOSQUITTO = """\
listener {port} 127.0.0.1
{tls}allow_anonymous false
password_file {folder}/passwords
acl_file {folder}/acl
persistence true
persistence_location {folder}/
autosave_interval 1
max_queued_messages 1000000000
max_inflight_messages 4000
message_size_limit {payload}
{log}log_timestamp_format %Y-%m-%dT%H:%M:%SZ
{user}"""

# The user name takes the place of whatever client id a device claims: it cannot push another, or a worker of ours, out
# of its session.
_MOSQUITTO_TLS: Final = """\
listener {port} 127.0.0.1
certfile {certificate}
keyfile {key}
tls_version tlsv1.3
use_username_as_clientid true
"""


class EmbeddedBroker:
    """An MQTT 3.1.1 broker on 127.0.0.1 whose configuration, password and state lie under ``folder``."""

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        prefer: Literal["iotcore", "mosquitto"] | None = None,
        *,
        log: Path | None = None,
        mqtts_port: int | None = None,
        mqtt5_port: int | None = None,
        note_refused: bool = False,
    ) -> None:
        """Use ``port`` (None: a free one, chosen at start) and ``prefer`` (None: mosquitto where it is installed).

        ``mqtts_port`` adds a TLS 1.3 listener for devices to mosquitto, ``mqtt5_port`` one for MQTT 5 to iotcore, whose
        other one speaks 3.1.1 alone (mosquitto speaks both on either). With ``note_refused`` mosquitto's refusals to
        publish are noted in ``refused``; that makes it write four log lines a message, for about a fifth more CPU.
        """
        self.folder = folder.absolute()
        self.log = (log or self.folder / "broker.log").absolute()
        self.username = USERNAME
        self._port = port
        self._prefer = prefer
        self._mqtts_port = mqtts_port
        self._mqtt5_port = mqtt5_port
        self._note_refused = note_refused
        self._listening = 0
        self._child: Child | None = None
        self._log_child: Child | None = None
        self._entries: Sequence[BrokerEntry] = ()

    @property
    def kind(self) -> Literal["iotcore", "mosquitto"]:
        """Which broker runs, or would."""
        return self._prefer or ("mosquitto" if find_mosquitto() else "iotcore")

    @property
    def version(self) -> str:
        """Version of that broker; empty when it is not installed."""
        if self.kind == "mosquitto":
            program = find_mosquitto()
            # asks for help, exits with 3
            told = (
                subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout if program else ""
            )
            return told.partition("mosquitto version ")[2].split("\n")[0].strip()
        try:
            return version("iotcore")
        except PackageNotFoundError:
            return ""

    @property
    def pid(self) -> int | None:
        """Process id of the running broker, else None."""
        return self._child.pid if self._child else None

    @property
    def port(self) -> int:
        """Port that it listens on; raises BrokerUnavailable before the first start."""
        if not (self._port or self._listening):
            raise BrokerUnavailable("The embedded broker has no port yet: start it first.")
        return self._port or self._listening

    @property
    def url(self) -> str:
        """Address of the broker: ``mqtt://127.0.0.1:PORT``."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def mqtts_port(self) -> int | None:
        """Port of the TLS listener; None where there is none."""
        return self._mqtts_port if self.kind == "mosquitto" else None

    @property
    def mqtt5_port(self) -> int | None:
        """Port on which MQTT 5 is spoken."""
        return self.port if self.kind == "mosquitto" else self._mqtt5_port

    @property
    def ca(self) -> Path:
        """Certificate authority (PEM) that devices trust to reach the TLS listener."""
        return self.folder / "ca.pem"

    @property
    def refused(self) -> Path | None:
        """File in which refused messages are noted; None where they are not."""
        return self.folder / "refused.jsonl" if self._note_refused and self.kind == "mosquitto" else None

    @property
    def password(self) -> str:
        """Password of ``username``, kept under ``folder``."""
        return secret(self.folder / "password")

    @functools.cached_property
    def _password_hash(self) -> str:
        return hash_password(self.password)

    def start(self) -> None:
        """Start the broker and wait until it lets our user in; does nothing when it runs.

        Raises Misconfigured when no broker is installed or the port is taken, Conflict when another living process
        runs it, BrokerUnavailable with the broker's own words when it does not come up.
        """
        if self.pid is not None:
            return
        with usable("The MQTT broker", self.folder, BrokerUnavailable):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            child = self._mosquitto() if self.kind == "mosquitto" else self._iotcore()
            child.end_predecessor()
            if self._port is None:
                self._listening = free_port()
            require_free_port("The MQTT broker", self.port, "ENERGY_CLOUD_MQTT_PORT")
            if self.mqtts_port is not None:
                require_free_port("The MQTT broker (TLS)", self.mqtts_port, "ENERGY_CLOUD_MQTTS_PORT")
            if self.kind == "iotcore" and self._mqtt5_port is not None:
                require_free_port("The MQTT broker (MQTT 5)", self._mqtt5_port, "ENERGY_CLOUD_MQTT5_PORT")
            self._configure()
            self.tend()
            child.start()
        try:
            child.wait_until_ready(self._lets_us_in, START_SECONDS)
        except BaseException:
            child.stop()
            self._stop_log()
            raise
        self._child = child

    def stop(self) -> None:
        """Stop the broker; mosquitto writes its sessions to disk."""
        if self._child is not None:
            self._child.stop()
            self._child = None
        self._stop_log()

    def grant(self, entries: Sequence[BrokerEntry]) -> bool:
        """Let in just the devices of ``entries`` (and the platform itself); return whether that was a change.

        A running mosquitto applies it at once: it checks every connected client again, cuts off those whose password
        no longer holds, and keeps the others. iotcore knows no devices: nothing happens.
        """
        self.tend()
        if self.kind != "mosquitto":
            return False
        self._entries = tuple(entries)
        changed = write_access(self.folder, self._entries, self.username, self._password_hash)
        if changed:
            self.reload()
        return changed

    def reload(self) -> None:
        """Have a running mosquitto read its password and access files again."""
        if self.kind == "mosquitto" and (pid := self.pid) is not None:
            os.kill(pid, signal.SIGHUP)

    def tend(self) -> None:
        """See to it that the process which reads the broker's log runs, where one is needed."""
        if self.refused is None or (self._log_child is not None and self._log_child.alive):
            return
        argv: list[str | Path] = [sys.executable, "-I", "-S", Path(broker_log.__file__), self._pipe, self.log]
        own_log = self.log.with_name("broker-log.log")
        child = Child("The broker's log", [*argv, self.refused], None, own_log, error=BrokerUnavailable)
        self._log_child = child.start()

    def _stop_log(self) -> None:
        if self._log_child is not None:
            self._log_child.stop()
            self._log_child = None

    @property
    def _pipe(self) -> Path:
        return self.folder / "log.pipe"

    @property
    def _config(self) -> Path:
        return self.folder / ("mosquitto.conf" if self.kind == "mosquitto" else "iotcore.toml")

    def _iotcore(self) -> Child:
        if find_spec("iotcore") is None:
            raise Misconfigured(
                "No MQTT broker is installed: install energy-cloud[embedded] or mosquitto, or name a broker of yours "
                "in ENERGY_CLOUD_MQTT_URL."
            )
        argv: list[str | Path] = [sys.executable, "-P", "-c", _SERVE, self._config]
        return Child("The MQTT broker (iotcore)", argv, None, self.log, cwd=self.folder, error=BrokerUnavailable)

    def _mosquitto(self) -> Child:
        program = find_mosquitto()
        if program is None:
            raise Misconfigured("mosquitto is not installed: install it (apt-get install mosquitto), or use iotcore.")
        return Child(
            "The MQTT broker (mosquitto)",
            [program, "-c", self._config],
            None,
            self.log,
            cwd=self.folder,
            user=self._user(),
            error=BrokerUnavailable,
        )

    def _user(self) -> str:
        # in a user namespace root has no power over the files of others
        return "userns" if unprivileged() == "userns" and self.folder.stat().st_uid == 0 else "-"

    def _configure(self) -> None:
        write_private(self._config, self._mosquitto_text() if self.kind == "mosquitto" else self._iotcore_text())

    def _iotcore_text(self) -> str:
        servers = [("v4", "mqtt-3.1.1", self.port)]
        if self._mqtt5_port is not None:
            servers.append(("v5", "mqtt-5", self._mqtt5_port))
        return _IOTCORE.format(
            servers="\n".join(
                _IOTCORE_SERVER.format(
                    version=version,
                    name=name,
                    port=port,
                    payload=MAX_PAYLOAD_BYTES,
                    username=self.username,
                    any_device=ANY_DEVICE_USER,
                    password=self.password,
                )
                for version, name, port in servers
            )
        )

    def _mosquitto_text(self) -> str:
        write_access(self.folder, self._entries, self.username, self._password_hash)
        tls = ""
        if self.mqtts_port is not None:
            made: Certificates = ensure_certificates(self.folder)
            tls = _MOSQUITTO_TLS.format(port=self.mqtts_port, certificate=made.certificate, key=made.key)
        log = "log_dest stderr\n"
        if self.refused is not None:
            if not self._pipe.is_fifo():
                self._pipe.unlink(missing_ok=True)
                os.mkfifo(self._pipe, 0o600)
            log = f"log_dest file {self._pipe}\nlog_type all\nlog_timestamp false\n"
        # mosquitto would become the user of Debian's service, who may not read our files
        user = "user root\n" if os.geteuid() == 0 and self._user() == "-" else ""
        return _MOSQUITTO.format(
            port=self.port, tls=tls, folder=self.folder, payload=MAX_PAYLOAD_BYTES, log=log, user=user
        )

    def _lets_us_in(self) -> bool:
        """Whether the broker answers an MQTT 3.1.1 CONNECT of our user with code 0: it is ours and it is ready."""
        fields = (f"probe-{os.getpid()}", self.username, self.password)
        payload = b"".join(len(field.encode()).to_bytes(2) + field.encode() for field in fields)
        body = b"\x00\x04MQTT\x04\xc2\x00\x0a" + payload  # user name, password, clean session, keep-alive 10 s
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2.0) as connection:
                connection.sendall(b"\x10" + bytes([len(body)]) + body)
                answer = connection.recv(4)
                connection.sendall(b"\xe0\x00")
        except OSError:
            return False
        return answer == b"\x20\x02\x00\x00"


def find_mosquitto() -> str | None:
    """Return the path of mosquitto, also where it lies outside a user's PATH; None when it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=SBIN)
