"""Best replies to prices, exactly and for thousands of resources at once: stores, and generators that ramp.

Both are chains: a level that moves from step to step at a cost that is linear in pieces. The least cost of reaching a
level is then convex and linear in pieces too, so a sorted list of slopes and lengths holds it; a step merges its own
pieces into the list and cuts off what the bounds forbid (dynamic programming by slopes, as in Bellman and Dreyfus,
"Applied Dynamic Programming", 1962, with the conjugates of Rockafellar's "Convex Analysis", theorem 16.4). Walking back
gives the levels and, from the slopes beside them, the duals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.dispatch.problem import Floats, IntArray

#: Chains times steps worked on at once, which bounds the memory.
_CHUNK_CELLS: Final = 60_000
#: Levels closer than this (relative) are one level.
_SAME_LEVEL: Final = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class StoreReply:
    """Charge and discharge (kW), stored energy (kWh) and the dual of each step's energy balance, all (S, T)."""

    charge: Floats
    discharge: Floats
    stored: Floats
    dual: Floats


@dataclass(frozen=True, slots=True, eq=False)
class RampReply:
    """Output (G, T) in kW and the dual (G, T) of the change into each step (0 in the first)."""

    output: Floats
    dual: Floats


def reply_of_stores(
    charge_cost: Floats,
    discharge_cost: Floats,
    most_charge: Floats,
    most_discharge: Floats,
    least: Floats,
    most: Floats,
    initial: Floats,
    one_way: Floats,
    hours: float,
) -> StoreReply | None:
    """Return what each store does at least cost, ``None`` if one of them cannot keep its bounds.

    Costs (S, T) are per kW over a step of ``hours``, the most that may be charged or discharged is (S, T) in kW,
    ``least``, ``most`` (S, T) and ``initial`` (S,) energy in kWh, ``one_way`` (S,) the efficiency of each way.
    Charging and discharging at once is allowed where that pays, as in a linear programme.
    """
    into, out = (one_way * hours)[:, None], (hours / one_way)[:, None]
    filled = most_charge * into
    emptied = most_discharge * out
    chain = _walk(
        # not discharging is what raises the level from its lowest, at what the discharge would have earned
        slopes=np.stack([-discharge_cost / out, charge_cost / into], axis=2),
        lengths=np.stack([emptied, filled], axis=2),
        shift=-emptied,
        tilt=np.zeros(filled.shape),
        least=least,
        most=most,
        initial=initial,
    )
    if chain is None:
        return None
    return StoreReply(
        charge=chain.taken[..., 1] / into,
        discharge=(emptied - chain.taken[..., 0]) / out,
        stored=chain.level,
        dual=-chain.slope,
    )


def reply_of_ramps(cost: Floats, least: Floats, most: Floats, ramp: Floats) -> RampReply | None:
    """Return what each generator gives at least cost, ``None`` if one of them cannot keep its bounds.

    ``cost`` (G, T) is per kW over a step, ``least`` and ``most`` (G, T) are kW, ``ramp`` (G, T - 1) kW per step.
    """
    width = np.maximum(most.max(axis=1, initial=0.0), 1.0)[:, None]
    # a ramp wider than all levels binds nowhere, and infinity would spoil the sums
    step = np.minimum(ramp, 2.0 * width)
    lengths = np.concatenate([width, 2 * step], axis=1)[..., None]
    chain = _walk(
        slopes=np.zeros(lengths.shape),
        lengths=lengths,
        shift=np.concatenate([np.zeros(width.shape), -step], axis=1),
        tilt=cost,
        least=least,
        most=most,
        initial=np.zeros(len(cost)),
    )
    if chain is None:
        return None
    dual = cost - chain.slope
    dual[:, 0] = 0.0
    return RampReply(output=chain.level, dual=dual)


@dataclass(frozen=True, slots=True, eq=False)
class _Chain:
    level: Floats  # (n, T)
    taken: Floats  # (n, T, k) how much of each step's own pieces is used
    slope: Floats  # (n, T) marginal cost of the level, the step's own included


