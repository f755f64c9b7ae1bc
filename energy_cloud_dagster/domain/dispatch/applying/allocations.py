"""What it means to apply an allocation: which setpoints it holds, whether each resource takes them, what is safe.

Powers in kW with the signs of the dispatch problem: storage discharge - charge, grid import - export, generators their
output (a limit of it), flexible load what it sheds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from energy_cloud_dagster.domain.errors import Conflict, InvalidInput

type Conduct = Literal[
    "free", "pending", "following", "short", "deviating", "refused", "overridden", "fallback", "unmeasured"
]

#: Resources whose own setpoint is safe: it limits what sun, wind and water give.
_LIMITED: Final = frozenset({"solar", "wind", "hydro"})
_BOTH_WAYS: Final = frozenset({"storage", "grid"})
#: What a solver computed is not refused for its last bits; devices get the limit itself.
_TOLERANCE: Final = 1e-6
#: A device follows when it is within this of its setpoint, or within this share of its capacity.
_NEAR_KW: Final = 1.0
_NEAR_SHARE: Final = 0.01
#: As many as a plan has: a year of quarter hours.
MAX_STEPS: Final = 35_136


class Target(NamedTuple):
    """A resource that may be commanded; ``parameters`` as in the dispatch problem (camelCase)."""

    resource_id: str
    type: str
    capacity_kw: float
    parameters: Mapping[str, Any]


class Assignment(NamedTuple):
    """The setpoints in kW of one resource, one for each step."""

    resource_id: str
    outputs: tuple[float, ...]


class Span(NamedTuple):
    """The steps of an allocation: ``steps`` of ``minutes`` each from ``start`` on."""

    start: datetime
    minutes: int
    steps: int

    @property
    def end(self) -> datetime:
        """Return when the last step ends."""
        return self.step_start(self.steps)

    def step_start(self, index: int) -> datetime:
        """Return when a step begins."""
        return self.start + index * timedelta(minutes=self.minutes)

    def step_at(self, now: datetime) -> int:
        """Return the step that ``now`` lies in: the first before the start; after the end it is ``Conflict``."""
        if now >= self.end:
            raise Conflict("the steps of this allocation are over; optimise again from now on")
        return max(0, int((now - self.start) / timedelta(minutes=self.minutes)))


def checked(entries: Sequence[Mapping[str, Any]], targets: Iterable[Target]) -> list[Assignment]:
    """Return the setpoints of ``entries`` (``{resourceId, type?, output}``, output a number or one of each step).

    ``InvalidInput`` points at the entry that names no resource, or one twice, that is of another length than the
    first, or whose resource does not take the setpoint: nothing is clipped.
    """
    known = {each.resource_id: each for each in targets}
    if not entries:
        raise InvalidInput("an allocation names at least one resource", pointer="/allocation")
    found: dict[str, Assignment] = {}
    for place, entry in enumerate(entries):
        at = f"/allocation/{place}"
        name = str(entry.get("resourceId"))
        target = known.get(name)
        if target is None:
            listed = ", ".join(sorted(known)[:10]) + (" …" if len(known) > 10 else "")
            raise InvalidInput(f"the VPP has no resource {name}; it has {listed or 'none'}", pointer=f"{at}/resourceId")
        if name in found:
            raise InvalidInput(f"resource {name} is allocated twice", pointer=f"{at}/resourceId")
        if entry.get("type") not in {None, target.type}:
            raise InvalidInput(f"resource {name} is of type {target.type}", pointer=f"{at}/type")
        given = entry.get("output")
        several = isinstance(given, list | tuple)
        steps: Sequence[object] = given if isinstance(given, list | tuple) else [given]
        if not 1 <= len(steps) <= MAX_STEPS:
            raise InvalidInput(f"output has 1 to {MAX_STEPS:,} steps, not {len(steps):,}", pointer=f"{at}/output")
        outputs = tuple(
            _taken(target, value, f"{at}/output/{step}" if several else f"{at}/output")
            for step, value in enumerate(steps)
        )
        first = next(iter(found.values())).outputs if found else outputs
        if len(outputs) != len(first):
            raise InvalidInput(
                f"output has {len(outputs)} steps where the first resource has {len(first)}", pointer=f"{at}/output"
            )
        found[name] = Assignment(name, outputs)
    return list(found.values())


def largest_total_kw(assignments: Iterable[Assignment]) -> float:
    """Return the largest sum of absolute setpoints in one step: what an approval is about."""
    return max(math.fsum(map(abs, step)) for step in zip(*(each.outputs for each in assignments), strict=True))


def limits_of(target: Target) -> tuple[float, float]:
    """Return the least and the greatest setpoint in kW that a resource takes."""
    return (-target.capacity_kw if target.type in _BOTH_WAYS else 0.0), target.capacity_kw


def safe_setpoint(kind: str, setpoint_kw: float, parameters: Mapping[str, Any]) -> float:
    """Return what a device that fell silent under ``setpoint_kw`` shall hold when it hears again.

    The resource's ``safePower`` where it has one. Else sun, wind and water keep their limit, which is never exceeded,
    and all else rests at 0 kW: no store is emptied, no tie or engine runs, no load is shed, that nobody watches.
    """
    given = parameters.get("safePower")
    if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        return float(given)
    return setpoint_kw if kind in _LIMITED else 0.0


def kept(target: Target, setpoint_kw: float, output_kw: float) -> Literal["following", "short", "deviating"]:
    """Return how a device that reports ``output_kw`` keeps to its setpoint.

    It follows within 1 kW or 1 % of its capacity. Sun, wind and water that give less than their limit are short: the
    device does what it shall, and the plan comes to less.
    """
    near = max(_NEAR_KW, _NEAR_SHARE * target.capacity_kw)
    if abs(output_kw - setpoint_kw) <= near:
        return "following"
    return "short" if target.type in _LIMITED and output_kw < setpoint_kw else "deviating"


def _taken(target: Target, value: object, pointer: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput("output is a finite number of kW, or one for each step", pointer=pointer)
    least, most = limits_of(target)
    slack = _TOLERANCE * max(1.0, target.capacity_kw)
    if not least - slack <= value <= most + slack:
        raise InvalidInput(
            f"{value:g} kW is outside what {target.resource_id} takes: {least:g} to {most:g} kW", pointer=pointer
        )
    start = target.parameters.get("minPower")
    if isinstance(start, int | float) and slack < value < start - slack:
        raise InvalidInput(
            f"{target.resource_id} is off or gives at least {start:g} kW; {value:g} kW is between", pointer=pointer
        )
    return min(max(float(value), least), most)
