"""`energy-cloud dispatch`: plans from a file, without a server or a database."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch import Problem

app = typer.Typer(no_args_is_help=True, help="Solve dispatch problems.")


@app.callback()
def _group() -> None:
    """Solve dispatch problems."""


@app.command()
def solve(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="The problem; - reads standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    solver: Annotated[
        Literal["lp", "ga"] | None,
        typer.Option(help="lp is proven optimal; ga, a genetic algorithm, says how far from it it is."),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Stop searching then, and say how good the plan at hand is."),
    ] = None,
    write_lp: Annotated[
        Path | None, typer.Option(metavar="FILE.lp", help="Also write the model in the LP format of solvers.")
    ] = None,
) -> None:
    """Find the cheapest plan for the problem in a file, and say what it costs and which limits bind.

    The file is the body of POST /v1/vpp/{id}/optimize plus "resources"; an option replaces what the file says. A
    problem that cannot be met is an answer too (status "infeasible" with the conflicting constraints); only a file
    that cannot be read as a problem is an error.

    Example: energy-cloud dispatch solve plan.json --json
    """
    from energy_cloud_dagster.cli import dispatch_output
    from energy_cloud_dagster.domain.dispatch import parse_problem
    from energy_cloud_dagster.domain.dispatch import solve as find_plan
    from energy_cloud_dagster.domain.dispatch.solving import lp
    from energy_cloud_dagster.domain.errors import EnergyCloudError, InvalidInput

    document = _read(plan)
    asked = {"solver": solver, "timeLimit": time_limit}
    if isinstance(document, dict):
        document |= {key: value for key, value in asked.items() if value is not None}
    try:
        problem = parse_problem(document)
        if write_lp is not None:
            _write_lp(problem, write_lp)
        lp.load()
        before = time.perf_counter()
        solution = find_plan(problem)
        seconds = time.perf_counter() - before
    except InvalidInput as error:
        _fail(f"{plan}: {error.pointer or '/'}: {error}")
    except EnergyCloudError as error:
        _fail(f"{plan}: {error}")
    if as_json:
        dispatch_output.show_json(solution.to_document(solve_seconds=seconds))
    else:
        dispatch_output.show(solution, seconds)


def _write_lp(problem: Problem, path: Path) -> None:
    """Write the programme in which no goal may fall short, its columns called after the resources."""
    from energy_cloud_dagster.domain.dispatch.solving import lp, matrices

    model = lp.to_pulp(matrices.build(problem), _column_names(problem))
    try:
        # PuLP's own errors do not say what is wrong with a path
        path.touch()
        model.writeLP(str(path))
    except OSError as error:
        _fail(f"{path}: cannot be written ({error.strerror}); name a file in a folder that exists")


def _column_names(problem: Problem) -> dict[str, list[str]]:
    """Return what the rows of each block of columns are called, in letters that the LP format allows."""
    plain = [re.sub(r"[^A-Za-z0-9_.]", "_", name) for name in problem.ids]
    unique = len(set(plain)) == len(plain)
    names = [name if unique else f"{name}_{place}" for place, name in enumerate(plain)]
    ties = problem.ties
    blocks = {
        "generation": problem.generators.place,
        **dict.fromkeys(("charge", "discharge", "stored"), problem.stores.place),
        "imported": ties.place,
        "exported": ties.place[ties.exports],
        "shed": problem.loads.place,
    }
    return {block: [names[place] for place in places.tolist()] for block, places in blocks.items()}


def _read(plan: Path) -> Any:
    try:
        text = sys.stdin.read() if str(plan) == "-" else plan.read_text(encoding="utf-8-sig")
    except OSError as error:
        _fail(f"{plan}: cannot be read ({error.strerror}); give the path of a JSON file")
    except UnicodeDecodeError:
        _fail(f"{plan}: is not UTF-8 text; give a JSON file")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        _fail(f"{plan}: is not JSON ({error}); give the body of optimize plus resources")
    except (ValueError, RecursionError):
        # what Python refuses to convert, in words about Python
        _fail(f"{plan}: is nested too deeply, or holds a number of thousands of digits")


def _fail(message: str) -> Any:
    # half a character, which JSON can hold and no terminal can show, is escaped
    typer.echo(f"energy-cloud: {message.encode(errors='backslashreplace').decode()}", err=True)
    raise typer.Exit(1)