def _walk(
    slopes: Floats, lengths: Floats, shift: Floats, tilt: Floats, least: Floats, most: Floats, initial: Floats
) -> _Chain | None:
    count, steps = least.shape
    size = max(1, _CHUNK_CELLS // max(1, steps))
    parts: list[_Chain] = []
    for low in range(0, count, size):
        rows = slice(low, low + size)
        part = _walk_some(slopes[rows], lengths[rows], shift[rows], tilt[rows], least[rows], most[rows], initial[rows])
        if part is None:
            return None
        parts.append(part)
    if not parts:
        return _Chain(np.zeros((0, steps)), np.zeros(lengths.shape), np.zeros((0, steps)))
    if len(parts) == 1:
        return parts[0]
    return _Chain(
        np.concatenate([part.level for part in parts]),
        np.concatenate([part.taken for part in parts]),
        np.concatenate([part.slope for part in parts]),
    )


def _walk_some(
    slopes: Floats, lengths: Floats, shift: Floats, tilt: Floats, least: Floats, most: Floats, initial: Floats
) -> _Chain | None:
    count, steps, pieces = lengths.shape
    room = _SAME_LEVEL * (1.0 + np.abs(most).max(axis=1, initial=0.0))
    slope, length, left = np.zeros((count, 0)), np.zeros((count, 0)), initial.copy()
    # per step: slopes of the merged pieces, the levels between them, and where the step's own pieces start
    merged: list[tuple[Floats, Floats, Floats]] = []
    for step in range(steps):
        slope = np.concatenate([slope, slopes[:, step]], axis=1)
        length = np.concatenate([length, lengths[:, step]], axis=1)
        order = np.argsort(slope, axis=1, kind="stable")
        flat = order + _row_starts(order)
        slope, length = slope.ravel()[flat], length.ravel()[flat]
        edges = np.empty((count, length.shape[1] + 1))
        edges[:, 0] = left + shift[:, step]
        np.cumsum(length, axis=1, out=edges[:, 1:])
        edges[:, 1:] += edges[:, :1]
        low, high = least[:, step], most[:, step]
        if (edges[:, 0] > high + room).any() or (edges[:, -1] < low - room).any() or (low > high + room).any():
            return None
        place = np.empty(order.size, np.intp)
        place[flat] = np.arange(order.shape[1])
        own = place.reshape(order.shape)[:, -pieces:]
        merged.append((slope, edges, edges.ravel()[own + _row_starts(edges)]))
        # what the bounds leave
        kept = np.clip(edges, low[:, None], high[:, None])
        left, length = kept[:, 0], np.diff(kept, axis=1)
        slope, length = _packed(slope + tilt[:, step : step + 1], length)
    level, taken, duals = np.empty((count, steps)), np.empty(lengths.shape), np.empty((count, steps))
    here = left + np.where(slope < 0, length, 0.0).sum(axis=1)
    after = np.zeros(count)
    for step in range(steps - 1, -1, -1):
        slope, edges, begin = merged[step]
        level[:, step] = here
        near = room[:, None]
        there = edges[:, 1:] > edges[:, :-1]
        below = np.where(there & (edges[:, :-1] < here[:, None] - near), slope, -np.inf).max(axis=1)
        above = np.where(there & (edges[:, 1:] > here[:, None] + near), slope, np.inf).min(axis=1)
        after = np.clip(after - tilt[:, step], below, above)
        duals[:, step] = after + tilt[:, step]
        used = np.clip(here[:, None] - begin, 0.0, lengths[:, step])
        taken[:, step] = used
        here = here - shift[:, step] - used.sum(axis=1)
    return _Chain(level, taken, duals)


def _packed(slope: Floats, length: Floats) -> tuple[Floats, Floats]:
    """Move pieces without length to the end, where they stay in order, and drop what is empty for every chain."""
    there = length > 0.0
    width = int(there.sum(axis=1).max(initial=0))
    flat = np.argsort(~there, axis=1, kind="stable")[:, :width] + _row_starts(length)
    return np.where(there, slope, np.inf).ravel()[flat], length.ravel()[flat]


def _row_starts(table: npt.NDArray[Any]) -> IntArray:
    """Return where each row starts in the flattened table, as a column."""
    count, width = table.shape
    starts: IntArray = (np.arange(count) * width)[:, None]
    return starts
