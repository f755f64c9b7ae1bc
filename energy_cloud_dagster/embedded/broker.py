"""A real MQTT broker of one machine: mosquitto where it is installed, else iotcore (rumqttd), as a child of ours.

iotcore keeps sessions in memory and has no access lists: it is for quick start and development. mosquitto keeps what
was queued for durable sessions on disk.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured
from energy_cloud_dagster.embedded.claims import free_port, require_free_port, secret, usable, write_private
from energy_cloud_dagster.embedded.supervise import Child, unprivileged

USERNAME: Final = "energy-cloud"
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

[v4.1]
name = "mqtt-3.1.1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = {payload}
max_inflight_count = 200
dynamic_filters = true

[v4.1.connections.auth]
{username} = "{password}"
"""

_MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous false
password_file {folder}/passwords
persistence true
persistence_location {folder}/
autosave_interval 1
max_queued_messages 0
max_inflight_messages 1000
message_size_limit {payload}
log_dest stderr
log_timestamp_format %Y-%m-%dT%H:%M:%SZ
{user}"""


class EmbeddedBroker:
    """An MQTT 3.1.1 broker on 127.0.0.1 whose configuration, password and state lie under ``folder``."""

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        prefer: Literal["iotcore", "mosquitto"] | None = None,
        *,
        log: Path | None = None,
    ) -> None:
        """Use ``port`` (None: a free one, chosen at start) and ``prefer`` (None: mosquitto where it is installed)."""
        self.folder = folder.absolute()
        self.log = (log or self.folder / "broker.log").absolute()
        self.username = USERNAME
        self._port = port
        self._prefer = prefer
        self._listening = 0
        self._child: Child | None = None

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
    def password(self) -> str:
        """Password of ``username``, kept under ``folder``."""
        return secret(self.folder / "password")

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
            self._configure()
            child.start()
        try:
            child.wait_until_ready(self._lets_us_in, START_SECONDS)
        except BaseException:
            child.stop()
            raise
        self._child = child

    def stop(self) -> None:
        """Stop the broker; mosquitto writes its sessions to disk."""
        if self._child is not None:
            self._child.stop()
            self._child = None

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
        password = self.password
        if self.kind == "iotcore":
            text = _IOTCORE.format(port=self.port, payload=MAX_PAYLOAD_BYTES, username=self.username, password=password)
        else:
            write_private(self.folder / "passwords", f"{self.username}:{_mosquitto_hash(password)}\n")
            # mosquitto would become the user of Debian's service, who may not read our files
            user = "user root\n" if os.geteuid() == 0 and self._user() == "-" else ""
            text = _MOSQUITTO.format(port=self.port, folder=self.folder, payload=MAX_PAYLOAD_BYTES, user=user)
        write_private(self._config, text)

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


def _mosquitto_hash(password: str) -> str:
    """Return what ``mosquitto_passwd`` would write: PBKDF2-SHA512, 101 rounds, 12 bytes of salt."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101, 64)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
