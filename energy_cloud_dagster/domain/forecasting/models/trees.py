"""Boosted trees: grown by LightGBM, kept as arrays, evaluated here.

A tree is a few comparisons; NumPy walks all trees of a forest at once, so a forecast of 24 hours needs neither
LightGBM nor its import (a second of CPU in every process). The arrays hold nothing of the machine or the moment.
A test holds the evaluation against the package's own ``predict``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.arrays import packed, unpacked
from energy_cloud_dagster.domain.forecasting.series import Floats

#: What makes the package answer the same on every call: one thread, fixed order of sums, no missing values.
FIXED: Final = {
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "use_missing": False,
    "feature_pre_filter": False,
    "verbosity": -1,
}


@dataclass(frozen=True, eq=False)
class Forest:
    """A sum of binary trees over float32 columns without missing values.

    Inner nodes and leaves of a tree lie one after the other: ``feature`` and ``threshold`` by inner node, ``left``
    and ``right`` as the inner node of the same tree or ``-1 - leaf``, ``value`` by leaf, ``leaves`` by tree (inner
    nodes are one fewer). A row goes left where its column is at most the threshold.
    """

    feature: npt.NDArray[np.int16]
    threshold: npt.NDArray[np.float32]
    left: npt.NDArray[np.int16]
    right: npt.NDArray[np.int16]
    value: npt.NDArray[np.float32]
    leaves: npt.NDArray[np.int16]

    @property
    def trees(self) -> int:
        """Number of trees."""
        return len(self.leaves)

    @cached_property
    def _walk(self) -> tuple[npt.NDArray[Any], ...]:
        """Return roots, children, columns, thresholds and values of all nodes in one numbering, and the depth.

        The leaves follow the inner nodes and are their own children, so that a walk may go on at them.
        """
        leaves = self.leaves.astype(np.int64)
        inner = leaves - 1
        nodes = int(inner.sum())
        first_node = np.cumsum(inner) - inner
        first_leaf = nodes + np.cumsum(leaves) - leaves
        owner = np.repeat(np.arange(self.trees), inner)
        total = nodes + int(leaves.sum())
        children = np.repeat(np.arange(total)[:, None], 2, axis=1)
        for side, kids in enumerate((self.left.astype(np.int64), self.right.astype(np.int64))):
            children[:nodes, side] = np.where(kids >= 0, first_node[owner] + kids, first_leaf[owner] - 1 - kids)
        if children.size and (children.min() < 0 or children.max() >= total):
            raise InvalidInput("a stored tree points outside itself; fit the model again")
        roots = np.where(inner > 0, first_node, first_leaf)
        depth, at = 0, np.unique(roots)
        while (at < nodes).any():
            at = np.unique(children[at[at < nodes]])
            depth += 1
            if depth > nodes:
                raise InvalidInput("a stored tree runs in a circle; fit the model again")
        column = np.concatenate([self.feature.astype(np.int64), np.zeros(total - nodes, dtype=np.int64)])
        threshold = np.concatenate([self.threshold, np.full(total - nodes, np.inf, dtype=np.float32)])
        value = np.concatenate([np.zeros(nodes), self.value.astype(np.float64)])
        return roots, children.ravel(), column, threshold, value, np.asarray(depth)

    def evaluate(self, table: npt.NDArray[np.float32]) -> Floats:
        """Return the sum over the trees for every row of ``table``, shape ``(rows, columns)``, all finite."""
        roots, children, column, threshold, value, depth = self._walk
        rows, width = table.shape
        flat = np.ascontiguousarray(table).ravel()
        start = (np.arange(rows) * width)[:, None]
        at = np.broadcast_to(roots, (rows, len(roots)))
        for _ in range(int(depth)):
            right = flat[start + column[at]] > threshold[at]
            at = children[2 * at + right]
        return np.asarray(value[at].sum(axis=1), dtype=np.float64)

    def document(self) -> dict[str, Any]:
        """Return the arrays for JSON."""
        names = ("feature", "threshold", "left", "right", "value", "leaves")
        return {name: packed(getattr(self, name)) for name in names}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the forest that ``document()`` wrote; anything else raises ``InvalidInput``."""
        names = ("feature", "threshold", "left", "right", "value", "leaves")
        if not set(names) <= set(document):
            raise InvalidInput("a stored forest lacks arrays; fit the model again")
        arrays = {name: unpacked(document[name]) for name in names}
        inner = int(arrays["leaves"].astype(np.int64).sum()) - len(arrays["leaves"])
        lengths = {name: len(arrays[name]) for name in names[:4]}
        if set(lengths.values()) != {inner} or len(arrays["value"]) != inner + len(arrays["leaves"]):
            raise InvalidInput("the arrays of a stored forest do not fit together; fit the model again")
        return cls(**arrays)


