"""`energy-cloud dispatch`: plans from a file, without a server or a database."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Solve dispatch problems.")


@app.callback()
def _group() -> None:
    """Solve dispatch problems."""


@app.command()
def solve(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="The problem; - reads standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Find the cheapest plan for the problem in a file, and say what it costs and which limits bind.

    The file is the body of POST /v1/vpp/{id}/optimize plus "resources". A problem that cannot be met is an answer too
    (status "infeasible" with the conflicting constraints); only a file that cannot be read as a problem is an error.

    Example: energy-cloud dispatch solve plan.json --json
    """
    from energy_cloud_dagster.domain.dispatch import parse_problem
    from energy_cloud_dagster.domain.dispatch import solve as find_plan
    from energy_cloud_dagster.domain.errors import EnergyCloudError, InvalidInput

    try:
        problem = parse_problem(_read(plan))
        before = time.perf_counter()
        solution = find_plan(problem)
        seconds = time.perf_counter() - before
    except InvalidInput as error:
        _fail(f"{plan}: {error.pointer or '/'}: {error}")
    except EnergyCloudError as error:
        _fail(f"{plan}: {error}")
    document = solution.to_document(solve_seconds=seconds)
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _show(document)


def _read(plan: Path) -> Any:
    try:
        text = sys.stdin.read() if str(plan) == "-" else plan.read_text(encoding="utf-8")
    except OSError as error:
        _fail(f"{plan}: cannot be read ({error.strerror}); give the path of a JSON file")
    except UnicodeDecodeError:
        _fail(f"{plan}: is not UTF-8 text; give a JSON file")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        _fail(f"{plan}: is not JSON ({error}); give the body of optimize plus resources")


def _fail(message: str) -> Any:
    typer.echo(f"energy-cloud: {message}", err=True)
    raise typer.Exit(1)


def _show(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Status    {document['status']}, solved in {document['solveSeconds'] * 1000:.0f} ms")
    if document["status"] == "completed":
        console.print(f"Cost      {_figure(document['cost'])}, {_figure(document['averageCost'])} per kWh served")
        ratio = document["renewableRatio"]
        console.print(f"Renewable {'-' if ratio is None else f'{ratio:.1%}'} of generation and import")
        table = Table(
            "Step", "kW", *(each["resourceId"] for each in document["allocation"]), "Price per kWh", "Binding"
        )
        for index, step in enumerate(document["steps"]):
            row = [_at(document["totalOutput"], index), *(_at(e["output"], index) for e in document["allocation"])]
            figures = [f"{value:,.1f}" for value in row]
            binding = ", ".join(step["binding"]) or "-"
            table.add_row(step.get("start", str(index + 1)), *figures, _figure(step["marginalPrice"]), binding)
        console.print(table)
    for each in document["violations"]:
        asked, got = _figure(each["required"]), _figure(each["achieved"])
        console.print(f"Not met   {each['constraint']}: {asked} required, {got} achieved")
    for sentence in document["explanation"]:
        console.print(sentence, markup=False)


def _at(values: float | list[float], index: int) -> float:
    return values[index] if isinstance(values, list) else values


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"
