"""What the forecast commands print: progress, tables for people, JSON for programs."""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.forecasting.forecast import Forecast
    from energy_cloud_dagster.domain.forecasting.judging.accuracy import Accuracy
    from energy_cloud_dagster.domain.forecasting.judging.backtest import Backtest
File = Annotated[Path, typer.Argument(metavar="FILE.csv", help="The series; gzip is read too, - is standard input.")]
Time = Annotated[str, typer.Option("--time", metavar="COL", help="Column of the times; DATE,TIME joins two.")]
Target = Annotated[str, typer.Option("--target", metavar="COL", help="Column to forecast.")]
Regressors = Annotated[
    str,
    typer.Option(
        metavar="A,B",
        help="Columns that explain it (temperature, ...); NAME=COL says what one is.",
    ),
]
Zone = Annotated[
    str,
    typer.Option("--tz", metavar="ZONE", help="IANA zone of the place: local days, holidays, times without offset."),
]
Country = Annotated[
    str | None,
    typer.Option(
        metavar="CODE", help="Country of the holidays (AU, AU-VIC); by default the zone's. none: no holidays."
    ),
]
Horizon = Annotated[int, typer.Option(min=1, max=336, metavar="HOURS", help="Hours ahead.")]
Models = Annotated[str, typer.Option(metavar="A,B", help="Models to try; all adds lstm, which takes minutes.")]
Aggregation = Annotated[
    Literal["mean", "sum"], typer.Option(help="Hours from finer rows: mean for power, sum for energy.")
]
Stamps = Annotated[Literal["start", "end"], typer.Option(help="Whether a time names its interval's start or its end.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="Also write a page with plots; needs nothing but a browser.")
]


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show how far a long job is: a bar with the model's name on a terminal, a plain line for each model when piped."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from energy_cloud_dagster.cli.console import plain_console

    console = plain_console(stderr=True)
    started = clock.perf_counter()
    if not console.is_terminal:
        console.print(f"{title} ...", soft_wrap=True, markup=False)
        current: list[str] = []

        def line(_done: int, _total: int, name: str) -> None:
            if current[-1:] != [name]:
                current.append(name)
                console.print(f"  {name} (after {clock.perf_counter() - started:.1f} s)", soft_wrap=True, markup=False)

        yield line
    else:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        ) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total, name: bar.update(
                task, completed=done, total=total, description=f"{title}: {name}"
            )
    console.print(f"done in {clock.perf_counter() - started:.1f} s", soft_wrap=True, markup=False)


def _figures(score: Accuracy) -> dict[str, float | None]:
    """Return the figures of INTERFACES' JSON: MAPE and coverage in percent, the others in the series' unit."""
    share = None if score.coverage is None else 100 * score.coverage
    named = {
        "mape": score.mape,
        "mae": score.mae,
        "rmse": score.rmse,
        "mase": score.mase,
        "bias": score.bias,
        "pinball": score.pinball,
        "coverage": share,
    }
    return {name: _rounded(value) for name, value in named.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def backtest_document(result: Backtest, notes: Sequence[str]) -> dict[str, Any]:
    """Return the documented JSON of a backtest, with the ensemble's weights and what is to be said beside it."""
    return {
        "horizon": result.horizon,
        "origins": len(result.origins),
        "champion": result.champion,
        "models": [
            {
                "name": one.name,
                **_figures(one.accuracy),
                "fitSeconds": _rounded(one.fit_seconds),
                "predictSeconds": _rounded(one.predict_seconds),
            }
            for one in result.models.values()
        ],
        "weights": {name: _rounded(weight) for name, weight in result.weights.items()},
        "notes": list(notes),
    }


def run_document(answer: Forecast, score: Accuracy | None, days: int, notes: Sequence[str]) -> dict[str, Any]:
    """Return the JSON of a forecast; ``score`` is its model's over the last ``days`` days, None without any."""
    points = zip(answer.index, answer.p10, answer.p50, answer.p90, strict=True)
    return {
        "origin": f"{answer.origin:%Y-%m-%dT%H:%M:%SZ}",
        "horizon": answer.horizon,
        "model": answer.model,
        "rung": answer.rung,
        "accuracy": None if score is None else {"days": days, **_figures(score)},
        "notes": list(notes),
        "points": [
            {
                "timestamp": f"{stamp:%Y-%m-%dT%H:%M:%SZ}",
                "p10": float(f"{p10:.10g}"),
                "p50": float(f"{p50:.10g}"),
                "p90": float(f"{p90:.10g}"),
            }
            for stamp, p10, p50, p90 in points
        ],
    }


def show_backtest(result: Backtest, notes: Sequence[str]) -> None:
    """Print the verdict, a table of every model and the notes."""
    from rich.table import Column, Table

    from energy_cloud_dagster.cli.charts import column
    from energy_cloud_dagster.cli.console import plain_console
    from energy_cloud_dagster.cli.forecast_report import ranked, verdict

    console = plain_console()
    console.print(verdict(result), soft_wrap=True, markup=False)
    names = ("MAPE %", "MAE", "RMSE", "MASE", "bias", "pinball", "in band %", "fit s", "predict ms")
    table = Table("Model", *(Column(name, justify="right") for name in names))
    order = ranked(result)
    columns = [column(values) for values in zip(*(_figures(one.accuracy).values() for one in order), strict=True)]
    columns.append([f"{one.fit_seconds:.2f}" for one in order])
    columns.append([f"{1000 * one.predict_seconds:.0f}" for one in order])
    for one, *figures in zip(order, *columns, strict=True):
        table.add_row(f"{'*' if one.name == result.champion else ' '} {one.name}", *figures)
    console.print(table)
    weights = ", ".join(f"{name} {weight:.0%}" for name, weight in result.weights.items() if weight > 0)
    console.print(f"* best. The ensemble is {weights}" if "ensemble" in result.models else "* best", soft_wrap=True)
    for note in notes:
        console.print(f"- {note}", soft_wrap=True, markup=False)