def joined(forests: list[Forest], scale: float) -> Forest:
    """Return the forest whose answer is ``scale`` times the sum of the answers of ``forests``."""
    arrays = {
        name: np.concatenate([getattr(forest, name) for forest in forests])
        for name in ("feature", "threshold", "left", "right", "leaves")
    }
    value = np.concatenate([forest.value.astype(np.float64) for forest in forests]) * scale
    return Forest(value=value.astype(np.float32), **arrays)


class Ground:
    """A table to grow forests on: its columns are sorted into bins once, for every forest that looks at its rows."""

    def __init__(self, table: npt.NDArray[np.float32], weights: Floats, *, bins: int) -> None:
        """Take ``table``, finite, shape ``(rows, columns)``, and the weights of its rows."""
        import lightgbm

        self._parameters: dict[str, Any] = {**FIXED, "max_bin": bins}
        self._data = lightgbm.Dataset(table, weight=weights, params=self._parameters).construct()
        self._weights = weights

    def grown(
        self, target: Floats, *, rounds: int, settings: Mapping[str, Any], rows: npt.NDArray[np.bool_] | None = None
    ) -> Forest:
        """Return the forest that LightGBM grows towards ``target``, on the chosen ``rows`` (None: all).

        ``settings`` are LightGBM's parameters, ``seed`` among them; the same arguments give the same forest.
        """
        import lightgbm

        parameters = {**self._parameters, **settings}
        data = self._data
        if rows is not None:
            data = data.subset(np.flatnonzero(rows).tolist(), params=parameters).construct()
            target = target[rows]
            data.set_weight(self._weights[rows])
        data.set_label(target)
        booster = lightgbm.train(parameters, data, num_boost_round=rounds)
        return _parsed(booster.model_to_string(num_iteration=-1))


def _parsed(text: str) -> Forest:
    """Return the forest in LightGBM's model text."""
    columns: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("feature", "threshold", "left", "right")}
    values: list[npt.NDArray[Any]] = []
    leaves: list[int] = []
    for block in text.split("\nTree=")[1:]:
        fields = dict(line.split("=", 1) for line in block.split("\n\n", 1)[0].splitlines() if "=" in line)
        count = int(fields["num_leaves"])
        leaves.append(count)
        values.append(np.array(fields["leaf_value"].split(), dtype=np.float64))
        if count > 1:
            columns["feature"].append(np.array(fields["split_feature"].split(), dtype=np.int16))
            columns["threshold"].append(_floored(np.array(fields["threshold"].split(), dtype=np.float64)))
            columns["left"].append(np.array(fields["left_child"].split(), dtype=np.int16))
            columns["right"].append(np.array(fields["right_child"].split(), dtype=np.int16))
    empty = {"feature": np.int16, "threshold": np.float32, "left": np.int16, "right": np.int16}
    arrays = {
        name: np.concatenate(parts) if parts else np.empty(0, dtype=empty[name]) for name, parts in columns.items()
    }
    value = np.concatenate(values) if values else np.empty(0)
    return Forest(value=value.astype(np.float32), leaves=np.array(leaves, dtype=np.int16), **arrays)


def _floored(thresholds: Floats) -> npt.NDArray[np.float32]:
    """Return the largest float32 at or below each threshold: a float32 column falls on the same side of both."""
    single = thresholds.astype(np.float32)
    return np.where(single.astype(np.float64) > thresholds, np.nextafter(single, np.float32(-np.inf)), single)
