"""Dispatch: the cheapest plan of a virtual power plant that keeps what it was asked to keep, and why it is that one.

Here: the problem, what a plan of it is, and who judges it. ``solving`` finds the optimum, ``scaling`` makes thousands
of resources cheap, ``evolving`` is the genetic algorithm, ``telling`` explains, ``ahead`` plans for futures that are
bands, ``applying`` is what devices are told.
"""

from __future__ import annotations

from energy_cloud_dagster.domain.dispatch.parsing import parse_problem
from energy_cloud_dagster.domain.dispatch.problem import Problem
from energy_cloud_dagster.domain.dispatch.solution import Solution

__all__ = ["Problem", "Solution", "parse_problem", "solve"]


def solve(problem: Problem) -> Solution:
    """Return the best plan for ``problem``, or the constraints that make one impossible.

    Goals in strict order: least unmet demand, least shortfall of ``minRenewable``, of ``maxCost``, least cost, and then
    the priorities. With ``strict`` the first three are hard. The same problem gives the same plan, bit for bit, on one
    machine. All of it keeps to ``time_limit``; raises SolverFailed where that ran out before there was any plan. The
    plan of the genetic algorithm, only for a problem whose ``solver`` asks for it, says by what share it costs more
    than the optimum.
    """
    from energy_cloud_dagster.domain.dispatch.solution import completed_solution, infeasible_solution
    from energy_cloud_dagster.domain.dispatch.solving.budget import Budget
    from energy_cloud_dagster.domain.dispatch.solving.conflict import smallest_conflict
    from energy_cloud_dagster.domain.dispatch.solving.goals import Impossible, optimise

    budget = Budget(problem.time_limit)
    if problem.solver == "ga":
        from energy_cloud_dagster.domain.dispatch.evolving import genetic

        outcome = genetic.optimise(problem, budget=budget)
    else:
        outcome = optimise(problem, budget=budget)
    if isinstance(outcome, Impossible):
        return infeasible_solution(problem, *smallest_conflict(problem, outcome.switches, budget))
    return completed_solution(problem, outcome, budget)
