"""A plan in sentences that an operator reads: who meets the demand of a step, what binds, what one more kWh costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from energy_cloud_dagster.domain.dispatch.problem import Problem

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.solution import Allocation, Solution

#: Resources named in a sentence; the rest is counted.
_NAMED: Final = 4
_VERBS: Final = {
    "storage": ("discharges", "charges"),
    "grid": ("imports", "exports"),
    "load": ("sheds", "sheds"),
}


def sentences(problem: Problem, solution: Solution) -> Iterator[str]:
    """Yield one sentence per step of a completed plan, in order."""
    for step in range(problem.steps):
        start = problem.step_start(step)
        when = f"Step {step + 1}" if start is None else start.strftime("%Y-%m-%d %H:%M UTC")
        parts = [_sources(solution.allocation, step)]
        if solution.unmet[step] > 1e-6 * max(1.0, problem.demand[step]):
            parts.append(f"{_power(solution.unmet[step])} stays unmet")
        if solution.binding[step]:
            binding = solution.binding[step]
            verb = "binds" if len(binding) == 1 else "bind"
            parts.append(f"{_listed(binding)} {verb}")
        parts.append(f"one more kWh would cost {solution.marginal_price[step]:.6g}")
        yield f"{when}: for {_power(problem.demand[step])} of demand {'; '.join(parts)}."


def impossible(conflict: Sequence[str]) -> str:
    """Return the sentence for a problem without a plan."""
    if len(conflict) == 1:
        return f"No plan can keep {conflict[0]}, even with every other constraint left out."
    return f"No plan can keep {_listed(conflict)} together; relax one of them."


def _sources(allocation: Sequence[Allocation], step: int) -> str:
    active = [each for each in allocation if abs(each.output[step]) > 1e-6]
    # the largest first; sorted() is stable, so that equals keep the order of the problem
    active.sort(key=lambda each: -abs(each.output[step]))
    if not active:
        return "nothing runs"
    return _listed([f"{each.resource_id} {_verb(each, step)} {_power(abs(each.output[step]))}" for each in active])


def _verb(each: Allocation, step: int) -> str:
    forward, backward = _VERBS.get(each.type, ("gives", "gives"))
    return forward if each.output[step] > 0 else backward


def _power(kilowatts: float) -> str:
    return f"{kilowatts:,.1f}".removesuffix(".0") + " kW"


def _listed(names: Sequence[str]) -> str:
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
