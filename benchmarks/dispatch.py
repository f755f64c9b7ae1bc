"""What a plan costs to find, beside a bare HiGHS on the same problem, and whether it is the best one.

The floor is raw highspy: arrays made by hand for the one shape of problem, passed, run, read (`_dispatch.py`). It runs
with HiGHS's own options but for the gap of integers (none, as ours). Ours is the whole call, from the document to the
answer's document: parsed, checked, solved, explained. Seconds are CPU seconds, the least of several runs that take
turns. Memory is the peak of a fresh process that does one of the two.

    python benchmarks/dispatch.py [--quick] [--part equal,time,large,memory,start,genetic]

All of it takes about three minutes; `--quick` leaves out the large ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from _dispatch import Draw, draw, floor, home

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch import Solution

TIMES = "\N{MULTIPLICATION SIGN}"
MIXED = 200
#: Resources, steps and how often each side runs.
SIZES = ((10, 24, 40), (100, 24, 15), (1_000, 24, 5), (10, 2_016, 2), (1_000, 96, 2))
LARGE = (10_000, 24)
SEEDS = 10
#: The three resources of the standard's own optimiser test.
THREE = {
    "demand": 2000,
    "constraints": {"minRenewable": 0.7},
    "resources": [
        {"id": "SOLAR-001", "type": "solar", "capacity": 1000, "costPerKWh": 0.05},
        {"id": "WIND-001", "type": "wind", "capacity": 1500, "costPerKWh": 0.06},
        {"id": "GRID-001", "type": "grid", "capacity": 5000, "costPerKWh": 0.12},
    ],
}


class Call(NamedTuple):
    """One whole call: CPU seconds of reading, solving and writing, the cost it found and the price of each step."""

    read: float
    solve: float
    write: float
    cost: float
    prices: list[float]

    @property
    def seconds(self) -> float:
        return self.read + self.solve + self.write


def call(document: dict[str, Any]) -> Call:
    """Go from a document to its answer."""
    from energy_cloud_dagster.domain.dispatch import parse_problem, solve

    began = time.process_time()
    problem = parse_problem(document)
    parsed = time.process_time()
    solution = solve(problem)
    solved = time.process_time()
    answer = solution.to_document(solve_seconds=0.0)
    written = time.process_time()
    prices = [each["marginalPrice"] for each in answer["steps"]]
    return Call(parsed - began, solved - parsed, written - solved, answer["cost"], prices)


def table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table as Markdown, row by row as they come."""
    names = list(heads)
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|---|{'--:|' * (len(names) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def relative(one: float, other: float) -> float:
    return abs(one - other) / max(1.0, abs(other))


# -- is it the best one


def as_told(solution: Solution) -> Solution:
    """Return the plan as its document states it, rounded: that is what is judged."""
    answer = solution.to_document()
    if answer["status"] == "infeasible":
        return solution
    steps = solution.problem.steps
    rows = answer["allocation"]
    stores = [each for each in rows if "charge" in each]
    told = {
        name: np.array([each[name] for each in stores]).reshape(len(stores), steps)
        for name in ("charge", "discharge", "soc")
    }
    total = np.array(answer["totalOutput"], dtype=float).reshape(steps)
    return replace(
        solution,
        cost=answer["cost"],
        unmet_energy=answer["unmetEnergy"],
        average_cost=answer["averageCost"],
        renewable_ratio=answer["renewableRatio"],
        output=np.array([each["output"] for each in rows], dtype=float).reshape(len(rows), steps),
        unmet=solution.problem.demand - total,
        total_output=total,
        **told,
    )


def out_of_order(plan: dict[str, Any], solution: Solution, wishes: dict[int, float]) -> Iterable[str]:
    """Name the first priority of which more is curtailed and shed than in the best plan of the same cost."""
    for level, least in wishes.items():
        chosen = [each.get("priority", 0) == level for each in plan["resources"]]
        signs = [{"load": 1.0, "storage": 0.0, "grid": 0.0}.get(each["type"], -1.0) for each in plan["resources"]]
        wish = float(np.dot(np.multiply(chosen, signs), solution.output.sum(axis=1)))
        # the cost may give way by its rounding, and so what costs next to nothing by more
        if abs(wish - least) > 1e-3 * max(1.0, abs(least)):
            yield f"priority {level}: {wish!r}, not {least!r}"
            return


def equal(count: int) -> None:
    """Compare random problems of all features with a programme of their own, and let the judge read every plan."""
    from _mixed import best, document

    from energy_cloud_dagster.domain.dispatch import parse_problem, solve
    from energy_cloud_dagster.domain.dispatch.feasibility import violations_of
    from energy_cloud_dagster.domain.errors import EnergyCloudError

    worst, met, short, impossible, ranked, faults = 0.0, 0, 0, 0, 0, list[str]()
    for seed in itertools.count():
        if met + short == count or len(faults) > count:
            break
        plan = document(seed)
        problem = parse_problem(plan)
        expected = best(plan)
        try:
            solution = solve(problem)
        except EnergyCloudError as error:
            faults.append(f"{seed}: no answer: {error}")
            continue
        faults += [f"{seed}: {fault}" for fault in violations_of(problem, as_told(solution))]
        if expected is None or solution.cost is None:
            impossible += 1
            if expected is not None or solution.cost is not None:
                faults.append(f"{seed}: one found a plan, the other none")
            continue
        difference = relative(solution.cost, expected.cost)
        worst = max(worst, difference)
        if difference > 1e-6:
            faults.append(f"{seed}: costs {solution.cost!r}, not {expected.cost!r}")
        ranked += len(expected.wishes) > 1
        faults += [f"{seed}: {fault}" for fault in out_of_order(plan, solution, expected.wishes)]
        met, short = met + (not solution.violations), short + bool(solution.violations)
    print(
        f"\n{count} random problems, all features mixed: {met} met in full, {short} with a goal that falls short;"
        f" largest relative difference of the cost {worst:.0e}; priorities kept in {ranked}; {impossible} others"
        " impossible for both;"
        f" {len(faults)} faults"
    )
    print("\n".join(faults[:20]), end="\n" if faults else "")


# -- how long it takes


def row(name: str, problem: Draw, repeats: int) -> list[str]:
    """Time both in turns."""
    document = problem.document()
    floors, calls = [floor(problem)], [call(document)]
    for _ in range(repeats):
        floors.append(floor(problem))
        calls.append(call(document))
    best = min(floors, key=lambda each: each.seconds)
    return line(name, best.seconds, best.cost, best.prices, min(calls, key=lambda each: each.seconds))


def line(name: str, seconds: float, cost: float, prices: list[float], ours: Call) -> list[str]:
    """Return a row of the table: the floor's figures, and ours over them."""
    parts = f"{1000 * ours.read:,.1f} + {1000 * ours.solve:,.1f} + {1000 * ours.write:,.1f}"
    ratios = f"**{ours.seconds / seconds:.2f}**", f"{ours.solve / seconds:.2f}"
    apart = f"{max(map(relative, ours.prices, prices)):.0e}" if prices else "-"
    return [name, f"{1000 * seconds:,.1f}", parts, *ratios, f"{relative(ours.cost, cost):.0e}", apart]


HEADS = (
    "problem",
    "floor, ms",
    "read + solve + write, ms",
    "whole call / floor",
    "solve / floor",
    "difference of cost",
    "of prices",
)


def timing(quick: bool) -> None:
    """Print the table of times."""

    def rows() -> Iterable[list[str]]:
        yield row("a home's battery, 24", home(), SIZES[0][2])
        for resources, steps, repeats in SIZES[: 3 if quick else None]:
            yield row(f"{resources:,} {TIMES} {steps}", draw(resources, steps), repeats)
        yield row(f"1,000 {TIMES} 24, of 100 kinds", draw(100).times(10), 3)
        committed = replace(draw(100), least=0.4)
        yield row(f"100 {TIMES} 24, gas at 40 % at least or off (MILP)", committed, 3)

    table("Time (CPU), ours over the floor's", HEADS, rows())


# -- fresh processes: the largest problem, memory, the command


def child(side: str, resources: int, steps: int) -> dict[str, Any]:
    """Return the figures of one side that runs once in a process of its own."""
    argv = [sys.executable, __file__, "--child", side, str(resources), str(steps)]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out))


