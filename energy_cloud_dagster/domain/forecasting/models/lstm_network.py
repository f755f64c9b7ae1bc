"""The LSTM in NumPy: what ``lstm_training`` trained, walked through once for a forecast, and its arrays as text."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from energy_cloud_dagster.domain.forecasting.models.lstm_features import Singles
from energy_cloud_dagster.domain.forecasting.series import Floats

Weights = dict[str, Singles]

HALF: Final = np.float32(0.5)


def packed(array: Singles) -> dict[str, Any]:
    """Return ``array`` for JSON: its shape, and base64 of its compressed little-endian 32-bit floats."""
    data = zlib.compress(np.ascontiguousarray(array, dtype="<f4").tobytes(), 9)
    return {"shape": list(array.shape), "data": base64.b64encode(data).decode()}


def unpacked(document: Mapping[str, Any]) -> Singles:
    """Return the array that ``packed`` wrote, read-only; what is damaged raises an error of the parts that read it."""
    data = zlib.decompress(base64.b64decode(document["data"], validate=True))
    array = np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(document["shape"])
    array.flags.writeable = False
    return array


def _run_cell(gates: Singles, state: Singles, output: Singles, memory: Singles) -> tuple[Singles, Singles, Singles]:
    """Walk the LSTM cells of all members over ``gates`` (members, steps, 4 H).

    Returns the outputs (members, steps, H) and the last output and memory (members, H). The order of the gates is
    input, forget, output, candidate. ``sigmoid(x) = (1 + tanh(x / 2)) / 2``, so that one ``tanh`` serves all four.
    """
    members, steps, width = gates.shape
    hidden = width // 4
    halves = np.full(width, 0.5, dtype=np.float32)
    halves[3 * hidden :] = 1.0
    gates, state = gates * halves, state * halves
    outputs = np.empty((members, steps, hidden), dtype=np.float32)
    row = output[:, None, :]
    for step in range(steps):
        active: Singles = np.tanh(gates[:, step] + (row @ state)[:, 0])
        gated: Singles = HALF * active[:, : 3 * hidden] + HALF
        memory = gated[:, hidden : 2 * hidden] * memory + gated[:, :hidden] * active[:, 3 * hidden :]
        row = (gated[:, 2 * hidden :] * np.tanh(memory))[:, None, :]
        outputs[:, step] = row[:, 0]
    return outputs, row[:, 0], memory


def network(members: Sequence[Weights], past: Singles, ahead: Singles) -> Floats:
    """Return P10, P50 and P90 as deviations from the base, the mean over the members, shape ``(hours, 3)``.

    ``past`` (168, P) and ``ahead`` (hours, A) are the standardised inputs; the same sums as in training.
    """
    weights = {name: np.stack([one[name] for one in members]) for name in members[0]}
    bias = {name: weights[name][:, None, :] for name in ("past_bias", "ahead_bias", "head_bias", "out_bias")}
    zeros = np.zeros(weights["past_state"].shape[:2], dtype=np.float32)
    _, output, memory = _run_cell(past @ weights["past"] + bias["past_bias"], weights["past_state"], zeros, zeros)
    gates = ahead @ weights["ahead"] + bias["ahead_bias"]
    hours, _, _ = _run_cell(gates, weights["ahead_state"], output, memory)
    joined = np.concatenate([hours, np.broadcast_to(ahead, (len(members), *ahead.shape))], axis=2)
    head = np.tanh(joined @ weights["head"] + bias["head_bias"])
    out = (head @ weights["out"] + bias["out_bias"]).astype(np.float64)
    middle = out[:, :, 1] + weights["skip"] @ ahead.T
    below, above = (np.logaddexp(0, out[:, :, part]) for part in (0, 2))
    return np.asarray(np.stack([middle - below, middle, middle + above], axis=2).mean(axis=0), dtype=np.float64)
