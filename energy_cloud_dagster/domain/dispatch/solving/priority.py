"""Among plans of equal cost: resources of higher priority are curtailed or shed last.

By complementary slackness every other optimum of a linear programme keeps the columns with a reduced cost at their
bound and the rows with a dual tight. Within that face the curtailment and shedding of each level is made as small as it
goes, from the highest priority down.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np

from energy_cloud_dagster.domain.dispatch.flows import Flows, flows_of
from energy_cloud_dagster.domain.dispatch.problem import Floats, Problem
from energy_cloud_dagster.domain.dispatch.solving.lp import Raw, SolverFailed
from energy_cloud_dagster.domain.dispatch.solving.matrices import DRAWS, FREE, SUPPLIES, Matrices, Switches
from energy_cloud_dagster.domain.dispatch.solving.pairs import Pairs, directions, netted, overlaps

#: Below this a dual is rounding and says nothing of which plans are optimal.
_DUAL_TOLERANCE: Final = 1e-9
#: Solves of a level in which pairs of flows that came to overlap are parted.
_ATTEMPTS: Final = 3


class Solver(Protocol):
    """``lp.run`` within the time that is left."""

    def __call__(self, matrices: Matrices, *, basis: Any = None, presolve: bool = False) -> Raw:
        """Minimise."""


def preferred(problem: Problem, matrices: Matrices, raw: Raw, switches: Switches, flows: Flows, run: Solver) -> Flows:
    """Return the plan of the same cost that keeps to the priorities, ``flows`` itself where they say nothing.

    ``raw`` is the optimum of ``matrices``, a linear programme with all decisions made, which ``flows`` came from.
    """
    levels = _levels(problem)
    if len(levels) < 2 or matrices.integer is not None or raw.status != "optimal":
        return flows
    for level in levels:
        wish = _wish(problem, matrices, level)
        face = replace(_face(matrices, raw), cost=wish)
        found = _parted(problem, face, raw, switches, flows, run)
        if found is None:
            return flows
        matrices, raw, flows = found
    return flows


def _levels(problem: Problem) -> list[int]:
    """Return the priorities of what can be curtailed or shed, from the highest."""
    places = np.concatenate([problem.generators.place, problem.loads.place])
    return sorted(set(problem.priority[places].tolist()), reverse=True)


def _wish(problem: Problem, matrices: Matrices, level: int) -> Floats:
    wish = np.zeros(matrices.cost.size)
    units, loads = problem.generators, problem.loads
    # least curtailment is most output, as the limits are given
    matrices.column("generation", wish)[problem.priority[units.place] == level] = -1.0
    matrices.column("shed", wish)[problem.priority[loads.place] == level] = 1.0
    return wish


def _face(matrices: Matrices, raw: Raw) -> Matrices:
    """Return the rows and columns of all optima of the last objective."""
    lower, upper = matrices.lower.copy(), matrices.upper.copy()
    duals = raw.column_duals
    at_lower, at_upper = duals > _DUAL_TOLERANCE, duals < -_DUAL_TOLERANCE
    upper[at_lower], lower[at_upper] = lower[at_lower], upper[at_upper]
    row_lower, row_upper = matrices.row_lower.copy(), matrices.row_upper.copy()
    duals = raw.row_duals
    at_lower, at_upper = duals > _DUAL_TOLERANCE, duals < -_DUAL_TOLERANCE
    row_upper[at_lower], row_lower[at_upper] = row_lower[at_lower], row_upper[at_upper]
    return replace(matrices, lower=lower, upper=upper, row_lower=row_lower, row_upper=row_upper)


def _parted(
    problem: Problem, face: Matrices, start: Raw, switches: Switches, before: Flows, run: Solver
) -> tuple[Matrices, Raw, Flows] | None:
    """Solve on the face; flows that then overlap are held to the direction that they had, or have as a whole."""
    every = directions(problem, before)
    held = None
    for attempt in range(_ATTEMPTS):
        try:
            # most columns of a face are fixed, which presolve sees and a basis makes up for
            raw = run(face, basis=start.basis, presolve=start.basis is None)
        except SolverFailed:
            return None  # a face of badly scaled costs; the plan at hand is as cheap
        if raw.status != "optimal":
            return None
        flows = netted(problem, flows_of(problem, face, raw.x, switches))
        crossed = overlaps(problem, flows)
        if crossed is None:
            return face, raw, flows
        # a pair that was idle may go either way
        crossed = _running(before, every).within(crossed).or_else(crossed)
        held = crossed if held is None else held.or_else(crossed)
        face = _hold(face, every if attempt == _ATTEMPTS - 2 else held)
    return None


def _running(flows: Flows, every: Pairs) -> Pairs:
    stores, ties = np.maximum(flows.charge, flows.discharge) > 0, np.maximum(flows.imported, flows.exported) > 0
    return Pairs(np.where(stores, every.stores, np.int8(FREE)), np.where(ties, every.ties, np.int8(FREE)))


def _hold(matrices: Matrices, held: Pairs) -> Matrices:
    lower, upper = matrices.lower.copy(), matrices.upper.copy()
    exporting = held.ties[matrices.cells["exported"]]
    for name, stopped in (
        ("charge", held.stores == SUPPLIES),
        ("discharge", held.stores == DRAWS),
        ("imported", held.ties == DRAWS),
        ("exported", exporting == SUPPLIES),
    ):
        matrices.column(name, lower)[stopped] = 0.0
        matrices.column(name, upper)[stopped] = 0.0
    return replace(matrices, lower=lower, upper=upper)
