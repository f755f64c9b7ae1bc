"""The devices of the sample community that obey: batteries follow setpoints, generators are curtailed.

A device judges each command and answers ``accepted`` and then ``done``, or ``rejected`` with its reason; a command that
comes again is answered again and not carried out twice. From then on its interval readings are those of a device under
command; a device that nobody commanded says what it always said.

While it is under command (and always, once it was configured with ``reportSeconds``) a device also reports its present
state every few seconds: ``power`` in kW, and a battery its ``soc``. Both are states, which take any instant; the
series that are settled (``output``, ``generation``) keep to their intervals.

A setpoint holds until its ``validUntil``: then the device goes back to what it does by itself, whoever is silent.

What was asked of the devices is kept in a JSON file that is replaced as a whole before anything is answered: a fleet
that is started again goes on as if its devices had never stopped.

Beside the community's it plays the devices of resources that were made without one (``virtual_resources``), which come
and go while it runs.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from energy_cloud_dagster.adapters.played import Played
from energy_cloud_dagster.domain.errors import InvalidInput, Misconfigured
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services import orders
from energy_cloud_dagster.services.simulator import Message
from energy_cloud_dagster.services.virtual_device import BatteryDevice, GeneratorDevice, VirtualDevice
from energy_cloud_dagster.services.virtual_resources import device_for

log = structlog.get_logger()

#: How often a device that is under command reports its state.
REPORT_SECONDS: Final = 2.0
#: How often a device of a resource reports its state while nobody commands it.
IDLE_SECONDS: Final = 60.0
#: Reports a second of all devices together: many devices under command report less often each.
_MOST_REPORTS: Final = 1_000.0
#: Last level of the topics that a device listens to.
LISTENS_TO: Final = ("command", "config")
#: Before it is asked again whether a device is played that was not.
_UNKNOWN_SECONDS: Final = 5.0


class VirtualDevices:
    """Every device of a community that obeys; safe to use from several threads.

    ``path`` keeps what was asked of them (None: nothing is kept). ``tokens`` are the devices' own, where they have
    some: their configurations must then be signed. ``registry`` says which resources are played besides, None where
    that is not known now.
    """

    def __init__(
        self,
        community: plain.Community,
        path: Path | None = None,
        tokens: Mapping[str, str] | None = None,
        *,
        registry: Callable[[], Sequence[Played] | None] | None = None,
    ) -> None:
        self._path = path
        self._tokens = dict(tokens or {})
        self._registry = registry
        self._lock = threading.RLock()
        self._devices = {each.device.device_id: each for each in _obeying(community)}
        self._of_resources: dict[str, Played] = {}
        self._unknown: dict[str, float] = {}
        #: Of devices that are not played now.
        self._kept: dict[str, Any] = {}
        self._changed = False
        self._restore()

    def topics(self) -> list[str]:
        """Return the topics that the devices listen to: everybody's where resources come and go."""
        if self._registry is not None:
            return [f"energy-cloud/+/+/+/{last}" for last in LISTENS_TO]
        return [f"{_topic(each.device)}/{last}" for each in self._devices.values() for last in LISTENS_TO]

    def look(self) -> None:
        """Ask the registry which resources are played from now on."""
        found = None if self._registry is None else self._registry()
        if found is None:
            return
        with self._lock:
            wanted = {each.device_id: each for each in found}
            gone = [name for name in self._of_resources if name not in wanted]
            fresh = [
                each
                for name, each in wanted.items()
                if self._of_resources.get(name) != each and (name in self._of_resources or name not in self._devices)
            ]
            for name in [*gone, *(each.device_id for each in fresh if each.device_id in self._of_resources)]:
                self._kept[name] = self._devices.pop(name).kept()
                del self._of_resources[name]
            for each in fresh:
                self._take_over(each.device_id, device_for(each), self._kept.pop(each.device_id, None))
                self._of_resources[each.device_id] = each
                self._unknown.pop(each.device_id, None)
        if gone or fresh:
            log.info("devices_played", resources=len(self._of_resources), new=len(fresh), gone=len(gone))

    def heard(self, topic: str, payload: bytes, now: datetime) -> list[tuple[str, bytes]]:
        """Obey one message at ``now``; see ``heard_all``."""
        return self.heard_all([(topic, payload)], now)

    def heard_all(self, messages: Iterable[tuple[str, bytes]], now: datetime) -> list[tuple[str, bytes]]:
        """Obey messages at ``now`` and return the answers as (topic, payload).

        What was asked is on the disk by then. Messages that name nothing to answer to, and topics of other devices,
        come to nothing.
        """
        answers: list[tuple[str, bytes]] = []
        with self._lock:
            for topic, payload in messages:
                before, _, last = topic.rpartition("/")
                device = self._device(before.rpartition("/")[2]) if last in LISTENS_TO else None
                document = orders.document_of(payload)
                if device is None or document is None:
                    tell = log.debug if device is None and self._registry is not None else log.warning
                    tell("order_ignored", topic=topic, bytes=len(payload))
                    continue
                for answer in (self._commanded if last == "command" else self._configured)(device, document, now):
                    log.info("order_answered", device_id=device.device.device_id, **answer)
                    answers.append((f"{_topic(device.device)}/ack", json.dumps(answer, ensure_ascii=False).encode()))
            if self._changed:
                self._keep()
        return answers

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
            commanded = {name for name, device in self._devices.items() if device.is_commanded(now)}
            often = max(REPORT_SECONDS, len(commanded) / _MOST_REPORTS)
            return {
                name: device.report_seconds or (often if name in commanded else IDLE_SECONDS)
                for name, device in self._devices.items()
                if device.report_seconds or name in commanded or name in self._of_resources
            }

    def report(self, device_id: str, now: datetime) -> list[Message]:
        """Return what a device says of its state at ``now``; nothing of one that is gone."""
        with self._lock:
            device = self._devices.get(device_id)
            if device is None:
                return []
            moment = now.replace(microsecond=now.microsecond // 1_000 * 1_000)
            return [device.message(metric, moment, value) for metric, value in device.state(now).items()]

    def forget(self, delivered: Callable[[plain.Protocol], datetime]) -> None:
        """Forget what no reading needs any more, where everything up to ``delivered(protocol)`` was delivered."""
        with self._lock:
            shortened = [device.forget(delivered(device.device.protocol)) for device in self._devices.values()]
            if any(shortened):
                self._keep()

    def _device(self, device_id: str) -> VirtualDevice | None:
        """Return the device, after a look at the registry where it may be new."""
        found = self._devices.get(device_id)
        if found is not None or self._registry is None:
            return found
        asked = self._unknown.get(device_id)
        if asked is None or time.monotonic() - asked > _UNKNOWN_SECONDS:
            self._unknown[device_id] = time.monotonic()
            self.look()
        return self._devices.get(device_id)

    def _commanded(self, device: VirtualDevice, document: Mapping[str, Any], now: datetime) -> list[dict[str, Any]]:
        command_id = orders.command_id_of(document)
        if command_id is None:
            log.warning("command_without_id", device_id=device.device.device_id)
            return []
        if command_id not in device.answered:
            try:
                device.obey(orders.judged(document, device.limits, now), now, orders.valid_until(document))
                device.answer(command_id, None)
            except InvalidInput as error:
                device.answer(command_id, str(error))
            self._changed = True
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
            self._changed = True
        ignored = {"reason": f"unknown settings were ignored: {', '.join(unknown)}"[:500]} if unknown else {}
        return [{"version": version, "state": "accepted"}, {"version": version, "state": "done", **ignored}]

    def _keep(self) -> None:
        self._changed = False
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        kept = {name: device.kept() for name, device in self._devices.items()} | self._kept
        fresh.write_text(json.dumps({name: state for name, state in kept.items() if state}))
        fresh.replace(self._path)

    def _take_over(self, device_id: str, device: VirtualDevice, kept: Mapping[str, Any] | None) -> None:
        """Play a device from where it was left; what is no state of one is forgotten."""
        try:
            if kept:
                device.restore(kept)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("device_state_forgotten", device_id=device_id, reason=repr(error))
        self._devices[device_id] = device

    def _restore(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            for name, kept in json.loads(self._path.read_text()).items():
                # That of a resource may come later; a device may have left the community since.
                if name in self._devices:
                    self._devices[name].restore(kept)
                else:
                    self._kept[name] = kept
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
