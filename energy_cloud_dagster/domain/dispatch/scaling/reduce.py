"""Large linear programmes of dispatch by way of a small one: prices first, then what they leave open, then the proof.

A problem of a few hundred resources gives the prices of the rows that all resources share (Dantzig and Wolfe's
decomposition read the other way round: one good guess instead of many). To them every resource has its best reply.
Flows that are at a bound by a clear margin stay there, the rest is solved; the prices of that programme and the
resources' own duals bound the optimum of the whole from below. If the bound is not reached, what spoils it is set free
and the rest is solved again. The result is the optimum of the whole programme with a full set of duals, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, Problem
from energy_cloud_dagster.domain.dispatch.scaling import chains
from energy_cloud_dagster.domain.dispatch.scaling.aggregate import Aggregate, alike
from energy_cloud_dagster.domain.dispatch.solving import lp
from energy_cloud_dagster.domain.dispatch.solving.matrices import Matrices, Switches, build

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.solving.lp import Raw

#: Below these sizes a solve is quick as it is.
LEAST_RESOURCES: Final = 1_000
LEAST_CELLS: Final = 20_000
#: Rows that more than one resource shares; every other row belongs to one.
_SHARED: Final = (
    *("maxGridImport", "maxEmissions", "minRenewable", "maxCost"),
    *("unmetDemand", "reserveUp", "reserveDown", "balance"),
)
_RESERVES: Final = ("reserveUp", "reserveDown")
#: What a row may be off by and still hold, relative: below the solver's own tolerance.
_HELD: Final = 1e-8
#: Rows of resources whose best reply is known in closed form.
_CHAINED: Final = ("stored", "ramp")
#: Blocks of columns that stay free: few, and what keeps the rest feasible.
_ALWAYS_FREE: Final = frozenset({"imported", "exported", "unmet", "goals"})
_CHAINED_FLOWS: Final = ("charge", "discharge", "stored")

#: A flow is decided if its reduced cost is more than this share of the usual price. Rounds of 0 set free only what
#: spoils the proof; those after them mistrust the prices.
_MARGINS: Final = (0.02, 0.0, 0.0, 0.0, 0.1, 0.3, 0.0, 0.0)
#: With a plan to start from, costs are no guide: goals have few.
_RESUMED: Final = (0.0,) * 5
#: Distance between cost and bound that proves the optimum, relative to the sum of all costs without their signs: what
#: the fixed flows may add to it, and all of it, of which the solver's own tolerance is the most.
_PROVEN: Final = 1e-10
_SOLVED: Final = 1e-7
#: The same for the part of one resource, below which it is not set free.
_NO_MATTER: Final = 1e-13

#: How HiGHS numbers the states of a column or row in a basis.
_LOWER, _BASIC, _UPPER = 0, 1, 2


class Solver(Protocol):
    """Solves a linear programme, from a basis if there is one."""

    def __call__(self, matrices: Matrices, *, basis: Any = None) -> Raw:
        """Minimise ``matrices``."""
        ...


def wanted(problem: Problem, matrices: Matrices) -> bool:
    """Return whether :func:`run` is likely to be quicker than a plain solve."""
    large = problem.size >= LEAST_RESOURCES and problem.size * problem.steps >= LEAST_CELLS
    return large and matrices.integer is None and "balance" in matrices.rows


class Guide:
    """What one solve leaves for the next one of the same rows and columns with other costs."""

    def __init__(self) -> None:
        self.attempt: _Attempt | None = None


def run(
    problem: Problem, switches: Switches, matrices: Matrices, solver: Solver, guide: Guide | None = None
) -> Raw | None:
    """Return the optimum of ``matrices``, which :func:`build` made of ``problem`` under ``switches``.

    Costs and bounds of ``matrices`` may differ from what ``build`` gave, as goals change them; with the ``guide`` of an
    earlier run, that one's plan is the start. ``solver`` solves the smaller programmes. When its time is over, the plan
    at hand is ``stopped`` with the bound that the prices so far prove. ``infeasible`` is proven, except where goals may
    fall short and have no columns yet. ``None`` means that this way led nowhere: then solve the whole programme.
    """
    if any(name in matrices.rows for name in _RESERVES):
        raw = _without_reserve(problem, switches, matrices, solver, guide)
        if raw is not None:
            return raw
    attempt = None if guide is None else guide.attempt
    if guide is not None:
        guide.attempt = None
    if attempt is not None and attempt.matrices.rows.keys() == matrices.rows.keys():
        attempt.resume(matrices)
        raw = _refined(attempt, solver, _RESUMED)
    else:
        merged = alike(problem)
        small = _small(merged, switches, matrices)
        raw = solver(small)
        # without a proof either, where goals can fall short it is their columns that are needed next
        soft = not problem.strict and not switches.goals
        if raw.status == "unknown" or (raw.status == "infeasible" and (merged.loosens or soft)):
            return raw
        if raw.status != "optimal":
            return None
        prices = np.zeros(len(matrices.row_lower))
        for name in _shared(matrices):
            matrices.row(name, prices)[...] = small.row(name, raw.row_duals)
        attempt = _Attempt(problem, matrices)
        if not attempt.answer(prices):
            return None
        attempt.x = attempt.reply.x
        usual = min(float(np.abs(matrices.row("balance", prices)).mean()), _usual_cost(matrices))
        attempt.near = _MARGINS[0] * usual
        raw = _refined(attempt, solver, [margin * usual for margin in _MARGINS])
    if guide is not None and attempt.begun:
        guide.attempt = attempt
    return raw


def _refined(attempt: _Attempt, solver: Solver, margins: Sequence[float]) -> Raw | None:
    """Solve what is open, and set more free until the proof succeeds."""
    for margin in margins:
        if not attempt.widen(margin):
            continue
        raw = solver(attempt.rest(), basis=attempt.basis)
        if raw.status == "unknown":
            return raw
        attempt.basis = None
        if raw.status == "infeasible":
            continue
        prices = attempt.take(raw)
        if raw.status == "optimal" and not attempt.answer(prices):
            return None
        bound, proven = attempt.judge()
        if proven or raw.status == "stopped":
            return replace(
                raw,
                objective=float(attempt.matrices.cost @ attempt.x),
                x=attempt.x,
                column_duals=attempt.reply.reduced,
                row_duals=attempt.reply.duals,
                basis=None,
                bound=bound,
            )
    return None


def _without_reserve(
    problem: Problem, switches: Switches, matrices: Matrices, solver: Solver, guide: Guide | None
) -> Raw | None:
    """Return the optimum without the reserve if it holds that reserve anyway, as it often does."""
    switches = replace(switches, dropped=switches.dropped | {"reserve"})
    loose = build(problem, switches)
    cost, lower, upper = loose.cost.copy(), loose.lower.copy(), loose.upper.copy()
    for mine, its in ((cost, matrices.cost), (lower, matrices.lower), (upper, matrices.upper)):
        for name in loose.columns:
            loose.column(name, mine)[...] = matrices.column(name, its)
    raw = run(problem, switches, replace(loose, cost=cost, lower=lower, upper=upper), solver, guide)
    if raw is None or raw.status in ("infeasible", "unknown"):
        return raw
    x, reduced, duals = (np.zeros(size) for size in (len(matrices.cost), len(matrices.cost), len(matrices.row_lower)))
    for name in loose.columns:
        matrices.column(name, x)[...] = loose.column(name, raw.x)
        matrices.column(name, reduced)[...] = loose.column(name, raw.column_duals)
    for name in loose.rows:
        matrices.row(name, duals)[...] = loose.row(name, raw.row_duals)
    row_of = np.repeat(np.arange(len(duals)), np.diff(matrices.start))
    # headroom is as much as its own rows leave
    head = np.ones(len(x), bool)
    for name in loose.columns:
        offset, shape = matrices.columns[name]
        head[offset : offset + int(np.prod(shape))] = False
    own = np.isfinite(matrices.row_upper)
    left = matrices.row_upper - np.bincount(row_of, matrices.value * x[matrices.index], minlength=len(duals))
    cells = head[matrices.index] & own[row_of]
    room = matrices.upper.copy()
    np.minimum.at(room, matrices.index[cells], left[row_of[cells]])
    x[head] = np.maximum(room[head], 0.0)
    acts = np.bincount(row_of, matrices.value * x[matrices.index], minlength=len(duals))
    near = _HELD * np.maximum(1.0, np.abs(acts))
    held = (acts >= matrices.row_lower - near) & (acts <= matrices.row_upper + near)
    return replace(raw, x=x, column_duals=reduced, row_duals=duals) if held.all() else None


def _usual_cost(matrices: Matrices) -> float:
    """Return the mean cost of the dearest kind of flow: what prices are made of where no goal makes them."""
    blocks = [matrices.column(name, matrices.cost) for name in matrices.columns if name not in ("unmet", "goals")]
    return max((float(np.abs(block).mean()) for block in blocks if block.size), default=0.0)


def _shared(matrices: Matrices) -> list[str]:
    return [name for name in _SHARED if name in matrices.rows]


def _small(merged: Aggregate, switches: Switches, whole: Matrices) -> Matrices:
    """Return the programme of the merged problem with the costs and bounds that goals gave to ``whole``."""
    on = None if switches.on is None else switches.on[np.unique(merged.units, return_index=True)[1]]
    small = build(merged.problem, replace(switches, stores=None, on=on, dropped=merged.dropped(switches.dropped)))
    cost, lower, upper = small.cost.copy(), small.lower.copy(), small.upper.copy()
    for name in small.columns:
        if name in _ALWAYS_FREE:
            for mine, its in ((cost, whole.cost), (lower, whole.lower), (upper, whole.upper)):
                small.column(name, mine)[...] = whole.column(name, its)
        elif not whole.column(name, whole.cost).any():
            small.column(name, cost)[...] = 0.0
    return replace(small, cost=cost, lower=lower, upper=upper)


@dataclass(frozen=True, slots=True, eq=False)
class _Reply:
    """Best flows to some prices, with duals of all rows and the reduced costs that belong to them."""

    x: Floats
    duals: Floats
    reduced: Floats


class _Attempt:
    """The whole programme, the plan ``x`` at hand, which of its columns are ``free``, and what prices say of it."""

    reply: _Reply
    x: Floats

    def __init__(self, problem: Problem, matrices: Matrices) -> None:
        self.problem, self.matrices = problem, matrices
        self.lengths = np.diff(matrices.start)
        self.row_of = np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)
        # without rows of another kind, stores and ramps are chains
        chained = all(name in _SHARED or name in _CHAINED for name in matrices.rows)
        self.stores = chained and "stored" in matrices.rows
        none = np.zeros(0, np.int64)
        ramped = matrices.cells["ramp"] if "ramp" in matrices.rows else none
        self.ramped = ramped if chained else none
        simple = {"generation", "shed", *(_CHAINED_FLOWS if chained else ())}
        self.free = np.zeros(len(matrices.cost), bool)
        for name in matrices.columns:
            self._marks(name, self.free)[...] = name not in simple
        if not chained:
            self._marks("generation", self.free)[ramped] = True
        self.shared = np.zeros(len(self.lengths), bool)
        for name in _shared(matrices):
            offset, shape = matrices.rows[name]
            self.shared[offset : offset + int(np.prod(shape))] = True
        self.spoilt = np.zeros(len(matrices.cost), bool)
        #: that of the last solve, as far as the next one can start from it
        self.basis: Any = None
        self._last: tuple[Any, BoolArray] | None = None
        self._resumed = False
        #: reduced costs up to this are next to nothing
        self.near = 0.0

    def resume(self, matrices: Matrices) -> None:
        """Go on with other costs, and other bounds of the columns that are always free."""
        self.matrices = matrices
        self.spoilt = np.zeros(len(matrices.cost), bool)
        self._resumed = True
        # any duals prove a bound, and those of other costs are no worse than others
        self.reply = replace(self.reply, reduced=matrices.cost - self._spread(self.reply.duals))

    def _marks(self, name: str, marks: BoolArray) -> BoolArray:
        """Return the block ``name`` of one mark per column, in its shape."""
        offset, shape = self.matrices.columns[name]
        return marks[offset : offset + int(np.prod(shape))].reshape(shape)

    @property
    def begun(self) -> bool:
        """Whether ``x`` is a plan of the whole."""
        return self._last is not None

    # -- replies

    def answer(self, duals: Floats) -> bool:
        """Find the best reply to the duals of the shared rows, as ``reply``; false if some resource has none.

        The duals of rows whose resources have no reply in closed form stay as they are.
        """
        matrices = self.matrices
        priced = matrices.cost - self._spread(np.where(self.shared, duals, 0.0))
        highest = np.where(np.isfinite(matrices.upper), matrices.upper, matrices.lower)
        x, duals = np.where(priced < 0.0, highest, matrices.lower), duals.copy()
        if not (self._answer_of_stores(priced, x, duals) and self._answer_of_ramps(priced, x, duals)):
            return False
        self.reply = _Reply(x, duals, matrices.cost - self._spread(duals))
        return True

    def _spread(self, duals: Floats) -> Floats:
        """Return Aᵀ @ duals."""
        weight = self.matrices.value * np.repeat(duals, self.lengths)
        return np.bincount(self.matrices.index, weight, minlength=len(self.matrices.cost))

    def _answer_of_stores(self, priced: Floats, x: Floats, duals: Floats) -> bool:
        if not self.stores:
            return True
        matrices = self.matrices
        reply = chains.reply_of_stores(
            charge_cost=matrices.column("charge", priced),
            discharge_cost=matrices.column("discharge", priced),
            most_charge=matrices.column("charge", matrices.upper),
            most_discharge=matrices.column("discharge", matrices.upper),
            least=matrices.column("stored", matrices.lower),
            most=matrices.column("stored", matrices.upper),
            initial=matrices.row("stored", matrices.row_lower)[:, 0] * self.problem.step_hours,
            one_way=np.sqrt(self.problem.stores.efficiency),
            hours=self.problem.step_hours,
        )
        if reply is None:
            return False
        for name in _CHAINED_FLOWS:
            matrices.column(name, x)[...] = getattr(reply, name)
        # these rows are in kW
        matrices.row("stored", duals)[...] = reply.dual * self.problem.step_hours
        return True

    def _answer_of_ramps(self, priced: Floats, x: Floats, duals: Floats) -> bool:
        if not self.ramped.size:
            return True
        matrices = self.matrices
        reply = chains.reply_of_ramps(
            cost=matrices.column("generation", priced)[self.ramped],
            least=matrices.column("generation", matrices.lower)[self.ramped],
            most=matrices.column("generation", matrices.upper)[self.ramped],
            ramp=matrices.row("ramp", matrices.row_upper),
        )
        if reply is None:
            return False
        matrices.column("generation", x)[self.ramped] = reply.output
        matrices.row("ramp", duals)[...] = reply.dual[:, 1:]
        return True

    # -- what is left to decide

    def widen(self, margin: float) -> bool:
        """Set free what spoiled the proof, and with a ``margin`` what is not decided; false if that is nothing new."""
        wider = self.free | self.spoilt
        if margin > 0.0:
            wider |= np.abs(self.reply.reduced) <= margin
        if self.stores:
            moves = self._marks("charge", wider).any(axis=1) | self._marks("discharge", wider).any(axis=1)
            self._marks("stored", wider)[...] |= moves[:, None]
        if self.ramped.size:
            # a fixed output would hold its neighbours by the ramp
            output = self._marks("generation", wider)
            output[self.ramped] = output[self.ramped].any(axis=1)[:, None]
        if margin == 0.0 and not self._resumed and (wider == self.free).all():
            return False
        self._resumed = False
        if self._last is not None:
            self.basis = self._grown(*self._last, wider)
        self.free = wider
        return True

    def rest(self) -> Matrices:
        """Return the programme of the free columns with the others fixed at ``x``."""
        matrices, free, count = self.matrices, self.free, len(self.lengths)
        kept = free[matrices.index]
        fixed = ~kept
        weight = matrices.value[fixed] * self.x[matrices.index[fixed]]
        taken = np.bincount(self.row_of[fixed], weight, minlength=count)
        lengths = np.bincount(self.row_of[kept], minlength=count)
        rows = self._rows(free)
        number = np.cumsum(free, dtype=np.int32) - 1
        start = np.zeros(int(rows.sum()) + 1, np.int32)
        np.cumsum(lengths[rows], out=start[1:])
        return Matrices(
            cost=matrices.cost[free],
            lower=matrices.lower[free],
            upper=matrices.upper[free],
            row_lower=(matrices.row_lower - taken)[rows],
            row_upper=(matrices.row_upper - taken)[rows],
            start=start,
            index=number[matrices.index[kept]].astype(np.int32),
            value=matrices.value[kept],
            integer=None,
            columns={},
            rows={},
        )

    def _rows(self, free: BoolArray) -> BoolArray:
        """Return the rows with a free column, and those that resources share: none of them is broken unseen."""
        touched = np.zeros(len(self.lengths), bool)
        touched[self.row_of[free[self.matrices.index]]] = True
        return touched | self.shared

    def take(self, raw: Raw) -> Floats:
        """Put the solved part into ``x`` and return the duals of the rows it had, 0 elsewhere."""
        free = self.free
        self.x = self.x.copy()
        self.x[free] = np.clip(raw.x, self.matrices.lower[free], self.matrices.upper[free])
        duals = np.zeros(len(self.lengths))
        if raw.row_duals.size:
            duals[self._rows(free)] = raw.row_duals
        self._last = None if raw.basis is None else (raw.basis, free)
        return duals

    def _grown(self, basis: Any, old: BoolArray, new: BoolArray) -> Any:
        """Return the basis with the columns that are ``new`` at the bound where they are, their rows loose."""
        matrices = self.matrices
        columns = np.where(self.x - matrices.lower > matrices.upper - self.x, _UPPER, _LOWER)
        rows = np.full(len(self.lengths), _BASIC)
        if self.stores:
            # a store that moves for the first time starts from the levels it had
            offset = matrices.rows["stored"][0]
            fresh = (self._marks("stored", new) & ~self._marks("stored", old)).ravel()
            rows[offset : offset + fresh.size][fresh] = _LOWER
            offset = matrices.columns["stored"][0]
            columns[offset : offset + fresh.size][fresh] = _BASIC
        before, after = self._rows(old), self._rows(new)
        return lp.widened(basis, columns[new], old[new], rows[after], before[after])

    # -- the proof

    def judge(self) -> tuple[float, bool]:
        """Return the bound that the reply's duals prove, and whether the plan reaches it; mark what spoils that.

        For any duals y and z = cost - Aᵀ y, y @ (the row bound on its side) + z @ (the column bound on its side) is at
        most the optimum.
        """
        matrices, x, reply = self.matrices, self.x, self.reply
        over = _slack(reply.reduced, x, matrices.lower, matrices.upper)
        acts = np.bincount(self.row_of, matrices.value * x[matrices.index], minlength=len(self.lengths))
        gap = float(over.sum() + _slack(reply.duals, acts, matrices.row_lower, matrices.row_upper).sum())
        scale = max(1.0, float(np.abs(matrices.cost) @ np.abs(x)))
        proven = float(over[~self.free].sum()) <= _PROVEN * scale and gap <= _SOLVED * scale
        self.spoilt = over > _NO_MATTER * scale
        if self.stores:
            # a store that has to move needs its other moves that cost next to nothing
            near = np.abs(reply.reduced) <= self.near
            blocks = [(self._marks(name, self.spoilt), self._marks(name, near)) for name in _CHAINED_FLOWS]
            some = np.any([spoilt.any(axis=1) for spoilt, _ in blocks], axis=0)[:, None]
            for spoilt, close in blocks:
                np.logical_or(spoilt, some & close, out=spoilt)
        return float(matrices.cost @ x) - gap, proven


def _slack(dual: Floats, value: Floats, lower: Floats, upper: Floats) -> Floats:
    """Return what each ``value`` costs over the bound on the side that its dual points to."""
    side = np.where(dual > 0.0, lower, upper)
    there = np.isfinite(side)
    return np.where(there, dual * (value - np.where(there, side, 0.0)), np.abs(dual) * np.maximum(1.0, np.abs(value)))
