"""What is said of a plan as a whole: how good it is, which goals fall short, and why there is no plan at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import UNMET_PENALTY_PER_KWH, Constraints, Loads, Problem
from energy_cloud_dagster.domain.dispatch.solving.lp import SolverFailed
from energy_cloud_dagster.domain.dispatch.telling.reasons import DUAL_TOLERANCE
from energy_cloud_dagster.domain.dispatch.telling.wording import Clock, Units, listed, money

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.flows import Outcome
    from energy_cloud_dagster.domain.dispatch.problem import Floats
    from energy_cloud_dagster.domain.dispatch.solving.budget import Budget
    from energy_cloud_dagster.domain.dispatch.solving.matrices import Goal

#: Shortfalls below this share of the energy demanded are the solver's tolerance.
_NOTHING: Final = 1e-6
#: Gaps below this share are told as none.
_SAME_GAP: Final = 5e-5
#: Resources times steps up to which a second solve, for what a goal would take, is not felt.
_QUICK: Final = 20_000
#: The limits of the whole plan, and one unit of them.
_WHOLE: Final = {
    "minRenewable": "one kWh of renewables less",
    "maxCost": "one more unit of money",
    "maxEmissions": "one more unit of emissions",
}


#: What each goal's shortfall is a shortfall of.
_GOALS: Final[dict[Goal, str]] = {"unmetDemand": "the demand", "minRenewable": "minRenewable", "maxCost": "maxCost"}


def goals(problem: Problem, outcome: Outcome, budget: Budget | None = None) -> Iterator[str]:
    """Yield sentences on how good a plan is, on each goal that falls short, and on what the plan's limits cost.

    What keeping ``minRenewable`` would take is found by a second solve, where the problem is not large and ``budget``
    leaves the time.
    """
    yield from _quality(outcome)
    hours, flows, limits = problem.step_hours, outcome.flows, problem.constraints
    demanded = float(problem.demand.sum()) * hours
    served = demanded - float(flows.unmet.sum() + flows.shed.sum()) * hours
    short = {goal: value for goal, value in outcome.shortfalls.items() if value > _NOTHING * max(1.0, demanded)}
    if "unmetDemand" in short:
        yield _unmet(problem, outcome, demanded)
    if "minRenewable" in short:
        yield _too_few_renewables(problem, outcome, short["minRenewable"], budget)
    if "maxCost" in short and limits.max_cost is not None:
        spent = f"{money(outcome.cost / served)} per kWh served" if served > 0 else money(outcome.cost)
        yield (
            f"The plan costs {spent}, {money(short['maxCost'])} in all above maxCost {money(limits.max_cost)}; "
            "no plan that serves as much exceeds it by less."
        )
    for name, unit in _WHOLE.items():
        if name not in short and (value := float(outcome.duals.limits.get(name, 0.0))) > DUAL_TOLERANCE:
            yield f"{name} binds: {unit} would save {money(value)}."


def impossible(conflict: Sequence[str], problem: Problem | None = None, *, smallest: bool = True) -> str:
    """Return the sentence for a problem without a plan; with ``problem`` it says what each constraint asks for.

    Where the conflict may not be the ``smallest`` one, it does not say that relaxing one constraint is enough.
    """
    names = [f"{name}{_asked(problem, name)}" for name in conflict] if problem is not None else list(conflict)
    if len(names) == 1 and smallest:
        return f"No plan can keep {names[0]}, even with every other constraint left out."
    advice = "relax one of them" if smallest else "the time was too short to find out which of them are at odds"
    return f"No plan can keep {listed(names)} together; {advice}."


def _asked(problem: Problem, name: str) -> str:
    """Return what a constraint asks for in brackets: its value, or the least and the most that it takes over time."""
    limits, units, stores = problem.constraints, problem.generators, problem.stores
    resource, _, field = name.rpartition(".")
    if resource in problem.ids:
        place = problem.ids.index(resource)
        if field == "minPower":
            return _between(units.min_power[units.place == place], " kW")
        if field == "rampRate":
            initial = float(units.initial[units.place == place][0])
            after = "" if np.isnan(initial) else f" after an initialOutput of {initial:,.6g} kW"
            return _between(units.ramp[units.place == place], f" kW per step{after}")
        share = {"minSoc": stores.min_soc, "maxSoc": stores.max_soc}.get(field, stores.end_soc)
        return _between(share[stores.place == place], "")
    if name == "reserve":
        ways = (("up", limits.reserve_up), ("down", limits.reserve_down))
        return "".join(_between(most, f" kW {way}") for way, most in ways if most is not None and most.any())
    if name == "demand":
        return _between(problem.demand, " kW")
    whole: dict[str, tuple[Floats | float | None, str]] = {
        "maxGridImport": (limits.max_grid_import, " kW"),
        "maxEmissions": (limits.max_emissions, ""),
        "minRenewable": (limits.min_renewable, ""),
        "maxCost": (limits.max_cost, " per kWh"),
    }
    value, unit = whole.get(name, (None, ""))
    return "" if value is None else _between(np.asarray(value), unit)


def _between(values: Floats, unit: str) -> str:
    if not values.size:
        return ""
    least, most = (f"{float(value):,.6g}" for value in (values.min(), values.max()))
    return f" ({least}{unit})" if least == most else f" ({least} to {most}{unit})"


def _quality(outcome: Outcome) -> Iterator[str]:
    gap = outcome.gap
    if outcome.solver == "ga":
        text = "The genetic algorithm found this plan; "
        if gap is None or abs(gap) < _SAME_GAP:
            yield f"{text}it costs what the linear programme's plan costs."
        else:
            yield f"{text}it costs {abs(gap):.2%} {'more' if gap > 0 else 'less'} than the linear programme's plan."
    elif not outcome.optimal:
        # a share of 1 and more of the cost is no news
        known = gap is not None and gap < 1
        proven = "how far it is from the least cost is not known" if not known else f"at most {gap:.2%} could be saved"
        if outcome.unproven and known:
            proven += " by one that falls no shorter"
        yield f"The time limit stopped the search: this is the best plan found so far, and {proven}."
        for goal, less in outcome.unproven.items():
            unit = "of cost" if goal == "maxCost" else "kWh"
            yield f"Another plan may fall short of {_GOALS[goal]} by less, at most by {money(less)} {unit} less."


def _unmet(problem: Problem, outcome: Outcome, demanded: float) -> str:
    unmet, hours = outcome.flows.unmet, problem.step_hours
    worst = int(unmet.argmax())
    units, energy = Units(float(problem.demand.max())), float(unmet.sum()) * hours
    steps = int((unmet > _NOTHING * max(1.0, float(problem.demand.max()))).sum())
    where = f"{units.power(float(unmet[worst]))} at {Clock(problem).name(worst)}"
    if steps > 1:
        where = f"in {steps:,} steps, most of it {where}"
    stays, adds = _one(energy, "stays", "stay"), _one(energy, "it adds", "they add")
    return (
        f"{money(energy)} kWh of demand ({energy / demanded:.1%}) {stays} unmet, {where}; "
        f"at {money(UNMET_PENALTY_PER_KWH)} per kWh {adds} {money(UNMET_PENALTY_PER_KWH * energy)} to the cost."
    )


def _one(amount: float, singular: str, plural: str) -> str:
    return singular if money(amount) == "1" else plural


def _too_few_renewables(problem: Problem, outcome: Outcome, short: float, budget: Budget | None) -> str:
    flows, hours, units = outcome.flows, problem.step_hours, problem.generators
    share = problem.constraints.min_renewable or 0.0
    generated = flows.generation.sum(axis=1)
    sourced = float(generated.sum() + flows.imported.sum())
    got = float(generated[units.renewable].sum()) / sourced if sourced else 0.0
    missing = f"{money(short)} kWh {_one(short, 'is', 'are')} missing"
    text = f"Renewables give {got:.1%} where minRenewable asks for {share:.1%}: {missing}"
    if problem.size * problem.steps > _QUICK or outcome.unproven or (budget is not None and budget.over()):
        return f"{text}."
    try:
        kept = _keeping_the_share(problem, budget)
    except SolverFailed:
        return f"{text}."
    if kept is None:
        return f"{text}, and no plan keeps it."
    if not kept.optimal:
        return f"{text}."
    more = float(kept.flows.shed[-1].sum() - flows.unmet.sum()) * hours
    return f"{text}; to keep it, {money(more)} kWh more of the demand would have to stay unmet."


def _keeping_the_share(problem: Problem, budget: Budget | None) -> Outcome | None:
    """Return the best plan that keeps ``minRenewable`` and may leave demand unmet: shed by one more load, at 10."""
    from energy_cloud_dagster.domain.dispatch.solving.goals import Impossible, optimise

    steps, loads, limits = problem.steps, problem.loads, problem.constraints
    one, cost = np.ones((1, steps)), np.full((1, steps), UNMET_PENALTY_PER_KWH)
    demand = problem.demand[None, :]
    # the other goals give way to this one
    constraints = Constraints(
        min_renewable=limits.min_renewable,
        max_grid_import=limits.max_grid_import,
        max_emissions=limits.max_emissions,
        reserve_up=limits.reserve_up,
        reserve_down=limits.reserve_down,
    )
    found = optimise(
        replace(
            problem,
            ids=(*problem.ids, ""),
            types=(*problem.types, "load"),
            priority=np.zeros(problem.size + 1, np.int64),
            loads=Loads(
                place=np.append(loads.place, problem.size),
                capacity=np.concatenate((loads.capacity, demand)),
                availability=np.concatenate((loads.availability, one)),
                limit=np.concatenate((loads.limit, demand)),
                cost=np.concatenate((loads.cost, cost)),
            ),
            constraints=constraints,
            strict=True,
        ),
        budget=budget,
    )
    return None if isinstance(found, Impossible) else found
