"""A first plan for integers: the units that a relaxation runs are on, and a linear programme does the rest.

It is seldom the best one, and there in no time: what a search begins with, and all there is where its time is short.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.flows import Flows
from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, Problem
from energy_cloud_dagster.domain.dispatch.solving.matrices import Matrices

#: A unit is on from these shares of its limit on, in turn.
_SHARES: Final = (1e-6, 0.5)


def decisions(problem: Problem, matrices: Matrices, x: Floats) -> Iterator[BoolArray]:
    """Yield which units are on (G, T) by ``x``, the optimum of ``matrices`` without its integers; then that none is."""
    cells, shares = matrices.cells["on"], matrices.column("on", x)
    for least in (*_SHARES, np.inf):
        on = np.ones(problem.generators.limit.shape, bool)
        on.ravel()[cells] = shares > least
        yield on


def start_of(matrices: Matrices, other: Matrices, x: Floats, flows: Flows) -> Floats:
    """Return the plan ``x`` of ``other`` with its ``flows`` in the columns of ``matrices``, whose integers it keeps."""
    start = np.zeros(matrices.cost.size)
    for name, (offset, shape) in matrices.columns.items():
        size = int(np.prod(shape))
        if name == "on" and flows.on is not None:
            start[offset : offset + size] = flows.on.ravel()[matrices.cells["on"]]
        elif name in other.columns and other.columns[name][1] == shape:
            at = other.columns[name][0]
            start[offset : offset + size] = x[at : at + size]
    return start
