"""The simulated devices of resources that were made over the API: they have no past, and can do what was said of them.

Sun, wind and water are always there: an optimisation assumes the same where nothing forecasts them. What nobody
commands gives all it can (sun, wind, water) or rests (all else). Output has the signs of the dispatch problem.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from energy_cloud_dagster.adapters.played import Played
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services.orders import Limits
from energy_cloud_dagster.services.simulator import Message
from energy_cloud_dagster.services.virtual_device import BatteryDevice, VirtualDevice

_GIVEN: Final = frozenset({"solar", "wind", "hydro"})
_HALF: Final = 0.5


def device_for(resource: Played) -> VirtualDevice:
    """Return the device that plays a resource."""
    device = plain.Device(
        resource.device_id, resource.region_id, resource.device_type, resource.interval_minutes, (plain.POWER_REPORT,)
    )
    return StoreDevice(device, resource) if resource.type == "storage" else SourceDevice(device, resource)


class StoreDevice(BatteryDevice):
    """A store without a schedule: it begins at the state of charge that was said, and rests when it is released."""

    has_schedule = False
    _rest_kw = 0.0

    def __init__(self, device: plain.Device, resource: Played) -> None:
        given = {name: value for name, value in resource.parameters.items() if isinstance(value, int | float)}
        # An hour at full power is what a store without a capacity can be taken for.
        given = {"energyCapacity": resource.capacity_kw, **given}
        super().__init__(
            device, plain.Resource(resource.device_id, "storage", resource.capacity_kw, resource.device_id, given)
        )
        self._begins_at = float(given.get("soc", _HALF))

    def is_commanded(self, now: datetime) -> bool:
        """Return whether it is under a setpoint."""
        return VirtualDevice.is_commanded(self, now)

    def _own_soc(self, _moment: datetime) -> float:
        return self._begins_at


class SourceDevice(VirtualDevice):
    """A generator, a grid connection or a flexible load: it does at once what it is asked."""

    has_schedule = False

    def __init__(self, device: plain.Device, resource: Played) -> None:
        self._most = most = resource.capacity_kw
        self._least = -most if resource.type == "grid" else 0.0
        super().__init__(device, Limits(self._least, most))
        share = resource.parameters.get("availability")
        self._limited = resource.type in _GIVEN
        self._available = most * (float(share) if isinstance(share, int | float) else 1.0)

    def state(self, now: datetime) -> dict[str, float]:
        """Return ``power`` in kW."""
        standing = self.standing(now)
        setpoint = None if standing is None else standing.setpoint_kw
        if setpoint is not None:
            # it may have become smaller since it was commanded
            setpoint = min(max(setpoint, self._least), self._most)
        if not self._limited:
            return {"power": setpoint or 0.0}
        return {"power": self._available if setpoint is None else min(setpoint, self._available)}

    def _value(self, message: Message, _begin: datetime, _end: datetime) -> float:
        # It sends its present state only.
        return message.value or 0.0
