"""`energy-cloud forecast`: forecasts of anybody's series, and how far they can be trusted. Needs no database."""

from __future__ import annotations

import json
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from energy_cloud_dagster.cli.forecast_output import backtest_document, progress, run_document, show_backtest

if TYPE_CHECKING:
    import pandas as pd

    from energy_cloud_dagster.adapters.csv_series import CsvSeries
    from energy_cloud_dagster.domain.forecasting.forecast import Fitted, Model

app = typer.Typer(no_args_is_help=True, help="Forecast any hourly series, and judge forecasts of it.")

#: Same figures on every run of the same file.
SEED: Final = 14
#: Models that are tried where none are named; the ensemble of them comes by itself.
DEFAULT_MODELS: Final = "seasonal_naive,daily_naive,similar_day,prophet,gradient_boosting"
#: Missing hours ahead of a regressor that are filled from their neighbours.
SHORT_GAP_HOURS: Final = 3

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


@app.callback()
def _group() -> None:
    """Forecast any hourly series, and judge forecasts of it."""


@app.command()
def backtest(
    file: File,
    time: Time,
    target: Target,
    regressors: Regressors = "",
    tz: Zone = "UTC",
    country: Country = None,
    horizon: Horizon = 24,
    origins: Annotated[
        int, typer.Option(min=1, metavar="N", help="Local midnights to judge, evenly over the last 20 % of the days.")
    ] = 73,
    models: Models = DEFAULT_MODELS,
    aggregate: Aggregation = "mean",
    stamps: Stamps = "start",
    as_json: AsJson = False,
    report: Report = None,
) -> None:
    """Judge every model on a series of your own, a day ahead on days that it had not seen.

    Each model forecasts from local midnights and is refitted every 14 days on what lies before; bands, the ensemble's
    weights and the champion of a day rest on earlier days only. The yardstick is last week's value (seasonal_naive): a
    MASE below 1 beats its usual error. Regressors count as perfectly known ahead.

    Example: energy-cloud forecast backtest load.csv --time timestamp --target kw --tz Europe/Paris --report load.html
    """
    job = _Job.prepare(file, time, target, regressors, tz, country, models, aggregate, stamps, report)
    from energy_cloud_dagster.adapters.csv_series import counted
    from energy_cloud_dagster.domain.errors import EnergyCloudError
    from energy_cloud_dagster.domain.forecasting.judging.backtest import run_backtest

    try:
        with progress(f"Judging {counted(len(job.models), 'model')} on {job.series.name}") as shown:
            result = run_backtest(
                job.models,
                job.series.values,
                job.regressors,
                timezone=tz,
                seed=SEED,
                horizon=horizon,
                origins=origins,
                clock=clock.perf_counter,
                progress=shown,
            )
    except EnergyCloudError as error:
        _fail(f"{file}: {error}")
    notes = [*job.notes, *result.notes]
    for one in result.models.values():
        said = [f"left out, {one.failed}"] if one.failed else one.notes
        notes += [f"{one.name}: {note}" for note in said]
    if report is not None:
        from energy_cloud_dagster.cli.forecast_report import backtest_page

        _write(report, backtest_page(job.series, result, notes))
    if as_json:
        print(json.dumps(backtest_document(result, notes), indent=2, ensure_ascii=False))
    else:
        show_backtest(result, notes)
    _say_report(report)


