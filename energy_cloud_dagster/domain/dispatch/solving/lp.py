"""From arrays to HiGHS and back by way of PuLP: the only module that imports them, and it does so on first use.

PuLP sets the options and runs the solver; the matrices go in whole and the solution comes out whole, because PuLP's own
loops over variables and expressions cost as much as the solve itself. :func:`to_pulp` writes the same programme as PuLP
variables and expressions, for a file that other tools read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from math import frexp, inf, isfinite
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from energy_cloud_dagster.domain.errors import EnergyCloudError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, IntArray
    from energy_cloud_dagster.domain.dispatch.solving.matrices import Matrices

#: The gaps, relative and in currency, at which a plan with integers counts as proven.
_GAP, _GAP_ABSOLUTE = 1e-8, 1e-9


def _nothing() -> Floats:
    return np.zeros(0)


#: HiGHS's numbers of the primal simplex method, and of devex pricing, which is quicker below so many columns.
_PRIMAL: Final = 4
_DEVEX, _SMALL = 1, 2_000
#: The largest exponent of two that costs are scaled by.
_MOST_SCALE: Final = 10


class SolverFailed(EnergyCloudError):
    """HiGHS gave neither a plan nor a proof that there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What the solver says, one value per column or row of the matrices.

    ``status``: ``optimal``; ``infeasible`` (proven); ``stopped`` by the time limit with a plan at hand; ``unknown``,
    stopped without one (``x`` is empty). The duals are those of a linear programme (meaningless after one with
    integers) and the derivative of the objective by each bound. ``bound`` is the least objective that is still
    possible. ``basis`` is HiGHS's own, for :func:`run`; ``seconds`` is what the solver took, by its own clock, and
    ``iterations`` are those of the simplex method.
    """

    status: Literal["optimal", "infeasible", "stopped", "unknown"]
    objective: float = inf
    x: Floats = field(default_factory=_nothing)
    column_duals: Floats = field(default_factory=_nothing)
    row_duals: Floats = field(default_factory=_nothing)
    basis: Any = None
    bound: float = -inf
    seconds: float = 0.0
    iterations: int = 0


def run(
    matrices: Matrices,
    *,
    basis: Any = None,
    start: Floats | None = None,
    time_limit: float | None = None,
    gap: float | None = None,
    presolve: bool = False,
    primal: bool = False,
) -> Raw:
    """Minimise; deterministic and on one thread.

    ``basis`` is that of a solve of the same columns and rows, from which this one starts, or one that was
    :func:`widened`; ``start`` is a plan that an integer programme begins with. ``time_limit`` is in seconds, ``gap``
    the relative gap at which an integer programme may stop. ``presolve`` is for linear programmes with many columns
    that the rows decide, ``primal`` for a basis that is a plan but not the best one. Raises SolverFailed if HiGHS gives
    up.
    """
    if (matrices.lower > matrices.upper).any() or (matrices.row_lower > matrices.row_upper).any():
        return Raw("infeasible")
    if not matrices.cost.size:
        possible = (matrices.row_lower <= 0).all() and (matrices.row_upper >= 0).all()
        nothing = Raw("optimal", 0.0, row_duals=np.zeros(matrices.row_lower.size), bound=0.0)
        return nothing if possible else Raw("infeasible")
    spent, scale = 0.0, _scale(matrices.cost)
    # Presolve costs a linear programme of this kind more than it saves; with integers it pays.
    first, second = ("on", "off") if presolve or matrices.integer is not None else ("off", "on")
    for setting in (first, second):
        left = None if time_limit is None else max(time_limit - spent, 0.0)
        # Not threads=1: HiGHS refuses a count that differs from the one its process-wide scheduler started with.
        solver = _arrays_solver()(
            msg=False,
            timeLimit=left,
            gapRel=_GAP if gap is None else gap,
            gapAbs=_GAP_ABSOLUTE * scale,
            parallel="off",
            presolve=setting,
        )
        if primal and basis is not None:
            solver.optionsDict["simplex_strategy"] = _PRIMAL
        if matrices.cost.size < _SMALL:
            solver.optionsDict["simplex_dual_edge_weight_strategy"] = _DEVEX
        call = _Call(matrices, scale, basis, start)
        solver.createAndConfigureSolver(call)
        solver.buildSolverModel(call)
        solver.callSolver(call)
        raw: Raw | None = solver.findSolutionValues(call)
        if raw is not None:
            return raw
        spent += call.solverModel.getRunTime()
        basis = None
    raise SolverFailed(f"the solver stopped without an answer: {call.solverModel.getModelStatus()}")


def _scale(cost: Floats) -> float:
    """Return the power of two, which changes no digit, that brings the dearest column between 4 and 8, never down.

    With prices of cents HiGHS's perturbations and tolerances are too coarse, and a week takes half as long again.
    """
    dearest = max(float(cost.max()), -float(cost.min()))
    return 2.0 ** min(max(3 - frexp(dearest)[1], 0), _MOST_SCALE) if dearest > 0 else 1.0


def widened(basis: Any, columns: IntArray, had_columns: BoolArray, rows: IntArray, had_rows: BoolArray) -> Any:
    """Return ``basis`` for a programme that has more columns and rows.

    ``had_columns`` and ``had_rows`` mark those of the larger programme that ``basis`` is about, in the same order; the
    others get the state that ``columns`` and ``rows`` give them: 0 at the lower bound, 1 basic, 2 at the upper bound.
    """
    import highspy

    states = [highspy.HighsBasisStatus(value) for value in range(3)]
    larger = highspy.HighsBasis()
    larger.col_status = _states(basis.col_status, columns, had_columns, states)
    larger.row_status = _states(basis.row_status, rows, had_rows, states)
    larger.valid, larger.alien = True, False
    return larger


def _states(had: Sequence[Any], given: IntArray, there: BoolArray, states: list[Any]) -> list[Any]:
    merged = [states[value] for value in given.tolist()]
    for place, state in zip(np.flatnonzero(there).tolist(), had, strict=True):
        merged[place] = state
    return merged


class _Call:
    """What PuLP's solver sees in place of an ``LpProblem``."""

    def __init__(self, matrices: Matrices, scale: float, basis: Any, start: Floats | None) -> None:
        self.matrices, self.scale, self.basis, self.start = matrices, scale, basis, start
        self.solverModel: Any = None


