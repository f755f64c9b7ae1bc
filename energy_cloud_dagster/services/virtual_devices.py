"""The devices of the sample community that obey: batteries follow setpoints, generators are curtailed.

A device judges each command and answers ``accepted`` and then ``done``, or ``rejected`` with its reason; a command that
comes again is answered again and not carried out twice. From then on its interval readings are those of a device under
command; a device that nobody commanded says what it always said.

While it is under command (and always, once it was configured with ``reportSeconds``) a device also reports its present
state every few seconds: ``power`` in kW, and a battery its ``soc``. Both are states, which take any instant; the
series that are settled (``output``, ``generation``) keep to their intervals.

What was asked of the devices is kept in a JSON file that is replaced as a whole before anything is answered: a fleet
that is started again goes on as if its devices had never stopped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from energy_cloud_dagster.domain.errors import InvalidInput, Misconfigured
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services import orders
from energy_cloud_dagster.services.simulator import Message
from energy_cloud_dagster.services.virtual_device import BatteryDevice, GeneratorDevice, VirtualDevice

log = structlog.get_logger()

#: How often a device that is under command reports its state.
REPORT_SECONDS: Final = 2.0
#: Last level of the topics that a device listens to.
LISTENS_TO: Final = ("command", "config")


class VirtualDevices:
    """Every device of a community that obeys; safe to use from several threads.

    ``path`` keeps what was asked of them (None: nothing is kept). ``tokens`` are the devices' own, where they have
    some: their configurations must then be signed.
    """

    def __init__(
        self, community: plain.Community, path: Path | None = None, tokens: Mapping[str, str] | None = None
    ) -> None:
        self._path = path
        self._tokens = dict(tokens or {})
        self._lock = threading.RLock()
        self._devices = {each.device.device_id: each for each in _obeying(community)}
        self._restore()

    def topics(self) -> list[str]:
        """Return the topics that the devices listen to."""
        return [f"{_topic(each.device)}/{last}" for each in self._devices.values() for last in LISTENS_TO]

    def heard(self, topic: str, payload: bytes, now: datetime) -> Iterator[tuple[str, bytes]]:
        """Obey one message at ``now`` and yield the answers as (topic, payload).

        What was asked is on the disk before the first answer. Messages that name nothing to answer to, and topics of
        other devices, come to nothing.
        """
        device_id, _, last = topic.rpartition("/")[0].rpartition("/")[2], *topic.rpartition("/")[1:]
        device, document = self._devices.get(device_id), orders.document_of(payload)
        if device is None or document is None or last not in LISTENS_TO:
            log.warning("order_ignored", topic=topic, bytes=len(payload))
            return
        with self._lock:
            answers = (self._commanded if last == "command" else self._configured)(device, document, now)
        for answer in answers:
            log.info("order_answered", device_id=device_id, **answer)
            yield f"{_topic(device.device)}/ack", json.dumps(answer, ensure_ascii=False).encode()

    def altered(self, message: Message) -> Message:
        """Return what a device says of an interval that it spent, in part at least, under command."""
        device = self._devices.get(message.device_id)
        if device is None or not device.changes:
            return message
        with self._lock:
            return device.altered(message)

    def reporting(self, now: datetime) -> dict[str, float]:
        """Return the devices that report their state at ``now``, with how many seconds lie between two reports."""
        with self._lock:
            return {
                name: device.report_seconds or REPORT_SECONDS
                for name, device in self._devices.items()
                if device.report_seconds or device.is_commanded(now)
            }

    def report(self, device_id: str, now: datetime) -> list[Message]:
        """Return what a device says of its state at ``now``."""
        with self._lock:
            device = self._devices[device_id]
            moment = now.replace(microsecond=now.microsecond // 1_000 * 1_000)
            return [device.message(metric, moment, value) for metric, value in device.state(now).items()]

    def forget(self, delivered: Callable[[plain.Protocol], datetime]) -> None:
        """Forget what no reading needs any more, where everything up to ``delivered(protocol)`` was delivered."""
        with self._lock:
            shortened = [device.forget(delivered(device.device.protocol)) for device in self._devices.values()]
            if any(shortened):
                self._keep()

    def _commanded(self, device: VirtualDevice, document: Mapping[str, Any], now: datetime) -> list[dict[str, Any]]:
        command_id = orders.command_id_of(document)
        if command_id is None:
            log.warning("command_without_id", device_id=device.device.device_id)
            return []
        if command_id not in device.answered:
            try:
                device.obey(orders.judged(document, device.limits, now), now)
                device.answer(command_id, None)
            except InvalidInput as error:
                device.answer(command_id, str(error))
            self._keep()
        reason = device.answered[command_id]
        if reason is not None:
            return [{"commandId": command_id, "state": "rejected", "reason": reason}]
        return [{"commandId": command_id, "state": state} for state in ("accepted", "done")]

    def _configured(self, device: VirtualDevice, document: Mapping[str, Any], _now: datetime) -> list[dict[str, Any]]:
        version = orders.version_of(document)
        if version is None:
            log.warning("config_without_version", device_id=device.device.device_id)
            return []
        try:
            settings, unknown = orders.judged_settings(
                document, device.version, self._tokens.get(device.device.device_id)
            )
        except InvalidInput as error:
            return [{"version": version, "state": "rejected", "reason": str(error)}]
        if version > device.version:
            device.configure(version, settings)
            self._keep()
        ignored = {"reason": f"unknown settings were ignored: {', '.join(unknown)}"[:500]} if unknown else {}
        return [{"version": version, "state": "accepted"}, {"version": version, "state": "done", **ignored}]

    def _keep(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({name: device.kept() for name, device in self._devices.items() if device.kept()}))
        fresh.replace(self._path)

    def _restore(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            for name, kept in json.loads(self._path.read_text()).items():
                # A device may have left the community since.
                if name in self._devices:
                    self._devices[name].restore(kept)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Misconfigured(
                f"{self._path} is no state of simulated devices ({error!r}); delete it to release them all"
            ) from None


def _topic(device: plain.Device) -> str:
    return f"energy-cloud/{device.region_id}/{device.device_type}/{device.device_id}"


def _obeying(community: plain.Community) -> Iterator[VirtualDevice]:
    resources = {each.device_id: each for vpp in community.vpps for each in vpp.resources}
    for device in community.devices:
        resource = resources.get(device.device_id)
        if device.device_type == "battery" and resource is not None:
            yield BatteryDevice(device, resource)
        elif device.device_type in plain.OBEYING - {"battery"}:
            yield GeneratorDevice(device, None if resource is None else resource.capacity_kw)