def run_child(side: str, resources: int, steps: int) -> None:
    """Draw, run one side, and print what it took; the peak is this process's own (ru_maxrss may be a parent's)."""
    problem = draw(resources, steps)
    found: dict[str, Any] = {}
    if side == "floor":
        bare = floor(problem)
        found = {"seconds": bare.seconds, "cost": bare.cost, "prices": bare.prices}
    elif side == "ours":
        found = call(problem.document())._asdict()
    peak = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    print(json.dumps({**found, "megabytes": int(peak.split()[1]) / 1024}))


def large() -> None:
    """Print the largest problem's times and memory."""
    bare, found = child("floor", *LARGE), child("ours", *LARGE)
    megabytes = found.pop("megabytes"), bare.pop("megabytes")
    name = f"{LARGE[0]:,} {TIMES} {LARGE[1]}"
    table("One run each in a fresh process", HEADS, [line(name, **bare, ours=Call(**found))])
    ratio = megabytes[0] / megabytes[1]
    print(f"\nMemory at {name}: {megabytes[0]:,.0f} MB, the floor's {megabytes[1]:,.0f} MB: {ratio:.2f} times")


def memory(quick: bool) -> None:
    """Print the peaks of both sides."""

    def rows() -> Iterable[list[str]]:
        for resources, steps in ((100, 24), (1_000, 24), (1_000, 96))[: 2 if quick else None]:
            ours, bare = (child(side, resources, steps)["megabytes"] for side in ("ours", "floor"))
            yield [f"{resources:,} {TIMES} {steps}", f"{bare:,.0f}", f"{ours:,.0f}", f"{ours / bare:.2f}"]

    table("Memory, peak of a fresh process", ("problem", "floor, MB", "ours, MB", "ratio"), rows())


