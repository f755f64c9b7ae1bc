"""The plots of the dispatch assets: outputs as a stack, state of charge, price; and the plan against what happened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from energy_cloud_dagster.assets.report import new_figure, picture

if TYPE_CHECKING:
    import dagster as dg

    from energy_cloud_dagster.adapters.actuals import ActualRow
    from energy_cloud_dagster.adapters.plans import SetpointRow

COLOURS: Final = {
    "solar": "gold",
    "wind": "tab:cyan",
    "hydro": "tab:blue",
    "chp": "tab:brown",
    "storage": "tab:green",
    "grid": "tab:grey",
    "load": "tab:pink",
}
#: Resources drawn by themselves; a larger plant is summed by type.
_DRAWN: Final = 8


def plan_plot(rows: Sequence[SetpointRow], demand: Sequence[float]) -> dg.MarkdownMetadataValue:
    """Draw one plan: planned outputs as a stack with the demand, states of charge, marginal price."""
    import numpy as np

    hours = sorted({row.ts for row in rows})
    places = range(len(hours))
    stores = sorted({row.resource_id for row in rows if row.soc is not None})
    figure = new_figure(height=5.6 if stores else 4.4)
    heights = [3.0, 1.0, 1.0] if stores else [3.0, 1.0]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    above, below = np.zeros(len(hours)), np.zeros(len(hours))
    for name, kind, output in _outputs(rows, hours):
        up, down = np.maximum(output, 0), np.minimum(output, 0)
        style: dict[str, Any] = {"color": COLOURS.get(kind, "tab:olive"), "edgecolor": "white", "linewidth": 0.4}
        axes[0].bar(places, up, bottom=above, label=name, **style)
        axes[0].bar(places, down, bottom=below, **style)
        above, below = above + up, below + down
    axes[0].step(places, demand, where="mid", color="black", linewidth=1.3, label="demand")
    axes[0].set_ylabel("kW")
    axes[0].margins(y=0.22)
    axes[0].legend(loc="upper left", ncols=6, fontsize="x-small")
    for name in stores[:_DRAWN] if stores else ():
        states = [row.soc for row in rows if row.resource_id == name]
        axes[1].plot(places, states, marker=".", color="tab:green", label=name)
    if stores:
        axes[1].set_ylim(-0.05, 1.05)
        axes[1].set_ylabel("state of\ncharge")
    price = {row.ts: row.marginal_price for row in rows}
    axes[-1].step(places, [price[hour] for hour in hours], where="mid", color="tab:red")
    axes[-1].set_ylabel("price\nper kWh")
    axes[-1].set_xticks(range(0, len(hours), 4), [f"{hours[i]:%d %H:%M}" for i in range(0, len(hours), 4)])
    return picture(figure)


def actual_plot(rows: Sequence[ActualRow]) -> dg.MarkdownMetadataValue:
    """Draw planned and actual power of every resource over the last hours, and the states of charge."""
    names = sorted({row.resource_id for row in rows})[:_DRAWN]
    figure = new_figure(height=1.2 + 1.1 * len(names))
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    hours = sorted({row.ts for row in rows})
    places = {hour: place for place, hour in enumerate(hours)}
    for axis, name in zip(axes, names, strict=True):
        own = [row for row in rows if row.resource_id == name]
        at = [places[row.ts] for row in own]
        axis.step(at, [row.planned_kw for row in own], where="mid", color="black", linewidth=1, label="planned kW")
        actual = [float("nan") if row.actual_kw is None else row.actual_kw for row in own]
        axis.step(at, actual, where="mid", color=COLOURS.get(own[0].type, "tab:olive"), label="actual kW")
        axis.set_ylabel(name, fontsize="x-small")
        if any(row.planned_soc is not None for row in own):
            states = axis.twinx()
            states.set_ylim(-0.05, 1.05)
            for field, style in (("planned_soc", "k:"), ("actual_soc", "g:")):
                drawn = [float("nan") if (soc := getattr(row, field)) is None else soc for row in own]
                states.plot(at, drawn, style, label=field.replace("_", " "))
            states.legend(loc="upper right", fontsize="xx-small", ncols=2)
        axis.legend(loc="upper left", fontsize="xx-small", ncols=2)
        axis.margins(y=0.35)
    step = max(len(hours) // 8, 1)
    axes[-1].set_xticks(range(0, len(hours), step), [f"{hours[i]:%d %H:%M}" for i in range(0, len(hours), step)])
    return picture(figure)


def _outputs(rows: Sequence[SetpointRow], hours: Sequence[datetime]) -> list[tuple[str, str, Any]]:
    """Return (name, type, kW by hour): every resource, of a large plant the sums by type."""
    import numpy as np

    single = len({row.resource_id for row in rows}) <= _DRAWN
    places = {hour: place for place, hour in enumerate(hours)}
    sums: dict[tuple[str, str], Any] = {}
    for row in rows:
        key = (row.type, row.resource_id if single else row.type)
        sums.setdefault(key, np.zeros(len(hours)))[places[row.ts]] += row.output_kw
    return [(name, kind, output) for (kind, name), output in sorted(sums.items(), reverse=True)]
