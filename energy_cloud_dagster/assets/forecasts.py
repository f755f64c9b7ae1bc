"""What comes next, as known at the hour's now: the region's load, by the models that proved best on its last weeks."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import forecasts, registry
from energy_cloud_dagster.adapters.forecasts import IssuedPoint, StoredModel
from energy_cloud_dagster.assets.histories import FIT_WEEKS, region_history
from energy_cloud_dagster.assets.issued import HORIZON_HOURS, POINT_COLUMNS, described, points_of
from energy_cloud_dagster.assets.outlook import foreseen_temperature, outlook_then, region_outlook, region_regressors
from energy_cloud_dagster.assets.report import (
    DAILY_FRESHNESS,
    OWNER,
    Effort,
    columns,
    hourly_asset,
    load_plotting,
    new_figure,
    picture,
    result,
)
from energy_cloud_dagster.assets.weather import weather_forecast_hourly
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.intervals import HOUR, SETTLING_TIME, run_time, utc
from energy_cloud_dagster.partitions import daily, hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd

    from energy_cloud_dagster.domain.forecasting import Fitted, Forecast, Model
    from energy_cloud_dagster.domain.forecasting.judging.selection import Selection

#: Seed of every stochastic step; the same input gives the same forecast.
SEED: Final = 14
#: Model that always stands beside the chosen one.
BASELINE: Final = "seasonal_naive"
#: Models whose first fit takes minutes.
GO_ON: Final = frozenset({"lstm"})
#: Days that the models are judged on.
JUDGED_DAYS: Final = 28


def load_key(region: str) -> str:
    """Return the key of a region's load forecast."""
    return f"region/{region}/load"


class FitConfig(dg.Config):
    """How a fit differs from the daily one."""

    as_of: str = ""
    """Moment (RFC 3339) whose knowledge the fit uses, instead of the end of the day and five minutes."""


@dg.asset(
    group_name="4_forecasts",
    deps=["fct_series__hourly", weather_forecast_hourly],
    partitions_def=daily,
    owners=[OWNER],
    kinds={"python", "prophet", "lightgbm"},
    freshness_policy=DAILY_FRESHNESS,
    metadata={
        "dagster/table_name": "forecast.model",
        "dagster/column_schema": columns(
            series_key="What it forecasts",
            model="prophet, gradient_boosting …",
            fitted_at="As-of time of the fit: the end of the day and five minutes, or when drift asked for it",
            train_start="First hour that it saw",
            train_end="End of the last hour that it saw",
            artifact="The fitted model as canonical JSON",
            digest="SHA-256 of the artifact",
            metrics="Accuracy on the last four weeks, judged before it was fitted on them, beside the seasonal naive",
        ),
    },
)
def region_load_model_daily(
    context: dg.AssetExecutionContext, config: FitConfig, database: Database
) -> dg.MaterializeResult[Any]:
    """The models of the load, judged on the last four weeks a day ahead; the best is champion and all are fitted anew.

    Which one was chosen, the ensemble's weights and the calibration of the quantiles go to `forecast.selection`.
    """
    effort = Effort()
    settings = load_settings()
    with effort.importing():
        from energy_cloud_dagster.domain.forecasting.judging.rolling import midnights
        from energy_cloud_dagster.domain.forecasting.judging.selection import select
        from energy_cloud_dagster.domain.forecasting.models.registry import models_named
        from energy_cloud_dagster.domain.forecasting.series import hourly

        models, left_out = models_named([BASELINE, *settings.forecast_models.split(",")])
    region = settings.region
    key = load_key(region)
    now = utc(datetime.fromisoformat(config.as_of)) if config.as_of else _day_end(context)
    with database.begin() as connection:
        timezone = registry.find_region(connection, region).timezone
        load, temperature = region_history(connection, region, now, FIT_WEEKS)
        before = forecasts.newest_selection(connection, key, now)
        models = [_going_on(connection, key, one, now) for one in models]
        judged = midnights(hourly(load), timezone)[-JUDGED_DAYS:]
        ahead, forecast_days = outlook_then(connection, region, temperature, timezone, judged)
    if load.empty:
        raise dg.Failure(
            f"no load of region {region} is known before {now.isoformat()}; ingest readings and build the marts first"
        )
    selection = select(
        models,
        load,
        region_regressors(load, temperature, timezone),
        timezone=timezone,
        seed=SEED,
        days=JUDGED_DAYS,
        current=before.champion if before else None,
        ahead=ahead,
    )
    notes = [*left_out, *_judging(judged[len(judged) - selection.days :], forecast_days), *selection.notes]
    document = selection.to_dict() | {"notes": notes}
    rows = [_stored(key, now, one, document["scores"]) for one in selection.fitted.values()]
    with database.begin() as connection:
        for row in rows:
            forecasts.save_model(connection, row)
        forecasts.save_selection(connection, forecasts.Selection(key, now, selection.champion, document))
    return dg.MaterializeResult(
        metadata={
            **effort.metadata(),
            "dagster/row_count": len(rows),
            "hours_seen": len(load),
            "as_of": now.isoformat(),
            "champion": selection.champion,
            "champion_before": before.champion if before else "none",
            "judged_on_days": selection.days,
            "accuracy": dg.MetadataValue.md(_accuracy_table(document)),
            "notes": document["notes"],
            "artifact_bytes": {row.model: len(row.artifact) for row in rows},
        },
        data_version=dg.DataVersion(digest([document, *(row.digest for row in rows)])),
    )


