"""Topics of the standard: ``energy-cloud/{region}/{deviceType}/{deviceId}/{metric}``."""

from __future__ import annotations

from typing import Final, NamedTuple

from energy_cloud_dagster.domain.errors import Rejected
from energy_cloud_dagster.domain.readings.conversion import shown

_ROOT: Final = "energy-cloud"
_LONGEST: Final = 512
#: Filter that matches every message of every device.
SUBSCRIPTION: Final = f"{_ROOT}/+/+/+/+"
#: Last levels that carry no readings: what the cloud sends, and what devices answer.
CONTROL_METRICS: Final = frozenset({"command", "config", "ack", "status"})


class Topic(NamedTuple):
    """The four levels that differ."""

    region: str
    device_type: str
    device_id: str
    metric: str

    def __str__(self) -> str:
        return "/".join((_ROOT, *self))


def parse_topic(topic: str) -> Topic:
    """Split a topic; anything but five non-empty printable levels is ``Rejected`` as ``bad_topic``."""
    levels = topic.split("/")
    if len(levels) != 5 or levels[0] != _ROOT or not all(levels) or not topic.isprintable() or len(topic) > _LONGEST:
        raise Rejected(
            "bad_topic",
            f"topic {shown(topic)} is not {_ROOT}/{{region}}/{{deviceType}}/{{deviceId}}/{{metric}}",
        )
    return Topic(*levels[1:])
