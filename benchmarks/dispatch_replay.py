"""What a plan is worth that was made on forecasts: a month of the sample community, decided hour by hour.

Every hour the storage of the sample VPP is told what to do by one rule, knowing nothing of that hour or a later one;
then the hour happens as it was measured, and the tie takes what is left over or missing at the prices of the hour.
Costs are counted alike for all rules: imports less exports, and what the storage holds at the end more or less than at
the start at the cheapest price of the month. Forecasts are made at each hour from what was measured before it: the
region's load by gradient boosting (fitted anew every week on two years), sun and wind from the plants' own past.

- perfect foresight: one linear programme of the whole month; no rule can cost less
- perfect forecasts: planned hourly 24 hours ahead with what then came
- scenarios, robust, p50: planned hourly 24 hours ahead on the forecasts' bands (`domain/dispatch/ahead/scenarios.py`)
- greedy self-consumption: charges what is left over, discharges what is missing, as measured in the hour itself
- no storage control: the storage stands still

    python benchmarks/dispatch_replay.py [--quick] [--month 2026-10] [--plot docs/dispatch_replay.svg]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from _replay import HORIZON, HOUR, Forecaster, accuracy, measured, month, plot, site

from energy_cloud_dagster.domain.dispatch import Problem, solve
from energy_cloud_dagster.domain.dispatch.ahead.rolling import realise, setpoints, window
from energy_cloud_dagster.domain.dispatch.ahead.scenarios import RISKS, Outlook, Risk, patient, solve_outlook

START_SOC = 0.5
#: (the step, what is stored in kWh) -> kW of every resource
Rule = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Replay:
    """A rule's month: ``cost`` with the storage's balance settled, state of charge (hours,) and full cycles."""

    name: str
    cost: float
    soc: np.ndarray
    cycles: float
    milliseconds: float


def replayed(name: str, actual: Problem, hours: int, rule: Rule) -> Replay:
    """Let the first ``hours`` of ``actual`` happen under ``rule``."""
    stores = actual.stores
    stored, cost, discharged, soc = START_SOC * stores.energy, 0.0, 0.0, []
    took = 0.0
    for step in range(hours):
        begun = time.process_time()
        wanted = rule(step, stored)
        took += time.process_time() - begun
        happened = realise(actual, step, stored, wanted)
        stored, cost = happened.stored, cost + happened.cost
        discharged += float(np.maximum(happened.output[stores.place], 0.0).sum())
        soc.append(stored / stores.energy)
        if happened.unmet > 0:
            raise SystemExit(f"{name}: demand was not met in step {step}")
    # what is missing at the end is bought back at the cheapest price, what is left over has saved that
    price = actual.ties.cost[:, :hours].min()
    cost += float((START_SOC * stores.energy - stored) @ (price / np.sqrt(stores.efficiency)))
    cycles = discharged / float(stores.energy.sum())
    return Replay(name, cost, np.array(soc)[:, 0], cycles, 1000 * took / hours)


def rules(actual: Problem, outlooks: list[Outlook]) -> dict[str, Rule]:
    """Return the rules by name, from the one that knows most to the one that knows least."""
    idle = np.zeros(actual.size)

    def known(step: int, stored: np.ndarray) -> np.ndarray:
        ahead = window(actual, step, HORIZON, stored)
        return setpoints(ahead, solve(ahead).to_document())

    def planned(risk: Risk) -> Rule:
        def rule(step: int, stored: np.ndarray) -> np.ndarray:
            ahead = window(actual, step, HORIZON, stored)
            return setpoints(ahead, solve_outlook(ahead, outlooks[step], risk).to_document())

        return rule

    def greedy(step: int, stored: np.ndarray) -> np.ndarray:
        del stored
        wanted = idle.copy()
        wanted[actual.stores.place] = actual.demand[step] - actual.generators.limit[:, step].sum()
        return wanted

    names: dict[Risk, str] = {"scenarios": "scenarios", "robust": "robust margins", "p50": "P50 as if certain"}
    assert set(names) == set(RISKS)
    return {
        "perfect forecasts": known,
        **{name: planned(risk) for risk, name in names.items()},
        "greedy self-consumption": greedy,
        "no storage control": lambda _step, _stored: idle,
    }


def foresight(actual: Problem, hours: int) -> Replay:
    """Return the cheapest month there is."""
    begun = time.process_time()
    whole = window(actual, 0, hours, START_SOC * actual.stores.energy, end_soc=np.full(1, START_SOC))
    best = solve(whole)
    took = 1000 * (time.process_time() - begun) / hours
    # of the many plans of that cost, the one that waits like the others do is drawn
    drawn = solve(patient(whole))
    cycles = float(drawn.discharge.sum() / actual.stores.energy.sum())
    return Replay("perfect foresight", best.cost or 0.0, drawn.soc[0], cycles, took)


def table(results: list[Replay]) -> None:
    """Print what each rule cost, as Markdown."""
    best, worst = results[0].cost, results[-1].cost
    print("\n| rule | cost, million KRW | above foresight | of the possible saving | cycles | ms a decision (CPU) |")
    print("|---|---|---|---|---|---|")
    for one in results:
        print(
            f"| {one.name} | {one.cost / 1e6:.2f} | {100 * (one.cost / best - 1):.2f} % "
            f"| {100 * (worst - one.cost) / (worst - best):.0f} % | {one.cycles:.1f} | {one.milliseconds:.1f} |"
        )


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first week only")
    parser.add_argument("--month", default="2026-10", help="local month of the sample calendar (default: 2026-10)")
    parser.add_argument("--plot", type=Path, help="SVG or PNG to draw")
    options = parser.parse_args()
    start, end = month(options.month)
    end = min(end, start + timedelta(weeks=1)) if options.quick else end
    hours = int((end - start) / HOUR)
    known = measured(start, end)
    begun = time.process_time()
    forecaster = Forecaster(known)
    outlooks = [forecaster.outlook(start + step * HOUR) for step in range(hours)]
    actual = site(known, start, end)
    print(f"{hours} hours from {start:%Y-%m-%d %H:%M} UTC; forecasts: {time.process_time() - begun:.0f} s of CPU")
    accuracy(actual, outlooks)
    results = [foresight(actual, hours)]
    results += [replayed(name, actual, hours, rule) for name, rule in rules(actual, outlooks).items()]
    table(results)
    if options.plot:
        plot({one.name: (one.cost, one.soc) for one in results}, actual, start, options.plot)


if __name__ == "__main__":
    main()