@app.command()
def run(
    file: File,
    time: Time,
    target: Target,
    regressors: Regressors = "",
    tz: Zone = "UTC",
    country: Country = None,
    horizon: Horizon = 24,
    origin: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="First hour ahead (ISO 8601); later values are not looked at."),
    ] = None,
    models: Models = DEFAULT_MODELS,
    aggregate: Aggregation = "mean",
    stamps: Stamps = "start",
    as_json: AsJson = False,
    report: Report = None,
) -> None:
    """Forecast the hours after the last known value: P10, P50 and P90 as CSV, or JSON.

    The model is the one that did best on the last four weeks, calibrated on them. A regressor is used where the file
    knows it ahead: rows after the last value, with the value left empty. What could not be used, and which rung of the
    ladder answered, is said on stderr and in the JSON.

    Example: energy-cloud forecast run load.csv --time timestamp --target kw --tz Europe/Paris --horizon 48
    """
    job = _Job.prepare(file, time, target, regressors, tz, country, models, aggregate, stamps, report)
    import pandas as pd

    from energy_cloud_dagster.adapters.csv_series import counted
    from energy_cloud_dagster.domain.errors import EnergyCloudError
    from energy_cloud_dagster.domain.forecasting.judging import room
    from energy_cloud_dagster.domain.forecasting.judging.rolling import measured_ahead
    from energy_cloud_dagster.domain.forecasting.judging.selection import select

    values = job.series.values
    start = values.index[-1] + pd.Timedelta(hours=1) if origin is None else _moment(origin, tz)
    past = values[values.index < start]
    try:
        ahead, said = _known_ahead(job.regressors, start, horizon, timezone=tz, country=country)
        with progress(f"Choosing among {counted(len(job.models), 'model')} of {job.series.name}") as shown:
            telling = [_Telling(model, shown, place, 2 * len(job.models)) for place, model in enumerate(job.models)]
            selection = select(telling, past, ahead, timezone=tz, seed=SEED, ahead=measured_ahead(ahead))
            answers = room.predict(selection, selection.fitted, past, ahead, start.to_pydatetime(), horizon, tz)
    except EnergyCloudError as error:
        _fail(f"{file}: {error}")
    answer = answers[room.CHAMPION]
    notes = list(dict.fromkeys([*job.notes, *said, *selection.notes, *answer.notes]))
    score = selection.scores.get(answer.model)
    if report is not None:
        from energy_cloud_dagster.cli.forecast_report import run_page

        _write(report, run_page(job.series, answer, selection, notes))
    if as_json:
        print(json.dumps(run_document(answer, score, selection.days, notes), indent=2, ensure_ascii=False))
    else:
        print("timestamp,p10,p50,p90")
        for stamp, p10, p50, p90 in zip(answer.index, answer.p10, answer.p50, answer.p90, strict=True):
            print(f"{stamp:%Y-%m-%dT%H:%M:%SZ},{p10:.10g},{p50:.10g},{p90:.10g}")
    for note in [f"{answer.model} answers ({answer.rung})", *notes]:
        typer.echo(f"note: {note}", err=True)
    _say_report(report)


@dataclass(frozen=True, eq=False)
class _Job:
    """What both commands begin with: the series, its regressors with holidays, the models, and what is to be said."""

    series: CsvSeries
    regressors: pd.DataFrame | None
    models: list[Model]
    notes: list[str]

    @classmethod
    def prepare(
        cls,
        file: Path,
        time: str,
        target: str,
        regressors: str,
        tz: str,
        country: str | None,
        models: str,
        aggregate: Literal["mean", "sum"],
        stamps: Literal["start", "end"],
        report: Path | None,
    ) -> _Job:
        from energy_cloud_dagster.adapters.csv_series import read_series
        from energy_cloud_dagster.domain.errors import InvalidInput

        chosen, notes = _chosen(models)
        _check_place(tz, country)
        if report is not None and not report.parent.is_dir():
            raise typer.BadParameter(f"{report.parent} is no folder", param_hint="--report")
        names = [name.strip() for name in regressors.split(",") if name.strip()]
        try:
            series = read_series(
                file, time=time, target=target, regressors=names, timezone=tz, aggregate=aggregate, stamps=stamps
            )
        except InvalidInput as error:
            _fail(str(error))
        if tz == "UTC":
            notes.append("days and hours of the day are those of UTC; --tz names the place's own, and its holidays")
        return cls(series, _with_holidays(series, tz, country), chosen, [*notes, *series.notes])


def _chosen(models: str) -> tuple[list[Model], list[str]]:
    from energy_cloud_dagster.domain.errors import InvalidInput
    from energy_cloud_dagster.domain.forecasting.models.registry import MODELS, models_named

    names = list(MODELS) if models.strip() == "all" else [name.strip() for name in models.split(",") if name.strip()]
    try:
        found, left_out = models_named([name for name in names if name != "ensemble"])
    except InvalidInput as error:
        raise typer.BadParameter(str(error), param_hint="--models") from None
    if not found:
        raise typer.BadParameter("; ".join(left_out) or "name at least one model", param_hint="--models")
    return found, list(left_out)


