"""The plots of ``forecast_accuracy_daily``: a fan chart of the day, the error by hour of the day, the champions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

from energy_cloud_dagster.assets.report import new_figure, picture

if TYPE_CHECKING:
    import dagster as dg
    import pandas as pd

    from energy_cloud_dagster.adapters.forecasts import DayAccuracy, Selection

#: The same colour for a model in every plot.
COLOURS: Final = {
    "published": "black",
    "seasonal_naive": "tab:orange",
    "daily_naive": "tab:brown",
    "similar_day": "tab:olive",
    "prophet": "tab:purple",
    "gradient_boosting": "tab:green",
    "lstm": "tab:red",
    "ensemble": "tab:blue",
    "persistence": "tab:pink",
}
BASELINE: Final = "seasonal_naive"


def fan_chart(issued: pd.DataFrame, load: pd.Series[Any], day: date, timezone: str) -> dg.MarkdownMetadataValue | None:
    """Draw the day as it was published at its midnight (else hour by hour at the gate) over what was measured."""
    from energy_cloud_dagster.domain.forecasting.judging.published import LEADS, at_lead, hours_of_local_day
    from energy_cloud_dagster.domain.forecasting.series import local

    for lead in LEADS:
        rows = at_lead(issued, lead, day, timezone)
        chosen = rows[rows["chosen"]].sort_values("ts")
        if len(chosen):
            break
    else:
        return None
    figure = new_figure()
    axes = figure.subplots()
    hours = hours_of_local_day(day, timezone)
    clock = {stamp: place for place, stamp in enumerate(hours)}
    places = [clock[stamp] for stamp in chosen["ts"]]
    model = chosen["model"].iloc[0] if chosen["model"].nunique() == 1 else "published"
    colour = COLOURS["ensemble"]
    axes.fill_between(places, chosen["p10"], chosen["p90"], color=colour, alpha=0.2, label="P10 to P90")
    axes.plot(places, chosen["p50"], color=colour, label=f"{model} P50")
    naive = rows[rows["model"] == BASELINE].sort_values("ts")
    if model != BASELINE and len(naive):
        places = [clock[stamp] for stamp in naive["ts"]]
        axes.plot(places, naive["p50"], color=COLOURS[BASELINE], linestyle="--", linewidth=1, label=BASELINE)
    axes.plot(range(len(hours)), load.reindex(hours), color="black", linewidth=1.4, label="measured")
    clocks = local(hours, timezone)
    axes.set_xticks(range(0, len(hours), 3), [f"{clocks[place]:%H:%M}" for place in range(0, len(hours), 3)])
    shown = "issued at midnight" if lead == "day_ahead" else "as known at each hour's gate"
    axes.set_title(f"{day}, {shown} ({timezone})", fontsize="medium")
    axes.set_ylabel("load, kWh per hour")
    axes.legend(loc="best", ncols=2, fontsize="small")
    return picture(figure)


def error_by_hour(issued: pd.DataFrame, load: pd.Series[Any], timezone: str) -> dg.MarkdownMetadataValue | None:
    """Draw the mean absolute error of the day-ahead forecasts of the last four weeks by local hour and model."""
    from energy_cloud_dagster.domain.forecasting.judging.published import PUBLISHED, errors_by_hour

    errors = errors_by_hour(issued, load, timezone)
    if errors.notna().to_numpy().sum() == 0:
        return None
    chosen = errors_by_hour(issued[issued["chosen"]].assign(model=PUBLISHED), load, timezone)
    figure = new_figure()
    axes = figure.subplots()
    speakers = set(issued.loc[issued["chosen"], "model"])
    alone = next(iter(speakers)) if len(speakers) == 1 else None
    for name in errors.columns.drop(alone or [], errors="ignore"):
        axes.plot(errors.index, errors[name], color=COLOURS.get(name), linewidth=1, label=name)
    label = f"{PUBLISHED} ({alone})" if alone else PUBLISHED
    axes.plot(chosen.index, chosen[PUBLISHED], color=COLOURS[PUBLISHED], linewidth=2, label=label)
    days = issued["issued_at"].nunique()
    axes.set_title(f"mean absolute error day ahead, {days} {'day' if days == 1 else 'days'}", fontsize="medium")
    axes.set_xticks(range(0, 24, 3), [f"{hour:02}:00" for hour in range(0, 24, 3)])
    axes.set_xlabel(f"hour of the day ({timezone})")
    axes.set_ylabel("kWh per hour")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best", ncols=3, fontsize="small")
    return picture(figure)


def champion_history(
    decided: Sequence[Selection], scored: Sequence[DayAccuracy], until: datetime
) -> dg.MarkdownMetadataValue | None:
    """Draw what the fits expected and what the days showed (MASE), above which model was champion up to ``until``."""
    if not decided:
        return None
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure = new_figure(height=3.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    spans = list(zip(decided, [*(one.decided_at for one in decided[1:]), until], strict=True))
    highest = 0.0
    for one, end in spans:
        score = one.document.get("scores", {}).get(one.champion, {}).get("mase")
        if score is not None:
            label = None if highest else "expected by the fit's backtest"
            above.plot([one.decided_at, end], [score, score], color="tab:grey", linewidth=2, label=label)
            highest = max(highest, score)
    for name in ("published", BASELINE):
        rows = [row for row in scored if row.model == name and row.lead == "day_ahead" and row.mase is not None]
        days = [(_noon(row.day), row.mase or 0.0) for row in rows]
        if days:
            above.plot(*zip(*days, strict=True), color=COLOURS[name], marker="o", markersize=3, linewidth=1, label=name)
            highest = max(highest, *(mase for _, mase in days))
    above.set_ylabel("MASE, day ahead")
    above.set_ylim(0, 1.35 * highest or 1.0)  # the legend lies above the lines
    if highest:
        above.legend(loc="upper left", ncols=3, fontsize="small")
    seen: set[str] = set()
    for one, end in spans:
        label = None if one.champion in seen else one.champion
        colour = COLOURS.get(one.champion, "tab:grey")
        seen.add(one.champion)
        below.axvspan(one.decided_at, end, color=colour, alpha=0.7, linewidth=0, label=label)
    below.set_yticks([])
    below.set_ylabel("champion", rotation=0, ha="right", va="center", fontsize="small")
    below.legend(loc="center left", ncols=4, fontsize="small")
    locator = AutoDateLocator(minticks=2, maxticks=9)
    below.xaxis.set_major_locator(locator)
    below.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return picture(figure)


def _noon(day: date) -> Any:
    import pandas as pd

    return pd.Timestamp(day, tz="UTC") + pd.Timedelta(hours=12)