@cache
def _arrays_solver() -> Any:
    """Return PuLP's HiGHS with the two steps replaced that go through its model variable by variable."""
    import highspy
    import pulp

    status = highspy.HighsModelStatus
    feasible = int(highspy.SolutionStatus.kSolutionStatusFeasible)

    class ArraysHiGHS(pulp.HiGHS):
        def buildSolverModel(self, lp: _Call) -> None:  # noqa: N802 - PuLP's name
            model, matrices = lp.solverModel, lp.matrices
            none = np.zeros(0, np.int32)
            count = matrices.cost.size
            model.addCols(count, matrices.cost * lp.scale, matrices.lower, matrices.upper, 0, none, none, _nothing())
            if matrices.integer is not None:
                whole = np.flatnonzero(matrices.integer).astype(np.int32)
                kinds = np.full(whole.size, int(highspy.HighsVarType.kInteger), np.uint8)
                model.changeColsIntegrality(whole.size, whole, kinds)
            model.addRows(
                matrices.row_lower.size,
                matrices.row_lower,
                matrices.row_upper,
                matrices.index.size,
                matrices.start[:-1],
                matrices.index,
                matrices.value,
            )
            if lp.basis is not None:
                model.setBasis(lp.basis)
            if lp.start is not None and matrices.integer is not None:
                plan = highspy.HighsSolution()
                plan.col_value, plan.value_valid = lp.start.tolist(), True
                model.setSolution(plan)

        def findSolutionValues(self, lp: _Call) -> Raw | None:  # noqa: N802 - PuLP's name
            """Return what was found, ``None`` if it is neither an optimum, nor a proof, nor the end of the time."""
            model = lp.solverModel
            found, seconds = model.getModelStatus(), model.getRunTime()
            if found == status.kInfeasible:
                return Raw("infeasible", seconds=seconds, iterations=model.getInfo().simplex_iteration_count)
            if found not in (status.kOptimal, status.kTimeLimit):
                return None
            info, solution = model.getInfo(), model.getSolution()
            objective = info.objective_function_value / lp.scale
            bound = info.mip_dual_bound / lp.scale if lp.matrices.integer is not None else -inf
            if found == status.kTimeLimit and not (info.primal_solution_status == feasible and isfinite(objective)):
                return Raw("unknown", bound=bound, seconds=seconds)
            done = found == status.kOptimal
            return Raw(
                status="optimal" if done else "stopped",
                objective=objective,
                x=np.array(solution.col_value),
                column_duals=np.array(solution.col_dual) / lp.scale,
                row_duals=np.array(solution.row_dual) / lp.scale,
                basis=model.getBasis(),
                bound=objective if done and lp.matrices.integer is None else bound,
                seconds=seconds,
                iterations=info.simplex_iteration_count,
            )

    return ArraysHiGHS


def load() -> None:
    """Import PuLP and HiGHS now, for callers whose clock must not count that to the first solve."""
    _arrays_solver()


def to_pulp(matrices: Matrices, names: Mapping[str, Sequence[str]] | None = None) -> Any:
    """Return the programme as a ``pulp.LpProblem``, to be written (``writeLP``) or solved by any of PuLP's solvers.

    ``names`` gives, by name of a block of columns, what its first axis is called, in letters that the LP format allows;
    without it the index is used. A column is called after its block, its resource and its step.
    """
    import pulp

    problem = pulp.LpProblem("dispatch", pulp.LpMinimize)
    columns: list[Any] = []
    for name, (offset, shape) in matrices.columns.items():
        first = (names or {}).get(name) or range(shape[0])
        whole = matrices.integer is not None and offset < matrices.cost.size and bool(matrices.integer[offset])
        axes = (first, *(range(length) for length in shape[1:]))
        made = problem.add_variable_matrix(name, axes, 0, cat="Integer" if whole else "Continuous")
        columns += [each for row in made for each in row] if len(shape) > 1 else made
    for column, lower, upper in zip(columns, matrices.lower.tolist(), matrices.upper.tolist(), strict=True):
        column.lowBound, column.upBound = lower, None if upper == inf else upper
    problem.setObjective(pulp.lpSum_vars_coefs(zip(columns, matrices.cost.tolist(), strict=True)))
    start, index, value = matrices.start.tolist(), matrices.index.tolist(), matrices.value.tolist()
    bounds = zip(matrices.row_lower.tolist(), matrices.row_upper.tolist(), strict=True)
    for row, (lower, upper) in enumerate(bounds):
        terms = slice(start[row], start[row + 1])
        total = pulp.lpSum_vars_coefs([(columns[i], v) for i, v in zip(index[terms], value[terms], strict=True)])
        if lower == upper:
            problem.addConstraint(total == lower)
            continue
        if lower > -inf:
            problem.addConstraint(total >= lower)
        if upper < inf:
            problem.addConstraint(total <= upper)
    return problem