def _check_place(tz: str, country: str | None) -> None:
    import pandas as pd

    from energy_cloud_dagster.adapters.csv_times import zone_of
    from energy_cloud_dagster.domain.errors import InvalidInput
    from energy_cloud_dagster.domain.forecasting.calendar import holiday_flags

    try:
        zone_of(tz)
    except InvalidInput as error:
        raise typer.BadParameter(str(error), param_hint="--tz") from None
    if country and country.casefold() != "none":
        try:
            holiday_flags(pd.date_range("2024-01-01", periods=1, tz="UTC"), tz, *_code(country))
        except InvalidInput as error:
            raise typer.BadParameter(str(error), param_hint="--country") from None


def _code(country: str | None) -> tuple[str | None, str | None]:
    """Return country and subdivision of such as ``AU`` and ``AU-VIC``."""
    if country is None:
        return None, None
    code, dash, part = country.upper().partition("-")
    return code, part if dash else None


def _with_holidays(series: CsvSeries, tz: str, country: str | None) -> pd.DataFrame | None:
    """Return the regressors with the column ``holiday``, where the place has holidays that are known."""
    import pandas as pd

    from energy_cloud_dagster.domain.forecasting.calendar import with_holidays
    from energy_cloud_dagster.domain.forecasting.zones import COUNTRY

    if (country or "").casefold() == "none" or (country is None and tz not in COUNTRY):
        return series.regressors
    index = pd.DatetimeIndex(series.values.index)
    if series.regressors is not None:
        index = index.union(pd.DatetimeIndex(series.regressors.index))
    grid = pd.date_range(index[0], index[-1], freq="h")
    return with_holidays(series.regressors, grid, tz, *_code(country))


def _known_ahead(
    regressors: pd.DataFrame | None, start: pd.Timestamp, horizon: int, *, timezone: str, country: str | None
) -> tuple[pd.DataFrame | None, list[str]]:
    """Return the regressors that are known in every hour ahead, on one grid to the end of the horizon, and the rest.

    Holidays are known for ever; holes of up to three hours are filled between their neighbours.
    """
    import pandas as pd

    from energy_cloud_dagster.adapters.csv_series import counted
    from energy_cloud_dagster.domain.forecasting.calendar import with_holidays

    if regressors is None:
        return None, []
    grid = pd.date_range(regressors.index[0], start + pd.Timedelta(hours=horizon - 1), freq="h")
    frame = regressors.reindex(grid)
    if "holiday" in frame.columns and bool(frame["holiday"].isna().any()) and (country or "").casefold() != "none":
        computed = with_holidays(None, grid, timezone, *_code(country))["holiday"]
        frame["holiday"] = frame["holiday"].fillna(computed)
    notes = []
    for name in list(frame.columns):
        after = frame.index >= start
        missing = int(frame.loc[after, name].isna().sum())
        if missing:
            filled = frame[name].interpolate(limit=SHORT_GAP_HOURS, limit_area="inside")
            if bool(filled[after].isna().any()):
                which = "any" if missing == horizon else f"{missing}"
                notes.append(f"{name} is not known in {which} of the {horizon} hours ahead: the models do without it")
                frame = frame.drop(columns=name)
            else:
                frame[name] = filled
                notes.append(f"{name} of {counted(missing, 'hour')} ahead is taken from the hours around")
    return (frame if len(frame.columns) else None), notes


@dataclass
class _Telling:
    """A model that says when it is being fitted: once to be judged, once more to be used."""

    model: Model
    tell: Callable[[int, int, str], None]
    done: int
    total: int

    @property
    def name(self) -> str:
        return self.model.name

    def fit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> Fitted:
        self.tell(self.done, self.total, self.name)
        self.done += self.total // 2
        return self.model.fit(history, regressors, timezone=timezone, seed=seed)


def _moment(text: str, tz: str) -> pd.Timestamp:
    import pandas as pd

    try:
        stamp = pd.Timestamp(text)
        stamp = stamp.tz_localize(tz) if stamp.tzinfo is None else stamp
        stamp = stamp.tz_convert("UTC")
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a time ({error})", param_hint="--origin") from None
    if stamp != stamp.floor("h"):
        raise typer.BadParameter(f"{text!r} is not a whole hour", param_hint="--origin")
    return stamp


def _write(report: Path, page: str) -> None:
    try:
        report.write_text(page, encoding="utf-8")
    except OSError as error:
        _fail(f"{report}: cannot be written ({error.strerror})")


def _say_report(report: Path | None) -> None:
    if report is not None:
        typer.echo(f"report: {report}", err=True)


def _fail(message: str) -> Any:
    typer.echo(f"energy-cloud: {message}", err=True)
    raise typer.Exit(1)