def _judging(judged: list[datetime], forecast_days: set[datetime]) -> list[str]:
    """Return on what temperature ahead the models were judged, where it was not the weather forecast of the time."""
    without = sum(day not in forecast_days for day in judged)
    if not without:
        return []
    return [f"judged with yesterday's temperature on {without} of {len(judged)} days: no forecast of it is known"]


def _going_on(connection: sa.Connection, key: str, model: "Model", now: datetime) -> "Model":
    """Return ``model``, started from earlier fits where that spares minutes: the last, and one before the judging."""
    if model.name not in GO_ON:
        return model
    from energy_cloud_dagster.domain.forecasting.judging.warm import WarmStart
    from energy_cloud_dagster.domain.forecasting.models.registry import fitted_from_text

    stored = [
        forecasts.newest_model(connection, key, model.name, one) for one in (now, now - timedelta(days=JUDGED_DAYS + 1))
    ]
    return WarmStart(model, tuple(fitted_from_text(one.artifact) for one in stored if one))


def _day_end(context: dg.AssetExecutionContext) -> datetime:
    end: datetime = context.partition_time_window.end
    return end + SETTLING_TIME


def _stored(key: str, now: datetime, fitted: "Fitted", scores: Mapping[str, Any]) -> StoredModel:
    return StoredModel(
        key,
        fitted.name,
        now,
        fitted.train_start,
        fitted.train_end,
        fitted.to_text(),
        fitted.digest,
        {**scores.get(fitted.name, {}), "baseline": scores.get(BASELINE, {})},
    )