def start(repeats: int) -> None:
    """Print what the command takes from a cold start, beside an interpreter that only loads the solver."""
    command = Path(sys.executable).with_name("energy-cloud")
    with tempfile.TemporaryDirectory(prefix="ec-") as folder:
        plan = Path(folder) / "plan.json"
        plan.write_text(json.dumps(draw(10).document()))
        environment = {**os.environ, "ENERGY_CLOUD_HOME": folder}

        def seconds(argv: list[str]) -> tuple[float, float]:
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL)
            wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        def least(argv: list[str]) -> list[str]:
            walls, cpus = zip(*(seconds(argv) for _ in range(repeats)), strict=True)
            return [f"{min(walls):.2f}", f"{min(cpus):.2f}"]

        rows = [
            [
                "`energy-cloud dispatch solve plan.json --json`",
                *least([str(command), "dispatch", "solve", str(plan), "--json"]),
            ],
            ["`python -c 'import numpy, highspy'`", *least([sys.executable, "-c", "import numpy, highspy"])],
        ]
    table("Cold start", ("fresh process", "wall, s", "CPU, s"), rows)


# -- the genetic algorithm


def genetic() -> None:
    """Print how far the genetic algorithm stays from the optimum; a plan that misses a goal by more is counted."""
    from energy_cloud_dagster.domain.dispatch import parse_problem, solve
    from energy_cloud_dagster.domain.dispatch.evolving.genetic import optimise

    problems: dict[str, list[dict[str, Any]]] = {
        "the standard's three resources": [THREE],
        "one hour of 10 resources": [draw(10, 1).document()],
        "ten other such hours": [draw(10, 1, seed).document() for seed in range(2, 12)],
        "10 resources, 24 hours": [draw(10).document()],
    }

    def rows() -> Iterable[list[str]]:
        for name, documents in problems.items():
            gaps, seconds, misses = [], [], 0
            for problem in map(parse_problem, documents):
                best = solve(problem).cost or 0.0
                for seed in range(SEEDS):
                    began = time.process_time()
                    outcome = optimise(problem, seed=seed)
                    seconds.append(time.process_time() - began)
                    misses += any(each > 1e-6 * float(problem.demand.sum()) for each in outcome.shortfalls.values())
                    gaps.append(outcome.cost / best - 1)
            percents = [f"{round(100 * each, 2) + 0.0:.2f} %" for each in (statistics.median(gaps), max(gaps))]
            yield [name, *percents, f"{misses} of {len(gaps)}", f"{max(seconds):.2f}"]

    heads = ("problem", "above the optimum, median", "worst", "miss a goal", "most CPU, s")
    table(f"The genetic algorithm, {SEEDS} seeds each", heads, rows())
    _genetic_mixed()


def _genetic_mixed() -> None:
    """Print what becomes of random problems of all features, whose hard limits it can only repair its way to."""
    from _mixed import document

    from energy_cloud_dagster.domain.dispatch import parse_problem, solve
    from energy_cloud_dagster.domain.dispatch.feasibility import violations_of
    from energy_cloud_dagster.domain.errors import EnergyCloudError

    gaps, without, faults = list[float](), 0, 0
    for plan in map(document, range(MIXED // 2)):
        best = solve(parse_problem(plan)).cost
        if best is None:
            continue
        problem = parse_problem({**plan, "solver": "ga"})
        try:
            found = solve(problem)
        except EnergyCloudError:
            without += 1
            continue
        faults += len(violations_of(problem, as_told(found)))
        gaps.append(((found.cost or 0.0) - best) / max(1.0, abs(best)))
    median, most = (100 * float(np.quantile(gaps, share)) for share in (0.5, 0.9))
    print(
        f"\nOf {len(gaps) + without} random problems with a plan it finds one for {len(gaps)}: above the optimum by"
        f" {median:.2f} % in the median and {most:.0f} % at the ninth decile; {faults} faults; for the others it"
        " says that it found none"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="no problem above 1,000 resources and 24 steps, 50 random ones"
    )
    parser.add_argument("--part", default="", help="some of equal, time, large, memory, start, genetic")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child[0], int(options.child[1]), int(options.child[2]))
        return
    quick = options.quick
    parts: dict[str, Callable[[], None]] = {
        "equal": lambda: equal(MIXED // 4 if quick else MIXED),
        "time": lambda: timing(quick),
        "large": large,
        "memory": lambda: memory(quick),
        "start": lambda: start(3 if quick else 7),
        "genetic": genetic,
    }
    chosen = options.part.split(",") if options.part else [name for name in parts if not (quick and name == "large")]
    for name in chosen:
        if name not in parts:
            parser.error(f"--part {name}: choose from {', '.join(parts)}")
        parts[name]()


if __name__ == "__main__":
    main()
