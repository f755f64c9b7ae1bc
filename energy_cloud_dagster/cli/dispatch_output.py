"""What `energy-cloud dispatch` prints: a table that stays readable at ten thousand resources, JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

    from energy_cloud_dagster.domain.dispatch import Solution

#: Up to so many resources have a column each; beyond, each type has one and the largest resources are listed.
_COLUMNS: Final = 8
#: Resources that the list of the largest names.
_LARGEST: Final = 10
#: Steps that are shown; a day of half hours.
_STEPS: Final = 48
#: One space beside the one that parts the columns.
_PADDING: Final = (0, 1, 0, 0)
#: Binding limits that a row names; the rest is counted.
_BINDING: Final = 3


def show_json(document: dict[str, Any]) -> None:
    """Print ``document`` as JSON, one line per step and per resource."""
    print("{\n" + ",\n".join(f"  {json.dumps(key)}: {_lines(value)}" for key, value in document.items()) + "\n}")


def _lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict | str):
        return "[\n" + ",\n".join(f"    {json.dumps(each, ensure_ascii=False)}" for each in value) + "\n  ]"
    return json.dumps(value, ensure_ascii=False)


def show(solution: Solution, seconds: float) -> None:
    """Print the plan for people: figures, a table of the steps, the largest resources, what fell short, and why."""
    from energy_cloud_dagster.cli.console import plain_console

    console, problem = plain_console(), solution.problem
    proven = "" if solution.optimal else ", not proven optimal"
    _say(console, f"Status    {solution.status}{proven}, solved by {solution.solver} in {seconds * 1000:,.0f} ms")
    if solution.status == "completed":
        ratio = solution.renewable_ratio
        _say(console, f"Cost      {_figure(solution.cost)}, {_figure(solution.average_cost)} per kWh served")
        _say(console, f"Renewable {'-' if ratio is None else f'{ratio:.1%}'} of generation and import")
        if solution.gap is not None and not solution.optimal:
            _say(console, f"Gap       {solution.gap:.2%} of the cost")
        if always := _always(solution):
            _say(console, f"Binding   {', '.join(always)} in every step")
        _show_steps(console, solution, always)
        if problem.size > _COLUMNS:
            _show_largest(console, solution)
    for each in solution.violations:
        asked, got = _figure(each.required), _figure(each.achieved)
        _say(console, f"Not met   {each.constraint}: {asked} required, {got} achieved")
    # what holds for the whole plan comes after the sentences of the steps, and must not be lost where these are many
    steps = problem.steps if solution.status == "completed" else 0
    for sentence in (*solution.explanation[steps:], *solution.explanation[: min(steps, _STEPS)]):
        _say(console, sentence)
    if steps > _STEPS:
        _say(console, f"... and {steps - _STEPS:,} more steps; --json has them all")


def _always(solution: Solution) -> list[str]:
    """Return the limits of the whole plan that bind in every step, which the table need not repeat."""
    if solution.problem.steps == 1:
        return []
    common = set(solution.binding[0]).intersection(*solution.binding[1:])
    return [name for name in solution.binding[0] if name in common and "." not in name]


def _show_steps(console: Console, solution: Solution, always: list[str]) -> None:
    from rich import box
    from rich.table import Table

    problem = solution.problem
    headings, columns = _supply(solution)
    owners = frozenset(problem.ids)
    few, unmet = problem.size <= _COLUMNS, bool(solution.unmet_energy)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=_PADDING)
    table.add_column("Step", no_wrap=True)
    for heading in ("Demand kW", *headings, *(["Unmet"] if unmet else []), "Price"):
        table.add_column(heading, justify="right", no_wrap=not few)
    table.add_column("Binding")
    for step in range(min(problem.steps, _STEPS)):
        start, binding = problem.step_start(step), [name for name in solution.binding[step] if name not in always]
        powers = [
            problem.demand[step],
            *(column[step] for column in columns),
            *([solution.unmet[step]] if unmet else []),
        ]
        table.add_row(
            str(step + 1) if start is None else f"{start:%Y-%m-%d %H:%M}",
            *(_power(each) for each in powers),
            _figure(float(solution.marginal_price[step])),
            _named(binding) if few else _counted(binding, owners),
        )
    console.print(table, soft_wrap=True)


def _supply(solution: Solution) -> tuple[list[str], list[list[float]]]:
    """Return headings and kW per step: of each resource where they are few, else of each type."""
    problem = solution.problem
    if problem.size <= _COLUMNS:
        return list(problem.ids), solution.output.tolist()
    places: dict[str, list[int]] = {}
    for place, kind in enumerate(problem.types):
        places.setdefault(kind, []).append(place)
    headings = [f"{len(rows):,} {kind}" for kind, rows in places.items()]
    return headings, [solution.output[rows].sum(axis=0).tolist() for rows in places.values()]


def _show_largest(console: Console, solution: Solution) -> None:
    """List the resources that move the most energy; storage and grid count in both directions."""
    import numpy as np
    from rich import box
    from rich.table import Table

    problem = solution.problem
    energy = np.abs(solution.output).sum(axis=1) * problem.step_hours
    largest = np.argsort(-energy, kind="stable")[:_LARGEST].tolist()
    table = Table("Largest", "Type", box=box.SIMPLE_HEAD, pad_edge=False, padding=_PADDING)
    for heading in ("kWh", "Least kW", "Most kW"):
        table.add_column(heading, justify="right")
    for place in largest:
        row = solution.output[place]
        figures = (energy[place], row.min(), row.max())
        table.add_row(problem.ids[place], problem.types[place], *(_power(float(each)) for each in figures))
    if problem.size > len(largest):
        idle = int((energy < 1e-6).sum())
        rest = float(energy.sum() - energy[largest].sum())
        table.add_row(f"{problem.size - len(largest):,} more", f"{idle:,} idle", _power(rest), "", "")
    console.print(table, soft_wrap=True)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


def _named(names: list[str]) -> str:
    more = f", {len(names) - _BINDING:,} more" if len(names) > _BINDING else ""
    return ", ".join(names[:_BINDING]) + more if names else "-"


def _counted(names: list[str], owners: frozenset[str]) -> str:
    """Return how many resources are at a limit, the rarest first: ``maxGridImport, 2 rampRate, 6 capacity``."""
    counts: dict[str, int] = {}
    for name in names:
        owner, _, limit = name.rpartition(".")
        if owner not in owners:
            counts[name] = 0
            continue
        # what is available of a capacity is one limit to whom only the number matters
        limit = "capacity" if limit == "availability" else limit
        counts[limit] = counts.get(limit, 0) + 1
    rarest = sorted(counts.items(), key=lambda each: each[1])
    return _named([f"{count:,} {limit}" if count else limit for limit, count in rarest])


def _power(value: float) -> str:
    text = f"{value:,.1f}"
    return "0.0" if text == "-0.0" else text


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"