@hourly_asset(
    "4_forecasts",
    {"python", "prophet", "lightgbm"},
    "forecast.point",
    POINT_COLUMNS,
    deps=["fct_series__hourly", weather_forecast_hourly, region_load_model_daily],
)
def region_load_forecast_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """The region's load for the next 24 hours by the champion, or a lower rung; ensemble members and naive beside."""
    effort = Effort()
    with effort.importing():
        load_plotting()
        from energy_cloud_dagster.domain.forecasting import seasonal_naive
        from energy_cloud_dagster.domain.forecasting.judging import room
    region = load_settings().region
    key = load_key(region)
    fits = Fits(key)
    found: dict[datetime, dict[str, Any]] = {}
    for hour in hours_in(context.partition_time_window):
        now, origin = run_time(hour), hour + HOUR
        with database.begin() as connection:
            timezone = registry.find_region(connection, region).timezone
            load, temperature = region_history(connection, region, now)
            selection, fitted = fits.before(connection, now, timezone)
            foreseen = foreseen_temperature(connection, region, origin, now)
            regressors, notes = region_outlook(temperature, timezone, origin, HORIZON_HOURS, foreseen)
            made = room.predict(selection, fitted, load, regressors, origin, HORIZON_HOURS, timezone, notes=notes)
            champion = made.pop(room.CHAMPION)
            if BASELINE not in made and not load.empty:
                made[BASELINE] = seasonal_naive(load, origin=origin, horizon=HORIZON_HOURS, timezone=timezone)
            beside = [one for name, one in sorted(made.items()) if name != champion.model]
            points: list[IssuedPoint] = points_of(key, now, champion, chosen=True)
            for one in beside:
                points += points_of(key, now, one, chosen=False)
            forecasts.replace_points(connection, key, now, points)
        found[hour] = described(points, [champion])
    return result(context, effort, found, {"plot_of_last_hour": _load_plot(load, champion, beside)})


class Fits:
    """The fits of one series, each read once: the hours of a range mostly share theirs."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._decided_at: datetime | None = None
        self._kept: tuple[Selection, dict[str, Fitted]] | None = None

    def before(self, connection: sa.Connection, now: datetime, timezone: str) -> "tuple[Selection, dict[str, Fitted]]":
        """Return the newest selection before ``now`` and its fitted models; none yet gives one that chose nothing."""
        from energy_cloud_dagster.domain.forecasting.judging.selection import Selection
        from energy_cloud_dagster.domain.forecasting.models.registry import fitted_from_text

        stored = forecasts.newest_selection(connection, self._key, now)
        if stored is None:
            return Selection("champion", timezone, {}, {}, {}, 0), {}
        if self._kept is None or stored.decided_at != self._decided_at:
            rows = forecasts.models_of(connection, self._key, stored.decided_at)
            self._kept = (
                Selection.from_dict(stored.document),
                {row.model: fitted_from_text(row.artifact) for row in rows},
            )
            self._decided_at = stored.decided_at
        return self._kept


def _accuracy_table(document: Mapping[str, Any]) -> str:
    """Return models by their scores as a table, the champion in bold, with its weight in the ensemble."""
    lines = [
        "| model | hours | MAPE % | MASE | bias kWh | P10-P90 coverage | weight |",
        "|---|---|---|---|---|---|---|",
    ]
    ranked = sorted(document["scores"].items(), key=lambda item: (item[1]["mase"] is None, item[1]["mase"] or 0.0))
    for name, one in ranked:
        figures = [*(one[field] for field in ("mape", "mase", "bias", "coverage")), document["weights"].get(name)]
        cells = [str(one["hours"]), *("-" if figure is None else f"{figure:.3g}" for figure in figures)]
        shown = f"**{name}**" if name == document["champion"] else name
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _load_plot(load: "pd.Series[float]", champion: "Forecast", beside: "list[Forecast]") -> dg.MarkdownMetadataValue:
    """Draw the last three days of load and the forecasts of the next."""
    figure = new_figure()
    axes = figure.subplots()
    recent = load[load.index >= champion.index[0] - timedelta(days=3)].resample("h").mean()  # a gap breaks the line
    axes.plot(recent.index, recent.to_numpy(), color="black", linewidth=1.2, label="measured")
    axes.plot(champion.index, champion.p50, color="tab:blue", label=f"{champion.model} P50")
    axes.fill_between(champion.index, champion.p10, champion.p90, color="tab:blue", alpha=0.2, label="P10 to P90")
    members: str | None = "members"
    for one in beside:
        if one.model == BASELINE:
            axes.plot(one.index, one.p50, color="tab:orange", linestyle="--", linewidth=1, label=one.model)
        else:
            axes.plot(one.index, one.p50, color="tab:grey", linewidth=0.7, alpha=0.8, label=members)
            members = None
    axes.set_ylabel("load, kWh per hour")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=5, fontsize="small", frameon=False)
    return picture(figure)
