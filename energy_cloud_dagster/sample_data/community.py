"""The sample community as plain data: who takes part, what measures them, and which sample series each device replays.

Field names are the columns of the ``registry`` tables. Nothing here touches a database, a clock or a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

Kind = Literal["energy", "power", "state"]
Protocol = Literal["mqtt", "opcua"]


@dataclass(frozen=True, slots=True)
class Market:
    """A market; its prices are in ``currency`` per kWh."""

    market_id: str
    currency: str


@dataclass(frozen=True, slots=True)
class Region:
    """A region of the grid; ``timezone`` is used at the edges only."""

    region_id: str
    name: str
    timezone: str
    market_id: str
    grid_id: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Participant:
    """Someone who trades or is traded with: a prosumer home, the VPP, or the grid."""

    participant_id: str
    region_id: str
    kind: Literal["prosumer", "vpp", "grid"]
    name: str


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of a device.

    ``kind``: energy per interval, mean power over it, or state at its start. ``role`` is what the pipeline uses it as.
    ``sample`` names the sample series that feeds it, whose values are multiplied by ``scale`` into ``unit``.
    """

    metric: str
    unit: str
    kind: Kind
    role: str | None = None
    sample: str | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Device:
    """A measuring device; its intervals are ``interval_minutes`` long and named by their start."""

    device_id: str
    region_id: str
    device_type: str
    interval_minutes: int
    series: tuple[Series, ...]
    customer_class: Literal["residential", "commercial", "industrial"] | None = None
    participant_id: str | None = None
    protocol: Protocol = "mqtt"


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of a VPP; ``parameters`` as in the dispatch problem (camelCase), ``device_id`` measures and obeys."""

    resource_id: str
    type: Literal["solar", "wind", "hydro", "storage", "chp", "grid", "load"]
    capacity_kw: float
    device_id: str | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    location: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Vpp:
    """A virtual power plant and its resources."""

    vpp_id: str
    name: str
    region_id: str
    participant_id: str
    capacity_kw: float
    resources: tuple[Resource, ...]
    location: Mapping[str, float] | None = None


class DeviceSeries(NamedTuple):
    """A series with the device that it belongs to."""

    device: Device
    series: Series

    @property
    def key(self) -> tuple[str, str]:
        """Return (device_id, metric)."""
        return self.device.device_id, self.series.metric


@dataclass(frozen=True, slots=True)
class Community:
    """Everything that ``registry.seed`` writes and the simulated fleet plays."""

    markets: tuple[Market, ...]
    regions: tuple[Region, ...]
    participants: tuple[Participant, ...]
    devices: tuple[Device, ...]
    vpps: tuple[Vpp, ...]

    def device(self, device_id: str) -> Device:
        """Return the device; an unknown id is a ``KeyError``."""
        for device in self.devices:
            if device.device_id == device_id:
                return device
        raise KeyError(device_id)

    def all_series(self) -> Iterator[DeviceSeries]:
        """Yield every (device, series), in the order of the devices."""
        for device in self.devices:
            for series in device.series:
                yield DeviceSeries(device, series)

    def reports(self) -> Iterator[DeviceSeries]:
        """Yield the series in which devices that obey commands report their present power, besides their intervals."""
        for device in self.devices:
            if device.device_type in OBEYING:
                yield DeviceSeries(device, POWER_REPORT)


#: Types of devices that obey commands.
OBEYING: Final = frozenset({"battery", "solar-panel", "wind-turbine", "inverter"})
#: A state, so that it is never summed up to energy, and without a role, so that any instant is taken.
POWER_REPORT: Final = Series("power", "kW", "state")
HOMES: Final = tuple(range(1, 11))
TURBINES: Final = ("R80711", "R80721")
#: 4,000 MW of measured demand are shown as 1,000 kW (1 MW) of the sample region.
REGION_SCALE_DOWN: Final = 4_000
SOLAR_KW: Final = 600.0
BATTERY_KW: Final = 500.0
BATTERY_KWH: Final = 1_000.0
#: Round trip.
BATTERY_EFFICIENCY: Final = 0.9

_SEOUL = {"lat": 37.5665, "lng": 126.978}


def _home_devices(home: int) -> tuple[Device, Device]:
    participant = f"HOME-{home:02}"
    meter = Series("consumption", "kWh", "energy", "load", f"home_{home:02}/load_kwh")
    panel = Series("generation", "kWh", "energy", "pv", f"home_{home:02}/pv_kwh")
    return (
        Device(f"SM-H{home:02}", "seoul", "smart-meter", 60, (meter,), "residential", participant),
        Device(f"PV-H{home:02}", "seoul", "solar-panel", 60, (panel,), "residential", participant),
    )


def _turbine(name: str) -> Device:
    return Device(
        f"WT-{name}",
        "seoul",
        "wind-turbine",
        10,
        (
            Series("output", "kW", "power", "wind", f"wind/{name}/active_power_kw"),
            Series("wind-speed", "m/s", "state", "wind_speed", f"wind/{name}/wind_speed_ms"),
        ),
        participant_id="VPP-001",
        protocol="opcua",
    )


def _devices() -> tuple[Device, ...]:
    # W per kW of panel, times kW of panel, over an hour: Wh.
    solar = Series("generation", "kWh", "energy", "solar", "pv_w_per_kw", SOLAR_KW / 1_000)
    battery = (Series("soc", "1", "state", "soc"), Series("output", "kW", "power", "storage"))
    consumption = Series("consumption", "kWh", "energy")
    return (
        *(device for home in HOMES for device in _home_devices(home)),
        Device(
            "GRID-SEOUL", "seoul", "grid-meter", 30, (Series("load", "kW", "power", "region_load", "region/load_kw"),)
        ),
        Device(
            "WX-SEOUL",
            "seoul",
            "weather-station",
            30,
            (Series("temperature", "°C", "state", "temperature", "region/temperature_c"),),
        ),
        Device("PV-VPP-001", "seoul", "solar-panel", 60, (solar,), participant_id="VPP-001"),
        *(_turbine(name) for name in TURBINES),
        Device("BAT-001", "seoul", "battery", 15, battery, participant_id="VPP-001"),
        Device("SM-001", "seoul", "smart-meter", 15, (consumption,), "residential"),
        Device("SM-TEST-001", "seoul", "smart-meter", 15, (consumption,), "residential"),
    )


SEOUL_COMMUNITY: Final = Community(
    markets=(Market("KRW-KWH", "KRW"),),
    regions=(
        Region("seoul", "Seoul", "Asia/Seoul", "KRW-KWH", "KR-SE-001", ("kr-seoul",)),
        Region("busan", "Busan", "Asia/Seoul", "KRW-KWH", "KR-BS-001", ("kr-busan",)),
    ),
    participants=(
        *(Participant(f"HOME-{home:02}", "seoul", "prosumer", f"Home {home}") for home in HOMES),
        Participant("VPP-001", "seoul", "vpp", "Seoul sample VPP"),
        Participant("GRID", "seoul", "grid", "Grid operator"),
    ),
    devices=_devices(),
    vpps=(
        Vpp(
            "VPP-001",
            "Seoul sample VPP",
            "seoul",
            "VPP-001",
            5_200.0,
            (
                Resource("SOLAR-001", "solar", SOLAR_KW, "PV-VPP-001"),
                Resource("WIND-001", "wind", 2_050.0, "WT-R80711"),
                Resource("WIND-002", "wind", 2_050.0, "WT-R80721"),
                Resource(
                    "BAT-001",
                    "storage",
                    BATTERY_KW,
                    "BAT-001",
                    {"energyCapacity": BATTERY_KWH, "efficiency": BATTERY_EFFICIENCY},
                ),
                Resource("GRID-001", "grid", 3_000.0),
            ),
            _SEOUL,
        ),
    ),
)


def community() -> Community:
    """Return the sample community of Seoul."""
    return SEOUL_COMMUNITY
